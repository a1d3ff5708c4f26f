"""Curves of readings whose thresholds come from other welds."""

import numpy as np
import pytest

from train.errors import DataError
from train.papers.welds.curves import Candidate, Curve, added, choose, curve, fusions, leave_one_out, merit, more_found

RNG = np.random.default_rng(0)
DARK, NOISE = Candidate("dark", (0,)), Candidate("noise", (1,))


def scores(level: float, *, defects: int = 200) -> dict[str, np.ndarray]:
    """Column 0 has the defects at `level`, column 1 has them nowhere."""
    found = {"accepted": RNG.normal(size=(2000, 2)).astype(np.float32)}
    for name in ("defects-high", "defects-mid", "defects-low"):
        drawn = RNG.normal(size=(defects, 2)).astype(np.float32)
        drawn[:, 0] += level
        found[name] = drawn
    return found


WELDS = {name: scores(4.0) for name in "abc"}


def test_a_nominal_rate_refuses_about_as_many_of_other_welds_alike() -> None:
    found = leave_one_out(DARK, WELDS, list(WELDS))
    assert found.share("accepted", found.at_nominal(0.01)) == pytest.approx(0.01, abs=0.004)


def test_a_weld_is_judged_by_thresholds_of_the_others_alone() -> None:
    louder = {**WELDS, "c": {name: found + 10 for name, found in WELDS["c"].items()}}
    found = curve({"c": DARK}, louder, {"c": ["a", "b"]})
    assert found.share("accepted", found.at_nominal(0.01)) == 1.0
    quiet = curve({"a": DARK}, louder, {"a": ["b", "c"]})
    assert quiet.share("accepted", quiet.at_nominal(0.01)) == 0.0


def test_an_equal_rate_is_not_exceeded_and_nearly_reached() -> None:
    louder = {**WELDS, "c": {name: found + 1 for name, found in WELDS["c"].items()}}
    found = leave_one_out(DARK, louder, list(louder))
    for rate in (0.003, 0.01):
        assert 0.8 * rate <= found.share("accepted", found.at_equal(rate)) <= rate


def test_the_column_that_shows_the_defects_is_chosen() -> None:
    best, found = choose([NOISE, DARK], WELDS, ["a", "b"])
    assert best is DARK
    assert found > 0.8 > merit(leave_one_out(NOISE, WELDS, ["a", "b"]))


def test_several_columns_share_the_refusals() -> None:
    both = leave_one_out(Candidate("both", (0, 1)), WELDS, list(WELDS))
    place = both.at_nominal(0.01)
    assert both.share("accepted", place) == pytest.approx(0.01, abs=0.004)
    assert both.share("defects-mid", place) > 0.85


def test_the_first_of_equals_is_chosen() -> None:
    assert choose([DARK, Candidate("again", (0,))], WELDS, ["a", "b"])[0] is DARK


def test_welds_without_a_defect_of_mid_contrast_choose_no_filter() -> None:
    empty = {name: {**found, "defects-mid": found["defects-mid"][:0]} for name, found in WELDS.items()}
    with pytest.raises(DataError, match="no filter can be chosen on a, b: none of their patches"):
        choose([NOISE, DARK], empty, ["a", "b"])


def test_a_fusion_takes_each_partner_in_three_weights_and_never_itself() -> None:
    assert [(found.columns, found.weights) for found in fusions(DARK, [DARK, NOISE])] == [
        ((0, 1), (1.0, 1.0)),
        ((0, 1), (2.0, 1.0)),
        ((0, 1), (1.0, 2.0)),
    ]


def test_a_set_without_patches_has_no_share() -> None:
    none = {name: scores(4.0, defects=0) for name in "ab"}
    found = leave_one_out(DARK, none, ["a", "b"])
    assert np.isnan(found.share("defects-mid", 0))


def steps(welds: tuple[str, ...], refused: list[list[int]], found: list[list[int]]) -> Curve:
    """Two sets of 100 and 10 patches of each weld; hits by place and weld."""
    hits = {"accepted": np.array(refused), "defects-mid": np.array(found)}
    return Curve(
        welds, hits, {name: np.full(len(welds), count) for name, count in (("accepted", 100), ("defects-mid", 10))}
    )


def test_parts_that_test_a_weld_each_are_added_and_so_are_two_tests_of_one_weld() -> None:
    both = added([steps(("a", "b"), [[0, 1], [2, 3]], [[5, 6], [7, 8]]), steps(("b",), [[1], [1]], [[9], [9]])])
    assert both.welds == ("a", "b")
    assert both.hits["accepted"].tolist() == [[0, 2], [2, 4]]
    assert both.hits["defects-mid"].tolist() == [[5, 15], [7, 17]]
    assert both.totals["defects-mid"].tolist() == [10, 20]


def test_what_is_found_more_is_paired_weld_by_weld() -> None:
    """One weld is found far more often than the other, by both; the difference is the same on each."""
    welds = ("a", "b", "c")
    ours = steps(welds, [[0, 0, 0]], [[2, 6, 10]])
    other = steps(welds, [[0, 0, 0]], [[1, 5, 9]])
    assert more_found(ours, 0, other, 0, "defects-mid") == pytest.approx((0.1, 0.1, 0.1))
    apart = steps(welds, [[0, 0, 0]], [[1, 5, 6]])
    more, low, high = more_found(apart, 0, other, 0, "defects-mid")
    assert more == pytest.approx(-0.1)
    # Student's t of three welds: 4.303 times the deviation of (0, 0, -3) in 10, over the root of three.
    assert (high - low) / 2 == pytest.approx(4.303 * 0.3 / 3, rel=1e-3)
    assert more_found(steps(("a",), [[0]], [[2]]), 0, steps(("a",), [[0]], [[1]]), 0, "defects-mid")[1:] == (-1.0, 1.0)


def test_the_first_place_that_refuses_as_many() -> None:
    found = steps(("a",), [[0], [1], [4], [4]], [[0]] * 4)
    assert [found.at_least(rate) for rate in (0.0, 0.01, 0.011, 0.04, 0.5)] == [0, 1, 2, 2, 3]
