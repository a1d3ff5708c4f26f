"""The line under torture as real processes: worker, broker, subscriber. What they do is judged by the checker."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.mosquitto import Mosquitto
from tests.torture.checker import Findings, LedgerRow, Message, compare, read_ledger
from tests.torture.forks import Fork
from tests.torture.generator import Generator
from tests.torture.stub import write_stub_model
from tests.torture.subscriber import SUBSCRIBED

PATIENCE_S = 180.0
"""Generous: a loaded machine is no fault of the line. Where a fault's bar is a time, the row measures it itself."""
SLOWEST_PER_S = 20.0
"""Scans that even a loaded machine judges: bounds the patience, no bar."""
LOOK_S = 0.02
STATION = "torture"
STUB_WORKER = "tests.torture.worker"


class TimedOut(AssertionError):
    """Something that had to happen did not."""


def wait_until(is_done: Callable[[], bool], what: str, patience_s: float | None = None) -> float:
    """Seconds it took; TimedOut after `patience_s`, by default PATIENCE_S."""
    patience_s = PATIENCE_S if patience_s is None else patience_s
    began_s = time.monotonic()
    while not is_done():
        if time.monotonic() - began_s > patience_s:
            raise TimedOut(f"not within {patience_s:.0f} s: {what}")
        time.sleep(LOOK_S)
    return time.monotonic() - began_s


class Tail:
    """Complete lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """Those that came since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return data[:end].decode("utf-8", "replace").split("\n")[:-1]


class Worker:
    """The daemon with the stub engine; its log lies in `root/worker.log`, all runs in one file."""

    def __init__(
        self, config: Path, log: Path, options: Sequence[str] = (), program: str = STUB_WORKER, *, by_exec: bool = False
    ) -> None:
        """`options` of the program for every start; edge.cli is the production program, and begins by exec."""
        self.config = config
        self._program = program
        self._by_exec = by_exec or program != STUB_WORKER
        self._options = options
        self.log = log
        self.entries: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._tail = Tail(log)
        self._process: subprocess.Popen[bytes] | Fork | None = None

    def start(self, *options: str, prefix: Sequence[str] = (), wait: bool = True) -> None:
        """`options`: of tests.torture.worker; `prefix`: a program that runs it. Waits for its word `ready`."""
        seen = self.count("ready")
        arguments = ["--config", str(self.config), *self._options, *options]
        if self._by_exec or prefix:
            command = [*prefix, sys.executable, "-m", self._program, *arguments]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(command, stderr=log, stdout=log)
        else:
            self._process = Fork(self._program, arguments, self.log)
        if wait:
            wait_until(lambda: self.count("ready") > seen or not self.is_alive(), "the worker is ready")

    def start_until_ready(self) -> None:
        """Wait for the run that began, and start again as often as one ends before it is ready, as systemd does."""

        def is_ready() -> bool:
            entries = self.read_log()
            begun = max((at for at, entry in enumerate(entries) if entry["event"] == "loading"), default=0)
            if any(entry["event"] == "ready" for entry in entries[begun:]):
                return True
            if not self.is_alive():
                self.start(wait=False)
            return False

        wait_until(is_ready, "a run of the worker is ready")

    @property
    def pid(self) -> int:
        """Number of the daemon itself, also below a prefix such as strace."""
        assert self._process is not None
        pid = self._process.pid
        if isinstance(self._process, Fork):
            return pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with children.open() as file:
            below = file.read().split()
        is_wrapped = self._program.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
        return int(below[0]) if is_wrapped and below else pid

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL; it may have ended by itself before."""
        if self._process is not None:
            if self.is_alive():
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        assert self._process is not None
        if self.is_alive():
            os.kill(self.pid, number)
        return self._process.wait(PATIENCE_S)

    def wait_end(self) -> int:
        """The exit code of a worker that ends by itself."""
        assert self._process is not None
        wait_until(lambda: not self.is_alive(), "the end of the worker")
        return self._process.wait()

    def read_log(self) -> list[dict[str, Any]]:
        """All entries so far; what is no JSON appears as {"event": line}."""
        for line in self._tail.lines():
            entry = json.loads(line) if line.startswith("{") else {"event": line}
            self.entries.append(entry)
            self._counts[entry["event"]] += 1
        return self.entries

    def count(self, event: str, **fields: object) -> int:
        entries = self.read_log()
        if not fields:
            return self._counts[event]
        return sum(
            entry["event"] == event and all(entry.get(key) == value for key, value in fields.items())
            for entry in entries
        )

    def wait_for(self, event: str, count: int = 1, **fields: object) -> float:
        """The more events, the more patience."""
        patience_s = PATIENCE_S + count / SLOWEST_PER_S
        return wait_until(lambda: self.count(event, **fields) >= count, f"{count} x {event} {fields}", patience_s)

    def usage(self) -> Usage:
        return Usage.of(self.pid)

    def child_usages(self) -> list[Usage]:
        """Usage of the processes it has started and that live."""
        return [Usage.of(child) for child in self.children()]

    def children(self) -> list[int]:
        """Process ids of those it has started and that live."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds right now; `peak_rss_bytes` since its start."""

    rss_bytes: int
    peak_rss_bytes: int
    own_bytes: int
    """What belongs to no file, swapped out or not: a busy kernel takes pages of files back, and hides a leak."""
    threads: int
    fds: int
    cpu_s: float
    children_cpu_s: float
    """Processor time of its children that have ended."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        held = {name: 1024 * int(value.split()[0]) for name, value in status.items() if value.endswith("kB")}
        return cls(
            rss_bytes=held["VmRSS"],
            peak_rss_bytes=held["VmHWM"],
            own_bytes=held["RssAnon"] + held["RssShmem"] + held.get("VmSwap", 0),
            threads=int(status["Threads"]),
            fds=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
            cpu_s=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
            children_cpu_s=(int(times[13]) + int(times[14])) / os.sysconf("SC_CLK_TCK"),
        )


class Subscriber:
    """The MES as a process of its own, with a session that outlives it."""

    def __init__(self, log: Path, port: int, client_id: str = "mes") -> None:
        self._log = log
        self._port = port
        self._client_id = client_id
        self._tail = Tail(log)
        self._process: Fork | None = None
        self.messages: list[Message] = []
        self._counts: Counter[str] = Counter()
        self._distinct: set[str] = set()

    def start(self) -> None:
        """Returns when it is subscribed."""
        seen = self.count(SUBSCRIBED)
        self._process = Fork("tests.torture.subscriber", [str(self._port), str(self._log), self._client_id])
        wait_until(lambda: self.count(SUBSCRIBED) > seen, "the subscriber is subscribed")

    def end(self) -> None:
        """Without a word to the broker, as a computer that is switched off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def read(self) -> list[Message]:
        for line in self._tail.lines():
            entry = json.loads(line)
            message = Message(entry["at"], entry["kind"], entry.get("payload", ""))
            self.messages.append(message)
            self._counts[message.kind] += 1
            if message.kind == "verdict":
                self._distinct.add(message.content["scan"]["sha256"])
        return self.messages

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.read() if message.kind == kind]

    def count(self, kind: str) -> int:
        self.read()
        return self._counts[kind]

    def distinct(self) -> set[str]:
        """SHA-256 of every scan that was heard of."""
        self.read()
        return self._distinct

    def alarms(self, code: str) -> list[Message]:
        return [message for message in self.of("alarm") if message.content["code"] == code]


@dataclass(slots=True)
class Layout:
    """How a rig is set up; the defaults are quick looks and short waits."""

    folder: dict[str, object] = field(default_factory=dict)
    state: dict[str, object] = field(default_factory=dict)
    evidence: dict[str, object] = field(default_factory=dict)
    broker: dict[str, object] = field(default_factory=dict)
    model: dict[str, object] = field(default_factory=dict)
    log_level: str = "info"
    mosquitto: dict[str, Any] = field(default_factory=lambda: {"persistence": True, "max_queued": 0})
    worker_port: int | None = None
    """Where the worker finds its broker, if not at the broker itself: a relay."""
    by_exec: bool = False
    """Every start of the worker is one as in service, imports included: where the row measures it, or is about it."""


class Rig:
    """One line in `root`. Leaving the context ends every process."""

    def __init__(self, root: Path, seed: int, layout: Layout | None = None, worker_options: Sequence[str] = ()) -> None:
        layout = layout or Layout()
        self.root = root
        self.chance = random.Random(seed)
        self.scans = root / "scans"
        self.scans.mkdir(parents=True)
        self.state = root / "state"
        self.broker = Mosquitto(root / "broker", **layout.mosquitto)
        self.generator = Generator(self.scans, seed)
        self.tidied = 0
        """How many of the listed files were taken away again."""
        self.subscriber = Subscriber(root / "received.jsonl", self.broker.port)
        self.config = root / "edge.toml"
        write_stub_model(root / "model")
        self.write_config(layout)
        self.worker = Worker(self.config, root / "worker.log", worker_options, by_exec=layout.by_exec)

    def write_config(self, layout: Layout) -> None:
        sections = {
            "folder": {
                "path": self.scans,
                "poll_s": 0.1,
                "stable_for_s": 0.05,
                "incomplete_after_s": 2.0,
                "rewrite_hold_s": 0.5,
            }
            | layout.folder,
            "model": {"dir": self.root / "model", "trusted_key": self.root / "key.pub.pem"} | layout.model,
            "state": {"dir": self.state, "min_free_bytes": 0} | layout.state,
            "evidence": {"min_free_bytes": 0} | layout.evidence,
            "broker": {
                "host": "127.0.0.1",
                "port": layout.worker_port or self.broker.port,
                "backoff_min_s": 0.05,
                "backoff_max_s": 0.3,
            }
            | layout.broker,
            "log": {"format": "json", "level": layout.log_level},
        }
        lines = [f'station = "{STATION}"']
        for name, keys in sections.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.broker.start()
        self.subscriber.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.worker.kill()
        self.subscriber.end()
        self.broker.kill()

    def other_box(self) -> Worker:
        """A second box set up as this station: the same settings, but for a state of its own."""
        config = self.root / "other-box.toml"
        config.write_text(self.config.read_text().replace(str(self.state), str(self.root / "other-state")))
        return Worker(config, self.root / "other-box.log")

    def run_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real `edge-worker` on this rig's settings."""
        command = [sys.executable, "-m", "edge.cli", "--config", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    def second_worker(self) -> subprocess.CompletedProcess[str]:
        """Another worker on the same settings, until it ends; it begins by exec."""
        command = [sys.executable, "-m", STUB_WORKER, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    def settle(self) -> None:
        """Restart the worker until the broker has acknowledged every row of its ledger; it runs in the end."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            self.worker.stop()
            rows, _ = self.ledger_rows()
            self.worker.start()
            if all(row.is_sent for row in rows):
                return
            if time.monotonic() > until_s:
                raise TimedOut(f"{sum(not row.is_sent for row in rows)} rows stay unsent")
            time.sleep(1.0)

    def await_all(self) -> float:
        """Until every listed content was heard of; seconds it took."""
        wanted = {listed.sha256 for listed in self.generator.listed}
        patience_s = PATIENCE_S + len(wanted) / SLOWEST_PER_S
        try:
            return wait_until(lambda: wanted <= self.subscriber.distinct(), "all verdicts", patience_s)
        except TimedOut:
            return patience_s  # the checker counts what is lost

    def await_judged(self, count: int) -> float:
        """Until the worker's log tells of so many verdicts."""
        return self.worker.wait_for("scan judged", count)

    def ledger_rows(self) -> tuple[list[LedgerRow], str]:
        return read_ledger(self.state / "ledger.sqlite")

    def findings(self) -> Findings:
        """What the checker finds of a stopped or killed worker."""
        rows, integrity = self.ledger_rows()
        found = compare(self.generator.listed, self.subscriber.read(), rows)
        if integrity != "ok":
            found.faults.append(f"the ledger is damaged: {integrity}")
        return found


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(str(value))
