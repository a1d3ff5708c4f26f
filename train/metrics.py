"""Thresholds found on scores; what the decisions are worth is for `edge.validation.metrics` to say. Plain numpy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge.validation.metrics import Labels, Scores, confusion


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


def threshold_with_above(scores: Scores, above: int) -> float:
    """The smallest of the scores (n,) that at most `above` of them exceed; 0 gives the greatest score."""
    ordered = np.sort(np.asarray(scores, np.float64))
    return float(ordered[max(0, ordered.size - 1 - above)])


def joint_thresholds(scores: npt.NDArray[np.floating], above: int) -> npt.NDArray[np.float64]:
    """Thresholds (k,) that at most `above` rows of scores (n, k) exceed in any column, the columns sharing them evenly.

    All are set at the same rank, which moves up until the rows that exceed any threshold are few enough.
    """
    for rank in range(above, -1, -1):
        thresholds = np.array([threshold_with_above(column, rank) for column in scores.T])
        if np.sum((scores > thresholds).any(axis=1)) <= above:
            break
    return thresholds


def _logit(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    clipped = np.clip(p, 1e-12, 1.0 - 1e-12)
    return np.log(clipped) - np.log1p(-clipped)
