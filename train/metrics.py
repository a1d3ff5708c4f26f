"""Thresholds found on scores, and how sure an area under the ROC curve is. Plain numpy.

What decisions are worth is for `edge.validation.statistics` to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edge.validation.statistics import Z_95, Interval, Labels, Scores, confusion


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
    logits = np.unique(logit(p))
    edges = np.concatenate([[logits[0] - 1.0], logits, [logits[-1] + 1.0]])
    middles = (edges[:-1] + edges[1:]) / 2
    reached = [confusion(logit(p), labels, float(m)).balanced_accuracy for m in middles]
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


def severity_thirds(severities: Sequence[float]) -> list[tuple[float, float]]:
    """(from, to) of the thirds of these severities, as many in each; none of fewer than three."""
    if len(severities) < 3:
        return []
    return list(pairwise(float(edge) for edge in np.quantile(severities, (0, 1 / 3, 2 / 3, 1))))


def third_of(severity: float, thirds: Sequence[tuple[float, float]]) -> int:
    """Which of the thirds, 0 to 2, a severity belongs to; on a border to the upper one."""
    return sum(severity >= low for low, _ in thirds[1:])


def logit(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithms of the odds of probabilities, finite for 0 and 1 too."""
    clipped = np.clip(p, 1e-12, 1.0 - 1e-12)
    return np.log(clipped) - np.log1p(-clipped)


def auroc_interval(area: float, positives: int, negatives: int) -> Interval:
    """95 % interval of an area under the ROC curve; (0, 1) where a class is absent.

    The areas from which the found one lies 1.96 standard errors away, the error being that of the area asked about
    (Newcombe 2006, method 5, on the variance of Hanley and McNeil 1982 with both counts at their mean). Unlike the
    plain one, or a bootstrap, it is not empty where every pair was ranked rightly. It takes the images as independent.
    """
    if not (positives and negatives) or math.isnan(area):
        return Interval(0.0, 1.0)
    mean_count = (positives + negatives) / 2

    def deviates(asked: float) -> bool:
        factor = 1 + (mean_count - 1) * ((1 - asked) / (2 - asked) + asked / (1 + asked))
        variance = asked * (1 - asked) * factor / (positives * negatives)
        return (area - asked) ** 2 > Z_95**2 * variance

    return Interval(_border(0.0, area, deviates), _border(1.0, area, deviates))


def _border(outside: float, inside: float, deviates: Callable[[float], bool]) -> float:
    """Where `deviates` turns from true to false between two points, to the last digit; `outside` where it never is."""
    if not deviates(outside):
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if deviates(middle) else (outside, middle)
    return (outside + inside) / 2
