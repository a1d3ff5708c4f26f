"""Scores and policy to one outcome: pure and total.

Every combination of scores, NaN and infinities included, has an outcome, and only a finite probability
below the threshold, seen by a gate that knows the image, is `normal`.
"""

from __future__ import annotations

import math

from edge.contract.reasons import (
    CLASSIFIER,
    GATE_MEAN,
    GATE_STD,
    NON_FINITE_SCORE,
    OUT_OF_SPEC,
    REPEATED_IMAGE,
    UNCERTAIN,
)
from edge.records import Decision, Outcome, Policy, Scores


def decide(scores: Scores, policy: Policy) -> Decision:
    """Judge one scan by the rule of the method: gate first, then the review band, then the threshold.

    A gate score equal to its threshold still passes; a probability equal to the threshold is abnormal;
    the review band includes both of its ends.
    """
    doubts = []
    gate_is_finite = math.isfinite(scores.gate_mean_max) and math.isfinite(scores.gate_std_max)
    if not (gate_is_finite and 0.0 <= scores.p_abnormal <= 1.0):  # NaN fails the comparison too
        doubts.append(NON_FINITE_SCORE)
    if scores.gate_mean_max > policy.gate_mean_threshold:
        doubts.append(GATE_MEAN)
    if scores.gate_std_max > policy.gate_std_threshold:
        doubts.append(GATE_STD)
    if policy.review_band is not None and policy.review_band[0] <= scores.p_abnormal <= policy.review_band[1]:
        doubts.append(UNCERTAIN)
    if doubts:
        return Decision(Outcome.REVIEW, tuple(doubts))
    outcome = Outcome.ABNORMAL if scores.p_abnormal >= policy.threshold else Outcome.NORMAL
    return Decision(outcome, (CLASSIFIER,))


def out_of_spec() -> Decision:
    """A readable scan that the model was not made for: its networks are not asked, a person is."""
    return Decision(Outcome.REVIEW, (OUT_OF_SPEC,))


def repeated_image() -> Decision:
    """Bytes or pixels that were judged under another arrival: two electrodes never look alike to the last count."""
    return Decision(Outcome.REVIEW, (REPEATED_IMAGE,))


def unreadable(reason: str) -> Decision:
    """A file without trustworthy pixels."""
    return Decision(Outcome.UNREADABLE, (reason,))
