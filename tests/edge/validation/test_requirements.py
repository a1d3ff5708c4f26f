"""Every figure that a report holds can be required, with its bounds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from edge.errors import SettingsError
from edge.model.manifest import LearntFrom, QuickPass
from edge.records import Outcome, Policy
from edge.validation.comparison import compare
from edge.validation.cost import Prices
from edge.validation.labels import Label, LabelRow
from edge.validation.leaks import Leaks
from edge.validation.measure import measure_reliability
from edge.validation.reliability import ROW_MEANINGS, Plant
from edge.validation.requirements import FIGURE_MEANINGS, check_requirement, meaning_of, parse_requirement
from edge.validation.results import validate
from edge.validation.speed import Run, measure_speed, run_json
from edge.validation.summary import Replay, summary_json
from edge.validation.table import ScanRow
from tests.support.samples import sample_model_card, sample_verdict

POLICY = Policy(threshold=0.5, gate_mean_threshold=0.05, gate_std_threshold=0.06)
FACTS = {
    "schema", "program", "folder", "labels", "labels_sha256", "model", "training", "metrics", "requirements",
    "outcomes", "confusion", "bundles", "over_lots", "labels_without_file", "learnt_from", "calibrated_on", "against",
}  # fmt: skip
"""Keys of the summary; the figures among them are `metrics`, the others hold the counts these are made of."""

NO_ESTIMATES = (
    "_count", "_p_value", "_worst_lot", "_a90_95",  # counts, and limits by their nature
    "cheapest_threshold", "cheapest_cost_per_scan", "p_repeat_deviation", "p_repeat_widest",  # of this set
    "scans_per_s", "scans_per_core_hour", "_ms_p50", "_ms_p90",  # of this machine
)  # fmt: skip
"""How names of figures end that need no bounds."""
OF_PLANT = ("escapes_ppm", "value_of_", "cost_per_scan")


def judged() -> tuple[list[ScanRow], list[ScanRow], dict[str, LabelRow]]:
    """Scans of ten lots by two models, with everything that a labels file can say: no figure lacks its data."""
    rng = np.random.default_rng(70)
    rows: list[ScanRow] = []
    others: list[ScanRow] = []
    truths: dict[str, LabelRow] = {}
    for number in range(240):
        is_abnormal, lot = number % 2 == 0, f"L{number % 10}"
        size = math.exp(rng.uniform(-1.5, 1.5))
        p, other = (
            1 / (1 + math.exp(-(2 * math.log(size) + rng.logistic() if is_abnormal else rng.logistic() - 3)))
            for _ in range(2)
        )
        gate = 0.05 * math.exp(0.8 * math.log(size) + rng.normal(0, 0.5)) if is_abnormal else 0.01
        label = Label.ABNORMAL if is_abnormal else Label.NORMAL
        opposite = Label.NORMAL if is_abnormal else Label.ABNORMAL
        file = f"{number:03}.tif"
        outcome = Outcome.ABNORMAL if p >= 0.5 else Outcome.REVIEW if p > 0.35 or number % 40 == 0 else Outcome.NORMAL
        row = ScanRow(file, lot, label, outcome, ("classifier",), p, gate, 0.01, (1.0, 2.0, 30.0))
        rows.append(row)
        others.append(replace(row, outcome=Outcome.ABNORMAL if other >= 0.5 else Outcome.NORMAL, p_abnormal=other))
        truths[file] = LabelRow(
            number + 2, file, lot, label,
            votes=(label, opposite if rng.random() < 0.1 else label),
            kinds=("cut", "smear of oil")[: 1 + number % 3 // 2] if is_abnormal else (),
            severities=(size if is_abnormal else size / 8,) if is_abnormal or number % 3 else (),
            sizes_mm=(size,) if is_abnormal else (),
            areas_mm2=(size**2,) if is_abnormal else (),
            part_id=f"P{number // 4}-{number % 2}",
        )  # fmt: skip
    return rows, others, truths


@pytest.fixture(scope="module")
def replay() -> Replay:
    rows, others, truths = judged()
    leaks = Leaks(LearntFrom(scans=("0" * 16,), lots=("L3",)), LearntFrom())
    for row in rows:
        leaks.offer(row, sample_verdict(), [f"{int(row.file[:3]) // 2:016x}"])
    return Replay(
        program="edge-worker 1.0",
        folder="lot",
        labels="labels.csv",
        labels_sha256="cd" * 32,
        card=sample_model_card(),
        rows=rows,
        validation=validate(rows, threshold=0.5, labels_without_file=0),
        reliability=measure_reliability(rows, truths, POLICY, Plant(0.02, Prices(500, 10, 1)), from_sizes=("0.5",)),
        comparison=compare(rows, others, sample_model_card(), (), 1),
        leaks=leaks,
        requirements=(),
        training={},
        labels_without_file=(),
    )


@pytest.fixture(scope="module")
def figures(replay: Replay) -> dict[str, int | float | None]:
    """What the two JSON files hold, read back from them."""
    quick_pass = QuickPass(p_abnormal=((0.3, 0.7),), gate_mean_from=0.2, gate_std_from=0.2)
    speed = measure_speed(replay.rows, judged=240, elapsed_s=60.0, cores=2, quick_pass=quick_pass)
    moment = datetime(2026, 5, 4, tzinfo=UTC)
    run = json.loads(run_json(Run("1.0", UUID(int=0), moment, moment, 60.0, 240, 0, 1, 2, speed)))
    return {**json.loads(summary_json(replay))["metrics"], **run["speed"]}


def test_every_figure_of_the_reports_can_be_required_and_is_held_against_its_bound(
    figures: dict[str, int | float | None],
) -> None:
    unmeasured = [name for name, value in figures.items() if value is None]
    assert not unmeasured, "the set of this test holds what every figure needs"
    for name, value in figures.items():
        assert value is not None and math.isfinite(value), name
        for comparison, met in ((">=", True), ("<=", True), ("==", True), (">", False), ("<", False)):
            result = check_requirement(parse_requirement(f"{name}{comparison}{value!r}"), figures)
            assert (result.observed, result.met) == (value, met), name


def test_every_name_that_can_be_required_is_a_figure_of_the_reports(figures: dict[str, int | float | None]) -> None:
    families = {name.partition("[")[0] + "[" for name in ROW_MEANINGS}
    assert set(FIGURE_MEANINGS) - set(ROW_MEANINGS) == {name for name in figures if "[" not in name}
    assert families == {name.partition("[")[0] + "[" for name in figures if "[" in name}
    assert {"recall_low[smear of oil]", "effectiveness[2]", "kappa_line_low[1]", "kappa_people[1,2]"} <= set(figures)
    assert "recall_from_lots_low[0.5]" in figures
    assert all(meaning_of(name) for name in figures)


def test_every_rate_and_size_has_its_bounds_among_the_figures() -> None:
    limits = ("_low", "_high", "_bound", "_lots_low", "_lots_high")
    names = {name.partition("[")[0] for name in FIGURE_MEANINGS}
    estimates = [name for name in names if not name.endswith((*NO_ESTIMATES, *limits))]
    lacking = [name for name in estimates if not any(f"{name}{limit}" in names for limit in limits)]
    assert {"escape_rate", "auroc", "stopped_a90", "value_of_normal", "kappa_people"} <= set(estimates)
    assert lacking == []


def test_every_share_of_scans_has_its_bounds_over_lots_too() -> None:
    """Scans of one lot err together: without lots an interval is too narrow for the next lot."""
    ends = [(name, name.replace("_low", "_lots_low").replace("_high", "_lots_high")) for name in FIGURE_MEANINGS]
    bounds = [(name, name.replace("_bound", "_lots_bound")) for name in FIGURE_MEANINGS if name.startswith(OF_PLANT)]
    shares = [(name, over) for name, over in (*ends, *bounds) if over != name and "_lots_" not in name]
    assert {"unreadable_rate_low", "auprc_low", "kappa_line_high", "stopped_a90_high"} <= {name for name, _ in shares}
    assert {"recall_low[KIND]", "kappa_people_high[PERSON,PERSON]", "stopped_difference_low"} <= dict(shares).keys()
    assert [name for name, over in shares if over not in FIGURE_MEANINGS] == []


def test_the_summary_holds_no_figures_beside_those(replay: Replay) -> None:
    """Whoever adds a key decides whether it can be required."""
    assert set(json.loads(summary_json(replay))) == FACTS


@pytest.mark.parametrize("kind", ["smear of oil", "a]b", "[x]", "p>=1"])
def test_a_kind_is_named_as_the_labels_name_it(kind: str) -> None:
    result = check_requirement(parse_requirement(f"recall_low[{kind}] >= 0.9"), {f"recall_low[{kind}]": 0.95})
    assert (result.observed, result.met) == (0.95, True)


def test_a_row_that_a_table_lacks_was_not_measured() -> None:
    result = check_requirement(parse_requirement("recall[hole]>=0.5"), {"recall[cut]": 0.9})
    assert (result.observed, result.met) == (None, False)


@pytest.mark.parametrize(
    "name", ["recall[KIND]", "recal[cut]", "auroc[cut]", "recall[]", "recall[cut", "recall_from[wide]"]
)
def test_a_row_of_no_table_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="requirement"):
        parse_requirement(f"{name}>=0.5")
