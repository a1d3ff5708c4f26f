"""Judged scans in columns: what stays in memory of an archive, about 90 bytes and the name of each scan."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from edge.records import Outcome
from edge.validation.labels import Label
from edge.validation.lots import NO_LOT
from edge.validation.statistics import none_if_nan

Word = TypeVar("Word")
_OUTCOMES = tuple(Outcome)
_LABELS: tuple[Label | None, ...] = (None, *Label)


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One judged file, without its pixels."""

    file: str
    lot: str | None
    label: Label | None
    outcome: Outcome
    reasons: tuple[str, ...]
    p_abnormal: float | None
    gate_mean_max: float | None
    gate_std_max: float | None
    durations_ms: tuple[float | None, float | None, float | None]
    """To read, to convert and to infer; None for a step that did not run."""

    @property
    def is_escape(self) -> bool:
        """A bad electrode that the line lets pass unseen."""
        return self.label is Label.ABNORMAL and self.outcome is Outcome.NORMAL

    @property
    def is_overkill(self) -> bool:
        """A good electrode that the line rejects."""
        return self.label is Label.NORMAL and self.outcome is Outcome.ABNORMAL

    @property
    def is_stopped(self) -> bool:
        """Whether the line did not let it pass: abnormal, review or unreadable."""
        return self.outcome is not Outcome.NORMAL

    @property
    def is_called(self) -> bool:
        """Whether the line called it abnormal."""
        return self.outcome is Outcome.ABNORMAL

    @property
    def lot_name(self) -> str:
        """Its lot, by the name that scans of none go by."""
        return NO_LOT if self.lot is None else self.lot


class ScanTable(Sequence[ScanRow]):
    """A growing sequence of rows; each is put together when it is asked for."""

    def __init__(self) -> None:
        self._names = bytearray()
        self._ends = array("Q")
        self._lots = _Words[str | None]()
        self._reasons = _Words[tuple[str, ...]]()
        self._codes = array("B")
        self._scores = array("d")
        self._durations = array("f")

    def append(self, row: ScanRow) -> None:
        """Add a row at the end."""
        self._names += row.file.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._names))
        self._lots.append(row.lot)
        self._reasons.append(row.reasons)
        self._codes.append(_OUTCOMES.index(row.outcome) * len(_LABELS) + _LABELS.index(row.label))
        self._scores.extend(map(_number, (row.p_abnormal, row.gate_mean_max, row.gate_std_max)))
        self._durations.extend(map(_number, row.durations_ms))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> ScanRow: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ScanRow]: ...
    def __getitem__(self, place: int | slice) -> ScanRow | Sequence[ScanRow]:
        if isinstance(place, slice):
            return Selection(self, array("Q", range(*place.indices(len(self)))))
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(place)
        outcome, label = divmod(self._codes[place], len(_LABELS))
        p_abnormal, mean, std = map(none_if_nan, self._scores[3 * place : 3 * place + 3])
        read, convert, infer = map(none_if_nan, self._durations[3 * place : 3 * place + 3])
        start = self._ends[place - 1] if place else 0
        return ScanRow(
            file=self._names[start : self._ends[place]].decode("utf-8", "surrogateescape"),
            lot=self._lots[place],
            label=_LABELS[label],
            outcome=_OUTCOMES[outcome],
            reasons=self._reasons[place],
            p_abnormal=p_abnormal,
            gate_mean_max=mean,
            gate_std_max=std,
            durations_ms=(read, convert, infer),
        )


class Selection(Sequence[ScanRow]):
    """Some rows of a table, by their places."""

    def __init__(self, rows: Sequence[ScanRow], places: array[int]) -> None:
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> ScanRow: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ScanRow]: ...
    def __getitem__(self, place: int | slice) -> ScanRow | Sequence[ScanRow]:
        if isinstance(place, slice):
            return Selection(self._rows, self._places[place])
        return self._rows[self._places[place]]


def select(rows: Sequence[ScanRow], is_chosen: Callable[[ScanRow], bool]) -> Selection:
    """The rows for which `is_chosen` holds, in their order."""
    return Selection(rows, array("Q", (place for place, row in enumerate(rows) if is_chosen(row))))


class _Words(Generic[Word]):
    """A column of few different values: each is kept once."""

    def __init__(self) -> None:
        self._known: dict[Word, int] = {}
        self._words: list[Word] = []
        self._codes = array("I")

    def append(self, word: Word) -> None:
        code = self._known.setdefault(word, len(self._words))
        if code == len(self._words):
            self._words.append(word)
        self._codes.append(code)

    def __getitem__(self, place: int) -> Word:
        return self._words[self._codes[place]]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
