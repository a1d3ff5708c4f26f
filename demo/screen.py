"""What the demo shows: its steps, verdicts as they arrive, a summary. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge.contract.messages import Verdict
from edge.records import Outcome

LOOKS = {
    Outcome.NORMAL: ("✓", "green"),
    Outcome.ABNORMAL: ("✗", "red"),
    Outcome.REVIEW: ("?", "yellow"),
    Outcome.UNREADABLE: ("!", "magenta"),
}
COLUMNS = ("time", "seq", "file", "known", "", "outcome", "p_abn", "gate", "reasons")
WIDTHS = (8, 3, 14, 9, 1, 12, 5, 5)  # and a space after each; the reasons get the rest
PLAIN = "{:<8} {:>3} {:<14} {:<9} {:<1} {:<12} {:>5} {:>5} {}"
STEP_WIDTH = 66  # leaves room for a time on 80 columns
FRAME_LINES = 10  # what the live picture needs beside its rows


def expected(truth: str) -> Outcome:
    """What the line should say of a file, by what the lot knows of it."""
    usual = {"normal": Outcome.NORMAL, "abnormal": Outcome.ABNORMAL, "foreign": Outcome.REVIEW}
    return usual.get(truth, Outcome.UNREADABLE)


def tally(counts: Mapping[Outcome, int]) -> Text:
    """`✓ 12 normal   ✗ 4 abnormal ...`"""
    return Text("   ").join(
        Text(f"{sign} {counts.get(word, 0)} {word}", style) for word, (sign, style) in LOOKS.items()
    )


@dataclass(slots=True)
class Step:
    """`done` is what stays on the screen; `update` changes what the spinner says meanwhile."""

    done: str
    update: Callable[[str], None]


class Screen:
    """The console and its manners."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, doing: str) -> Iterator[Step]:
        """A spinner, then one line with the time it took."""
        started = time.monotonic()
        step = Step(doing, lambda _text: None)
        spinner: AbstractContextManager[object] = nullcontext()
        if self.console.is_terminal:
            spinner = status = self.console.status(doing, spinner_style="cyan")
            step.update = status.update
        try:
            with spinner:
                yield step
        except BaseException:
            self.console.print(Text.assemble(("✗ ", "red"), doing))
            raise
        seconds = f"{time.monotonic() - started:6.1f} s"
        self.console.print(Text.assemble(("✓ ", "green"), f"{step.done:<{STEP_WIDTH}.{STEP_WIDTH}} ", (seconds, "dim")))

    def note(self, text: str) -> None:
        self.console.print(Padding(Text(text, "yellow"), (0, 0, 0, 2)))

    def failure(self, what: str, hint: str) -> None:
        self.console.print(Text.assemble(("\nThe demo failed: ", "bold red"), f"{what}\n  try: {hint}"), soft_wrap=True)

    def panel(self, title: str, rows: Mapping[str, str | Text]) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in rows.items():
            grid.add_row(name, text)
        width = min(self.console.width, 100)
        self.console.print(Panel(grid, title=title, title_align="left", border_style="dim", width=width))


class Board:
    """The verdicts as they arrive: a live table on a terminal, a line each elsewhere."""

    def __init__(self, console: Console, truths: Mapping[str, str]) -> None:
        self._console = console
        self._truths = truths
        self._rows: deque[tuple[Outcome, tuple[str, ...]]] = deque(maxlen=max(3, min(16, console.height - FRAME_LINES)))
        self._counts: Counter[Outcome] = Counter()

    def shown(self) -> AbstractContextManager[object]:
        """The table is on the screen from entry to exit."""
        if self._console.is_terminal:
            return Live(console=self._console, get_renderable=self._picture)
        self._print(COLUMNS)
        return nullcontext()

    def add(self, verdict: Verdict, at: datetime) -> None:
        """One more verdict, which the MES received `at`."""
        truth = self._truths.get(verdict.scan.file, "?")
        p, worst = verdict.p_abnormal, verdict.gate.worst_share
        cells = (
            f"{at:%H:%M:%S}",
            str(verdict.seq),
            verdict.scan.file.rpartition(".")[0],
            truth,
            "=" if verdict.outcome is expected(truth) else "≠",
            f"{LOOKS[verdict.outcome][0]} {verdict.outcome}",
            "-" if p is None else f"{p:.2f}",
            "-" if worst is None else f"{worst:.2f}",
            " ".join(verdict.reasons),
        )
        self._counts[verdict.outcome] += 1
        self._rows.append((verdict.outcome, cells))
        if not self._console.is_terminal:
            self._print(cells)

    def _print(self, cells: tuple[str, ...]) -> None:
        self._console.print(Text(PLAIN.format(*cells)), soft_wrap=True)

    def _picture(self) -> Group:
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, header_style="dim")
        rest = max(10, min(40, self._console.width - sum(WIDTHS) - len(WIDTHS)))
        for name, width in zip(COLUMNS, (*WIDTHS, rest), strict=True):
            justify: JustifyMethod = "right" if name in ("seq", "p_abn", "gate") else "left"
            table.add_column(name, justify=justify, no_wrap=True, width=width)
        for outcome, cells in self._rows:
            styles = {4: "dim" if cells[4] == "=" else "bold yellow", 5: LOOKS[outcome][1]}
            table.add_row(*(Text(cell, styles.get(column, "")) for column, cell in enumerate(cells)))
        progress = Table.grid(padding=(0, 2))
        done, total = sum(self._counts.values()), len(self._truths)
        progress.add_row(ProgressBar(total, done, width=32, complete_style="cyan"), f"{done} of {total} verdicts")
        return Group(table, progress, tally(self._counts), "")
