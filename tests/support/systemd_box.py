"""A Debian system of its own, booted by a real systemd in a container: worker and desk, installed as the docs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.desk import Answered, Browser

ROOT = Path(__file__).parents[2]
PINNED = ROOT / "tools" / "constraints" / "desk.txt"
"""What the desk needs, and with it the worker."""
RELEASE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,mosquitto,mosquitto-clients,curl,libgl1,libglib2.0-0"
PATIENCE_S = 90.0
UNIT = "edge-worker"
SCANS = "/srv/xray/scans"

needs_a_box = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None or shutil.which("systemd-nspawn") is None,
    reason="needs root, debootstrap and systemd-nspawn (Debian: apt install debootstrap systemd-container)",
)

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
HARMLESS = ("RestartSteps", "RestartMaxDelaySec", "is not executable: No such file or directory")
"""Keys of systemd 254, which older ones say they ignore, and programs that are not installed here."""


def analysed(*arguments: str | Path) -> str:
    """What systemd-analyze says."""
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def exposure(unit: Path) -> float:
    """How far a service is exposed, in systemd's points from 0 to 10."""
    text = analysed("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    assert found is not None, text
    return float(found[1])


def mistakes(unit: Path) -> list[str]:
    """What systemd finds wrong with a unit."""
    lines = analysed("verify", unit).splitlines()
    return [line for line in lines if unit.name in line and not any(word in line for word in HARMLESS)]


class Box:
    """The system in `folder`; `run` runs a command in it while it is up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init: int | None = None

    def make(self) -> None:
        """Debian, the source, wheels of all it needs, and what the documents leave to whoever installs."""
        must(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, self.folder])
        source = self.path("/srv/source")
        must(["git", "clone", "--quiet", ROOT, source])
        wheels = self.path("/srv/wheels")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", wheels, "--only-binary=:all:"]
        must([*pip, "--python-version=3.11", "--require-hashes", f"--requirement={PINNED}"])
        shutil.copytree(ROOT / "demo" / "model", source / "your-model")
        shutil.copy(ROOT / "edge" / "pipeline" / "demo-key.pub.pem", source / "your-key.pub.pem")
        self.path(SCANS).mkdir(parents=True)
        self.path("/etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")

    def boot(self) -> None:
        # In containers /run may lie on a disk, and nspawn insists on memory: it gets a /run of its own.
        nspawn = f"systemd-nspawn -D {self.folder} --register=no --keep-unit --private-network --link-journal=no"
        command = f"mount -t tmpfs tmpfs /run && exec {nspawn} --console=read-only --boot"
        self._nspawn = subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdout=subprocess.DEVNULL)
        self.wait_until(lambda: self._find_init() and "running" in self.ask("systemctl", "is-system-running"), "boot")

    def _find_init(self) -> bool:
        """The system's process 1 is the child of nspawn."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        self._init = int(children[0]) if children else None
        return self._init is not None

    def power_off(self) -> None:
        if self._nspawn is not None:
            self._nspawn.terminate()  # nspawn hands it on as an orderly power-off
            self._nspawn.wait(PATIENCE_S)

    def path(self, inside: str) -> Path:
        """Where a path of the system lies outside of it."""
        return self.folder / inside.lstrip("/")

    def run(self, script: str) -> str:
        """Output of a shell script in the running system; a line of it that fails ends it and is an error."""
        return must([*self._inside(), "bash", "-euc", script])

    def ask(self, *command: str) -> str:
        """Output of a command in the running system, whatever its exit status."""
        return subprocess.run([*self._inside(), *command], capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def state(self, unit: str = UNIT) -> dict[str, str]:
        """Properties of a service."""
        shown = self.ask("systemctl", "show", unit, "--property=SubState,ExecMainStatus,NRestarts,MainPID,Result")
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self) -> str:
        return self.ask("journalctl", "--unit", UNIT, "--output=cat", "--no-pager")

    def get(self, options: Sequence[str], url: str) -> bytes:
        """Status line, headers and body of what a server in the system answers to curl."""
        command = [*self._inside(), "curl", "--silent", "--include", *options, url]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE_S).stdout

    def subscribe(self) -> None:
        """Everything the broker passes on from now on is kept for `received`."""
        listen = "mosquitto_sub -V 5 -q 1 -i mes -c -x 3600 -t '#' -F '%t %p'"
        self.run(f'systemd-run --quiet --unit=mes sh -c "exec {listen} > /srv/received"')
        self.wait_until(lambda: self.path("/srv/received").exists(), "the subscriber")

    def received(self, kind: str) -> list[dict[str, Any]]:
        """Messages of a kind, such as `verdict`, in the order of their arrival."""
        lines = self.path("/srv/received").read_text(encoding="utf-8").splitlines()
        found = [re.fullmatch(rf"\S+/{kind} (\{{.*\}})", line) for line in lines]
        return [json.loads(match[1]) for match in found if match]

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """By file."""
        return {verdict["scan"]["file"]: verdict for verdict in self.received("verdict")}

    def wait_until(self, is_so: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        deadline_s = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline_s:
                pytest.fail(f"waited {patience_s:g} s for {what}; {self.state()}; {self.journal()[-2000:]}")
            time.sleep(0.2)

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--all"]


def must(command: Sequence[str | Path]) -> str:
    """Output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


class BoxBrowser(Browser):
    """A browser on the screen of the line PC."""

    def __init__(self, box: Box) -> None:
        super().__init__(None)
        self._box = box

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        sent = {**headers, "cookie": "; ".join(f"{key}={value}" for key, value in self.cookies.items())}
        options = [word for key, value in sent.items() for word in ("--header", f"{key.replace('_', '-')}: {value}")]
        options += ["--data-raw", body.decode()] if method == "POST" else []
        head, _, content = self._box.get(options, f"http://{self.host}{path}").partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = [(key.lower(), value) for key, _, value in (line.partition(": ") for line in lines)]
        for key, value in pairs:
            if key == "set-cookie":
                name, _, rest = value.partition("=")
                self.cookies[name] = rest.partition(";")[0].strip('"')
        return Answered(int(status.split()[1]) if status else 0, dict(pairs), content, dict(self.cookies))


def commands_under(page: str, heading: str) -> str:
    """The first commands under a heading of a page of docs/, as they stand there."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"\n\n((?:    .+\n)+)", section)
    assert block is not None
    return re.sub(r"^    ", "", block[1], flags=re.MULTILINE)
