"""From judged files to figures: what counts where, and what a requirement is held against."""

import math
from collections.abc import Sequence
from uuid import UUID

import pytest

from edge.errors import SettingsError
from edge.model.manifest import QuickPass
from edge.records import Outcome
from edge.validation.labels import Label
from edge.validation.requirements import check_requirement, parse_requirement
from edge.validation.results import METRIC_MEANINGS, Validation, validate
from edge.validation.speed import Run, cost_line, doubt_line, measure_speed
from edge.validation.statistics import Confusion
from edge.validation.table import ScanRow, ScanTable, select
from tests.support.samples import MORNING

NORMAL, ABNORMAL, REVIEW, UNREADABLE = Outcome.NORMAL, Outcome.ABNORMAL, Outcome.REVIEW, Outcome.UNREADABLE


def row(label: Label | None, outcome: Outcome, p_abnormal: float | None, lot: str | None = "B01") -> ScanRow:
    return ScanRow(
        file="scan.tif",
        lot=lot,
        label=label,
        outcome=outcome,
        reasons=("classifier",),
        p_abnormal=p_abnormal,
        gate_mean_max=0.1,
        gate_std_max=0.1,
        durations_ms=(2.0, 4.0, None if p_abnormal is None else 100.0),
    )


MIXED = [
    row(Label.NORMAL, NORMAL, 0.1),
    row(Label.NORMAL, NORMAL, 0.2),
    row(Label.NORMAL, ABNORMAL, 0.9),
    row(Label.NORMAL, REVIEW, 0.7),  # the gate held back what the classifier got wrong
    row(Label.ABNORMAL, ABNORMAL, 0.8, "B02"),
    row(Label.ABNORMAL, NORMAL, 0.3, "B02"),
    row(Label.ABNORMAL, REVIEW, 0.95, "B02"),
    row(Label.ABNORMAL, REVIEW, None, "B02"),  # out of spec: no score
    row(Label.ABNORMAL, UNREADABLE, None, None),
    row(None, NORMAL, 0.0),
]


def validated(rows: list[ScanRow]) -> Validation:
    return validate(rows, threshold=0.5, labels_without_file=3)


def test_the_classifier_is_measured_on_every_score_whatever_the_gate_said() -> None:
    found = validated(MIXED)
    assert found.scored == Confusion(tp=2, fp=2, tn=2, fn=1)
    assert found.metrics.scored_count == 7
    assert found.metrics.balanced_accuracy == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_decided_scans_leave_reviews_out() -> None:
    found = validated(MIXED)
    assert found.decided == Confusion(tp=1, fp=1, tn=2, fn=1)
    assert found.metrics.decided_count == 5
    assert found.metrics.balanced_accuracy_decided == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_escapes_and_overkill_are_shares_of_all_scans_of_their_label() -> None:
    metrics = validated(MIXED).metrics
    assert (metrics.escape_count, metrics.escape_rate) == (1, 1 / 5)
    assert (metrics.overkill_count, metrics.overkill_rate) == (1, 1 / 4)


def test_files_are_counted_by_outcome_and_by_label() -> None:
    metrics = validated(MIXED).metrics
    assert (metrics.normal_count, metrics.abnormal_count, metrics.review_count, metrics.unreadable_count) == (
        4,
        2,
        3,
        1,
    )
    assert (metrics.labelled_count, metrics.unlabelled_count, metrics.labels_without_file_count) == (9, 1, 3)
    assert metrics.review_rate == 0.3


def test_each_lot_has_its_own_figures_and_the_last_has_none() -> None:
    lots = validated(MIXED).lots
    assert [figures.lot for figures in lots] == ["B01", "B02", None]
    assert lots[0].scored.balanced_accuracy == 0.5  # normal only: its rate
    assert (lots[1].escapes, lots[1].review) == (1, 2)
    assert lots[2].unreadable == 1 and math.isnan(lots[2].scored.balanced_accuracy)
    total = sum((figures.scored for figures in lots), Confusion(0, 0, 0, 0))
    assert total == validated(MIXED).scored


def test_stages_that_did_not_run_are_not_timed() -> None:
    speed = measure_speed(MIXED, judged=8, elapsed_s=2.0, cores=2)
    assert (speed.read_ms_p50, speed.infer_ms_p90) == (2.0, 100.0)
    assert (speed.scans_per_s, speed.scans_per_core_hour) == (4.0, 7200.0)
    assert measure_speed([MIXED[7]], judged=0, elapsed_s=0.0, cores=1).infer_ms_p50 is None


def test_scans_that_a_quick_pass_computed_again_are_counted_among_those_that_were_scored() -> None:
    quick_pass = QuickPass(p_abnormal=((0.1, 0.3),), gate_mean_from=0.9, gate_std_from=0.9)
    scored = [row for row in MIXED if row.p_abnormal is not None]
    doubtful = [row for row in scored if 0.1 <= row.p_abnormal <= 0.3]
    assert 0 < len(doubtful) < len(scored) < len(MIXED)
    speed = measure_speed(MIXED, judged=8, elapsed_s=2.0, cores=2, quick_pass=quick_pass)
    assert speed.doubtful_count == len(doubtful)
    assert measure_speed(MIXED, judged=8, elapsed_s=2.0, cores=2).doubtful_count is None
    run = Run("0", UUID(int=0), MORNING, MORNING, 2.0, 8, 0, 1, 2, speed)
    assert str(doubt_line(run)).startswith(f"{len(doubtful)} scans were doubtful to the quick pass")


def test_files_that_no_network_judged_give_no_price_of_an_archive() -> None:
    def run(rows: Sequence[ScanRow]) -> Run:
        speed = measure_speed(rows, judged=len(rows), elapsed_s=2.0, cores=2)
        return Run("0", UUID(int=0), MORNING, MORNING, 2.0, len(rows), 0, 1, 2, speed)

    assert cost_line(run([MIXED[7]])) is None
    assert "scans an hour and core" in str(cost_line(run(MIXED)))


def test_rows_come_out_of_the_table_as_they_went_in() -> None:
    odd = ScanRow("\udcff/ü.tif", None, None, REVIEW, ("gate-mean", "gate-std"), None, None, 0.5, (1.0, None, None))
    table = ScanTable()
    for each in (*MIXED, odd):
        table.append(each)
    assert list(table) == [*MIXED, odd]
    assert list(table[-2:]) == [MIXED[-1], odd] and table[-1] == odd
    assert list(select(table, lambda each: each.outcome is REVIEW)) == [MIXED[3], MIXED[6], MIXED[7], odd]


def test_without_labels_there_is_no_rate_of_errors_and_no_made_up_number() -> None:
    metrics = validated([row(None, NORMAL, 0.1), row(None, UNREADABLE, None)]).metrics
    unknown = {name for name, value in metrics.flat().items() if value is None}
    assert {"balanced_accuracy", "balanced_accuracy_low", "escape_rate", "escape_rate_high", "auroc"} <= unknown
    assert metrics.review_rate == 0.0


def test_every_flat_figure_has_a_meaning() -> None:
    assert list(METRIC_MEANINGS) == list(validated(MIXED).metrics.flat())
    assert all(METRIC_MEANINGS.values())


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("escape_rate<=0.2", True),
        ("escape_rate < 0.2", False),
        (" overkill_count == 1 ", True),
        ("review_count>=4", False),
        ("review_count>2", True),
        ("auroc>1e2", False),
    ],
)
def test_a_requirement_is_held_against_the_figure_it_names(text: str, met: bool) -> None:
    result = check_requirement(parse_requirement(text), validated(MIXED).metrics.flat())
    assert result.met is met


def test_a_figure_that_could_not_be_measured_meets_nothing() -> None:
    metrics = validated([row(None, NORMAL, 0.1)]).metrics
    for text in ("escape_rate<=1", "escape_count==0", "overkill_count<=0", "balanced_accuracy>=0", "auroc<2"):
        result = check_requirement(parse_requirement(text), metrics.flat())
        assert (result.observed, result.met) == (None, False)


@pytest.mark.parametrize("missing", [Label.NORMAL, Label.ABNORMAL])
def test_one_label_alone_is_no_balanced_accuracy(missing: Label) -> None:
    """No abnormal scan, or each of them out of spec: the specificity says nothing of what would be found."""
    other, outcome, p = (Label.ABNORMAL, ABNORMAL, 0.9) if missing is Label.NORMAL else (Label.NORMAL, NORMAL, 0.1)
    for rows in ([row(other, outcome, p)], [row(other, outcome, p), row(missing, REVIEW, None)]):
        metrics = validated(rows).metrics
        for name in ("balanced_accuracy", "balanced_accuracy_decided"):
            for rule in (f"{name}>=0.9", f"{name}_low>=0", f"{name}_high<=1"):
                assert not check_requirement(parse_requirement(rule), metrics.flat()).met, rule


def test_an_unknown_figure_is_refused_with_the_nearest_name_and_all_others() -> None:
    with pytest.raises(SettingsError, match="no figure is called 'balanced_acuracy'") as caught:
        parse_requirement("balanced_acuracy>=0.9")
    assert caught.value.hint.startswith("did you mean balanced_accuracy? Names: scans_count, ")


@pytest.mark.parametrize(
    "text", ["balanced_accuracy", "balanced_accuracy=>0.9", "auroc>=high", "auroc>=nan", "", ">=1"]
)
def test_a_requirement_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="not of the form NAME OP NUMBER"):
        parse_requirement(text)
