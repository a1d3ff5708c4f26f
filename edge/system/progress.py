"""What a long command says on stderr while it works: a live bar on a terminal, elsewhere a line each half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_S = 30.0
_Item = TypeVar("_Item")


class Show(Protocol):
    """Shows how far a stretch of work is."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None: ...


class Reporter:
    """One command's progress; use as a context manager so that the bar ends with the work."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                _RateColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True, highlight=False),
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
        """Write one line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def counter(self, what: str) -> Show:
        """A function of (done, total, note) for one stretch of work; the note is what else there is to see."""
        if self._bar is not None:
            bar = self._bar
            for before in bar.tasks:
                bar.update(before.id, visible=not before.finished)
            task = bar.add_task(what, total=None, note="")

            def draw(done: int, total: int, note: str = "", /) -> None:
                bar.update(task, completed=done, total=total, note=note)

            return draw
        first: tuple[int, float] | None = None
        next_line_s = time.monotonic() + LINE_EVERY_S

        def write(done: int, total: int, note: str = "", /) -> None:
            nonlocal first, next_line_s
            now_s = time.monotonic()
            first_done, first_s = first = first or (done, now_s)
            if now_s < next_line_s:
                return
            next_line_s = now_s + LINE_EVERY_S
            line = f"{what}: {done} of {total} ({done / max(total, 1):.0%})"
            if now_s > first_s:
                line += f", {(done - first_done) / (now_s - first_s):.3g}/s"
            print(f"{line}: {note}" if note else line, file=sys.stderr, flush=True)

        return write

    def track(self, items: Sequence[_Item], what: str) -> Iterator[_Item]:
        """The items, counted as they are taken."""
        show = self.counter(what)
        for done, item in enumerate(items, 1):
            yield item
            show(done, len(items))


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")
