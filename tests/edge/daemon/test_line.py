"""The whole line as real processes: station folder, daemon, mosquitto, subscriber. Only the networks are tiny."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from edge.evidence.record import open_piece
from edge.store.ledger import open_ledger
from tests.support import fakes, signed_models
from tests.support.mosquitto import Mosquitto, Recorder, needs_mosquitto

pytestmark = [pytest.mark.broker, needs_mosquitto]


class Daemon:
    """`edge-worker` as a child process on a folder below `root`."""

    def __init__(self, root: Path, broker: Mosquitto, extra: str = "") -> None:
        self.folder = root / "scans"
        self.folder.mkdir()
        signed_models.make_signed_model(root / "model")
        key = signed_models.write_public_key(root / "key.pub.pem")
        self.config = root / "edge.toml"
        self.config.write_text(
            f"""
station = "xray-1"
[folder]
path = "{self.folder}"
poll_s = 0.1
stable_for_s = 0.05
incomplete_after_s = 1.0
rewrite_hold_s = 0.2
[model]
dir = "{root / "model"}"
trusted_key = "{key}"
[state]
dir = "{root / "state"}"
min_free_bytes = 0
[broker]
port = {broker.port}
backoff_min_s = 0.05
backoff_max_s = 0.3
{extra}
"""
        )
        self.log: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    def start(self, *prefix: str) -> None:
        self.start_program(*prefix, sys.executable, "-m", "edge.cli", "--config", str(self.config))

    def start_on_terminal(self) -> int:
        """Started in a terminal of its own, as by hand; the other end of that, whose closing is the terminal's."""
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "edge.cli", "--config", str(self.config)]
        enter = (
            "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", enter, *command], stderr=theirs, text=True, start_new_session=True
        )
        os.close(theirs)
        return ours

    @contextmanager
    def started_unheard(self) -> Iterator[None]:
        """Started with a log that nobody reads, and that is soon full."""
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        command = [sys.executable, "-m", "edge.cli", "--config", str(self.config)]
        self._process = subprocess.Popen(command, stderr=writer, text=True)
        os.close(writer)
        try:
            yield
        finally:
            os.close(reader)

    def start_program(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> int:
        """Signal the process and wait for its end; the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Until the process ends; the exit code."""
        assert self._process is not None
        return self._process.wait(30)

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Until the log has `count` lines of an event."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log if line["event"] == event]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, 30), self.log[-20:]
            return found()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                with self._changed:
                    self.log.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})
                    self._changed.notify_all()


@contextmanager
def running_line(root: Path, extra: str = "") -> Iterator[tuple[Daemon, Mosquitto, Recorder]]:
    with Mosquitto(root / "broker", persistence=True, max_queued=0) as broker, Recorder(broker) as mes:
        daemon = Daemon(root, broker, extra)
        try:
            yield daemon, broker, mes
        finally:
            daemon.end()


def arrive(folder: Path, name: str, level_counts: int = 1900, seed: int = 0) -> None:
    """As a careful station does: written under another name, then renamed."""
    draft = fakes.write_scan(folder / f".{name}.tmp", level_counts, seed=seed)
    draft.rename(folder / name)


def verdicts(mes: Recorder) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in mes.payloads("verdict")]


def assert_nothing_lost_or_contradicted(mes: Recorder, files: set[str]) -> None:
    by_id: dict[str, set[bytes]] = {}
    for payload in mes.payloads("verdict"):
        by_id.setdefault(json.loads(payload)["verdict_id"], set()).add(payload)
    assert {len(payloads) for payloads in by_id.values()} == {1}
    unique = [json.loads(next(iter(payloads))) for payloads in by_id.values()]
    assert {verdict["scan"]["file"] for verdict in unique} == files
    assert sorted(verdict["seq"] for verdict in unique) == list(range(1, len(files) + 1))


def test_scans_in_verdicts_out_and_a_clean_stop(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        arrive(daemon.folder, "B01_1.tif", 1800)
        daemon.start()
        daemon.wait_for("ready")
        arrive(daemon.folder, "B01_2.tif", 2700)
        mes.wait_for("verdict", 2)
        first, second = verdicts(mes)
        assert (first["scan"]["file"], first["outcome"], first["seq"]) == ("B01_1.tif", "normal", 1)
        assert (second["scan"]["file"], second["outcome"], second["part_id"]) == ("B01_2.tif", "abnormal", "2")
        mes.wait_for("health", 1)
        assert json.loads(mes.wait_for("model", 1)[0].payload)["id"] == "bright-is-abnormal"
        assert daemon.send(signal.SIGTERM) == 0
        states = [json.loads(payload)["state"] for payload in mes.payloads("status")]
        assert states == ["online", "stopped"]
        assert sorted(path.name for path in daemon.folder.iterdir()) == ["B01_1.tif", "B01_2.tif"]
        (topic,) = {message.topic for message in mes.messages("verdict")}
        with open_ledger(tmp_path / "state" / "ledger.sqlite", "xray-1") as ledger:
            assert ledger.recall("topic") == topic


def test_a_terminal_that_closes_is_a_clean_stop_that_looks_unwanted_to_systemd(
    tmp_path: Path,
) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        terminal = daemon.start_on_terminal()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        os.close(terminal)
        assert daemon.wait() == 129
        states = [json.loads(payload)["state"] for payload in mes.payloads("status")]
        assert states == ["online", "stopped"]
    assert_nothing_lost_or_contradicted(mes, {"B01_1.tif"})


def test_a_log_that_nobody_reads_stops_no_scan(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes), daemon.started_unheard():
        files = [f"B01_{number}.tif" for number in range(40)]
        for seed, file in enumerate(files):
            arrive(daemon.folder, file, seed=seed)
        mes.wait_for("verdict", len(files))
        assert daemon.send(signal.SIGTERM) == 0
    assert_nothing_lost_or_contradicted(mes, set(files))


def test_no_thread_takes_the_signal_that_stops_the_line(tmp_path: Path) -> None:
    """Threads of the networks' libraries too: one that took it would end the process while scans are in hand."""
    with running_line(tmp_path) as (daemon, _, _):
        daemon.start()
        daemon.wait_for("ready")
        told = {}
        for task in Path(f"/proc/{daemon.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, which takes no signal
                told[task.name] = (task / "status").read_text()
        assert len(told) > 5
        for thread, status in told.items():
            held = next(line for line in status.splitlines() if line.startswith("SigBlk"))
            # The main thread lets it through only while it waits for it.
            is_held = int(held.split()[1], 16) >> (signal.SIGTERM - 1) & 1
            assert is_held or thread == str(daemon.pid), status
        assert daemon.send(signal.SIGTERM) == 0


def test_every_kind_of_bad_file_is_one_verdict_and_the_next_good_scan_is_judged(tmp_path: Path) -> None:
    with running_line(tmp_path, "[evidence]\nmin_free_bytes = 0") as (daemon, _, mes):
        folder = daemon.folder
        counts = np.full((200, 150), 1900, np.uint16)
        _, jpeg = cv2.imencode(".jpg", counts.astype(np.uint8))
        (folder / "jpeg.tif").write_bytes(jpeg.tobytes())
        tifffile.imwrite(folder / "whole.tif", counts)
        (folder / "truncated.tif").write_bytes((folder / "whole.tif").read_bytes()[:20_000])
        (folder / "empty.tif").write_bytes(b"")
        tifffile.imwrite(folder / "eight.tif", counts.astype(np.uint8))
        (folder / "x.tif").mkdir()
        os.mkfifo(folder / "pipe.tif")
        (folder / "link.tif").symlink_to(folder / "whole.tif")
        huge = bytearray((folder / "whole.tif").read_bytes())
        with tifffile.TiffFile(folder / "whole.tif") as tiff:
            for tag in (256, 257):
                entry = tiff.pages.first.tags[tag]
                huge[entry.valueoffset : entry.valueoffset + 4] = (150_000).to_bytes(4, "little")
        (folder / "huge.tif").write_bytes(huge)
        daemon.start()
        mes.wait_for("verdict", 9)
        arrive(folder, "good_1.tif", 2000)
        mes.wait_for("verdict", 10)
        reasons = {verdict["scan"]["file"]: verdict["reasons"] for verdict in verdicts(mes)}
        assert reasons == {
            "jpeg.tif": ["not-tiff"],
            "whole.tif": ["classifier"],
            "truncated.tif": ["truncated"],
            "empty.tif": ["empty"],
            "eight.tif": ["not-16-bit"],
            "x.tif": ["not-a-file"],
            "pipe.tif": ["not-a-file"],
            "link.tif": ["not-a-file"],
            "huge.tif": ["too-large"],
            "good_1.tif": ["classifier"],
        }
        assert all(v["p_abnormal"] is None for v in verdicts(mes) if v["outcome"] == "unreadable")
        assert daemon.send(signal.SIGTERM) == 0
        kept = {path.read_bytes() for path in (tmp_path / "state" / "evidence").glob("*/*/scan.bin")}
        bad = ("jpeg.tif", "truncated.tif", "empty.tif", "eight.tif", "huge.tif")
        assert kept == {(folder / name).read_bytes() for name in bad}


def test_a_file_without_read_permission_is_a_verdict(tmp_path: Path) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv to take that away")
        prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    with running_line(tmp_path) as (daemon, _, mes):
        arrive(daemon.folder, "secret.tif")
        (daemon.folder / "secret.tif").chmod(0)
        daemon.start(*prefix)
        arrive(daemon.folder, "good.tif", seed=1)
        mes.wait_for("verdict", 2)
        assert {verdict["scan"]["file"]: verdict["reasons"][0] for verdict in verdicts(mes)} == {
            "secret.tif": "no-permission",
            "good.tif": "classifier",
        }


def test_verdicts_wait_for_a_broker_that_is_away_and_arrive_once_in_order(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, broker, mes):
        daemon.start()
        arrive(daemon.folder, "B01_0.tif")
        mes.wait_for("verdict", 1)
        broker.stop()
        for index in range(1, 8):
            arrive(daemon.folder, f"B01_{index}.tif", seed=index)
        daemon.wait_for("scan judged", 8)
        broker.start()
        mes.wait_until(lambda: len({verdict["seq"] for verdict in verdicts(mes)}) == 8, "all eight")
        seqs = [verdict["seq"] for verdict in verdicts(mes)]
        # The first may come twice: whether its PUBACK came through before the broker stopped, nobody knows.
        assert seqs in (list(range(1, 9)), [1, *range(1, 9)])
        assert_nothing_lost_or_contradicted(mes, {f"B01_{index}.tif" for index in range(8)})
        assert daemon.send(signal.SIGTERM) == 0


def test_a_worker_killed_again_and_again_loses_and_contradicts_nothing(tmp_path: Path) -> None:
    """A few kills of the many of row R1 of `make torture`, so that a default test run has some."""
    seed = 20261
    rng = random.Random(seed)
    with running_line(tmp_path) as (daemon, _, mes):
        files = set()
        for kill in range(5):
            for index in range(3):
                name = f"K{kill:02}_{index}.tif"
                arrive(daemon.folder, name, rng.choice([1800, 2700]), seed=1000 * kill + index)
                files.add(name)
            daemon.start()
            with daemon._changed:  # a random moment between start-up and the end of this batch
                daemon._changed.wait(rng.uniform(0.3, 1.6))
            daemon.send(signal.SIGKILL)
        daemon.start()
        mes.wait_until(lambda: len({v["scan"]["file"] for v in verdicts(mes)}) == len(files), f"all files, seed {seed}")
        assert daemon.send(signal.SIGTERM) == 0
        assert_nothing_lost_or_contradicted(mes, files)
        assert {verdict["outcome"] for verdict in verdicts(mes)} == {"normal", "abnormal"}


def test_after_move_takes_judged_scans_out_of_the_folder(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        text = daemon.config.read_text().replace(
            "poll_s = 0.1", f'poll_s = 0.1\nafter = "move"\nmove_to = "{tmp_path}/done"'
        )
        daemon.config.write_text(text)
        daemon.start()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        assert daemon.send(signal.SIGTERM) == 0
        assert [path.name for path in (tmp_path / "done").iterdir()] == ["B01_1.tif"]
        assert list(daemon.folder.iterdir()) == []


def test_a_second_worker_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, _mes):
        daemon.start()
        daemon.wait_for("ready")
        second = subprocess.run(
            [sys.executable, "-m", "edge.cli", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == 74
        assert "in use by another worker" in second.stderr
        assert daemon.send(signal.SIGTERM) == 0


def refused_model(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """A start with a model that somebody has touched."""
    (daemon.config.parent / "model" / "classifier.onnx").write_bytes(b"something else")
    command = [sys.executable, "-m", "edge.cli", "--config", str(daemon.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def last_status(broker: Mosquitto) -> dict[str, Any]:
    """What an MES reads that connects now."""
    with Recorder(broker, client_id="late") as late:
        found: dict[str, Any] = json.loads(late.wait_for("status", 1)[0].payload)
        return found


def test_a_refused_model_is_the_last_word_and_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, broker, mes):
        done = refused_model(daemon)
        assert done.returncode == 78
        (alarm,) = (json.loads(message.payload) for message in mes.wait_for("alarm", 1))
        assert (alarm["station"], alarm["code"], alarm["active"]) == ("xray-1", "start-refused", True)
        assert alarm["message"] in done.stderr and "classifier.onnx" in alarm["message"]
        assert not (tmp_path / "state").exists()
        status = last_status(broker)
        assert (status["state"], status["reason"], status["hint"]) == ("refused", alarm["message"], alarm["hint"])


@pytest.mark.parametrize("library", ["cv2", "onnxruntime"])
def test_a_library_that_does_not_load_is_the_last_word(tmp_path: Path, library: str) -> None:
    """As OpenCV does not on a server without its graphics libraries, or onnxruntime after half an upgrade."""
    words = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / f"{library}.py").write_text(f"raise ImportError({words!r})\n")
    with running_line(tmp_path) as (daemon, broker, mes):
        done = subprocess.run(
            [sys.executable, "-m", "edge.cli", "--config", str(daemon.config)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 70, done.stderr
        (alarm,) = (json.loads(message.payload) for message in mes.wait_for("alarm", 1))
        assert words in alarm["message"] and alarm["message"] in done.stderr
        assert "apt install libgl1 libglib2.0-0" in alarm["hint"]
        assert last_status(broker)["state"] == "refused"


def test_a_damaged_ledger_is_the_last_word_until_a_whole_one_is_back(tmp_path: Path) -> None:
    """The worker was stopped in order, so the MES read `stopped`: on purpose."""
    with running_line(tmp_path) as (daemon, broker, mes):
        daemon.start()
        daemon.wait_for("broker connected")
        assert daemon.send(signal.SIGTERM) == 0
        mes.wait_for("status", 2)
        ledger = tmp_path / "state" / "ledger.sqlite"
        whole = ledger.read_bytes()
        ledger.write_bytes(whole[:100] + bytes(300) + whole[400:4096] + bytes(range(256)) * 16 + whole[8192:])
        daemon.start()
        assert daemon.wait() == 74
        status = last_status(broker)
        assert status["state"] == "refused" and str(ledger) in status["reason"]
        assert "restore a backup" in status["hint"]
        ledger.write_bytes(whole)
        daemon.start()
        daemon.wait_for("broker connected", 2)
        mes.wait_for("status", 4)
        assert last_status(broker)["state"] == "online"
        assert daemon.send(signal.SIGTERM) == 0


TOPIC = '[topic]\nroot = "enterprise"\n'


@pytest.mark.parametrize(
    ("extra", "is_told"),
    [
        (TOPIC + "[naming]\npattern = '('\n", True),
        ("[naming]\npattern = '('\n", False),  # whose topic that is, nobody has said
        (TOPIC + 'ruut = "x"\n', False),
    ],
)
def test_a_wrong_setting_is_told_where_station_broker_and_topic_are_given(
    tmp_path: Path, extra: str, is_told: bool
) -> None:
    with running_line(tmp_path, extra) as (daemon, broker, mes):
        daemon.start()
        assert daemon.wait() == 78
        if is_told:
            assert last_status(broker)["reason"].startswith("setting `naming.pattern`")
        else:
            assert mes.payloads("status") == []


def test_a_ledger_that_may_not_be_looked_at_is_an_alarm_and_leaves_the_status_alone(tmp_path: Path) -> None:
    """Whose it is, and whether its worker runs, cannot be told: so nobody is thrown off the broker."""
    with running_line(tmp_path) as (daemon, broker, mes):
        (tmp_path / "state").write_text("no directory")
        daemon.start()
        assert daemon.wait() == 74
        assert json.loads(mes.wait_for("alarm", 1)[0].payload)["code"] == "start-refused"
        assert mes.payloads("status") == []
        assert any(line.rstrip().endswith("-refused (p5, c1, k30).") for line in broker.log)


SLOW = """
import sys, time
import edge.cli
from edge.system.signals import hold_stop_signals
def build(*_, **__):
    print('{"event": "building"}', file=sys.stderr, flush=True)
    time.sleep(60)
with hold_stop_signals():
    import edge.pipeline.loaded_model
    edge.pipeline.loaded_model.open_engine = build
    sys.exit(edge.cli.main(["--config", sys.argv[1]]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 129)])
def test_a_stop_while_an_engine_is_built_ends_the_worker_at_once(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        daemon.start_program(sys.executable, "-c", SLOW, str(daemon.config))
        daemon.wait_for("building")
        began_s = time.monotonic()
        assert daemon.send(number) == code
        assert time.monotonic() - began_s < 2.0
        assert daemon.wait_for("stopped before the line was ready")
        assert mes.payloads("status") == []


def test_a_stop_while_the_model_loads_ends_the_worker_at_once(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, _mes):
        for wait_s in (0.0, 0.5):
            daemon.log.clear()
            daemon.start()
            daemon.wait_for("starting")
            time.sleep(wait_s)
            began_s = time.monotonic()
            assert daemon.send(signal.SIGTERM) == 0
            assert time.monotonic() - began_s < 2.0


def test_a_model_refused_while_another_worker_runs_disturbs_nobody(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        daemon.start()
        daemon.wait_for("ready")
        mes.wait_for("status", 1)
        assert refused_model(daemon).returncode == 78
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        assert daemon.send(signal.SIGTERM) == 0
        assert mes.payloads("alarm") == []
        assert len(daemon.wait_for("broker connected")) == 1


def test_a_model_refused_while_the_broker_is_away_or_silent_ends_in_time(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, broker, _mes):
        broker.stop()
        assert refused_model(daemon).returncode == 78
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            silent.bind(("127.0.0.1", broker.port))
            silent.listen()
            began_s = time.monotonic()
            done = refused_model(daemon)
            assert done.returncode == 78
            assert "did not answer within 5 s" in done.stderr
            assert time.monotonic() - began_s < 30


def test_a_folder_that_goes_away_alarms_and_its_scans_are_taken_when_it_is_back(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        daemon.start()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        daemon.folder.rename(tmp_path / "elsewhere")
        alarm = json.loads(mes.wait_for("alarm", 1)[0].payload)
        assert (alarm["code"], alarm["active"]) == ("folder-away", True)
        arrive(tmp_path / "elsewhere", "B01_2.tif", seed=2)
        (tmp_path / "elsewhere").rename(daemon.folder)
        mes.wait_for("verdict", 2)
        assert daemon.send(signal.SIGTERM) == 0
        assert [verdict["scan"]["file"] for verdict in verdicts(mes)] == ["B01_1.tif", "B01_2.tif"]


def test_a_resend_request_brings_the_same_bytes_again(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, _, mes):
        daemon.start()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        command = [sys.executable, "-m", "edge.cli", "--config", str(daemon.config), "--resend", "1h"]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        mes.wait_for("verdict", 2)
        assert len(set(mes.payloads("verdict"))) == 1
        assert daemon.send(signal.SIGTERM) == 0


def test_every_verdict_but_normal_names_evidence_that_is_there_and_whole(tmp_path: Path) -> None:
    extra = '[evidence]\nmin_free_bytes = 0\nsample = 0.0\nchallenge = "^C01_"'
    with running_line(tmp_path, extra) as (daemon, _, mes):
        shutil.rmtree(tmp_path / "model")
        signed_models.make_signed_model(tmp_path / "model", has_reason=True)
        daemon.start()
        daemon.wait_for("ready")
        arrive(daemon.folder, "B01_normal.tif", 1900)
        arrive(daemon.folder, "C01_known.tif", 1901)
        arrive(daemon.folder, "B01_abnormal.tif", 2700)
        arrive(daemon.folder, "B01_strange.tif", 40_000)
        (daemon.folder / "B01_bad.tif").write_bytes(b"no scan")
        mes.wait_for("verdict", 5)
        assert daemon.send(signal.SIGTERM) == 0  # what is judged has its evidence before the end
        named = {verdict["scan"]["file"]: verdict["evidence"] for verdict in verdicts(mes)}
        assert named.pop("B01_normal.tif") is None
        found = {file: open_piece(tmp_path / "state" / "evidence", path) for file, path in named.items()}
        counts = tifffile.imread(daemon.folder / "B01_abnormal.tif")
        piece = found["B01_abnormal.tif"]
        assert np.array_equal(piece.counts(), counts)
        assert piece.image().dtype == np.uint8
        assert piece.residual().ndim == 2
        scale = piece.record.reason_map
        assert scale is not None
        assert scale.box_px is not None
        assert (piece.reason() > 0).all(), "all of it is brighter than the threshold"
        assert piece.record.bounds_counts is not None
        assert found["C01_known.tif"].record.kept == "challenge"
        assert found["B01_bad.tif"].read("scan.bin") == b"no scan"
        strange = found["B01_strange.tif"]
        assert strange.record.outcome.value == "review"
        assert np.array_equal(strange.counts(), tifffile.imread(daemon.folder / "B01_strange.tif"))
        assert "the networks were not asked" in str(strange.record.note)
        payloads = {json.loads(payload)["verdict_id"]: payload for payload in mes.payloads("verdict")}
        assert {piece.read("verdict.json") == payloads[piece.record.verdict_id] for piece in found.values()} == {True}
