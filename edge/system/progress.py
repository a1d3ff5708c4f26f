"""What a long command tells the person who waits: on stderr, a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 30.0


class Reporter:
    """One command's progress; use as a context manager so that the bar ends with the work."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def counter(self, what: str) -> Callable[[int, int], None]:
        """A function of (done, total) for one stretch of work."""
        if self._bar is not None:
            bar, task = self._bar, self._bar.add_task(what)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=done < total)

            return show
        next_line_s = time.monotonic() + _LINE_EVERY_S

        def write(done: int, total: int) -> None:
            nonlocal next_line_s
            if done == total or time.monotonic() >= next_line_s:
                next_line_s = time.monotonic() + _LINE_EVERY_S
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

        return write
