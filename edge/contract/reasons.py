"""The words that justify an outcome, and the sentence they become for people."""

from __future__ import annotations

from typing import Final

from edge.contract.messages import Verdict
from edge.records import Outcome

CLASSIFIER: Final = "classifier"
UNCERTAIN: Final = "uncertain"
GATE_MEAN: Final = "gate-mean"
GATE_STD: Final = "gate-std"
NON_FINITE_SCORE: Final = "non-finite-score"
OUT_OF_SPEC: Final = "out-of-spec"
REPEATED_IMAGE: Final = "repeated-image"

DECISIONS: Final = (CLASSIFIER, UNCERTAIN, GATE_MEAN, GATE_STD, NON_FINITE_SCORE, OUT_OF_SPEC, REPEATED_IMAGE)
"""Reasons of all outcomes but `unreadable`, whose words are REASONS of edge/scans/scan.py."""


def in_words(verdict: Verdict) -> str:
    """Why, as a sentence: the verdict's own detail, or each score that decided with the limit it met."""
    if verdict.detail is not None:
        return verdict.detail
    p_abnormal, threshold, band, gate = verdict.p_abnormal, verdict.threshold, verdict.review_band, verdict.gate
    parts = []
    for reason in verdict.reasons:
        if reason == CLASSIFIER and p_abnormal is not None and threshold is not None:
            way = "from" if verdict.outcome == Outcome.ABNORMAL else "below"
            parts.append(f"p_abnormal {p_abnormal:.3g}, {way} the threshold {threshold:.3g}")
        elif reason == UNCERTAIN and p_abnormal is not None and band is not None:
            parts.append(f"p_abnormal {p_abnormal:.3g} within the review band {band[0]:.3g} to {band[1]:.3g}")
        elif reason == GATE_MEAN and gate.mean_max is not None and gate.mean_threshold is not None:
            parts.append(f"gate mean {gate.mean_max:.3g} above {gate.mean_threshold:.3g}")
        elif reason == GATE_STD and gate.std_max is not None and gate.std_threshold is not None:
            parts.append(f"gate deviation {gate.std_max:.3g} above {gate.std_threshold:.3g}")
        else:
            parts.append(reason)
    return "; ".join(parts)
