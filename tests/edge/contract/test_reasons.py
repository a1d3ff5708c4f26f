"""The sentence that tells people why."""

import pytest

from edge.contract.messages import Verdict
from edge.contract.reasons import in_words
from edge.records import Outcome
from tests.support.samples import sample_verdict


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "p_abnormal 0.75, from the threshold 0.5"),
        ({"outcome": Outcome.NORMAL, "p_abnormal": 0.1}, "p_abnormal 0.1, below the threshold 0.5"),
        (
            {"outcome": Outcome.REVIEW, "reasons": ("gate-mean", "uncertain"), "p_abnormal": 0.45},
            "gate mean 0.01 above 0.05; p_abnormal 0.45 within the review band 0.4 to 0.6",
        ),
        ({"reasons": ("gate-std",)}, "gate deviation 0.02 above 0.06"),
        ({"reasons": ("out-of-spec",), "detail": "height 850 px"}, "height 850 px"),
        ({"reasons": ("a-word-of-later",)}, "a-word-of-later"),
    ],
)
def test_each_reason_is_told_with_the_score_and_the_limit_it_met(changes: dict[str, object], sentence: str) -> None:
    verdict: Verdict = sample_verdict().model_copy(update=changes)
    assert in_words(verdict) == sentence
