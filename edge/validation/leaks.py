"""Whether a model learnt from the scans it is tested on: then the test says nothing of scans it has never seen.

Models of `edge-export` carry the first 16 hex digits of two SHA-256 of each training scan, of its file and of its
counts, and the names of their lots. By the counts a scan is known again that was saved anew, compressed or renamed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from edge.contract.messages import Verdict
from edge.model.manifest import LearntFrom
from edge.validation.table import ScanRow

FILES_NAMED = 1000
"""Leaked files that are named; the others are counted."""


@dataclass(frozen=True)
class LeakFigures:
    """Flat figures for `summary.json` and `--require`; None: the model does not say what it learnt from."""

    learnt_count: int | None = field(metadata={"means": "judged files the model learnt from"})
    learnt_lot_count: int | None = field(
        metadata={"means": "labelled files of a lot whose name is among those the model learnt from"}
    )

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


LEAK_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(LeakFigures)}
"""Names of these figures with their definitions."""


class Leaks:
    """Takes every verdict, keeps the files that the model learnt from."""

    def __init__(self, learnt_from: LearntFrom) -> None:
        self.files: list[str] = []
        self.lots: set[str] = set()
        """Lots of the test, by names that the model's training lots have too."""
        self._scans, self._pixels = frozenset(learnt_from.scans), frozenset(learnt_from.pixels)
        self._lots = frozenset(learnt_from.lots)
        self._count = self._lot_count = 0

    def offer(self, row: ScanRow, verdict: Verdict, pixels_sha256: str | None) -> None:
        """Look at one scan; `pixels_sha256` is of its counts, None where the file has none."""
        if verdict.scan.sha256[:16] in self._scans or (pixels_sha256 or "")[:16] in self._pixels:
            self._count += 1
            if len(self.files) < FILES_NAMED:
                self.files.append(row.file)
        if row.label is not None and row.bundle in self._lots:
            self._lot_count += 1
            self.lots.add(row.bundle)

    @property
    def is_known(self) -> bool:
        """Whether the model says what it learnt from."""
        return bool(self._scans)

    @property
    def figures(self) -> LeakFigures:
        return LeakFigures(self._count if self._scans else None, self._lot_count if self._lots else None)

    @property
    def is_void(self) -> bool:
        """Whether the test is none: the model saw scans of it."""
        return self._count > 0

    @property
    def sentence(self) -> str:
        """What a reader of the figures must know first."""
        if self._count:
            scans = "1 scan" if self._count == 1 else f"{self._count} scans"
            return f"This is no qualification: the model learnt from {scans} of this folder."
        if not self._scans:
            return (
                "The model does not say what it learnt from: that it saw none of these scans before is not proven. "
                "Models of this release carry the hashes of their training scans."
            )
        if self._lot_count:
            return (
                f"No scan of this folder was learnt from, but {self._lot_count} labelled scans are of lots with the "
                "names of training lots: if these are the same lots, the figures are too good."
            )
        return f"No scan of this folder is among the {len(self._scans)} scans the model learnt from."
