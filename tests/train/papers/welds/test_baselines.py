"""The recipe of filters without training, on drawn welds."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.system.progress import Reporter
from train.errors import DataError
from train.papers.welds.baselines import (
    all_candidates,
    candidate_of,
    find,
    independent_windows,
    planned,
    run_baselines,
    standing,
    weld_scores,
)
from train.papers.welds.curves import Curve, WeldScores, curves_csv, rows_markdown
from train.papers.welds.data import PatchCounts
from train.papers.welds.filter_scores import FILTERS, SIDES, places_of, stored_digest
from train.papers.welds.filters import AFTERWARDS, Filter
from train.papers.welds.folds import weld_folds
from train.papers.welds.frozen_neighbours import INPUTS, frozen_digest
from train.papers.welds.images import Weld, digest_of, read_welds
from train.papers.welds.patches import RIM_PX, Pose
from train.runner import Here

COUNTS = PatchCounts(test_accepted=30, test_defects=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three welds with a dark pore and a paler one each."""
    folder = tmp_path_factory.mktemp("welds")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(3):
        bead = 90 + 60 * np.exp(-(((np.arange(310) - 150) / 90.0) ** 2))
        image = bead[:, None] + rng.normal(0, 2, (310, 900))
        mask = np.zeros((310, 900), np.uint8)
        for column, radius, depth in ((170, 9, 30), (400, 6, 10)):
            pore = cv2.circle(np.zeros_like(mask), (column + 20 * number, 150), radius, 255, -1)
            image[pore > 0] -= depth
            mask |= pore
        cv2.imwrite(str(folder / "images" / f"W{number}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"W{number}.png"), mask)
    return folder


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run_baselines(folder, out, COUNTS, 0, Here(), Reporter(), "edge-train gate-benchmark WELDS --recipe baselines")
    return out


def scores_of(folder: Path, out: Path) -> tuple[list[Weld], dict[str, WeldScores]]:
    welds = read_welds(folder)
    return welds, weld_scores(welds, weld_folds(welds, 0), COUNTS, 0, out, Here(), Reporter())


def test_the_report_has_every_row_at_every_rate_and_says_how_it_was_made(folder: Path, out: Path) -> None:
    text = (out / "baselines.md").read_text(encoding="utf-8")
    for name in (*standing(), "chosen: filter", "chosen: partner of the median"):
        assert text.count(f"| {name} |") == 2  # nominal and equal
    assert "    edge-train gate-benchmark WELDS --recipe baselines" in text
    assert f"Data {digest_of(read_welds(folder), b'')[:12]}: 3 welds, 3 of them masked. Seed 0" in text
    assert "Films with a list" not in text


def test_neighbours_are_rows_beside_the_filters(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.papers.welds.frozen_neighbours._CELLS_A_WELD", 100)
    few = PatchCounts(test_accepted=5, test_defects=2)
    other = tmp_path / "one"
    for part, brighter in (("images", 1), ("masks", 0)):
        (other / part).mkdir(parents=True)
        image = cv2.imread(str(folder / part / "W0.png"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        cv2.imwrite(str(other / part / "W0.png"), np.minimum(image, 254) + np.uint8(brighter))
    text = run_baselines(folder, tmp_path, few, 0, Here(), Reporter(), "command", other=other, weights="none")
    for name in INPUTS:
        assert text.count(f"| nearest neighbours, {name} |") == 3  # nominal, equal, and other welds
    assert "Known welds have these names, too: W0." in text
    assert f"Features of a network with weights {frozen_digest('none')[:12]}." in text


def test_other_welds_without_a_mask_are_refused_before_anything_is_scored(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "images", other / "images")
    with pytest.raises(DataError, match=f"{other}: no place for a patch .* there are none"):
        run_baselines(folder, tmp_path / "out", COUNTS, 0, Here(), Reporter(), "command", other=other)
    assert not (tmp_path / "out").exists()


def test_filters_that_are_killed_leave_no_table_of_earlier_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.papers.welds.baselines.weld_scores", killed)
    for name in ("baselines.md", "curves.csv"):
        (tmp_path / name).write_text("of other welds")
    with pytest.raises(KeyboardInterrupt):
        run_baselines(folder, tmp_path, COUNTS, 0, Here(), Reporter(), "command")
    assert list(tmp_path.iterdir()) == []


def test_another_mask_is_another_digest(folder: Path) -> None:
    first, *rest = read_welds(folder)
    assert first.mask is not None
    assert digest_of([replace(first, mask=~first.mask), *rest]) != digest_of([first, *rest])


def test_scores_are_made_once(folder: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.glob("scores_*.npz")}
    scores_of(folder, out)
    assert len(before) == 3
    assert {path: path.stat().st_mtime_ns for path in out.glob("scores_*.npz")} == before


def test_damaged_scores_are_made_again(tmp_path: Path) -> None:
    for damaged in (b"", b"PK\3\4 and no more"):
        (tmp_path / "scores.npz").write_bytes(damaged)
        assert stored_digest(tmp_path / "scores.npz") == ""


def test_a_median_finds_all_dark_pores_and_its_bright_side_does_not(folder: Path, out: Path) -> None:
    welds, scores = scores_of(folder, out)
    found = find(scores, weld_folds(welds, 0), Reporter())
    dark, bright = found.rows["median of 31 px, dark"], found.rows["median of 31 px, bright"]
    assert dark.share("defects-high", dark.at_nominal(0.01)) == 1.0
    assert dark.share("defects-mid", dark.at_nominal(0.01)) == 1.0
    assert bright.share("defects-mid", bright.at_nominal(0.01)) < 1.0
    assert found.chosen[0].endswith("on W2, W1")  # the tested weld has no part in the choice
    assert curves_csv(found.rows).count("median of 31 px, both") > 100
    assert len(rows_markdown(found.rows, equal=True)) == len(found.rows) + 3


def test_a_candidate_reads_the_columns_of_its_filter() -> None:
    place = FILTERS.index(Filter("median31", "local", "5")) * len(SIDES)
    assert candidate_of(FILTERS[place // len(SIDES)], "both-no-wires").columns == (place, place + 2)
    assert len({candidate.name for candidate in all_candidates()}) == 4 * len(planned())
    assert {filter_.background for filter_ in FILTERS} - {filter_.background for filter_ in planned()} == set(
        AFTERWARDS
    )


def test_a_patch_is_read_where_its_pose_cuts_the_image() -> None:
    columns = np.broadcast_to(np.arange(600), (400, 600)).astype(np.float32)
    pose = Pose(row=200, column=300, angle_deg=30.0, quarters=0, flip=False)
    cut = pose.cut(columns)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
    read = 2 * (places_of(pose, columns.shape) % 300) + 0.5
    assert read.min() == pytest.approx(float(cut.min()), abs=2.5)
    assert read.max() == pytest.approx(float(cut.max()), abs=2.5)
    rows = np.broadcast_to(np.arange(400)[:, None], (400, 600)).astype(np.float32)
    corner = pose.cut(rows)[RIM_PX, RIM_PX]
    assert 2 * (places_of(pose, rows.shape)[0] // 300) + 0.5 == pytest.approx(float(corner), abs=2.5)


def test_independent_windows_lie_beside_each_other() -> None:
    assert independent_windows(Weld("w", np.zeros((366, 3512), np.uint8), None)) == 2 * 22


def test_a_row_names_the_weld_that_is_worst() -> None:
    """The one with most accepted patches refused, or with fewest defects found."""
    hits = {"accepted": [[3, 0]], "defects-high": [[9, 5]], "defects-mid": [[2, 2]], "defects-low": [[0, 0]]}
    totals = {"accepted": [100, 100], "defects-high": [10, 10], "defects-mid": [2, 2], "defects-low": [4, 0]}
    found = Curve(
        ("W0", "W1"),
        {name: np.repeat(np.array(counts), 1000, axis=0) for name, counts in hits.items()},
        {name: np.array(counts) for name, counts in totals.items()},
    )
    row = rows_markdown({"median": found}, equal=False)[2]
    assert [found.worst(name, 0) and found.worst(name, 0).lot for name in hits] == ["W0", "W1", None, "W0"]
    assert row.count("worst W0") == 6 and row.count("worst W1") == 3
