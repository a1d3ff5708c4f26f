"""Lots of the second simulator: what is written, what its labels say, and that chance alone decides nothing twice."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.validation.labels import Label
from edge.validation.labels import read_labels as read_line_labels
from train.dataset import read_labels
from train.errors import DataError
from train.second_simulator.anomalies import KINDS, MM_PER_PIXEL
from train.second_simulator.sheet import draw_look
from train.second_simulator.simulate import (
    ABNORMAL_SHARE,
    BOUNDARY,
    draw_severities,
    simulate_lots,
    simulate_scan,
)

SCALE = 0.06


@pytest.fixture(scope="module")
def lots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("second") / "lots"
    return simulate_lots(out, 3, 8, scale=SCALE, seed=5, abnormal_share=0.5).parent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_write_the_same_bytes_as_one(lots: Path, tmp_path: Path) -> None:
    simulate_lots(tmp_path / "again", 3, 8, scale=SCALE, seed=5, abnormal_share=0.5, jobs=2)
    assert contents(tmp_path / "again") == contents(lots)


def test_another_seed_gives_other_scans() -> None:
    first, second = (simulate_scan(seed, 1, 1, scale=SCALE).counts for seed in (5, 6))
    assert first.shape != second.shape or (first != second).any()


def test_a_scan_does_not_depend_on_how_many_are_written(lots: Path, tmp_path: Path) -> None:
    simulate_lots(tmp_path / "few", 2, 2, scale=SCALE, seed=5, abnormal_share=0.5)
    for name in ("B01_0002.tif", "B02_0001.tif"):
        assert (tmp_path / "few" / name).read_bytes() == (lots / name).read_bytes()


def test_a_scan_of_full_size_has_the_size_and_the_counts_of_the_paper(tmp_path: Path) -> None:
    simulate_lots(tmp_path / "full", 1, 1, seed=2)
    with tifffile.TiffFile(tmp_path / "full" / "B01_0001.tif") as file:
        assert len(file.pages) == 1
        counts = file.asarray()
    assert counts.dtype == np.uint16
    assert 2053 <= counts.shape[0] <= 2115 and 1119 <= counts.shape[1] <= 1219
    assert np.mean((counts >= 1700) & (counts <= 2800)) > 0.95
    assert counts.max() > 3500, "hot pixels reach far above the rest"


def test_sizes_of_many_lots_have_the_paper_s_means() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean([look.height for look in looks]) == pytest.approx(2072.1, abs=3)
    assert np.mean([look.width for look in looks]) == pytest.approx(1145, abs=4)


def test_most_pixels_of_every_lot_lie_in_the_paper_s_range() -> None:
    for lot in range(1, 13):
        counts = simulate_scan(0, lot, 1, scale=0.1).counts
        assert np.mean((counts >= 1700) & (counts <= 2800)) > 0.9


def test_lots_look_different_and_scans_of_a_lot_alike() -> None:
    medians = np.array(
        [[np.median(simulate_scan(0, lot, scan, scale=SCALE).counts) for scan in (1, 2)] for lot in range(1, 9)]
    )
    assert medians.mean(1).std() > 3 * np.abs(medians[:, 0] - medians[:, 1]).mean()


def test_both_programs_read_the_labels(lots: Path) -> None:
    rows = read_labels(lots)
    assert [row.file for row in rows] == [f"B{lot:02}_{scan:04}.tif" for lot in (1, 2, 3) for scan in range(1, 9)]
    assert {row.lot for row in rows} == {"B01", "B02", "B03"}
    line_rows = read_line_labels(lots / "labels.csv")
    for row, line_row in zip(rows, line_rows, strict=True):
        assert row.severity is not None
        assert row.label == (row.severity > BOUNDARY)
        assert (line_row.label is Label.ABNORMAL) == bool(row.label)
        assert row.kinds == line_row.kinds and set(row.kinds) <= KINDS.keys()


def test_each_anomaly_has_its_severity_length_and_area_in_both_units(lots: Path) -> None:
    pitch = MM_PER_PIXEL / SCALE
    with (lots / "labels.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kinds"]]
    assert rows
    for row in rows:
        kinds = row["kinds"].split("|")
        severities, lengths, mm, areas, mm2 = (
            [float(cell) for cell in row[name].split("|")]
            for name in ("severities", "size_px", "size_mm", "area_px", "area_mm2")
        )
        assert len(kinds) == len(severities) == len(lengths) == len(areas)
        assert float(row["severity"]) == max(severities)
        assert mm == pytest.approx([length * pitch for length in lengths], abs=0.51 * pitch)
        assert mm2 == pytest.approx([area * pitch**2 for area in areas], rel=1e-3, abs=0.01)


@pytest.mark.parametrize("share", [ABNORMAL_SHARE, 0.5])
def test_severities_have_no_gap_and_the_share_asked_for_above_the_boundary(share: float) -> None:
    rng = np.random.default_rng(0)
    greatest = np.array([draw_severities(rng, share, BOUNDARY)[0] for _ in range(8000)])
    assert np.mean(greatest > BOUNDARY) == pytest.approx(share, abs=0.02)
    density, _ = np.histogram(greatest, np.linspace(0, 1, 21))
    assert density.min() > 0.4 * 8000 * share / 20
    below, above = (np.mean((greatest > low) & (greatest <= low + 0.1)) for low in (BOUNDARY - 0.1, BOUNDARY))
    assert below / above == pytest.approx(1.2, abs=0.25), "density is smooth across the boundary"


def test_a_labeller_who_sees_badly_errs_near_the_boundary_only() -> None:
    wrong = []
    for scan in range(1, 81):
        seen = simulate_scan(1, 1, scan, scale=0.03, abnormal_share=0.5, labeller_noise=0.1)
        severity = max((one.severity for one in seen.anomalies), default=0.0)
        if seen.is_abnormal != (severity > BOUNDARY):
            wrong.append(abs(severity - BOUNDARY))
    assert wrong and max(wrong) < 0.35


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", 1.5), ("abnormal_share", 0.0), ("boundary", 1.0), ("labeller_noise", -0.1), ("jobs", 0), ("seed", -1)],
)
def test_a_value_out_of_range_is_refused_by_name(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(DataError, match=name.replace("_", " ")):
        simulate_lots(tmp_path / "lots", 1, 1, **{"scale": SCALE, name: value})  # type: ignore[arg-type]
    assert not (tmp_path / "lots").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.tif").touch()
    with pytest.raises(DataError, match="not an empty folder"):
        simulate_lots(tmp_path, 1, 1, scale=SCALE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tif"]


def test_progress_counts_every_scan(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate_lots(tmp_path / "lots", 1, 3, scale=0.03, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
