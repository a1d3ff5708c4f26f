"""Holds the people of the labels against each other, against the line and against the label. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.validation.agreement import (
    AttributeRow,
    Kappa,
    attribute_row,
    cohen_kappa,
    fleiss_kappa,
    most_errors,
    pair_table,
    tally_of,
    vote_table,
)
from edge.validation.labels import Label, LabelRow
from edge.validation.lots import LotInterval, lot_limits, share_figures
from edge.validation.reliability import KappaRow
from edge.validation.statistics import none_if_nan
from edge.validation.table import ScanRow


@dataclass(frozen=True, slots=True)
class Agreement:
    """Who agrees with whom, and everyone against the label."""

    line_label: Kappa | None
    """Line (stopped or not) and label; None where no scan has a label."""
    everyone: Kappa | None
    """People among themselves; None of fewer than two."""
    rows: tuple[KappaRow, ...]
    """Every kappa with its name in the report."""
    line_person: Mapping[int, Kappa]
    """By the number of the person, from 1."""
    person_person: Mapping[tuple[int, int], Kappa]
    line: AttributeRow
    people: tuple[AttributeRow, ...]

    @classmethod
    def of(cls, rows: Sequence[ScanRow], truths: Mapping[str, LabelRow]) -> Agreement:
        """The agreement over scans that the labels list."""
        line = [row.is_stopped for row in rows]
        reference = [_is_defective(row.label) for row in rows]
        parts = [truths[row.file].part_id for row in rows]
        lots = [row.lot_name for row in rows]
        ballots = [truths[row.file].votes for row in rows]
        votes = [
            [_is_defective(ballot[person]) if person < len(ballot) else None for ballot in ballots]
            for person in range(max(map(len, ballots), default=0))
        ]

        found: list[KappaRow] = []

        def kappa(name: str, one: Sequence[bool | None], other: Sequence[bool | None]) -> Kappa | None:
            both = [(a != b, lot) for a, b, lot in zip(one, other, lots, strict=True) if None not in (a, b)]
            kappa = cohen_kappa(pair_table(one, other, lots))
            if kappa is not None:
                found.append(KappaRow(f"{name} (Cohen)", kappa, most_errors(tally_of(both))))
            return kappa

        line_label = kappa("Line and label", line, reference)
        everyone = fleiss_kappa(vote_table(votes), lots) if len(votes) >= 2 else None
        if everyone is not None:
            cast = [{vote for vote in ballot if vote is not None} for ballot in zip(*votes, strict=True)]
            split = ((len(each) > 1, lot) for each, lot in zip(cast, lots, strict=True) if each)
            found.append(KappaRow("People among themselves (Fleiss)", everyone, most_errors(tally_of(split))))
        with_line: dict[int, Kappa | None] = {}
        pairs: dict[tuple[int, int], Kappa | None] = {}
        for one, person in enumerate(votes, 1):
            with_line[one] = kappa(f"Line and person {one}", line, person)
            for other in range(one + 1, len(votes) + 1):
                pairs[one, other] = kappa(f"Person {one} and person {other}", person, votes[other - 1])
        return cls(
            line_label=line_label,
            everyone=everyone,
            rows=tuple(found),
            line_person={number: each for number, each in with_line.items() if each is not None},
            person_person={pair: each for pair, each in pairs.items() if each is not None},
            line=attribute_row("Line (stopped)", line, reference, parts, lots),
            people=tuple(
                attribute_row(f"Person {number}", person, reference, parts, lots)
                for number, person in enumerate(votes, 1)
            ),
        )

    @property
    def attributes(self) -> tuple[AttributeRow, ...]:
        """The line and the people that judged a part with a label."""
        return tuple(row for row in (self.line, *self.people) if row.parts)

    def figures(self) -> dict[str, int | float | None]:
        """Figures by the names of FIGURE_MEANINGS and ROW_MEANINGS in `edge.validation.reliability`."""
        figures: dict[str, int | float | None] = {"people_count": sum(row.parts > 0 for row in self.people)}
        for name, kappa in (("kappa_people", self.everyone), ("kappa_line", self.line_label)):
            figures |= _kappa_figures(name, "", kappa)
        for name, hits, total, over_lots in _rates(self.line):
            figures |= share_figures(f"line_{name}", hits, total, over_lots)
        for number, row in enumerate(self.people, 1):
            for name, hits, total, over_lots in _rates(row):
                figures |= share_figures(name, hits, total, over_lots, f"[{number}]")
        for number, kappa in self.line_person.items():
            figures |= _kappa_figures("kappa_line", f"[{number}]", kappa)
        for (one, other), kappa in self.person_person.items():
            figures |= _kappa_figures("kappa_people", f"[{one},{other}]", kappa)
        return figures


def _rates(row: AttributeRow) -> tuple[tuple[str, int, int, LotInterval | None], ...]:
    return (
        ("effectiveness", row.right, row.parts, row.right_over_lots),
        ("miss_rate", row.missed, row.defective, row.missed_over_lots),
        ("false_alarm_rate", row.false_alarms, row.good, row.false_alarms_over_lots),
    )


def _kappa_figures(name: str, of: str, kappa: Kappa | None) -> dict[str, float | None]:
    values = (None,) * 3 if kappa is None else map(none_if_nan, (kappa.kappa, kappa.low, kappa.high))
    return {
        **{f"{name}{end}{of}": value for end, value in zip(("", "_low", "_high"), values, strict=True)},
        **lot_limits(f"{name}_lots", None if kappa is None else kappa.over_lots, of),
    }


def _is_defective(label: Label | None) -> bool | None:
    return None if label is None else label is Label.ABNORMAL
