"""The decision is total, and only a known image with a finite low probability is normal."""

import itertools
import math

import pytest

from edge.pipeline.decide import decide, out_of_spec, unreadable
from edge.records import Outcome, Policy, Scores

POLICY = Policy(threshold=0.5, gate_mean_threshold=0.1, gate_std_threshold=0.2, review_band=(0.45, 0.55))
KNOWN_IMAGE = {"gate_mean_max": 0.05, "gate_std_max": 0.05}


@pytest.mark.parametrize(
    ("p_abnormal", "outcome"),
    [(0.0, Outcome.NORMAL), (0.4499, Outcome.NORMAL), (0.5501, Outcome.ABNORMAL), (1.0, Outcome.ABNORMAL)],
)
def test_a_known_image_is_judged_by_the_threshold(p_abnormal: float, outcome: Outcome) -> None:
    decision = decide(Scores(p_abnormal, **KNOWN_IMAGE), POLICY)
    assert (decision.outcome, decision.reasons) == (outcome, ("classifier",))


@pytest.mark.parametrize("p_abnormal", [0.45, 0.5, 0.55])
def test_the_review_band_includes_both_ends(p_abnormal: float) -> None:
    assert decide(Scores(p_abnormal, **KNOWN_IMAGE), POLICY).reasons == ("uncertain",)


def test_without_a_band_a_probability_on_the_threshold_is_abnormal() -> None:
    policy = Policy(threshold=0.5, gate_mean_threshold=0.1, gate_std_threshold=0.2)
    assert decide(Scores(0.5, **KNOWN_IMAGE), policy).outcome is Outcome.ABNORMAL


def test_a_gate_score_on_its_threshold_still_passes_and_above_it_does_not() -> None:
    assert decide(Scores(0.0, 0.1, 0.2), POLICY).outcome is Outcome.NORMAL
    assert decide(Scores(0.0, 0.1001, 0.2), POLICY).reasons == ("gate-mean",)
    assert decide(Scores(0.0, 0.1, 0.2001), POLICY).reasons == ("gate-std",)


def test_every_doubt_is_named() -> None:
    decision = decide(Scores(0.5, 1.0, math.inf), POLICY)
    assert decision.reasons == ("non-finite-score", "gate-mean", "gate-std", "uncertain")


def test_no_non_finite_score_anywhere_is_ever_a_pass_or_a_fail() -> None:
    values = (math.nan, math.inf, -math.inf, 0.0)
    for p, mean, std in itertools.product(values, repeat=3):
        decision = decide(Scores(p, mean, std), POLICY)
        if all(map(math.isfinite, (p, mean, std))):
            assert decision.outcome is Outcome.NORMAL
        else:
            assert decision.outcome is Outcome.REVIEW
            assert "non-finite-score" in decision.reasons


@pytest.mark.parametrize("p_abnormal", [-0.01, 1.01])
def test_what_is_no_probability_goes_to_review(p_abnormal: float) -> None:
    assert decide(Scores(p_abnormal, **KNOWN_IMAGE), POLICY).reasons == ("non-finite-score",)


def test_decisions_without_scores_carry_their_reason() -> None:
    assert (out_of_spec().outcome, out_of_spec().reasons) == (Outcome.REVIEW, ("out-of-spec",))
    assert (unreadable("truncated").outcome, unreadable("truncated").reasons) == (Outcome.UNREADABLE, ("truncated",))
