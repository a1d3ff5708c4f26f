"""From a recipe to the checkpoint for the line, its calibration, and the doctor's look at the data before."""

import dataclasses
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from edge.images.conversion import clipped_fraction, histogram, prepare
from edge.images.exposure import exposure
from edge.images.method import Method
from edge.records import Size, counts_sha256
from edge.system.progress import Reporter
from train.checkpoint import load_checkpoint
from train.classifier import heads
from train.classifier.calibrate import Wish, calibrate, sentences
from train.classifier.experiment import BEST, PAPER, ExperimentRecipe
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, open_backbone
from train.classifier.fit_all import learn_all
from train.classifier.learner import Samples, calibrated_threshold, inner_parts, learn
from train.classifier.models import classifier_of
from train.classifier.pooling import CHANNELS, TILE_SHAPE, TILES
from train.cli import main
from train.dataset import read_frame, read_labels, scan_facts
from train.doctor import diagnose, histogram_plot
from train.errors import DataError
from train.networks import p_abnormal_of
from train.runner import Here
from train.survey import Survey, survey

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("shallow")]

SIZE = Size(64, 64)
RECIPES = {
    "best": dataclasses.replace(BEST, bounds_mode="per_scan"),
    "paper": dataclasses.replace(PAPER, epochs=2),
    "paper's head on three layers": dataclasses.replace(PAPER, epochs=2, features="layers"),
    "two layers with dropout": dataclasses.replace(
        BEST, features="layers", head="mlp", threshold="half", bounds_mode="per_scan"
    ),
    "with a third class": dataclasses.replace(
        BEST, undecided="class", threshold="half", augmentation="none", method=Method.DHE
    ),
}
"""All but the last see the same images in the same views, so that the features of one serve the others."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def surveyed(tiny_lot: Path) -> Survey:
    return survey(read_labels(tiny_lot), Here(), lambda *_: None, skip_unreadable=False)


@pytest.fixture
def backbone(shallow: None) -> Backbone:
    return open_backbone("none", SIZE, seed=0, amp=False, device="cpu")


@pytest.mark.parametrize("name", RECIPES)
def test_the_checkpoints_network_says_of_images_what_was_learnt_from_features(
    surveyed: Survey, backbone: Backbone, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(heads, "MLP_LEAST_STEPS", 40)
    recipe: ExperimentRecipe = RECIPES[name]
    rows = surveyed.rows
    features = FeatureCache(cache, (TILES, CHANNELS))
    written = learn_all(surveyed, recipe, backbone, features, Here(), tmp_path, Reporter())
    loaded = load_checkpoint(tmp_path / "classifier.pt", "classifier")
    assert loaded.thresholds == written.thresholds
    hists = [histogram(read_frame(row).counts) for row in rows]
    assert loaded.exposures == tuple(exposure(hist) for hist in hists)
    assert loaded.sharpnesses == tuple(fact.sharpness for fact in scan_facts(rows, loaded.bounds))
    clipped = [0.0 if loaded.bounds is None else clipped_fraction(hist, loaded.bounds) for hist in hists]
    assert loaded.max_clipped_fraction == max(clipped)
    network = classifier_of(loaded)
    images = [prepare(read_frame(row).counts, loaded.method, loaded.bounds, SIZE) for row in rows]
    with torch.inference_mode():
        scores = p_abnormal_of(network(network.normalise(torch.from_numpy(np.stack(images)))).double()).numpy()
    labels = np.array([row.label for row in rows])
    decided = ((scores >= loaded.thresholds["threshold"]) == labels).mean()
    sensitivity = ((scores >= loaded.thresholds["threshold"]) & (labels == 1)).sum() / (labels == 1).sum()
    specificity = ((scores < loaded.thresholds["threshold"]) & (labels == 0)).sum() / (labels == 0).sum()
    assert (sensitivity + specificity) / 2 == pytest.approx(loaded.metrics["training_balanced_accuracy"])
    if recipe.head == "logistic":
        assert decided == 1.0


def make_samples(disputed: bool = False) -> Samples:
    """40 scans of 4 lots; abnormal ones have one tile that stands out."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 20)
    tiles = rng.random((40, 4, *TILE_SHAPE)).astype(np.float16)
    for number in np.flatnonzero(labels):
        tiles[number, :, :, rng.integers(TILES), :40] += 3
    whole = rng.random((40, 4, 3, CHANNELS)).astype(np.float32)
    lots = tuple(f"B{number // 10}" for number in range(40))
    argued = np.zeros(40, np.bool_)
    argued[:6] = disputed
    return Samples(whole, tiles, labels, argued, lots, tuple(f"{n}.tif" for n in range(40)))


def test_one_tile_that_stands_out_anywhere_is_enough_for_the_best_recipe() -> None:
    samples = make_samples()
    learnt = learn(samples.take(np.arange(30)), BEST, {})
    held_out = samples.take(np.arange(30, 40))
    assert ((learnt.predict(held_out) >= learnt.threshold) == held_out.labels).all()


def test_the_threshold_comes_from_whole_lots_held_out_in_turn() -> None:
    samples = make_samples()
    parts = inner_parts(samples)
    assert sorted(np.concatenate(parts).tolist()) == list(range(40))
    for part in parts:
        assert {samples.lots[i] for i in part}.isdisjoint({samples.lots[i] for i in set(range(40)) - {*part}})
    assert 0.0 < calibrated_threshold(samples, BEST, {}) < 1.0


def test_disputed_scans_are_left_out_or_pulled_to_the_middle() -> None:
    samples = make_samples(disputed=True)
    plain = learn(samples, BEST, {}).predict(samples)[:6]
    third = learn(samples, dataclasses.replace(BEST, undecided="class"), {}).predict(samples)[:6]
    assert np.abs(third - 0.5).max() < np.abs(plain - 0.5).min()
    without = learn(samples.take(np.arange(6, 40)), BEST, {}).predict(samples)
    dropped = learn(samples, dataclasses.replace(BEST, undecided="drop"), {}).predict(samples)
    np.testing.assert_allclose(dropped, without)


def test_calibration_is_written_into_the_checkpoint_and_measured_on_another_lot(
    small_lot: Path, held_back: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [dataclasses.replace(row, lot=f"C{row.lot[1:]}") for row in read_labels(held_back)]
    run = tmp_path / "run"
    (tmp_path / "quick.toml").write_text(QUICK)
    options = ["--size", "64x64", "--weights", "none", "--cache", str(cache), "--recipe", str(tmp_path / "quick.toml")]
    assert main(["learn", str(small_lot), "--out", str(run), *options]) == 0
    report = calibrate(run, rows, ["C1"], Wish(0.34, None, None), Reporter())
    assert report["calibrated_on"] == ["C0", "C2"]
    assert report["checked_on"] == ["C1"]
    assert report["check"]["covered_abnormal"]["total"] == 4
    assert report["left_out"]["lots"] == 2
    assert report["left_out"]["covered_abnormal"]["total"] == 8
    assert "each of 2 lots left out in turn" in "\n".join(sentences(report))
    loaded = load_checkpoint(run / "classifier.pt", "classifier")
    assert loaded.review_band == tuple(report["review_band"])
    assert loaded.thresholds["threshold"] == report["threshold"]
    assert json.loads((run / "calibration.json").read_text())["wish"]["alpha"] == 0.34
    used = [row for row in rows if row.lot != "C1"]
    assert loaded.calibrated_lots == ("C0", "C2")
    assert loaded.calibrated_sha256s == tuple(sorted(sha256(row.path.read_bytes()).hexdigest() for row in used))
    assert set(loaded.calibrated_pixels_sha256s) == {counts_sha256(tifffile.imread(row.path)) for row in used}
    assert (run / "reliability.png").stat().st_size > 1000
    assert calibrate(run, rows[:16], [], Wish(None, None, 0.0), Reporter())["calibration"]["escapes"] == 0
    assert load_checkpoint(run / "classifier.pt", "classifier").review_band is None
    monkeypatch.setattr("train.classifier.calibrate.write_json", _killed)
    with pytest.raises(KeyboardInterrupt):
        calibrate(run, rows, ["C1"], Wish(0.34, None, None), Reporter())
    monkeypatch.undo()
    assert load_checkpoint(run / "classifier.pt", "classifier").review_band is not None
    assert {path.name for path in run.iterdir()} == {"classifier.pt"}  # and not the report that tells of no band
    learnt_from = read_labels(small_lot)
    with pytest.raises(DataError, match="learnt from lots of these names: B0"):
        calibrate(run, [*rows, *learnt_from[:8]], ["C1"], Wish(None, None, None), Reporter())
    renamed = [dataclasses.replace(row, lot="C9") for row in learnt_from[:2]]
    anew = tmp_path / "anew.tif"
    tifffile.imwrite(anew, tifffile.imread(learnt_from[2].path), byteorder=">", photometric="minisblack")
    renamed.append(dataclasses.replace(learnt_from[2], path=anew, file="anew.tif", lot="C9"))
    with pytest.raises(DataError, match=r"3 of 7 scans were learnt from, B0_0\.tif among them"):
        calibrate(run, [*rows[:2], *rows[8:10], *renamed], ["C1"], Wish(None, None, None), Reporter())
    with pytest.raises(
        DataError, match=r"alpha 0\.05 needs at least 19 lots to calibrate on, there are 2 beside the 1"
    ):
        calibrate(run, rows, ["C1"], Wish(0.05, None, None), Reporter())
    before = (run / "classifier.pt").read_bytes()
    copy = dataclasses.replace(rows[0], lot="C7")
    with pytest.raises(DataError, match=r"H0_0\.tif of lot C0 and H0_0\.tif of lot C7 are the same scan"):
        calibrate(run, [*rows, copy], ["C1"], Wish(None, None, None), Reporter())
    assert (run / "classifier.pt").read_bytes() == before
    with pytest.raises(DataError, match="there is no lot B9"):
        calibrate(run, rows, ["B9"], Wish(None, None, None), Reporter())


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


QUICK = 'base = "best"\nfeatures = "mean+max"\naugmentation = "none"\n'
"""A recipe of few backbone passes."""


def test_one_lot_and_random_weights_are_warned_of(
    small_lot: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(small_lot, data)
    lines = (data / "labels.csv").read_text().splitlines()
    (data / "labels.csv").write_text("\n".join(line for line in lines if not line.startswith(("B1", "B2"))) + "\n")
    (tmp_path / "quick.toml").write_text(QUICK)
    options = ["--size", "64x64", "--weights", "none", "--cache", str(cache), "--recipe", str(tmp_path / "quick.toml")]
    assert main(["fit-features", str(data), "--out", str(run), *options]) == 0
    said = capsys.readouterr().err
    assert "all 8 scans are of lot B0. One lot does not show how lots differ" in said
    assert "warning: the frozen network has random weights" in said
    assert load_checkpoint(run / "classifier.pt", "classifier").thresholds["threshold"] == 0.5


def test_normal_scans_that_are_all_copies_of_one_are_refused(
    surveyed: Survey, backbone: Backbone, tmp_path: Path
) -> None:
    """Saved anew, so that no two files are alike."""
    first = next(scan for row, scan in zip(surveyed.rows, surveyed.scans, strict=True) if row.label == 0)
    scans = [
        dataclasses.replace(scan, pixels_sha256=first.pixels_sha256 if row.label == 0 else scan.pixels_sha256)
        for row, scan in zip(surveyed.rows, surveyed.scans, strict=True)
    ]
    rows = tuple(dataclasses.replace(row, lot="B0") for row in surveyed.rows)
    copies = dataclasses.replace(surveyed, rows=rows, scans=tuple(scans))
    with pytest.raises(DataError, match=r"all normal scans, 6, are B0_0\.tif or copies of it"):
        learn_all(copies, BEST, backbone, FeatureCache(tmp_path, (TILES, CHANNELS)), Here(), tmp_path, Reporter())
    assert not list(tmp_path.iterdir()), "before any feature is computed"


def test_nothing_is_learnt_from_a_scan_that_lies_in_two_lots(
    tiny_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its threshold would be tested on what was learnt from."""
    lot, out = tmp_path / "lot", tmp_path / "out"
    shutil.copytree(tiny_lot, lot)
    shutil.copy(lot / "B0_0.tif", lot / "B2_2.tif")
    assert main(["fit-features", str(lot), "--out", str(out), "--size", "64x64", "--weights", "none"]) == 65
    assert "B0_0.tif of lot B0 and B2_2.tif of lot B2 are the same scan" in capsys.readouterr().err
    assert list(out.iterdir()) == [], "before any feature is computed"


@pytest.mark.parametrize("verb", ["fit-features", "crossval", "ablation"])
def test_wrong_labels_are_told_before_weights_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    (tmp_path / "labels.csv").write_text("file,bundle,label\na.tif,B1,normal\n")
    asked = [verb, str(tmp_path), "--out", str(tmp_path / "run"), "--weights", "no.pth"]
    assert main(asked) == 65
    assert "line 2: there is no file" in capsys.readouterr().err
    if verb == "fit-features":
        (tmp_path / "a.tif").touch()
        assert main([*asked, "--recipe", "best"]) == 65
        assert "all scans that are learnt from have the same label" in capsys.readouterr().err


def test_the_doctor_names_what_is_wrong(small_lot: Path, tmp_path: Path) -> None:
    lines = ["file,bundle,label_1,label_2"]
    for number, lot in enumerate(["B1", "B1", "B2", "B3", "B4", "B5"]):
        shutil.copy(small_lot / f"B0_{number}.tif", tmp_path / f"{number}.tif")
        lines.append(f"{number}.tif,{lot},{('normal', 'abnormal')[number % 2]},normal")
    shutil.copy(small_lot / "B0_0.tif", tmp_path / "copy.tif")
    bright = tifffile.imread(small_lot / "B0_1.tif") + np.uint16(3000)
    tifffile.imwrite(tmp_path / "bright.tif", bright)
    (tmp_path / "broken.tif").write_bytes(b"no scan")
    again = tifffile.imread(small_lot / "B0_3.tif")
    tifffile.imwrite(tmp_path / "again.tif", again, compression="deflate")  # other bytes
    tifffile.imwrite(tmp_path / "blank.tif", np.full((300, 300), 2000, np.uint16))
    lines += ["copy.tif,B2,abnormal,abnormal", "bright.tif,B6,normal,normal", "broken.tif,B6,normal,"]
    lines += ["again.tif,b02,normal,normal", "blank.tif,B5,normal,normal"]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    surveyed = survey(read_labels(tmp_path), Here(), lambda *_: None, skip_unreadable=True)
    text = "\n".join(diagnose(surveyed, ["new.tif"], ["foreign.tif", "x.tif"]).lines)
    assert "10 scans, 4 abnormal, 7 lots; labellers disagree on 3" in text
    assert "2 more scans are listed without a label" in text
    assert "1 scans have no label and are not learnt from: new.tif" in text
    assert "a leak from training to test: 3.tif, again.tif" in text
    assert "lots of names alike, one lot or several? 'b02', 'B2'" in text or "'B2', 'b02'" in text
    assert re.search(r"blank\.tif reaches from \d+ to \d+ counts, usual are \d+ to \d+", text)
    assert "B1: 1 normal, 1 abnormal" in text
    assert "unreadable: broken.tif: " in text
    assert "a leak from training to test: 0.tif, copy.tif" in text
    assert "the same scan with both labels: 0.tif, copy.tif" in text
    assert "lot B6 is all normal" in text
    assert "lot B6 stands apart: median" in text
    histogram_plot(surveyed, tmp_path / "histogram")
    assert (tmp_path / "histogram.svg").stat().st_size > 1000


def test_the_doctor_finds_nothing_in_a_good_folder(small_lot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(small_lot)]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_normal_scans_alone_are_no_problem_to_the_doctor(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "normals"
    for number in range(0, 24, 2):
        lot = folder / f"B{number // 8}" / "normal"
        lot.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_lot / f"B{number // 8}_{number % 8}.tif", lot)
    assert main(["doctor", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "no abnormal scan: of the recipes `neighbours` alone can learn" in said and "no problems found" in said


def test_the_doctor_names_odd_sizes_a_single_lot_and_scans_without_a_label(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        shutil.copy(small_lot / f"B0_{number}.tif", tmp_path / f"{number}.tif")
    tifffile.imwrite(tmp_path / "crop.tif", tifffile.imread(small_lot / "B0_6.tif")[:200])
    rows = [f"{name}.tif,B1,{label}" for name, label in zip("0123", ("normal", "abnormal") * 2, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,bundle,label", *rows, "crop.tif,B1,normal"]) + "\n")
    assert main(["doctor", str(tmp_path)]) == 1
    found = capsys.readouterr().out
    assert "crop.tif is 200 x 300 px, usual are 300 x 300" in found
    assert "all scans are of lot B1" in found
    assert "1 scans have no label and are not learnt from: 4.tif" in found
    assert "no problems" not in found
