"""Judged scans and their labels, sorted into what the calculations take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge.records import Outcome, Policy
from edge.validation.cost import Prices
from edge.validation.detection import NoCurve, PodCurve, SizeScale
from edge.validation.labels import Label, LabelRow
from edge.validation.lots import WorstLot, balanced_accuracy_over_lots, share_over_lots
from edge.validation.measure import Figures, measure_reliability
from edge.validation.reliability import Plant, Reliability
from edge.validation.sized import CALLED, STOPPED
from edge.validation.table import ScanRow

POLICY = Policy(threshold=0.5, gate_mean_threshold=0.05, gate_std_threshold=0.06)
PLANT = Plant(0.02, Prices(500, 10, 1))


class Lot:
    """Scans with what people said of them."""

    def __init__(self) -> None:
        self.rows: list[ScanRow] = []
        self.truths: dict[str, LabelRow] = {}

    def add(
        self, outcome: Outcome, label: Label | None, p: float | None = None, lot: str = "L1", **truth: object
    ) -> None:
        file = f"{len(self.rows)}.tif"
        self.rows.append(ScanRow(file, lot, label, outcome, ("classifier",), p, 0.02, 0.02, (1.0, 1.0, 1.0)))
        self.truths[file] = LabelRow(2, file, lot, label, **truth)  # type: ignore[arg-type]

    def measured(self, plant: Plant = PLANT) -> Reliability:
        return measure_reliability(self.rows, self.truths, POLICY, plant)


def sized_lot(n: int = 120) -> Lot:
    """Anomalies from 0.3 to 4 mm in 12 lots: half of those of 1 mm are called, some more go to review."""
    rng, lot = np.random.default_rng(60), Lot()
    for number in range(n):
        size = float(np.exp(rng.uniform(np.log(0.3), np.log(4.0))))
        score = float(1 / (1 + np.exp(-(3 * np.log(size) + rng.logistic()))))
        outcome = Outcome.ABNORMAL if score >= 0.5 else Outcome.REVIEW if score >= 0.35 else Outcome.NORMAL
        lot.add(outcome, Label.ABNORMAL, score, f"L{number % 12}", kinds=("line",), sizes_mm=(size / 2, size))
        lot.add(Outcome.NORMAL, Label.NORMAL, 0.1, f"L{number % 12}")
    return lot


def test_a_review_stops_an_anomaly_but_calls_it_nothing() -> None:
    lot = sized_lot()
    found = lot.measured()
    curves = {item.name: item.curve for item in found.detections}
    stopped, called = curves[STOPPED], curves[CALLED]

    assert isinstance(stopped, PodCurve) and isinstance(called, PodCurve)
    assert stopped.a50 < called.a50
    assert called.hits == sum(row.outcome is Outcome.ABNORMAL for row in lot.rows)
    assert stopped.a90_95 is not None and stopped.a90_high is not None
    assert stopped.a90 < stopped.a90_95 < stopped.a90_high
    assert found.figures["stopped_a90_high"] == stopped.a90_high


def test_the_curve_of_the_probability_agrees_with_that_of_the_calls() -> None:
    figures = sized_lot(400).measured().figures

    assert figures["p_a90_high"] == pytest.approx(figures["called_a90"], rel=0.35)


def test_a_scan_has_the_size_of_its_largest_anomaly() -> None:
    found = sized_lot().measured()

    assert found.size_name == "mm"
    assert found.sizes[-1].group.endswith("mm")
    assert float(found.sizes[-1].group.split(" to ")[1].removesuffix(" mm")) > 3.5
    assert sum(group.scans for group in found.sizes) == 120


def test_curves_run_over_area_too_and_say_which_scans_have_no_size() -> None:
    lot = sized_lot()
    for file, truth in lot.truths.items():
        lot.truths[file] = replace(truth, areas_mm2=tuple(size**2 for size in truth.sizes_mm))
    lot.add(Outcome.NORMAL, Label.ABNORMAL, 0.1)
    over = {(item.name, item.unit): item.curve for item in lot.measured().detections}
    length, area = over[STOPPED, "mm"], over[STOPPED, "mm²"]

    assert isinstance(length, PodCurve) and isinstance(area, PodCurve)
    assert area.a90 == pytest.approx(length.a90**2, rel=1e-6)
    assert area.notes[-1] == "1 of 121 abnormal scans have no size in mm² and are left out."
    assert length.notes[-1] == "1 of 121 abnormal scans have no size in mm and are left out."


def test_severity_stands_in_where_no_size_is_known() -> None:
    lot = Lot()
    for number in range(40):
        outcome = Outcome.ABNORMAL if number > 15 + 10 * (number % 2) else Outcome.NORMAL
        lot.add(outcome, Label.ABNORMAL, 0.4, severities=(0.02 * (number + 1),))

    found = lot.measured()
    assert found.size_name == "severity" and found.sizes == ()
    assert found.figures["stopped_a90_95"] == found.figures["severity_a90_95"]


def test_the_curve_over_severity_has_tolerated_anomalies_too_and_the_one_over_size_has_not() -> None:
    lot = Lot()
    for number in range(60):
        severity = (number + 1) / 60
        is_found = severity + 0.1 * (-1) ** number > 0.45
        label = Label.ABNORMAL if severity >= 0.425 else Label.NORMAL
        outcome = Outcome.ABNORMAL if is_found else Outcome.NORMAL
        lot.add(outcome, label, 0.4, severities=(severity / 2, severity), sizes_mm=(80.0 - number,))
    found = lot.measured()
    over = {(item.name, item.unit): item.curve for item in found.detections}
    curve, over_size = over[STOPPED, "severity"], over[STOPPED, "mm"]
    assert isinstance(curve, PodCurve) and curve.targets == 60 and 0.4 < curve.a50 < 0.5
    assert found.figures["severity_a90"] == curve.a90
    assert curve.notes[-1] == "25 of them are tolerated (label normal): those found are false calls."
    assert over_size.targets == 35
    assert sum(group.scans for group in found.severities) == 60 and sum(group.scans for group in found.sizes) == 35


def test_an_anomaly_that_was_always_found_is_answered_with_a_sentence() -> None:
    lot = Lot()
    for number in range(30):
        lot.add(Outcome.ABNORMAL, Label.ABNORMAL, 0.9, sizes_px=(number + 1.0,))
    found = lot.measured()

    assert isinstance(found.detections[0].curve, NoCurve)
    assert found.figures["stopped_a90_high"] is None


def test_the_worst_lot_and_the_worst_kind_are_named() -> None:
    lot = Lot()
    for name, escapes in (("A", 0), ("B", 3), ("C", 1)):
        for number in range(10):
            outcome = Outcome.NORMAL if number < escapes else Outcome.ABNORMAL
            lot.add(outcome, Label.ABNORMAL, 0.5, name, kinds=("bubble",) if name == "B" else ("line",))
    found = lot.measured()

    assert found.lot_errors["escape_rate"].worst is not None
    assert found.lot_errors["escape_rate"].worst.lot == "B"
    assert found.figures["escape_rate_worst_lot"] == pytest.approx(0.3)
    assert found.kinds[0].group == "bubble"
    assert found.figures["recall_worst_kind"] == pytest.approx(0.7)


def test_unreadable_files_and_what_the_line_decided_have_intervals_over_lots() -> None:
    """By outcome, not by p: a scan that was sent to review is no decision, whatever its p."""
    lot, torn, wrong = Lot(), (0, 4, 0, 1), (0, 0, 5, 1)
    for name, unreadable, missed in zip("ABCD", torn, wrong, strict=True):
        for number in range(10):
            lot.add(Outcome.NORMAL if number < missed else Outcome.ABNORMAL, Label.ABNORMAL, 0.5, name)
            lot.add(Outcome.NORMAL, Label.NORMAL, 0.1, name)
            lot.add(Outcome.REVIEW, Label.NORMAL, 0.9, name)
        for _ in range(unreadable):
            lot.add(Outcome.UNREADABLE, Label.NORMAL, None, name)
    found = lot.measured().figures

    unreadable = share_over_lots(torn, [30 + count for count in torn])
    decided = balanced_accuracy_over_lots([10 - count for count in wrong], [10] * 4, [10] * 4, [10] * 4)
    assert unreadable is not None and decided is not None
    assert (found["unreadable_rate_lots_low"], found["unreadable_rate_lots_high"]) == (unreadable.low, unreadable.high)
    assert found["balanced_accuracy_decided_lots_low"] == decided.low
    assert found["balanced_accuracy_decided_lots_high"] == decided.high
    assert found["sensitivity_lots_low"] is not None and found["specificity_lots_high"] is not None
    assert found["balanced_accuracy_lots_high"] is not None and found["balanced_accuracy_lots_high"] < decided.high


def test_no_escape_of_sixty_is_said_with_what_it_excludes() -> None:
    lot = Lot()
    for _ in range(60):
        lot.add(Outcome.ABNORMAL, Label.ABNORMAL, 0.9)
    found = lot.measured()

    assert found.sentences[0] == "0 escapes of 60: more than 4.9 % is excluded (95 % confidence)."
    assert "299 scans without one" in found.sentences[1]
    assert found.figures["escape_rate_bound"] == pytest.approx(0.0487, abs=1e-4)


def test_the_plant_needs_a_defect_rate_and_the_cost_prices() -> None:
    lot = sized_lot()

    assert lot.measured(Plant()).plant is None
    assert lot.measured(Plant(0.02)).costs is None
    escapes = sum(row.is_escape for row in lot.rows)
    assert lot.measured().figures["escapes_ppm"] == pytest.approx(0.02 * escapes / 120 * 1e6)
    assert lot.measured().costs is not None


def test_people_are_compared_with_each_other_and_with_the_line() -> None:
    lot = Lot()
    bad, good = Label.ABNORMAL, Label.NORMAL
    for _ in range(20):
        lot.add(Outcome.ABNORMAL, bad, 0.9, votes=(bad, bad))
        lot.add(Outcome.NORMAL, good, 0.1, votes=(good, good))
    lot.add(Outcome.NORMAL, bad, 0.4, votes=(bad, None))
    lot.add(Outcome.REVIEW, good, 0.5, votes=(good, bad))
    found = lot.measured()

    assert found.figures["kappa_people"] == pytest.approx(0.951, abs=0.001)
    assert [row.appraiser for row in found.attributes] == ["Line (stopped)", "Person 1", "Person 2"]
    assert found.attributes[0].missed == 1 and found.attributes[0].false_alarms == 1
    assert [each.name for each in found.kappas][:2] == ["Line and label (Cohen)", "People among themselves (Fleiss)"]


def test_rescans_of_a_part_show_its_flips() -> None:
    lot = Lot()
    lot.add(Outcome.NORMAL, None, 0.45, part_id="P7")
    lot.add(Outcome.ABNORMAL, None, 0.55, part_id="P7")
    figures = lot.measured().figures
    assert figures["line_effectiveness"] is None

    assert (figures["rescanned_parts_count"], figures["flipped_parts_count"]) == (1, 1)
    assert figures["p_repeat_deviation"] == pytest.approx(0.0707, abs=1e-4)


def test_the_line_is_effective_on_parts_it_judged_rightly_every_time() -> None:
    lot = Lot()
    for part in range(4):
        for scan in range(3):
            passed = part == 0 and scan == 0
            lot.add(Outcome.NORMAL if passed else Outcome.ABNORMAL, Label.ABNORMAL, 0.5, part_id=f"bad {part}")
            lot.add(Outcome.NORMAL if scan or part else Outcome.REVIEW, Label.NORMAL, 0.3, part_id=f"good {part}")
    figures = lot.measured().figures

    assert figures["line_effectiveness"] == pytest.approx(6 / 8)
    assert figures["line_miss_rate"] == figures["line_false_alarm_rate"] == pytest.approx(1 / 12)
    assert (figures["flipped_parts_count"], figures["p_repeat_widest"]) == (2, 0.0)


def test_curves_run_over_the_scale_that_was_asked_for() -> None:
    lot = sized_lot()
    found = measure_reliability(lot.rows, lot.truths, POLICY, PLANT, SizeScale.LINEAR)
    curves = [item.curve for item in found.detections if isinstance(item.curve, PodCurve)]

    assert len(curves) == 3 and {curve.scale for curve in curves} == {"linear"}
    assert found.figures["stopped_a90"] != lot.measured().figures["stopped_a90"]


def test_a_folder_without_labels_has_no_figures() -> None:
    lot = Lot()
    lot.add(Outcome.NORMAL, None, 0.1)
    found = lot.measured()

    assert found.sentences == () and found.lot_errors == {} and found.plant is None
    assert {value for value in found.figures.values() if value is not None} == {0}


def test_what_was_never_counted_meets_no_claim_of_zero() -> None:
    """No part came twice: that none flipped says nothing."""
    figures = sized_lot().measured().figures
    assert (figures["rescanned_parts_count"], figures["flipped_parts_count"]) == (0, None)


def test_the_worst_lot_is_named_of_every_kind_of_error_and_of_every_group() -> None:
    lot = Lot()
    for number in range(40):
        is_bad = number % 2 == 0
        name = "B07" if number < 10 else f"B{number % 4:02}"
        missed = is_bad and name == "B07"
        outcome = Outcome.NORMAL if missed or not is_bad else Outcome.ABNORMAL
        p = 0.1 if outcome is Outcome.NORMAL else 0.9
        lot.add(outcome, Label.ABNORMAL if is_bad else Label.NORMAL, p, lot=name, kinds=("cut",) if is_bad else ())
    lot.add(Outcome.REVIEW, Label.NORMAL, 0.45, lot="B03")
    lot.add(Outcome.UNREADABLE, Label.NORMAL, None, lot="B02")
    found = lot.measured()
    worst = {error.name: error.worst and error.worst.lot for error in found.lot_errors.values()}

    assert worst == {
        "Escapes": "B07",
        "Overkill": None,
        "Sent to review": "B03",
        "Unreadable": "B02",
        "Called wrongly by the classifier": "B07",
    }
    assert found.kinds[0].worst == WorstLot("B07", 5, 5)
    figures = found.figures
    assert (figures["escape_rate_worst_lot"], figures["wrong_calls_worst_lot"]) == (1.0, 0.5)


def test_limits_over_lots_are_further_out_where_one_lot_holds_the_errors() -> None:
    def measured(heaped: bool) -> Figures:
        lot = Lot()
        for number in range(200):
            is_bad, name = number % 2 == 0, f"B{number // 20:02}"
            wrong = number < 20 if heaped else number % 20 < 2
            outcome = Outcome.ABNORMAL if is_bad != wrong else Outcome.NORMAL
            label = Label.ABNORMAL if is_bad else Label.NORMAL
            lot.add(outcome, label, 0.9 if outcome is Outcome.ABNORMAL else 0.1, lot=name, votes=(label, label))
        return lot.measured().figures

    spread, heaped = measured(False), measured(True)
    for name in ("escapes_ppm", "cost_per_scan"):
        bounds = [figures[f"{name}{end}"] for figures in (spread, heaped) for end in ("_bound", "_lots_bound")]
        assert bounds[0] == bounds[2] < bounds[1] < bounds[3], name
    for name in ("value_of_normal", "value_of_abnormal"):
        bounds = [figures[f"{name}{end}"] for figures in (spread, heaped) for end in ("_bound", "_lots_bound")]
        assert bounds[0] == bounds[2] > bounds[1] > bounds[3], name
    for name in ("kappa_line", "line_effectiveness", "auroc", "auprc"):
        lows = [figures[f"{name}{end}"] for figures in (spread, heaped) for end in ("_low", "_lots_low")]
        assert lows[0] > lows[1] > lows[3], name


def test_a_set_of_one_lot_has_no_limits_over_lots() -> None:
    lot = Lot()
    for number in range(40):
        is_bad = number % 2 == 0
        label = Label.ABNORMAL if is_bad else Label.NORMAL
        lot.add(Outcome.ABNORMAL if is_bad else Outcome.NORMAL, label, 0.9 if is_bad else 0.1, lot="B01")
    figures = lot.measured().figures

    over_lots = {name: value for name, value in figures.items() if "_lots_" in name}
    assert set(over_lots.values()) == {None}
    assert figures["escapes_ppm_bound"] is not None and figures["kappa_line_low"] is not None
