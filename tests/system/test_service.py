"""The services as they are installed: by the documents' commands, under a real systemd, with all the units forbid."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile

from tests.support.desk import PASSWORD
from tests.support.systemd_box import SCANS, UNIT, Box, BoxBrowser, commands_under, needs_a_box
from train.simulator.simulate import simulate_scan

pytestmark = [needs_a_box, pytest.mark.slow, pytest.mark.timeout(1800)]
CONFIGURATION = "/etc/edge-worker/edge.toml"
OFFLINE = "cd /srv/source; export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels"
DESK = "edge-desk"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = Box(tmp_path_factory.mktemp("box") / "root")
    box.make()
    box.boot()
    try:
        box.subscribe()
        commands = commands_under("install.md", "Install on a line PC")
        edit = f"sed -i 's#^. trusted_key =.*#trusted_key = \"/etc/edge-worker/trusted\"#' {CONFIGURATION}"
        at = commands.index("install -m 0644 your-key")  # `then edit`, says the line above
        box.run("\n".join((OFFLINE, commands[:at], edit, commands[at:])))
        yield box
    finally:
        box.power_off()


def scan(number: int, **options: str) -> bytes:
    """A simulated scan as a TIFF file."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(simulate_scan(77, 0, number).counts), **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def drop(box: Box, name: str, data: bytes) -> None:
    path = box.path(f"{SCANS}/{name}")
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").rename(path)


def test_scans_of_every_compression_are_judged(box: Box) -> None:
    assert box.state()["SubState"] == "running"
    drop(box, "B1_plain.tif", scan(0))
    drop(box, "B1_lzw.tif", scan(0, compression="lzw"))
    drop(box, "B1_deflate.tif", scan(0, compression="deflate"))
    drop(box, "B1_cut.tif", scan(0)[:100_000])
    box.wait_until(lambda: len(box.verdicts()) == 4, "four verdicts", 180)
    verdicts = box.verdicts()
    assert verdicts["B1_cut.tif"]["outcome"] == "unreadable"
    scores = {verdicts[f"B1_{name}.tif"]["p_abnormal"] for name in ("plain", "lzw", "deflate")}
    assert len(scores) == 1 and None not in scores


def test_a_killed_worker_is_back_and_has_lost_nothing(box: Box) -> None:
    before = len(box.verdicts())
    for number in range(1, 5):
        drop(box, f"B2_{number}.tif", scan(number))
    box.wait_until(lambda: len(box.verdicts()) > before, "the first of them")
    box.run(f"systemctl kill --signal=KILL {UNIT}")
    box.wait_until(lambda: len(box.verdicts()) == before + 4, "all of them", 180)
    assert sorted({verdict["seq"] for verdict in box.received("verdict")}) == list(range(1, before + 5))
    assert int(box.state()["NRestarts"]) >= 1


def test_the_desk_beside_the_worker_takes_an_answer_that_the_worker_publishes(box: Box) -> None:
    pip = "/opt/edge-worker/bin/pip install --require-hashes -r tools/constraints/desk.txt"
    commands = commands_under("desk.md", "Set it up").rstrip()
    assert commands.endswith("user add ann --role admin")  # which asks for a password
    box.run(f"{OFFLINE}\n{pip}\n{commands} <<< '{PASSWORD}'")
    exposure = re.search(r"exposure level .*: ([0-9.]+)", box.run(f"systemd-analyze security --no-pager {DESK}"))
    assert exposure is not None and float(exposure[1]) <= 2.0

    judged = len(box.verdicts())
    drop(box, "B5_once.tif", scan(5))
    drop(box, "B5_again.tif", scan(5, compression="deflate"))
    box.wait_until(lambda: len(box.verdicts()) == judged + 2, "both verdicts", 180)
    (verdict,) = (found for found in box.verdicts().values() if "B5" in found["scan"]["file"] and found["repeats"])
    path, pixels = f"/scan/{verdict['verdict_id']}", verdict["scan"]["height_px"] * verdict["scan"]["width_px"]
    browser = BoxBrowser(box)
    assert browser.get("/").headers["location"].startswith("/login")
    assert browser.log_in("ann", "another word").status == 401
    assert browser.log_in("ann").status == 303
    box.wait_until(lambda: verdict["verdict_id"] in browser.get("/").text, "its evidence in the queue")
    assert len(browser.get(f"{path}/counts").body) >= 2 * pixels
    assert browser.answer(verdict["verdict_id"], "abnormal").status == 303
    box.wait_until(lambda: len(box.received("disposition")) == 1, "the answer at the MES")
    answer = box.received("disposition")[0]
    assert (answer["verdict_id"], answer["decision"], answer["by"]) == (verdict["verdict_id"], "abnormal", "ann")

    killed = box.state(DESK)["MainPID"]
    box.run(f"systemctl kill --signal=KILL {DESK}")
    box.wait_until(lambda: box.state(DESK)["MainPID"] not in (killed, "0"), "another process")
    box.wait_until(lambda: box.state(DESK)["SubState"] == "running", "its start")
    assert browser.get("/").headers["location"].startswith("/login"), "sessions end with the process"
    assert browser.log_in("ann").status == 303
    assert browser.answer(verdict["verdict_id"], "normal").status == 303
    box.wait_until(lambda: len(box.received("disposition")) == 2, "the second answer")
    assert [answer["decision"] for answer in box.received("disposition")] == ["abnormal", "normal"]
    assert "unchanged" in box.run(f"cd /; runuser -u {DESK} -- /opt/edge-worker/bin/edge-desk verify")
    box.run(f"! runuser -u {DESK} -- head -c 1 /var/lib/edge-worker/state/ledger.sqlite")


def test_a_worker_that_stands_still_is_replaced_by_the_watchdog(box: Box) -> None:
    sooner = f"/run/systemd/system/{UNIT}.service.d"
    box.run(
        f"mkdir -p {sooner}; printf '[Service]\\nWatchdogSec=10\\n' > {sooner}/sooner.conf; systemctl daemon-reload"
    )
    box.run(f"systemctl restart {UNIT}")
    stopped = box.state()["MainPID"]
    box.run(f"systemctl kill --signal=STOP {UNIT}")
    box.wait_until(lambda: box.state()["MainPID"] not in (stopped, "0"), "another process")
    box.wait_until(lambda: box.state()["SubState"] == "running", "its start")
    assert "Watchdog timeout" in box.journal()
    box.run(f"rm -r {sooner}; systemctl daemon-reload")


def test_a_stop_is_said_and_is_no_failure(box: Box) -> None:
    box.run(f"systemctl stop {UNIT}")
    state = box.state()
    assert (state["MainPID"], state["Result"], state["ExecMainStatus"]) == ("0", "success", "0")
    box.wait_until(lambda: box.received("status")[-1]["state"] == "stopped", "the status")
    box.run(f"systemctl start {UNIT}")


@pytest.mark.parametrize(
    ("spoil", "mend", "complaint"),
    [
        (f"sed -i '1i stationn = \"x\"' {CONFIGURATION}", f"sed -i 1d {CONFIGURATION}", "unknown setting `stationn`"),
        (
            "printf x >> /var/lib/edge-worker/model/gate.onnx",
            "truncate --size=-1 /var/lib/edge-worker/model/gate.onnx",
            "gate.onnx has",
        ),
    ],
)
def test_what_does_not_mend_itself_is_not_tried_again(box: Box, spoil: str, mend: str, complaint: str) -> None:
    box.run(spoil)
    box.ask("systemctl", "restart", UNIT)
    assert (box.state()["SubState"], box.state()["ExecMainStatus"]) == ("failed", "78")
    assert complaint in box.journal()
    box.run(f"{mend}; systemctl restart {UNIT}")


def test_a_password_comes_from_the_credential_store(box: Box) -> None:
    box.run("install -d -m 0700 /etc/credstore; printf 'secret-7\\n' > /etc/credstore/edge-worker.mqtt-password")
    box.run("mosquitto_passwd -b -c /etc/mosquitto/users line secret-7; chown mosquitto /etc/mosquitto/users")
    closed = "listener 1883\\nallow_anonymous false\\npassword_file /etc/mosquitto/users\\n"
    box.run(f"printf '{closed}' > /etc/mosquitto/conf.d/closed.conf; systemctl restart mosquitto")
    box.wait_until(lambda: "not authorised" in box.journal().lower() or "refuse" in box.journal(), "the refusal")
    file = "/run/credentials/edge-worker.service/edge-worker.mqtt-password"
    line = f'username = "line"\\npassword_file = "{file}"'
    connected = box.journal().count("broker connected")
    box.run(f"sed -i 's#^.broker.$#[broker]\\n{line}#' {CONFIGURATION}; systemctl restart {UNIT}")
    box.wait_until(lambda: box.journal().count("broker connected") > connected, "the connection")


def test_openvino_runs_with_its_drop_in_and_says_so_without(box: Box) -> None:
    box.run("PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels /opt/edge-worker/bin/pip install --quiet openvino")
    box.run(f"sed -i 's#^. engine =.*#engine = \"openvino\"#' {CONFIGURATION}")
    box.ask("systemctl", "restart", UNIT)
    assert "edge-worker-openvino.conf" in box.journal()
    box.run(f"systemctl stop {UNIT}")
    drop_in = f"/etc/systemd/system/{UNIT}.service.d/openvino.conf"
    box.run(f"install -D -m 0644 /srv/source/systemd/edge-worker-openvino.conf {drop_in}; systemctl daemon-reload")
    box.run(f"systemctl start {UNIT}")
    assert "engine=openvino" in box.journal()
    assert box.state()["SubState"] == "running"


def test_the_engines_are_measured_as_the_workers_user_outside_of_the_unit(box: Box) -> None:
    """The service is down, and the check is free of fail all the same."""
    box.run(f"sed -i 's#^engine =.*#engine = \"auto\"#' {CONFIGURATION}; systemctl stop {UNIT}")
    found = box.run("cd /; runuser -u edge-worker -- /opt/edge-worker/bin/edge-worker model tune")
    assert "is the faster engine here" in " ".join(found.split())
    box.run(f"systemctl start {UNIT}")
    assert re.findall(r"engine=(\w+)", box.journal())[-1] == "onnxruntime"
