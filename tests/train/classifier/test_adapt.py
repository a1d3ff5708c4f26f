"""A classifier carried over to another line by normal scans of it, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from edge.images.conversion import prepare
from edge.records import counts_sha256
from tests.support.lots import write_brighter
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.classifier import features
from train.classifier.adapt import adapt_to
from train.classifier.experiment import BEST
from train.classifier.learner import Samples, learn
from train.classifier.models import classifier_of
from train.classifier.pooling import CHANNELS, TILE_SHAPE, TILES
from train.cli import main
from train.dataset import Row, read_frame, read_labels
from train.errors import DataError
from train.networks import p_abnormal_of

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("shallow")]

SIZE = ["--size", "64x64", "--weights", "none"]


def samples_of_a_line(seed: int, level: float, lots: int = 4) -> Samples:
    """Ten scans a lot; in abnormal ones a tile stands out from what is usual, by place and line."""
    rng = np.random.default_rng(seed)
    count = 10 * lots
    labels = np.tile([0, 1], count // 2)
    usual = level * (1 + np.random.default_rng(int(level)).random(TILE_SHAPE))
    tiles = usual + level * 0.1 * rng.random((count, 4, *TILE_SHAPE))
    for number in np.flatnonzero(labels):
        tiles[number, :, :, rng.integers(TILES), :40] += 0.4 * level
    whole = np.zeros((count, 4, 3, CHANNELS), np.float32)
    names = tuple(f"B{number // 10}" for number in range(count))
    files = tuple(f"{number}.tif" for number in range(count))
    return Samples(whole, tiles.astype(np.float16), labels, np.zeros(count, np.bool_), names, files)


def test_normal_scans_of_another_line_carry_a_classifier_over_to_it() -> None:
    learnt = learn(samples_of_a_line(0, 1.0), BEST, {})
    other = samples_of_a_line(1, 3.0, lots=6)
    held_out = other.take(np.arange(40, 60))
    known = other.take(np.array([i for i in range(40) if other.labels[i] == 0]))
    before = (learnt.predict(held_out) >= learnt.threshold) == held_out.labels
    assert before.mean() <= 0.5  # what is usual there is called abnormal
    adapted = adapt_to(learnt, known, 0.05).learnt
    after = (adapted.predict(held_out) >= adapted.threshold) == held_out.labels
    assert after[held_out.labels == 1].all() and after.mean() >= 0.9
    assert adapted.layers is learnt.layers
    assert torch.equal(adapted.selection.centre, learnt.selection.centre)
    assert not torch.equal(adapted.selection.tile_centre, learnt.selection.tile_centre)


def test_each_lot_is_judged_by_what_the_others_show() -> None:
    """By its own place statistics a lot that stands apart would be usual, and the threshold too low for the next."""
    learnt = learn(samples_of_a_line(0, 1.0), BEST, {})
    normal = samples_of_a_line(1, 1.0)
    normal = normal.take(np.flatnonzero(normal.labels == 0))
    tiles = normal.tiles.copy()
    tiles[15:, :, :, 5, :40] += 0.4  # the last lot
    apart = replace(normal, tiles=tiles)
    adapted = adapt_to(learnt, apart, 0.2)
    by_own = adapted.learnt.predict(apart)
    assert adapted.p_left_out[15:].min() > by_own[15:].max()
    assert (adapted.p_left_out >= adapted.learnt.threshold).sum() == 4


@pytest.fixture(scope="module")
def run(small_lot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        import torchvision
        from torchvision.models.resnet import BasicBlock, ResNet

        patch.setattr(torchvision.models, "resnet34", lambda weights: ResNet(BasicBlock, [1, 1, 1, 1]))
        assert main(["fit-features", str(small_lot), "--out", str(folder), *SIZE]) == 0
    return folder


def right(checkpoint: Checkpoint, rows: list[Row]) -> float:
    """Share of scans that the checkpoint's own network decides as labelled."""
    network = classifier_of(checkpoint)
    images = [prepare(read_frame(row).counts, checkpoint.method, checkpoint.bounds, checkpoint.size) for row in rows]
    with torch.inference_mode():
        p = p_abnormal_of(network(network.normalise(torch.from_numpy(np.stack(images)))).double()).numpy()
    return float(((p >= checkpoint.thresholds["threshold"]) == [row.label for row in rows]).mean())


def test_a_run_is_adapted_to_a_brighter_line_and_says_what_it_has_seen(
    run: Path,
    small_lot: Path,
    held_back: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = write_brighter(held_back, tmp_path / "line", ("normal", "abnormal"))
    learnt = load_checkpoint(run / "classifier.pt", "classifier")
    band = {"review_low": 0.4, "review_high": 0.6}
    calibrated = replace(learnt, thresholds=learnt.thresholds | band, calibrated_sha256s=("c" * 64,))
    run = tmp_path / "calibrated"
    save_checkpoint(run / "classifier.pt", calibrated)
    before = (run / "classifier.pt").read_bytes()
    out = tmp_path / "adapted"
    asked = ["adapt", str(run), str(line), "--out", str(out), "--refused", "0.1"]
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out / 'classifier.pt'}\n"
    assert "left out: 12 scans that are labelled abnormal" in printed.err
    assert "above it are 2 of 12 normal scans, each judged without its own lot" in printed.err
    assert (run / "classifier.pt").read_bytes() == before

    adapted = load_checkpoint(out / "classifier.pt", "classifier")
    assert learnt.bounds is not None and adapted.bounds is not None
    assert adapted.bounds.hi_counts > 1.3 * learnt.bounds.hi_counts
    rows = read_labels(line)
    assert right(learnt, rows) < 0.7 < right(adapted, rows)
    normal = [row for row in rows if row.label == 0]
    own = {sha256(row.path.read_bytes()).hexdigest() for row in normal}
    pixels = {counts_sha256(tifffile.imread(row.path)) for row in normal}
    assert set(adapted.scan_sha256s) == own | set(learnt.scan_sha256s)
    assert set(adapted.scan_pixels_sha256s) == pixels | set(learnt.scan_pixels_sha256s)
    assert adapted.lots == ("B0", "B1", "B2", "H0", "H1", "H2")
    # The line knows its scans by these alone.
    assert len(adapted.exposures) == len(adapted.sharpnesses) == 12
    assert set(adapted.exposure_lots) == {"H0", "H1", "H2"}
    assert adapted.metrics["learnt_data_digest"] == learnt.data_digest != adapted.data_digest
    assert adapted.review_band is None and adapted.calibrated_sha256s == ()  # what was set on the first line is void

    def no_pass(*_: object) -> None:
        raise AssertionError("its features were computed already")

    monkeypatch.setattr(features, "infer_features", no_pass)
    first = (out / "classifier.pt").stat().st_mtime_ns
    assert main(asked) == 0
    assert (out / "classifier.pt").stat().st_mtime_ns > first
    assert load_checkpoint(out / "classifier.pt", "classifier").thresholds == adapted.thresholds


def test_what_cannot_carry_an_adaptation_is_refused_with_what_is_needed(
    run: Path, small_lot: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = write_brighter(held_back, tmp_path / "line")
    out = ["--out", str(tmp_path / "out")]

    def refused(*words: str, code: int = 65) -> str:
        assert main(["adapt", *words]) == code
        return capsys.readouterr().err

    assert "12 normal scans of 3 lots, at least 20 of" in refused(str(run), str(line), *out, "--refused", "0.05")
    assert "--refused 1 is no share" in refused(str(run), str(line), *out, "--refused", "1", code=1)
    few = tmp_path / "few"
    shutil.copytree(line, few)
    rows = (few / "labels.csv").read_text().splitlines()
    (few / "labels.csv").write_text("\n".join(row.replace(",H2,", ",H1,").replace(",H1,", ",H0,") for row in rows))
    assert "12 normal scans of 1 lots, at least 10 of" in refused(str(run), str(few), *out, "--refused", "0.1")
    assert "learnt from lots of these names: B0, B1, B2" in refused(
        str(run), str(write_brighter(small_lot, tmp_path / "same-names")), *out, "--refused", "0.1"
    )
    renamed = tmp_path / "renamed"
    shutil.copytree(small_lot, renamed)
    text = (renamed / "labels.csv").read_text()
    (renamed / "labels.csv").write_text(text.replace(",B", ",C"))
    assert "12 of 12 scans were learnt from, B0_0.tif among them" in refused(
        str(run), str(renamed), *out, "--refused", "0.1"
    )
    assert "is the run itself" in refused(str(run), str(line), "--out", str(run), code=1)
    assert not (tmp_path / "out" / "classifier.pt").exists()


def tiff(path: Path, counts: np.ndarray) -> None:
    tifffile.imwrite(path, counts.astype(np.uint16), photometric="minisblack")


def test_normal_scans_that_say_little_are_refused_and_odd_ones_warned_of(
    run: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def said(name: str, change: Callable[[list[Path]], object], code: int) -> str:
        line = write_brighter(held_back, tmp_path / name)
        change(sorted(line.glob("*.tif")))
        assert main(["adapt", str(run), str(line), "--out", str(out), "--refused", "0.1"]) == code
        assert (out / "classifier.pt").exists() == (code == 0)
        return capsys.readouterr().err

    def blank(scans: list[Path]) -> None:
        for number, scan in enumerate(scans):
            counts = np.full((300, 300), 2000)
            counts[0, 0] += number
            tiff(scan, counts)

    found = said("copies", lambda scans: [shutil.copy(scans[0], scan) for scan in scans[1:4]], 65)
    assert "there are 9 normal scans of 3 lots, at least 10 of 2 lots are needed" in found
    assert "copies of one count once" in found
    found = said("in two lots", lambda scans: shutil.copy(scans[0], scans[-1]), 65)
    assert "H0_0.tif of lot H0 and H2_6.tif of lot H2 are the same scan" in found
    found = said("cut short", lambda scans: scans[0].write_bytes(scans[0].read_bytes()[:1000]), 65)
    assert "1 of 12 scans cannot be read: H0_0.tif" in found and "--skip-unreadable" not in found
    found = said("blank", blank, 65)
    assert "12 of 12 normal scans are above any threshold that refuses 0.1 of them" in found
    found = said("foreign", lambda scans: tiff(scans[0], np.arange(90000).reshape(300, 300) % 65536), 0)
    assert "warning: H0_0.tif reaches from" in found and "no scan of an electrode?" in found
    found = said("crop", lambda scans: tiff(scans[0], tifffile.imread(scans[0])[:100]), 0)
    assert "warning: H0_0.tif is 100 x 300 px, usual are 300 x 300" in found


def test_scores_that_are_not_finite_set_no_threshold() -> None:
    learnt = learn(samples_of_a_line(0, 1.0), BEST, {})
    normal = samples_of_a_line(1, 1.0)
    normal.tiles[3, 0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"of 40 normal scans is not finite, \d+\.tif among them"):
        adapt_to(learnt, normal, 0.2)


def test_a_run_that_does_not_say_how_its_bounds_were_found_is_refused(
    run: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = load_checkpoint(run / "classifier.pt", "classifier")
    for mode in (None, "of old"):
        recipe = {key: value for key, value in learnt.recipe.items() if key != "bounds_mode"}
        recipe |= {} if mode is None else {"bounds_mode": mode}
        save_checkpoint(tmp_path / "run" / "classifier.pt", replace(learnt, recipe=recipe))
        assert main(["adapt", str(tmp_path / "run"), str(held_back), "--out", str(tmp_path / "out")]) == 66
        assert f"found by {mode}, expected per_scan or pooled" in capsys.readouterr().err


def test_fine_tune_does_not_go_on_from_layers_that_read_other_features(
    run: Path, small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--start", str(run / "classifier.pt"), "--size", "64x64"]
    assert main(["fine-tune", str(small_lot), "--out", str(tmp_path), *start]) == 1
    assert "is of fit-features: its layers read other features" in capsys.readouterr().err


def test_a_classifier_without_place_statistics_is_refused(
    small_lot: Path, held_back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "plain.toml"
    recipe.write_text('base = "best"\nfeatures = "mean"\naugmentation = "none"\nthreshold = "half"\n')
    run = tmp_path / "run"
    assert main(["fit-features", str(small_lot), "--out", str(run), "--recipe", str(recipe), *SIZE]) == 0
    assert main(["adapt", str(run), str(held_back), "--out", str(tmp_path / "out")]) == 1
    assert "does not know what is normal at which place" in capsys.readouterr().err
