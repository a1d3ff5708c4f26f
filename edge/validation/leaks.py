"""Whether a model learnt from the scans it is tested on, and whether scans of the test are copies of each other.

A test on scans that were learnt from says nothing of scans it has never seen; a copy is no further scan.

Models of `edge-export` carry the first 16 hex digits of two SHA-256 of each scan they learnt from, or that their
thresholds were set on, of its file and of its counts, and the names of their lots. By the counts a scan is known again
that was saved anew, compressed, renamed, mirrored or turned by 180 degrees. One that was turned by 90 (the line refuses
its size), cropped, converted to 8 bit or changed in any pixel is not.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from edge.contract.messages import Verdict
from edge.model.manifest import LearntFrom
from edge.validation.table import ScanRow

HASH_DIGITS = 16
"""Hex digits of a hash that models carry."""

FILES_NAMED = 1000
"""Leaked files that are named; the others are counted."""


@dataclass(frozen=True)
class LeakFigures:
    """Flat figures for `summary.json` and `--require`; None: the model does not say what it learnt from."""

    learnt_count: int | None = field(metadata={"means": "judged files the model learnt from"})
    calibrated_count: int | None = field(metadata={"means": "judged files the model's thresholds were set on"})
    learnt_lot_count: int | None = field(
        metadata={"means": "labelled files of a lot whose name is among those the model learnt from or was set on"}
    )

    copies_count: int = field(
        default=0,
        metadata={"means": "judged files with the counts of a file before them, mirrored or not: no further scans"},
    )

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


LEAK_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(LeakFigures)}
"""Names of these figures with their definitions."""


class Leaks:
    """Takes every verdict, keeps the files that the model learnt from or that its thresholds were set on."""

    def __init__(self, learnt_from: LearntFrom, calibrated_on: LearntFrom) -> None:
        self.files: list[str] = []
        self.calibrated_files: list[str] = []
        self.lots: set[str] = set()
        """Lots of the test, by names that the model's own lots have too."""
        self._scans, self._pixels = frozenset(learnt_from.scans), frozenset(learnt_from.pixels)
        self._calibrated = frozenset((*calibrated_on.scans, *calibrated_on.pixels))
        self._lots = frozenset((*learnt_from.lots, *calibrated_on.lots))
        self._count = self._calibrated_count = self._lot_count = 0
        self._hashes, self._places = array("Q"), array("Q")
        self._offered = 0

    def offer(self, row: ScanRow, verdict: Verdict, pixels: Sequence[str]) -> None:
        """Look at one scan; `pixels` are hashes of its counts in every orientation, none where the file has none."""
        if verdict.scan.sha256[:HASH_DIGITS] in self._scans or not self._pixels.isdisjoint(pixels):
            self._count += 1
            if len(self.files) < FILES_NAMED:
                self.files.append(row.file)
        elif not self._calibrated.isdisjoint((verdict.scan.sha256[:HASH_DIGITS], *pixels)):
            self._calibrated_count += 1
            if len(self.calibrated_files) < FILES_NAMED:
                self.calibrated_files.append(row.file)
        if pixels:
            self._hashes.append(int(min(pixels), 16))  # the same in every orientation
            self._places.append(self._offered)
        self._offered += 1
        if row.label is not None and row.lot in self._lots:
            self._lot_count += 1
            self.lots.add(row.lot)

    def copies(self) -> list[int]:
        """Places, in the order of the rows, of files that hold the counts of a file before them, mirrored or not."""
        _, firsts = np.unique(np.array(self._hashes, np.uint64), return_index=True)
        again = np.ones(len(self._hashes), bool)
        again[firsts] = False
        return [self._places[number] for number in np.flatnonzero(again)]

    @property
    def is_known(self) -> bool:
        """Whether the model says what it learnt from."""
        return bool(self._scans)

    @property
    def figures(self) -> LeakFigures:
        return LeakFigures(
            learnt_count=self._count if self._scans else None,
            calibrated_count=self._calibrated_count if self._scans else None,
            learnt_lot_count=self._lot_count if self._lots else None,
            copies_count=len(self.copies()),
        )

    @property
    def is_void(self) -> bool:
        """Whether the test is none: the networks learnt from scans of it, or the thresholds were set on some."""
        return self._count + self._calibrated_count > 0

    @property
    def sentence(self) -> str:
        """What a reader of the figures must know first."""
        if self.is_void:
            counts = {"the model learnt from": self._count, "its thresholds were set on": self._calibrated_count}
            said = [f"{what} {count} {'scan' if count == 1 else 'scans'}" for what, count in counts.items() if count]
            return f"This is no qualification: {' and '.join(said)} of this folder."
        if not self._scans:
            return (
                "The model does not say what it learnt from: that it saw none of these scans before is not proven. "
                "Models of this release carry the hashes of their training scans."
            )
        if self._lot_count:
            return (
                f"No scan of this folder was learnt from, but {self._lot_count} labelled scans are of lots with the "
                "names of training lots, or of lots that the thresholds were set on: if these are the same lots, the "
                "figures are too good."
            )
        return (
            f"No scan of this folder is among the {len(self._scans)} scans the model learnt from, nor was a threshold "
            "set on one."
        )
