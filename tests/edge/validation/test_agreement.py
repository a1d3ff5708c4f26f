"""Kappas against published tables and statsmodels; the attribute table; rescans."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as reference_fleiss

from edge.validation.agreement import (
    Kappa,
    attribute_row,
    cohen_kappa,
    fleiss_kappa,
    pair_table,
    range_limit,
    repeatability,
    vote_table,
)
from edge.validation.lots import WorstLot

# Fleiss 1971, Measuring nominal scale agreement among many raters, Psychological Bulletin 76: six psychiatrists put
# each of 30 patients in one of five classes. Also the data set `diagnoses` of the R package irr, whose `kappam.fleiss`
# gives 0.43.
PSYCHIATRISTS = np.array(
    [
        (0, 0, 0, 6, 0), (0, 3, 0, 0, 3), (0, 1, 4, 0, 1), (0, 0, 0, 0, 6), (0, 3, 0, 3, 0), (2, 0, 4, 0, 0),
        (0, 0, 4, 0, 2), (2, 0, 3, 1, 0), (2, 0, 0, 4, 0), (0, 0, 0, 0, 6), (1, 0, 0, 5, 0), (1, 1, 0, 4, 0),
        (0, 3, 3, 0, 0), (1, 0, 0, 5, 0), (0, 2, 0, 3, 1), (0, 0, 5, 0, 1), (3, 0, 0, 1, 2), (5, 1, 0, 0, 0),
        (0, 2, 0, 4, 0), (1, 0, 2, 0, 3), (0, 0, 0, 0, 6), (0, 1, 0, 5, 0), (0, 2, 0, 1, 3), (2, 0, 0, 4, 0),
        (1, 0, 0, 4, 1), (0, 5, 0, 1, 0), (4, 0, 0, 0, 2), (0, 2, 0, 4, 0), (1, 0, 5, 0, 0), (0, 0, 0, 0, 6),
    ]
)  # fmt: skip


def test_the_psychiatrists_of_fleiss_agree_with_a_kappa_of_0_430() -> None:
    kappa = fleiss_kappa(PSYCHIATRISTS)

    assert kappa is not None
    assert kappa.kappa == pytest.approx(0.430, abs=0.0005)
    assert kappa.kappa == pytest.approx(reference_fleiss(PSYCHIATRISTS))
    assert kappa.low < 0.430 < kappa.high


def test_cohens_own_table_has_a_kappa_of_0_492() -> None:
    """Cohen 1960: shares of 200 subjects in three classes, observed agreement 0.70, by chance 0.41."""
    table = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    kappa = cohen_kappa(table)

    assert kappa is not None
    assert kappa.observed == pytest.approx(0.70)
    assert kappa.kappa == pytest.approx(0.492, abs=0.0005)


@pytest.mark.parametrize("table", [[[20, 5], [10, 15]], [[88, 14], [10, 40]], [[3, 0], [1, 90]]])
def test_cohens_kappa_and_its_variance_are_those_of_statsmodels(table: list[list[int]]) -> None:
    expected = cohens_kappa(np.array(table))
    kappa = cohen_kappa(np.array(table))

    assert kappa is not None
    assert kappa.kappa == pytest.approx(expected.kappa)
    scale = (1 - kappa.kappa) / (1 - kappa.observed)  # of agreement to kappa
    variance = scale**2 * kappa.observed * (1 - kappa.observed) / kappa.effective_subjects
    assert kappa.effective_subjects <= np.sum(table)
    if kappa.effective_subjects < np.sum(table):
        assert variance == pytest.approx(expected.var_kappa)
    else:
        assert variance > expected.var_kappa


def two_people(subjects: int, accuracy: float) -> np.ndarray:
    """Shares of the answers of two people who are right this often, where three of ten parts are defective."""
    shares = np.zeros((2, 2))
    for truth, weight in ((1, 0.3), (0, 0.7)):
        says = np.where(np.arange(2) == truth, accuracy, 1 - accuracy)
        shares += weight * np.outer(says, says)
    return shares


@pytest.mark.parametrize("accuracy", [0.85, 0.95, 0.99])
@pytest.mark.parametrize("subjects", [20, 40, 100])
def test_the_interval_of_cohens_kappa_covers_it_where_people_agree_well_too(subjects: int, accuracy: float) -> None:
    rng = np.random.default_rng(41)
    shares = two_people(subjects, accuracy)
    truth = cohen_kappa((shares * 1e9).astype(np.int64))
    found = [cohen_kappa(each.reshape(2, 2)) for each in rng.multinomial(subjects, shares.ravel(), 600)]
    assert truth is not None
    covered = np.mean([kappa.low <= truth.kappa <= kappa.high for kappa in found if kappa is not None])

    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 600)


def test_full_agreement_of_few_leaves_room_for_less() -> None:
    kappa, fleiss = cohen_kappa(np.diag([6, 4])), fleiss_kappa(np.array([[3, 0]] * 6 + [[0, 3]] * 4))

    assert kappa is not None and fleiss is not None
    assert (kappa.kappa, kappa.high) == (fleiss.kappa, fleiss.high) == (1.0, 1.0)
    assert 0.3 < kappa.low < 0.6 and 0.3 < fleiss.low < 0.6


@pytest.mark.parametrize("defect_rate", [0.1, 0.5])
@pytest.mark.parametrize("subjects", [20, 40, 120])
def test_the_interval_of_fleiss_kappa_covers_the_kappa_of_many_subjects(subjects: int, defect_rate: float) -> None:
    rng = np.random.default_rng(40)

    def votes(n: int) -> np.ndarray:
        defective = rng.binomial(3, np.where(rng.random(n) < defect_rate, 0.95, 0.03))
        return np.stack([3 - defective, defective], axis=1)

    truth = fleiss_kappa(votes(200_000))
    assert truth is not None
    found = [fleiss_kappa(votes(subjects)) for _ in range(600)]
    known = [kappa for kappa in found if kappa is not None and not np.isnan(kappa.kappa)]
    covered = np.mean([kappa.low <= truth.kappa <= kappa.high for kappa in known])

    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 600)


@pytest.mark.parametrize("people", [2, 3])
def test_the_interval_of_kappa_over_lots_covers_it_where_lots_are_hard_or_easy_together(people: int) -> None:
    rng = np.random.default_rng(42)

    def tables(lots: int) -> np.ndarray:
        """Votes by lot, subject and class: whoever judges a hard lot errs more often."""
        errs = rng.beta(0.9, 8.1, (lots, 1))
        defective = rng.random((lots, 10)) < 0.4
        said = rng.binomial(people, np.where(defective, 1 - errs, errs))
        return np.stack([people - said, said], axis=2)

    def measured(lots: int) -> Kappa | None:
        votes = tables(lots)
        names = np.repeat(np.arange(lots), 10).astype(str).tolist()
        return fleiss_kappa(votes.reshape(-1, 2), names)

    truth = measured(20_000)
    assert truth is not None
    found = [measured(12) for _ in range(400)]
    covered, of_scans = (
        np.mean([low <= truth.kappa <= high for low, high in ends])
        for ends in (
            [(k.over_lots.low, k.over_lots.high) for k in found if k is not None and k.over_lots is not None],
            [(k.low, k.high) for k in found if k is not None],
        )
    )

    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 400)
    assert of_scans < covered


def test_cohens_kappa_of_lots_is_that_of_their_sum_and_less_certain_where_one_lot_holds_all_disagreement() -> None:
    together = cohen_kappa(np.array([[40, 4], [4, 32]]))
    spread = cohen_kappa(np.array([[[10, 1], [1, 8]]] * 4))
    heaped = cohen_kappa(np.array([[[10, 0], [0, 10]]] * 3 + [[[10, 4], [4, 2]]]))

    assert together is not None and spread is not None and heaped is not None
    assert together.over_lots is None
    assert spread.kappa == pytest.approx(together.kappa) and spread.low == pytest.approx(together.low)
    assert spread.over_lots is not None and heaped.over_lots is not None
    assert heaped.over_lots.low < spread.over_lots.low < spread.low


# Visual inspection of plain bearings for black spots: 15 parts, three people, three trials; Y where a spot was seen.
# Data and answers: JASP quality control, tests/testthat/AAARow.csv and test-msaAttribute.R of jasp-stats/
# jaspQualityControl, where effectiveness, misses and false alarms follow the AIAG manual.
BEARINGS = {
    "EG": "YYY NNN YYY YNN YYY YYY YYY NNN NNN YYY NNN YYY YYY NNN YYY",
    "BL": "YYY NNN YYY YNN YYY YYY NNN NNN NNN YYY NNN YYY YYY NNN YYY",
    "MH": "YYY YYY YYY YYY YYY YYY YYY NNY YNN YYY YNY YYY YYY NNN YYY",
}
BEARINGS_TRUTH = "YYY NNN YYY YYY YYY NNN YYY NNN NNN YYY NNN YYY YYY YYY YYY"
# Cohen's kappa with the reference, effectiveness, misses and false alarms.
BEARINGS_ANSWERS = {
    "EG": (0.612903225806452, 0.80, 0.1667, 0.20),
    "BL": (0.492307692307692, 0.7333, 0.2667, 0.20),
    "MH": (0.264150943396226, 0.60, 0.10, 0.6667),
}


def spots(trials: str) -> list[bool]:
    """Decisions in the order of parts and trials."""
    return [letter == "Y" for letter in trials.replace(" ", "")]


@pytest.mark.parametrize("appraiser", BEARINGS)
def test_a_published_attribute_study_has_its_effectiveness_by_part_and_its_errors_by_decision(appraiser: str) -> None:
    calls, truth = spots(BEARINGS[appraiser]), spots(BEARINGS_TRUTH)
    kappa = cohen_kappa(pair_table(calls, truth))
    row = attribute_row(appraiser, calls, truth, [str(part) for part in range(15) for _ in range(3)])
    with_reference, effectiveness, missed, alarms = BEARINGS_ANSWERS[appraiser]

    assert kappa is not None and kappa.kappa == pytest.approx(with_reference, abs=1e-12)
    assert (row.parts, row.decisions) == (15, 45)
    assert row.effectiveness == pytest.approx(effectiveness, abs=5e-5)
    assert row.miss_rate == pytest.approx(missed, abs=5e-5)
    assert row.false_alarm_rate == pytest.approx(alarms, abs=5e-5)


def test_the_people_of_a_published_attribute_study_agree_with_its_kappas() -> None:
    """Fleiss' kappa over all nine decisions on a part, and over the three of each person."""
    seen = np.array([spots(trials) for trials in BEARINGS.values()]).reshape(3, 15, 3).sum(2)
    within = [fleiss_kappa(np.stack([3 - person, person], axis=1)) for person in seen]
    together = fleiss_kappa(np.stack([9 - seen.sum(0), seen.sum(0)], axis=1))

    assert together is not None and together.kappa == pytest.approx(0.641666666666666, abs=1e-12)
    assert [kappa.kappa for kappa in within if kappa is not None] == pytest.approx(
        [0.905462184873949, 0.91, 0.543918918918919], abs=1e-12
    )


def test_kappa_of_raters_who_use_one_class_only_is_not_a_number() -> None:
    one_class = cohen_kappa(np.array([[9, 0], [0, 0]]))

    assert one_class is not None
    assert np.isnan(one_class.kappa)
    assert cohen_kappa(np.zeros((2, 2), int)) is None
    assert fleiss_kappa(np.array([[1, 0], [0, 1]])) is None


def test_votes_left_open_count_in_no_table() -> None:
    first, second = [True, False, None, True], [True, True, False, None]

    assert pair_table(first, second).tolist() == [[[0, 1], [0, 1]]]
    assert pair_table(first, second, ["a", "b", "b", "b"]).tolist() == [[[0, 0], [0, 1]], [[0, 1], [0, 0]]]
    assert vote_table([first, second]).tolist() == [[0, 2], [1, 1], [1, 0], [0, 1]]


def test_the_attribute_table_counts_misses_of_the_defective_and_alarms_of_the_good() -> None:
    row = attribute_row("line", [True, False, True, False, None], [True, True, False, False, True], [None] * 5)

    assert (row.parts, row.right) == (4, 2)
    assert (row.effectiveness, row.miss_rate, row.false_alarm_rate) == (0.5, 0.5, 0.5)
    assert row.verdict == "unacceptable"


@pytest.mark.parametrize(
    ("missed", "alarms", "grade"), [(2, 5, "acceptable"), (3, 5, "marginal"), (2, 11, "unacceptable")]
)
def test_the_grade_is_that_of_the_worst_figure(missed: int, alarms: int, grade: str) -> None:
    calls = [False] * missed + [True] * (100 - missed) + [True] * alarms + [False] * (100 - alarms)

    assert attribute_row("A", calls, [True] * 100 + [False] * 100, [None] * 200).verdict == grade


def test_rescans_of_one_part_show_flips_and_the_spread_of_p() -> None:
    found = repeatability(
        ["P1", "P1", "P2", "P2", "P2", None, "P3"],
        ["normal", "abnormal", "normal", "normal", "normal", "review", "normal"],
        [0.4, 0.6, 0.1, 0.1, None, 0.9, 0.2],
        ["A", "A", "B", "B", "B", "B", "B"],
    )

    assert found is not None
    assert (found.parts, found.scans, found.flipped) == (2, 5, ("P1",))
    assert found.p_deviation == pytest.approx(0.1)
    assert (found.p_widest, found.p_widest_part) == (pytest.approx(0.2), "P1")
    assert (found.p_range, found.p_range_bound) == (pytest.approx(0.2), None)
    assert (found.flipped_over_lots.lots, found.worst) == (2, WorstLot("A", 1, 1))


def test_parts_scanned_once_say_nothing_about_repeatability() -> None:
    assert repeatability(["P1", "P2", None], ["normal"] * 3, [0.1] * 3, ["A"] * 3) is None


@pytest.mark.parametrize(("parts", "rank"), [(28, None), (29, 29), (46, 45), (100, 96)])
def test_the_limit_of_what_most_parts_stay_within_is_an_order_statistic(parts: int, rank: int | None) -> None:
    """Ranks of the distribution-free 95 % limit of the 90th percentile, by the binomial."""
    ranges = np.random.default_rng(3).permutation(np.arange(1.0, parts + 1)).tolist()
    assert range_limit(ranges) == rank
    if rank is not None:
        assert stats.binom.cdf(rank - 1, parts, 0.9) >= 0.95 > stats.binom.cdf(rank - 2, parts, 0.9)
