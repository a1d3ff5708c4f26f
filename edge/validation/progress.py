"""How far a replay is: a live bar on a terminal, a plain line now and then elsewhere. Both on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge.records import Outcome

LINE_EVERY_S = 10.0


class ReplayProgress:
    """Use as a context manager, so that the bar ends with the work."""

    def __init__(self, total: int, judged_before: int = 0) -> None:
        self._total = total
        self._judged_before = judged_before
        self._outcomes: Counter[Outcome] = Counter()
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True, highlight=False),
            )
            self._task = self._bar.add_task("", total=total, completed=judged_before)
        if judged_before:
            print(f"{judged_before} of {total} were judged before the last replay was ended", file=sys.stderr)

    def __enter__(self) -> ReplayProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def judged(self, outcome: Outcome) -> None:
        """One more file has its verdict."""
        self._outcomes[outcome] += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=self._counts())
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            print(
                f"{self._judged_before + self._outcomes.total()} of {self._total}: {self._counts()}",
                file=sys.stderr,
                flush=True,
            )

    def _counts(self) -> str:
        return ", ".join(f"{self._outcomes[outcome]} {outcome}" for outcome in Outcome if self._outcomes[outcome])
