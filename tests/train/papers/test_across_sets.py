"""Learn on one set and judge another: the table and its resumption."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edge.images.method import Method
from edge.records import Size
from edge.system.progress import Reporter
from train.classifier.adapt import Adapted, adapt_to
from train.classifier.experiment import BEST, NEIGHBOURS, SHEET
from train.classifier.feature_cache import GIB, FeatureCache
from train.classifier.features import open_backbone
from train.classifier.learner import Learnt, Samples
from train.classifier.pooling import CHANNELS, TILES
from train.dataset import read_labels
from train.errors import DataError
from train.papers import across_sets as across
from train.papers.across_sets import Means, across_sets
from train.runner import Here
from train.survey import Survey, survey

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("shallow")]

RECIPES = {
    "sheet": replace(SHEET, method=Method.LOCAL, threshold="half"),
    "neighbours": replace(NEIGHBOURS, method=Method.LOCAL),
}
"""Without bounds, so that all folds share their features."""


def surveyed(folder: Path, lots: int = 3) -> Survey:
    """With a kind and severities, which the labels do not give; the three lots dealt out to 3 or 6."""
    listed = [
        replace(row, lot=f"{row.lot}-{number * lots // 3 // 8}") for number, row in enumerate(read_labels(folder))
    ]
    found = survey(listed, Here(), lambda done, total: None, skip_unreadable=False)
    rows = [
        replace(row, kinds=("hole",) if row.label else (), severity=0.5 + number / 100 if row.label else None)
        for number, row in enumerate(found.rows)
    ]
    return replace(found, rows=tuple(rows))


def means(folder: Path, reporter: Reporter) -> Means:
    backbone = open_backbone("none", Size(64, 64), seed=0, amp=False, device="cpu")
    return Means(backbone, FeatureCache(folder, (TILES, CHANNELS), max_bytes=GIB), Here(), reporter)


def test_each_set_is_judged_by_the_other_and_by_its_own_other_lots(
    small_lot: Path, held_back: Path, tmp_path: Path
) -> None:
    sets = {"one": surveyed(small_lot), "two": surveyed(held_back)}
    with Reporter() as reporter:
        first, second = (
            across_sets(sets, RECIPES, means(tmp_path / "cache", reporter), tmp_path, "edge-train across one two")
            for _ in range(2)
        )
    assert first == second == (tmp_path / "across.md").read_text()
    assert "    edge-train across one two" in first
    rows = json.loads((tmp_path / "across.json").read_text())["rows"]
    rows = [row for row in rows if row["recipe"] != "sheet, adapted"]
    assert [(row["recipe"], row["learnt_on"], row["judged"]) for row in rows] == [
        (recipe, *pair)
        for recipe in RECIPES
        for pair in (("one", "one"), ("one", "two"), ("two", "two"), ("two", "one"))
    ]
    with (tmp_path / "across.csv").open() as stream:
        scans = list(csv.DictReader(stream))
    for row in rows:
        pair = (row["recipe"], row["learnt_on"], row["judged"])
        judged = [scan for scan in scans if (scan["recipe"], scan["learnt_on"], scan["judged"]) == pair]
        called = [(scan["label"], float(scan["margin"]) >= 0) for scan in judged]
        assert [called.count(("abnormal", True)), called.count(("normal", True))] == [row["tp"], row["fp"]]
        base = next(other for other in rows if (other["learnt_on"], other["judged"]) == pair[1:])
        for name in ("balanced_accuracy", "auroc"):
            gain = row[f"{name}_gain"]
            assert gain["difference"] == pytest.approx(row[name] - base[name])
            assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
        assert row["tp"] + row["fn"] == row["tn"] + row["fp"] == 12
        assert row["auroc"] > 0.8  # half of the coating is missing, or it is not
        low, high = row["balanced_accuracy_interval"]
        assert 0.5 <= row["balanced_accuracy"] <= 1 and low <= row["balanced_accuracy"] <= high
        assert (
            f"{100 * row['balanced_accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}, {row['lots']} lots)" in first
        )
        assert (row["escapes"]["hits"], row["false_alarms"]["hits"]) == (row["fn"], row["fp"])
        assert row["escapes"]["over_lots"][0] <= row["fn"] / 12 <= row["escapes"]["over_lots"][1]
        assert (row["worst_lot"] == "none") == (row["fn"] + row["fp"] == 0) and f"| {row['worst_lot']} |" in first
        assert sum(third["total"] for third in row["severities"].values()) == 12
        found = row["kinds"]["hole"]
        assert (found["total"], found["lots"]) == (12, 3)
        low, high = found["over_lots"]
        assert (
            f"{found['hits']} of {found['total']} ({100 * low:.1f} to {100 * high:.1f}, {found['lots']} lots)" in first
        )


def test_one_set_alone_is_refused(small_lot: Path, tmp_path: Path) -> None:
    with Reporter() as reporter, pytest.raises(DataError, match="1 sets"):
        across_sets({"one": surveyed(small_lot)}, RECIPES, means(tmp_path, reporter), tmp_path, "")


def test_sets_that_share_a_scan_are_refused(small_lot: Path, tmp_path: Path) -> None:
    one = surveyed(small_lot)
    other = replace(one, rows=tuple(replace(row, file=f"other/{row.file}") for row in one.rows))
    with (
        Reporter() as reporter,
        pytest.raises(DataError, match=r"24 scans of b are in a too, other/B0_0.tif \(there B0"),
    ):
        across_sets({"a": one, "b": other}, RECIPES, means(tmp_path, reporter), tmp_path, "")


def test_a_comparison_that_is_killed_leaves_no_table_of_an_earlier_one(
    small_lot: Path, held_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.papers.across_sets._within", killed)
    for name in ("across.json", "across.csv", "across.md"):
        (tmp_path / name).write_text("of other sets")
    sets = {"a": surveyed(small_lot), "b": surveyed(held_back)}
    with Reporter() as reporter, pytest.raises(KeyboardInterrupt):
        across_sets(sets, RECIPES, means(tmp_path / "cache", reporter), tmp_path, "")
    assert list(tmp_path.iterdir()) == []


def test_a_further_row_is_of_what_was_adapted_by_normal_scans_of_all_lots_but_the_judged_one(
    small_lot: Path, held_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = []

    def adapt(learnt: Learnt, normal: Samples, refused: float) -> Adapted:
        known.append((set(normal.lots), set(normal.labels), refused))
        return adapt_to(learnt, normal, refused)

    monkeypatch.setattr(across, "adapt_to", adapt)
    sets = {"one": surveyed(small_lot, lots=6), "two": surveyed(held_back, lots=6)}
    recipes = {"best": replace(BEST, threshold="half", augmentation="none"), "neighbours": RECIPES["neighbours"]}
    with Reporter() as reporter:
        asked = replace(means(tmp_path / "cache", reporter), refused=0.2)
        across_sets(sets, recipes, asked, tmp_path, "edge-train across one two")
    rows = json.loads((tmp_path / "across.json").read_text())["rows"]
    adapted = [row for row in rows if row["recipe"] == "best, adapted"]
    assert [(row["learnt_on"], row["judged"], row["lots"]) for row in adapted] == [("one", "two", 6), ("two", "one", 6)]
    assert [row["recipe"] for row in rows].count("neighbours") == 4 and len(rows) == 10
    for learnt_on, judged in (("one", "two"), ("two", "one")):
        lots = set(sets[judged].lots)
        ours = [lots - of for of, _, _ in known if of < lots]
        assert sorted(map(sorted, ours)) == [[lot] for lot in sorted(lots)], learnt_on
    assert {(frozenset(labels), refused) for _, labels, refused in known} == {(frozenset({0}), 0.2)}
    assert all(row["auroc"] > 0.8 for row in adapted)
