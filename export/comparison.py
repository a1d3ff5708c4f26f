"""One set of scans, judged twice: how far the scores lie apart, and which decisions flip.

A model whose graphs compute in less than float32 is written only where it decides as float32 does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge.contract.reasons import UNCERTAIN
from edge.pipeline.decide import decide
from edge.records import Decision, Policy, Scores
from edge.validation.statistics import confusion
from export.errors import ParityError
from export.parity import Difference, difference, gaps

MAX_LOSS_POINTS: Final = 0.2
"""Balanced accuracy that a precision may cost, in points of a hundred."""

_FINER: Final = "calibrate on more scans, or choose a finer --precision or --weights-storage"


@dataclass(frozen=True, slots=True)
class Flip:
    """A scan that gets another decision."""

    file: str
    before: Decision
    after: Decision
    p_before: float
    p_after: float
    band_width: float
    """Width of the review band; 0 without one."""

    @property
    def is_in_band(self) -> bool:
        """Whether p moved over an edge of the review band, no farther than that is wide: that is what it is for.

        Not where the gate or a score that is none had a part in it: those are no matter of p.
        """
        by_p_alone = (UNCERTAIN,) in (self.before.reasons, self.after.reasons)
        return by_p_alone and abs(self.p_after - self.p_before) <= self.band_width

    def __str__(self) -> str:
        words = f"{self.before.outcome} -> {self.after.outcome}, p {self.p_before:.4f} -> {self.p_after:.4f}"
        return f"{self.file}: {words}{' (in the review band)' if self.is_in_band else ''}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `name` says of some scans, beside what the reference says of them."""

    name: str
    scans: int
    worst: Difference
    p99: Difference
    flips: tuple[Flip, ...]
    balanced_accuracy: float
    """Balanced accuracy of the classifier at its threshold; NaN without labels."""
    reference_accuracy: float

    @property
    def hard_flips(self) -> tuple[Flip, ...]:
        return tuple(flip for flip in self.flips if not flip.is_in_band)

    @property
    def loss_points(self) -> float:
        """Balanced accuracy lost, in points; NaN without labels."""
        return 100 * (self.reference_accuracy - self.balanced_accuracy)

    @property
    def loses_accuracy(self) -> bool:
        """Whether that is more than may be lost; False without labels."""
        return self.loss_points > MAX_LOSS_POINTS


def compare(
    name: str,
    files: Sequence[str],
    expected: Sequence[Scores],
    observed: Sequence[Scores],
    policy: Policy,
    labels: Sequence[int] | None = None,
) -> Comparison:
    """Compare scores of the same scans; `labels`: 1 abnormal, 0 normal, None without a label."""
    flips = []
    low, high = policy.review_band or (0.0, 0.0)
    for file, before, after in zip(files, expected, observed, strict=True):
        decided, decided_now = decide(before, policy), decide(after, policy)
        if decided.outcome is not decided_now.outcome:
            flips.append(Flip(file, decided, decided_now, before.p_abnormal, after.p_abnormal, high - low))
    return Comparison(
        name=name,
        scans=len(files),
        worst=difference(observed, expected),
        p99=Difference(*np.percentile(gaps(observed, expected), 99, axis=0).tolist()),
        flips=tuple(flips),
        balanced_accuracy=_accuracy(observed, labels, policy.threshold),
        reference_accuracy=_accuracy(expected, labels, policy.threshold),
    )


def refuse_changed_decisions(found: Comparison) -> None:
    """Raises ParityError where a decision flips outside the review band or balanced accuracy is lost."""
    if found.hard_flips:
        listed = "; ".join(map(str, found.hard_flips[:5])) + ("; ..." if len(found.hard_flips) > 5 else "")
        raise ParityError(
            f"{found.name} flips {len(found.hard_flips)} of {found.scans} decisions outside the review band: {listed}",
            hint=f"set a review band around the threshold, {_FINER}",
        )
    if found.loses_accuracy:
        raise ParityError(
            f"{found.name} loses {found.loss_points:.2f} points of balanced accuracy, allowed are {MAX_LOSS_POINTS}",
            hint=_FINER,
        )


def _accuracy(scores: Sequence[Scores], labels: Sequence[int] | None, threshold: float) -> float:
    if labels is None:
        return math.nan
    return confusion(np.array([one.p_abnormal for one in scores]), np.array(labels), threshold).balanced_accuracy
