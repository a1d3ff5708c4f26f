"""Every command of docs/operate.md, run on a real line: what an operator copies at 3 a.m. works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.daemon.test_line import Daemon, arrive, running_line, verdicts
from tests.support.mosquitto import Mosquitto, Recorder, needs_mosquitto

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
EXIT_CONFIG = 78
OF_THE_MACHINE = ("journalctl", "systemctl status", "chown")
"""Belong to an installed service; here their programs are only looked for in the text."""


def sections() -> dict[str, list[str]]:
    """Heading → commands of its shell blocks, comments removed."""
    found = {}
    for part in re.split(r"^## ", "\n" + RUNBOOK.partition("\nFirst, always:")[2], flags=re.MULTILINE):
        blocks = re.findall(r"```sh\n(.*?)```", part, flags=re.DOTALL)
        lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
        found[part.partition("\n")[0]] = [line for line in lines if line]
    return found


class Operator:
    """Types the runbook's commands into this machine, with its paths in place of the plant's."""

    def __init__(self, root: Path, daemon: Daemon, broker: Mosquitto) -> None:
        self._daemon = daemon
        self._root = root
        (root / "backups").mkdir()
        self._places = {
            "/srv/xray/scans": str(daemon.folder),
            "/var/lib/edge-worker/state": str(root / "state"),
            "/var/backups/edge-worker": str(root / "backups"),
            "-p 1883": f"-p {broker.port}",
            "show FILE": "show B01_1.tif",
            "--seq 12-15": "--seq 1-1",
        }

    def type(self, command: str) -> subprocess.CompletedProcess[str] | None:
        """None for what belongs to an installed service, and for a program that is not installed here."""
        if command.startswith(OF_THE_MACHINE):
            return None
        if command == "systemctl stop edge-worker":
            assert self._daemon.send(signal.SIGTERM) == 0
            return None
        if command == "systemctl start edge-worker":
            ready = sum(line["event"] == "ready" for line in self._daemon.log)
            self._daemon.start()
            self._daemon.wait_for("ready", ready + 1)
            return None
        for plants, ours in self._places.items():
            command = command.replace(plants, ours)
        words = shlex.split(command)
        if words[0] == "edge-worker":
            words = [sys.executable, "-m", "edge.cli", "--config", str(self._daemon.config), *words[1:]]
        elif shutil.which(words[0]) is None:
            return None
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(words, capture_output=True, text=True, timeout=90, env=environment, cwd=self._root)


def alarms(mes: Recorder, code: str) -> list[bool]:
    said = [json.loads(payload) for payload in mes.payloads("alarm")]
    return [alarm["active"] for alarm in said if alarm["code"] == code]


@pytest.mark.broker
@needs_mosquitto
def test_every_command_of_every_alarm_runs(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, broker, mes):
        operator = Operator(tmp_path, daemon, broker)
        daemon.start()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        for heading, commands in sections().items():
            if heading.startswith(("Moving", "The disk")):
                continue
            for command in commands:
                done = operator.type(command)
                assert done is None or done.returncode == 0, f"{heading}: {command}: {done.stdout}{done.stderr}"

        def received() -> list[bytes]:
            return [payload for payload in mes.payloads("verdict") if b'"probe/1"' not in payload]

        mes.wait_until(lambda: len(received()) >= 2, "the resend")
        assert len(set(received())) == 1
        assert daemon.send(signal.SIGTERM) == 0


@pytest.mark.broker
@needs_mosquitto
def test_the_check_names_a_folder_that_is_away_and_the_alarm_ends_when_it_is_back(tmp_path: Path) -> None:
    with running_line(tmp_path) as (daemon, broker, mes):
        operator = Operator(tmp_path, daemon, broker)
        daemon.start()
        arrive(daemon.folder, "B01_1.tif")
        mes.wait_for("verdict", 1)
        daemon.folder.rename(tmp_path / "elsewhere")
        mes.wait_until(lambda: alarms(mes, "folder-away") == [True], "the alarm")
        done = operator.type(sections()[""][0])
        assert done is not None and done.returncode == EXIT_CONFIG
        assert re.search(r"fail\s+folder", done.stdout)
        (tmp_path / "elsewhere").rename(daemon.folder)
        mes.wait_until(lambda: alarms(mes, "folder-away") == [True, False], "the end of the alarm")
        assert daemon.send(signal.SIGTERM) == 0


@pytest.mark.broker
@needs_mosquitto
@pytest.mark.parametrize("heading", ["Moving", "The disk"])
def test_a_line_moves_to_another_disk_without_losing_numbers_or_ids(tmp_path: Path, heading: str) -> None:
    (commands,) = (lines for name, lines in sections().items() if name.startswith(heading))
    with running_line(tmp_path) as (daemon, broker, mes):
        operator = Operator(tmp_path, daemon, broker)
        daemon.start()
        for number in range(3):
            arrive(daemon.folder, f"B01_{number}.tif", seed=number)
        mes.wait_for("verdict", 3)
        backup = "/var/backups/edge-worker/2026-03-01.sqlite"
        operator.type(f"edge-worker backup {backup}")
        for command in commands:
            if "edge-worker restore" in command and heading == "Moving":
                shutil.move(tmp_path / "state", tmp_path / "old-box")
            done = operator.type(command)
            assert done is None or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        arrive(daemon.folder, "B01_9.tif", seed=9)
        mes.wait_for("verdict", 4)
        said = verdicts(mes)
        next_seq = 4 if heading == "Moving" else 1000
        assert [verdict["seq"] for verdict in said] == [1, 2, 3, next_seq]
        assert len({verdict["verdict_id"] for verdict in said}) == 4
        assert daemon.send(signal.SIGTERM) == 0
