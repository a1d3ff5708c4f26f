"""Detectors held against one of them where all refuse alike."""

import numpy as np

from train.papers.welds.curves import Curve
from train.papers.welds.equal_refusal import curve_of, more_markdown, refusal_tables
from train.papers.welds.evaluation import Detector, SetScores
from train.papers.welds.scores import STATISTICS

DARK = Detector("dark", "sni", ("median-dark5",))


def of(levels: list[float]) -> np.ndarray:
    return np.repeat(np.array(levels, np.float32)[:, None], len(STATISTICS), axis=1)


def fold(level: float) -> SetScores:
    """Accepted patches of other welds up to `level`, defects of the tested ones at 50."""
    known = of([level - 1, level])
    return {
        "checked/x": known,
        "learnt/y": known,
        "accepted": of([0, 0, 0]),
        "defects-high": of([50, 50]),
        "defects-mid": of([50, -50, 50]),
        "defects-low": of([]),
        "raster": of([50]),
    }


TESTED = {
    "accepted": {"a": 2, "b": 1},
    "defects-high": {"a": 2},
    "defects-mid": {"b": 2, "a": 1},
    "defects-low": {"a": 0, "b": 0},
}


def test_each_fold_is_judged_by_its_own_thresholds_and_each_patch_is_of_its_weld() -> None:
    found = curve_of(
        DARK, [fold(10), fold(90)], [TESTED, {name: {"c": sum(of.values())} for name, of in TESTED.items()}]
    )
    place = found.at_nominal(0.01)
    assert found.welds == ("a", "b", "c")
    assert found.hits["defects-high"][place].tolist() == [2, 0, 0]
    assert found.hits["defects-mid"][place].tolist() == [1, 1, 0]
    assert found.totals["defects-mid"].tolist() == [1, 2, 3]
    assert found.totals["defects-low"].tolist() == [0, 0, 0]


def curve(refused: list[int], mid: list[int]) -> Curve:
    """Two welds alike, each with 1000 accepted patches and 10 of each contrast."""
    hits = {"accepted": refused, "defects-high": [10] * 4, "defects-mid": mid, "defects-low": [0] * 4}
    totals = {name: np.array([1000 if name == "accepted" else 10] * 2) for name in hits}
    return Curve(("a", "b"), {name: np.repeat(np.array(of)[:, None], 2, axis=1) for name, of in hits.items()}, totals)


def test_a_detector_is_held_against_the_other_also_where_that_refuses_as_many() -> None:
    """At most 1 % is refused: by the other 2 of 1000, by the detector 9; the other's next point finds more."""
    curves = {"filter": curve([0, 2, 11, 20], [3, 5, 8, 9]), "ours": curve([0, 2, 9, 20], [3, 5, 7, 9])}
    row = more_markdown(curves, "filter")[2]
    assert row.startswith("| ours | ")
    cells = row.split(" | ")
    of_one_percent = [cell.split(" ")[0] for cell in cells[-4:]]
    assert of_one_percent == ["+0.0", "+20.0", "+0.0", "-10.0"]
    assert "filter |" not in more_markdown(curves, "filter")[2]


def test_the_tables_hold_every_detector_at_both_rates() -> None:
    text = "\n".join(
        refusal_tables(
            {"one": curve_of(DARK, [fold(10)], [TESTED]), "two": curve_of(DARK, [fold(20)], [TESTED])}, "one"
        )
    )
    assert "nan" not in text  # of the low contrast, of which there is no patch
    assert text.count("| one |") == 2
    assert text.count("| two |") == 3
