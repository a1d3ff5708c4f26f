"""The alarms about scans: files that are refused, and files that cannot be read at all.

`scans-refused` stands while the newest file that was read got the verdict `unreadable`, and ends at the next look that
finds a scan was read since: at most one start and one end a minute, however good and bad files take turns.

`scans-repeated` stands while the newest scan that was read shows an image that was judged before: a detector that
hands out its last frame again, or copies under other names. It ends likewise. Where judged scans are moved away, a
file with the name and bytes of the last one is such a frame, too, though it gets no verdict: nothing was left to touch.

`part-unknown` stands while the newest scan's name does not fit `naming.pattern`, so that its verdict names no part.
It ends likewise.

`scans-rewritten` stands while the newest scan came in the file of an older one, written again in place, and had no new
marker. It ends likewise. It also stands while a file is written to so often that none of its scans can be read.

`scans-not-readable` stands while there are files that get no verdict, because the disk, the share or the process that
unpacks them fails, and not they. Each has failed twice after it had become final: a scan that was moved on just then,
or a share that went away, has other signs. Or reading it has not ended for ten seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Verdict
from edge.contract.reasons import REPEATED_IMAGE
from edge.errors import ScanIncomplete
from edge.pipeline.worker import Judged
from edge.records import Arrival, Outcome
from edge.system.names import display_name

LOOK_S = 60.0


class Alarms(Protocol):
    """Where they are raised: the publisher."""

    def raise_alarm(self, code: AlarmCode, message: str, hint: str) -> None: ...

    def clear_alarm(self, code: AlarmCode) -> None: ...


@dataclass(slots=True)
class _Streak:
    """A sign of the newest scans: whether it stands, and on how many scans it was seen since it began."""

    count: int = 0
    is_over: bool = False

    def sees(self, has_sign: bool | None) -> bool:
        """Count a scan; None: it says nothing of this sign. Returns `has_sign`."""
        if has_sign is not None:
            self.is_over = not has_sign
            self.count += has_sign
        return bool(has_sign)


class ScanAlarms:
    """The worker's thread tells what becomes of the files, the inbox's looks again, the main thread tells of hangs."""

    def __init__(self, folder: Path, alarms: Alarms, *, are_moved: bool) -> None:
        """`are_moved`: judged scans leave the folder."""
        self._folder = folder
        self._are_moved = are_moved
        self._alarms = alarms
        self._lock = threading.Lock()
        self._refused, self._repeated, self._unknown, self._rewritten = (_Streak() for _ in range(4))
        self._failed_once: set[str] = set()
        self._stuck: dict[str, str] = {}  # file -> what is wrong with it
        self._hanging: str | None = None
        self._has_restless = False
        self._look_at_s: float | None = None

    def judged(self, judged: Judged) -> None:
        """A file has its verdict, or had it before."""
        with self._lock:
            self._forget({judged.prepared.arrival.stamp.file})
            if judged.verdict is not None:
                self._verdict(judged.verdict)
                if self._rewritten.sees(judged.prepared.arrival.is_rewrite):
                    self._alarms.raise_alarm(
                        AlarmCode.SCANS_REWRITTEN,
                        f"scans written into the file of an older one: {self._rewritten.count}; "
                        f"last {judged.verdict.scan.file}",
                        "let the station write each scan into a new file and rename it, or set a new marker "
                        "for each (`folder.done_suffix`): such a file may be half the last scan, and has to wait",
                    )
                return
            if (decision := judged.prepared.decision) is None or decision.outcome is not Outcome.UNREADABLE:
                self._refused.sees(False)
                if self._are_moved:
                    self._sees_repeated(True, judged.prepared.arrival.stamp.file)

    def _verdict(self, verdict: Verdict) -> None:
        """With the lock held."""
        file, is_unreadable = verdict.scan.file, verdict.outcome is Outcome.UNREADABLE
        if self._refused.sees(is_unreadable):
            self._alarms.raise_alarm(
                AlarmCode.SCANS_REFUSED,
                f"files refused since this began: {self._refused.count}; last {file}: {verdict.reasons[0]}",
                "look at the station: the files are not whole 16-bit scans; their verdicts are `unreadable`",
            )
        is_repeated = REPEATED_IMAGE in verdict.reasons
        self._sees_repeated(None if is_unreadable and not is_repeated else is_repeated, file)
        if self._unknown.sees(verdict.part_id is None):
            self._alarms.raise_alarm(
                AlarmCode.PART_UNKNOWN,
                f"verdicts without a part since this began: {self._unknown.count}; last {file}",
                "write `naming.pattern` for the station's file names; `edge-worker check` shows what it makes of them",
            )

    def _sees_repeated(self, is_repeated: bool | None, file: str) -> None:
        """With the lock held."""
        if self._repeated.sees(is_repeated):
            self._alarms.raise_alarm(
                AlarmCode.SCANS_REPEATED,
                f"scans that show an image judged before: {self._repeated.count}; last {file}",
                "look at the detector and at what copies files: each scan must be an exposure of its own",
            )

    def failed(self, arrival: Arrival, error: ScanIncomplete) -> None:
        """A file that is waited for no longer could not be read, which is not its own fault."""
        file = arrival.stamp.file
        with self._lock:
            if file not in self._failed_once and file not in self._stuck:
                self._failed_once.add(file)
                return
            self._failed_once.discard(file)
            self._is_stuck(file, f"{error.message} ({error.reason})", error.hint)

    def hangs(self, file: str | None, silent_s: float = 0.0) -> None:
        """Reading `file` does not end, for a fault of the share or of the process that unpacks; None: no such file."""
        with self._lock:
            if self._hanging not in (None, file):
                self._forget({self._hanging})
            self._hanging = file
            if file is not None:
                words = f"{display_name(file)}: reading it has lasted {silent_s:.0f} s so far"
                self._is_stuck(file, words, "check the server of the share, the network to it, and the load here")

    def look(self, now_s: float, *, is_folder_away: bool, restless: Callable[[float], list[str]]) -> None:
        """Once a minute: end what is over, and tell of `restless` files, which are never still for long enough.

        Files that were taken away are not waited for.
        """
        if self._look_at_s is not None and now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        with self._lock:
            files = [*self._failed_once, *self._stuck]
        gone = set() if is_folder_away else {file for file in files if _is_gone(self._folder / file)}
        with self._lock:
            self._forget(gone)
            self._see_restless(restless(now_s))
            for code, streak in (
                (AlarmCode.SCANS_REFUSED, self._refused),
                (AlarmCode.SCANS_REPEATED, self._repeated),
                (AlarmCode.PART_UNKNOWN, self._unknown),
                (AlarmCode.SCANS_REWRITTEN, self._rewritten),
            ):
                if streak.is_over:
                    streak.count = 0
                    if code is not AlarmCode.SCANS_REWRITTEN or not self._has_restless:
                        self._alarms.clear_alarm(code)

    def _see_restless(self, files: list[str]) -> None:
        """With the lock held."""
        if files:
            self._alarms.raise_alarm(
                AlarmCode.SCANS_REWRITTEN,
                f"files written to again and again, before any of their scans could be read: {len(files)}; "
                f"first {display_name(min(files))}",
                "let the station write each scan into a new file and rename it, or set a new marker for each "
                "(`folder.done_suffix`): what it writes there now is lost; if it writes no scan there, keep that "
                "file out of the folder",
            )
        elif self._has_restless and not self._rewritten.count:
            self._alarms.clear_alarm(AlarmCode.SCANS_REWRITTEN)
        self._has_restless = bool(files)

    def _is_stuck(self, file: str, words: str, hint: str) -> None:
        """With the lock held."""
        self._stuck[file] = words
        first = next(iter(self._stuck.values()))
        message = f"files without a verdict: {len(self._stuck)}; first {first}"
        self._alarms.raise_alarm(AlarmCode.SCANS_NOT_READABLE, message, hint)

    def _forget(self, files: set[str]) -> None:
        """With the lock held."""
        self._failed_once -= files
        for file in files:
            self._stuck.pop(file, None)
        if not self._stuck:
            self._alarms.clear_alarm(AlarmCode.SCANS_NOT_READABLE)


def _is_gone(path: Path) -> bool:
    """False where it is not known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False
