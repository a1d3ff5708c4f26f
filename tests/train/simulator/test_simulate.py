"""Simulated scans: reproducible to the byte, within the paper's sizes and counts, mild to severe without a gap."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from edge.errors import EdgeError
from edge.settings import DeskSettings
from train.simulator.electrode import lot_look
from train.simulator.extent import Extent, changed, extent
from train.simulator.foreign import FOREIGN_KINDS, foreign_scan
from train.simulator.severity import count, ramp
from train.simulator.simulate import (
    ABNORMAL_FROM,
    GREY_ZONE,
    KINDS,
    LABELS_NAME,
    Anomaly,
    render_scan,
    simulate_scan,
    write_lots,
)

SMALL = 0.25
GREY_COUNTS = 1100 / 256  # one level of the 8-bit image between bounds 1700 and 2800


def lot_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_rows(labels: Path) -> list[dict[str, str]]:
    with labels.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def grey_change(kind: str, severity: float, lot: int) -> float:
    """Sum over the scan of what an anomaly changes, in grey levels, small changes left out."""
    plain = render_scan(3, lot, 1, scale=SMALL).astype(np.int64)
    painted = render_scan(3, lot, 1, [Anomaly(kind, severity)], scale=SMALL).astype(np.int64)
    change: npt.NDArray[np.int64] = np.abs(painted - plain)
    return float(change[(change > 3 * GREY_COUNTS) & (change < 2000)].sum() / GREY_COUNTS)


def test_the_eleven_kinds_are_those_of_the_paper() -> None:
    assert KINDS == (
        "scratches",
        "lines",
        "edge-cuts",
        "edge-tensions",
        "smudges",
        "edge-ink-flow",
        "bubbles",
        "missing-ink",
        "agglomerate",
        "ink-fluctuations",
        "ink-entry-exit",
    )


def test_a_scan_follows_from_its_numbers_alone() -> None:
    first, again = (simulate_scan(9, 2, 5, scale=SMALL) for _ in range(2))
    np.testing.assert_array_equal(first.counts, again.counts)
    assert (first.label, first.kinds, first.severity) == (again.label, again.kinds, again.severity)


@pytest.mark.parametrize("other", [(8, 2, 5), (9, 3, 5), (9, 2, 6)])
def test_another_seed_lot_or_index_is_another_scan(other: tuple[int, int, int]) -> None:
    one, two = render_scan(9, 2, 5, scale=SMALL), render_scan(*other, scale=SMALL)
    assert one.shape != two.shape or np.any(one != two)


def test_a_lot_has_the_same_bytes_whatever_the_number_of_jobs(tmp_path: Path) -> None:
    for name, jobs in (("one", 1), ("two", 2)):
        write_lots(tmp_path / name, seed=4, lots=2, scans_per_lot=3, abnormal_fraction=0.5, scale=SMALL, jobs=jobs)
    assert lot_bytes(tmp_path / "one") == lot_bytes(tmp_path / "two")


def test_full_format_scans_have_the_papers_sizes_and_counts() -> None:
    scans = [simulate_scan(1, lot, index).counts for lot in range(1, 7) for index in (1, 2)]
    for counts in scans:
        assert counts.dtype == np.uint16
        assert 2053 <= counts.shape[0] <= 2115
        assert 1119 <= counts.shape[1] <= 1219
    pixels = np.concatenate([counts.ravel() for counts in scans])
    assert np.mean((pixels >= 1700) & (pixels <= 2800)) > 0.9999
    darkest = min(np.percentile(counts, 0.01) for counts in scans)
    brightest = max(np.percentile(counts, 99.99) for counts in scans)
    assert 1650 <= darkest < 2000
    assert 2720 <= brightest < 2850


def test_a_scan_has_dozens_of_hot_pixels() -> None:
    counts = render_scan(1, 1, 1)
    assert 12 <= np.count_nonzero(counts > 2900) <= 120
    assert counts.max() > 5000


def test_noise_at_full_format_is_8_to_15_counts_on_coating() -> None:
    for lot in (1, 2, 3):
        centre = render_scan(1, lot, 1)[900:1100, 500:700].astype(np.float64)
        # Differences of neighbours hold the noise twice and almost none of the texture; the median ignores hot pixels.
        sigma = 1.4826 * np.median(np.abs(np.diff(centre, axis=0))) / np.sqrt(2)
        assert 7 < sigma < 16


def test_half_scale_is_the_same_sheet_at_half_the_size() -> None:
    full, half = render_scan(2, 3, 4), render_scan(2, 3, 4, scale=0.5)
    assert abs(full.shape[0] - 2 * half.shape[0]) <= 1
    assert abs(full.shape[1] - 2 * half.shape[1]) <= 1
    assert abs(float(np.median(full)) - float(np.median(half))) < 15


def test_a_dozen_lots_look_widely_different() -> None:
    looks = [lot_look(1, lot) for lot in range(1, 13)]
    coated = [look.coat_signal_counts for look in looks]
    assert max(coated) - min(coated) > 250
    assert len({look.method for look in looks}) == 5
    for parameter in ("mottle_counts", "stripe_counts", "grain_counts"):
        values = [getattr(look, parameter) for look in looks]
        assert max(values) > 2.5 * min(values)


def test_a_reader_at_the_desk_can_name_every_kind_that_is_simulated() -> None:
    assert DeskSettings().kinds == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_severe_anomaly_changes_far_more_than_a_mild_one(kind: str) -> None:
    for lot in (1, 6):
        mild = grey_change(kind, GREY_ZONE[0], lot)
        severe = grey_change(kind, GREY_ZONE[1], lot)
        worst = grey_change(kind, 1.0, lot)
        assert severe > 2.5 * mild
        assert worst > 1.2 * severe
        assert severe > 500


def test_the_extent_of_an_anomaly_is_that_of_its_largest_patch_and_the_area_of_all() -> None:
    before = np.ones((100, 80), np.float32)
    after = before.copy()
    after[10, 10:51] -= 0.5  # a scratch of 41 px
    after[60:64, 20:24] += 0.3
    after[80:, 60:] += 0.05  # too faint beside them
    mask = changed(before, after)
    assert mask[10, 10:51].all() and mask[60:64, 20:24].all() and mask.sum() == 41 + 16
    found = extent(mask)
    assert found.length_px == pytest.approx(41, abs=0.5) and found.area_px == 41 + 16
    assert extent(changed(before, before)) == Extent(0.0, 0)


def test_a_mask_lies_where_its_anomaly_changes_the_scan() -> None:
    scan = simulate_scan(5, 1, 1, abnormal=True, kinds=["missing-ink"], scale=0.2)
    (mask,) = scan.masks
    change = np.abs(scan.counts.astype(float) - render_scan(5, 1, 1, scale=0.2))
    assert mask.shape == scan.counts.shape and mask.sum() == scan.extents[0].area_px
    assert change[mask].mean() > 20 * change[~mask].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_severe_anomaly_is_larger_than_a_mild_one_of_its_kind(kind: str) -> None:
    mild, severe = (simulate_scan(5, 1, 1, abnormal=abnormal, kinds=[kind], scale=0.1) for abnormal in (False, True))
    assert 0 < mild.extents[0].area_px <= severe.extents[0].area_px * 1.2


def test_size_contrast_and_number_never_fall_as_severity_rises() -> None:
    severities = np.linspace(0, 1, 101)
    sizes = [ramp(float(severity), 2.0, 50.0) for severity in severities]
    numbers = [count(float(severity), 1, 9) for severity in severities]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (2.0, 50.0)
    assert numbers == sorted(numbers)


def test_the_label_is_abnormal_if_and_only_if_something_is_severe() -> None:
    scans = [simulate_scan(5, lot, index, scale=0.05) for lot in range(1, 5) for index in range(1, 41)]
    for scan in scans:
        severities = [anomaly.severity for anomaly in scan.anomalies]
        severe = [severity for severity in severities if severity >= ABNORMAL_FROM]
        assert (scan.label == "abnormal") == bool(severe)
        assert len(severe) <= 2
        assert scan.severity == max(severities, default=0.0)
        assert len(scan.kinds) == (len(severe) or len(severities))
    abnormal = sum(scan.label == "abnormal" for scan in scans)
    assert 0.12 < abnormal / len(scans) < 0.32
    near = sorted(a.severity for scan in scans for a in scan.anomalies if abs(a.severity - ABNORMAL_FROM) < 0.2)
    assert np.diff([ABNORMAL_FROM - 0.2, *near, ABNORMAL_FROM + 0.2]).max() < 0.04, "severities without a gap"


def test_a_lot_without_a_grey_zone_is_the_same_but_for_severities(tmp_path: Path) -> None:
    for scan, easy in (
        [simulate_scan(5, 2, index, grey_zone=grey_zone, scale=0.05) for grey_zone in (True, False)]
        for index in range(1, 41)
    ):
        assert (scan.label, scan.lot, scan.counts.shape) == (easy.label, easy.lot, easy.counts.shape)
        assert [a.kind for a in scan.anomalies] == [a.kind for a in easy.anomalies]
        assert not [a for a in easy.anomalies if GREY_ZONE[0] < a.severity < GREY_ZONE[1]]
        assert (easy.severity >= GREY_ZONE[1]) == (easy.label == "abnormal")
    labels = write_lots(tmp_path, seed=5, lots=1, scans_per_lot=20, abnormal_fraction=0.5, grey_zone=False, scale=0.05)
    severities = [float(row["severity"]) for row in read_rows(labels)]
    assert not [severity for severity in severities if GREY_ZONE[0] < severity < GREY_ZONE[1]]


def test_normal_scans_carry_up_to_three_mild_anomalies() -> None:
    numbers = {len(simulate_scan(5, 1, index, abnormal=False, scale=0.05).anomalies) for index in range(60)}
    assert numbers == {0, 1, 2, 3}


def test_named_kinds_replace_chance() -> None:
    scan = simulate_scan(5, 1, 1, abnormal=True, kinds=("lines", "bubbles"), scale=0.05)
    assert sorted(scan.kinds) == ["bubbles", "lines"]
    assert all(anomaly.severity >= ABNORMAL_FROM for anomaly in scan.anomalies)
    assert simulate_scan(5, 1, 1, abnormal=False, kinds=(), scale=0.05).severity == 0.0


def test_labels_name_every_scan_and_agree_with_it(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    labels = write_lots(
        tmp_path / "lot",
        seed=4,
        lots=3,
        scans_per_lot=10,
        abnormal_fraction=0.2129,
        first_lot=7,
        scale=0.05,
        progress=lambda done, total: calls.append((done, total)),
    )
    rows = read_rows(labels)
    assert labels == tmp_path / "lot" / LABELS_NAME
    assert list(rows[0]) == [
        "file", "bundle", "label", "kinds", "severity", "size_px", "size_mm", "area_px", "area_mm2"
    ]  # fmt: skip
    assert {row["file"] for row in rows} == {path.name for path in labels.parent.glob("*.tif")}
    assert Counter(row["bundle"] for row in rows) == {"B07": 10, "B08": 10, "B09": 10}
    assert Counter(row["label"] for row in rows)["abnormal"] == round(30 * 0.2129)
    assert calls == [(done, 30) for done in range(1, 31)]
    for row in rows:
        part = re.fullmatch(r"(B\d\d)_(\d{4})\.tif", row["file"])
        assert part is not None
        assert part[1] == row["bundle"]
        assert set(filter(None, row["kinds"].split("|"))) <= set(KINDS)
        assert (float(row["severity"]) >= ABNORMAL_FROM) == (row["label"] == "abnormal")
        assert bool(row["kinds"]) == (float(row["severity"]) > 0)
        lengths = [float(length) for length in row["size_px"].split("|") if length]
        assert len(lengths) == len(scan_kinds := list(filter(None, row["kinds"].split("|"))))
        assert not scan_kinds or row["label"] == "normal" or min(lengths) > 0


def test_a_written_scan_is_a_plain_uncompressed_16_bit_tiff_of_those_counts(tmp_path: Path) -> None:
    write_lots(tmp_path, seed=4, lots=1, scans_per_lot=1, abnormal_fraction=1.0, scale=SMALL)
    with tifffile.TiffFile(tmp_path / "B01_0001.tif") as tiff:
        page = tiff.pages.first
        assert (page.bitspersample, page.samplesperpixel, page.compression) == (16, 1, 1)
        assert {"Software", "DateTime", "ImageDescription"}.isdisjoint(tag.name for tag in page.tags)
        counts = page.asarray()
    np.testing.assert_array_equal(counts, simulate_scan(4, 1, 1, abnormal=True, scale=SMALL).counts)


def test_a_lot_is_not_mixed_with_other_scans(tmp_path: Path) -> None:
    write_lots(tmp_path, seed=4, lots=1, scans_per_lot=2, scale=0.05)
    write_lots(tmp_path, seed=4, lots=1, scans_per_lot=2, scale=0.05)  # the same lot again is welcome
    with pytest.raises(EdgeError, match="already holds 2 other scans"):
        write_lots(tmp_path, seed=4, lots=1, scans_per_lot=2, first_lot=5, scale=0.05)


@pytest.mark.parametrize("name", ["B01/normal/x.tif", "x.TIFF", "B01_0001.tif", "labels.csv"])
def test_nothing_of_somebody_elses_folder_is_replaced(tmp_path: Path, name: str) -> None:
    for path, content in {name: b"a plant's own", LABELS_NAME: b"file,bundle,label\nx.tif,B01,normal\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    if name == "B01_0001.tif":  # a station may name its scans alike
        (tmp_path / LABELS_NAME).unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(EdgeError, match=name):
        write_lots(tmp_path, seed=4, lots=1, scans_per_lot=1, scale=0.05)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lot_that_stopped_half_way_has_no_labels(tmp_path: Path) -> None:
    write_lots(tmp_path, seed=4, lots=1, scans_per_lot=3, scale=0.05)

    def pull_the_plug(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lots(tmp_path, seed=4, lots=1, scans_per_lot=3, scale=0.05, progress=pull_the_plug)
    assert not (tmp_path / LABELS_NAME).exists()


def test_senseless_numbers_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="negative number"):
        simulate_scan(-1, 1, 1)
    with pytest.raises(EdgeError, match="scale"):
        simulate_scan(1, 1, 1, scale=2.0)
    with pytest.raises(EdgeError, match="share of the scans"):
        simulate_scan(1, 1, 1, abnormal_fraction=1.5)
    with pytest.raises(EdgeError, match="no kinds"):
        simulate_scan(1, 1, 1, abnormal=True, kinds=())
    with pytest.raises(EdgeError, match="cannot paint 'rust'"):
        simulate_scan(1, 1, 1, kinds=("rust",), scale=0.05)
    with pytest.raises(EdgeError, match="0 lots") as refused:
        write_lots(tmp_path, seed=1, lots=0, scans_per_lot=1)
    assert refused.value.hint


@pytest.mark.parametrize("kind", FOREIGN_KINDS)
def test_a_foreign_image_has_an_electrodes_size_and_counts_and_is_reproducible(kind: str) -> None:
    counts = foreign_scan(kind, 3, 1, scale=SMALL)
    assert counts.dtype == np.uint16
    assert 513 <= counts.shape[0] <= 529
    assert 279 <= counts.shape[1] <= 305
    assert counts.min() >= 1700
    assert counts.max() <= 2800
    assert counts.std() > 20
    np.testing.assert_array_equal(counts, foreign_scan(kind, 3, 1, scale=SMALL))
    other = foreign_scan(kind, 3, 2, scale=SMALL)
    assert other.shape != counts.shape or np.any(other != counts)


def test_a_foreign_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(EdgeError, match="unknown foreign kind 'cat'"):
        foreign_scan("cat", 1, 1)
    with pytest.raises(EdgeError, match="name no image"):
        foreign_scan("weld", 1, -1)
