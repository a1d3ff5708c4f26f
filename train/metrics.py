"""Figures of a two-class decision, and the threshold that makes it. Plain numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of a decision; positive means abnormal."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def balanced_accuracy(self) -> float:
        """(TPR + TNR) / 2; where one class is absent, the other's rate (J 3)."""
        rates = [good / (good + bad) for good, bad in ((self.tp, self.fn), (self.tn, self.fp)) if good + bad > 0]
        return sum(rates) / len(rates) if rates else math.nan

    @property
    def accuracy(self) -> float:
        """Share of right decisions."""
        total = self.tp + self.fp + self.tn + self.fn
        return (self.tp + self.tn) / total if total else math.nan


def confusion(p_abnormal: Scores, labels: Labels, threshold: float) -> Confusion:
    """Decisions `p >= threshold` against labels (1 abnormal), both shape (n,)."""
    positive = np.asarray(p_abnormal) >= threshold
    truth = np.asarray(labels) == 1
    return Confusion(
        tp=int(np.sum(positive & truth)),
        fp=int(np.sum(positive & ~truth)),
        tn=int(np.sum(~positive & ~truth)),
        fn=int(np.sum(~positive & truth)),
    )


def best_threshold(p_abnormal: Scores, labels: Labels) -> float:
    """The threshold of greatest balanced accuracy on these scores, in the middle of the widest gap that has it.

    The gap is measured in logits, where the scores of a confident network are spread out. Raises ValueError
    without both classes or with a score that is not a probability.
    """
    p = np.asarray(p_abnormal, np.float64)
    if len(np.unique(labels)) < 2:
        raise ValueError("a threshold needs scores of both classes")
    if not np.all((p >= 0.0) & (p <= 1.0)):
        raise ValueError("a threshold needs scores between 0 and 1")
    # The ends lie one logit beyond the extreme scores: deciding everything one way is a candidate too.
    logits = np.unique(_logit(p))
    edges = np.concatenate([[logits[0] - 1.0], logits, [logits[-1] + 1.0]])
    middles = (edges[:-1] + edges[1:]) / 2
    reached = [confusion(_logit(p), labels, float(m)).balanced_accuracy for m in middles]
    widths = np.where(np.isclose(reached, max(reached)), np.diff(edges), -1.0)
    return float(1.0 / (1.0 + math.exp(-float(middles[int(np.argmax(widths))]))))


def auroc(p_abnormal: Scores, labels: Labels) -> float:
    """Area under the ROC curve: the chance that an abnormal scan scores above a normal one, ties half."""
    positive = np.asarray(p_abnormal, np.float64)[np.asarray(labels) == 1]
    negative = np.asarray(p_abnormal, np.float64)[np.asarray(labels) == 0]
    if not positive.size or not negative.size:
        return math.nan
    greater = np.sum(positive[:, None] > negative[None, :]) + 0.5 * np.sum(positive[:, None] == negative[None, :])
    return float(greater) / (positive.size * negative.size)


def wilson(successes: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def threshold_with_above(scores: Scores, above: int) -> float:
    """The smallest of the scores (n,) that at most `above` of them exceed; 0 gives the greatest score."""
    ordered = np.sort(np.asarray(scores, np.float64))
    return float(ordered[max(0, ordered.size - 1 - above)])


def _logit(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    clipped = np.clip(p, 1e-12, 1.0 - 1e-12)
    return np.log(clipped) - np.log1p(-clipped)
