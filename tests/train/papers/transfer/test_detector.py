"""The transfer detector: what it reads, what it refuses, and what it leaves behind."""

import csv
import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train.papers.transfer.pictures
from edge.records import Size
from edge.system.progress import Reporter
from train.checkpoint import load_checkpoint
from train.classifier.features import open_backbone
from train.classifier.lots import auroc_interval
from train.classifier.models import classifier_of
from train.cli import main
from train.errors import DataError, DivergedError
from train.papers.transfer.detector import (
    DETECTOR,
    ClassResult,
    TransferRecipe,
    frozen_features,
    run_transfer,
    views_of,
)
from train.papers.transfer.fine_tune import Tuning, predict
from train.papers.transfer.image_sets import Choice, ImageSet, open_image_set
from train.papers.transfer.one_class import NAMES, one_class_scores

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)

SIZE = Size(64, 64)
CHOICE = Choice(SIZE)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with an upright bar (class 0), a lying bar (1) or a square (2): uint8 (n, 28, 28) and classes (n,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        top, left = rng.integers(4, 10, 2)
        height, width = ((14, 3), (3, 14), (10, 10))[label]
        image[top : top + height, left : left + width] = 220
    return pixels, labels


def write_arrays(path: Path, **changed: np.ndarray) -> Path:
    (x_train, y_train), (x_test, y_test) = drawn(36, 0), drawn(24, 1)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test} | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def pictures() -> dict[str, bytes]:
    """Pictures of two classes, the second in colour, without a split."""
    pixels, labels = drawn(20, 2)
    files = {}
    for number, (image, label) in enumerate(zip(pixels, labels % 2, strict=True)):
        colours = np.stack([image, image // 2, image // 3], axis=-1) if label else image
        files[f"{('crack', 'sound')[label]}/{number:02}.png"] = png(colours)
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def judge(images: ImageSet, recipe: TransferRecipe) -> list[ClassResult]:
    backbone = open_backbone("none", recipe.choice.size, seed=0, amp=False, device="cpu")
    return run_transfer(images, recipe, backbone, Reporter())


def test_every_class_in_turn_is_told_from_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_arrays(tmp_path / "bars.npz"), tmp_path / "out"
    command = ["transfer", str(data), "--out", str(out), "--weights", "none", "--size", "64"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "transfer.md").read_text()
    assert "`edge-train transfer bars.npz --out out --weights none --fine-tune head --size 64 --seed 0" in printed
    assert "weights none" in printed and "no classifier.pt" in printed
    assert not (out / "classifier.pt").exists()
    found = json.loads((out / "transfer.json").read_text())
    assert set(found["classes"]) == {"0", "1", "2"}
    assert all(areas[DETECTOR]["auroc"] > 0.95 for areas in found["classes"].values())
    rows = list(csv.DictReader(io.StringIO((out / "transfer.csv").read_text())))
    assert [row["normal_class"] for row in rows[::4]] == ["0", "1", "2", "mean"]
    assert {row["detector"] for row in rows} == {DETECTOR, *NAMES}
    means = [np.mean([areas[name]["auroc"] for areas in found["classes"].values()]) for name in (DETECTOR, *NAMES)]
    np.testing.assert_allclose([float(row["auroc"]) for row in rows[-4:]], means, atol=1e-6)
    assert (out / "roc.png").stat().st_size > 1000 and (out / "roc.svg").stat().st_size > 1000
    assert main([*command[:3], str(tmp_path / "again"), *command[4:]]) == 0
    again = json.loads((tmp_path / "again" / "transfer.json").read_text())
    assert again["classes"] == found["classes"]


def test_a_detector_of_one_class_ranks_the_others_above_it(tmp_path: Path) -> None:
    images = open_image_set(write_arrays(tmp_path / "bars.npz"), CHOICE, Reporter())
    (result,) = judge(images, TransferRecipe(CHOICE, weights="none", normal="1"))
    np.testing.assert_array_equal(result.labels, images.test.labels != 1)
    scores = result.scores[DETECTOR]
    assert scores[result.labels == 1].mean() > 0.8 > 0.5 > scores[result.labels == 0].mean()
    assert result.training == (12, 24)


def test_a_zip_and_a_folder_of_the_same_pictures_are_the_same_set(tmp_path: Path) -> None:
    zipped = open_image_set(write_zip(tmp_path / "p.zip", pictures()), CHOICE, Reporter())
    unpacked = open_image_set(write_folder(tmp_path / "p", pictures()), CHOICE, Reporter())
    assert zipped.classes == ("crack", "sound")
    assert zipped.digest == unpacked.digest
    np.testing.assert_array_equal(zipped.training.images, unpacked.training.images)
    # 30 % of 14 and of 6; the grey ones have joined the coloured ones in three channels.
    assert zipped.test.images.shape == (6, 3, 64, 64)
    assert np.bincount(zipped.test.labels).tolist() == [4, 2]
    assert not set(zipped.training.names) & set(zipped.test.names)
    grey = zipped.training.images[zipped.training.labels == 0]
    np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
    other = open_image_set(tmp_path / "p", dataclasses.replace(CHOICE, seed=1), Reporter())
    assert other.test.names != zipped.test.names


def test_a_split_that_the_folders_give_is_kept_and_copies_across_it_are_counted(tmp_path: Path) -> None:
    split = {}
    for number, (name, data) in enumerate(pictures().items()):  # both classes are among the first three
        split[f"set/{'test' if number < 6 else 'train'}/{name}"] = data
        if number < 3:
            split[f"set/train/{name}"] = data
    images = open_image_set(write_zip(tmp_path / "s.zip", split), CHOICE, Reporter())
    assert images.split == "the set's own train/ and test/"
    assert all("/test/" in name for name in images.test.names)
    assert images.copies == 3


def test_fewer_training_images_per_class_leave_the_test_alone(tmp_path: Path) -> None:
    data = write_arrays(tmp_path / "bars.npz")
    few = open_image_set(data, dataclasses.replace(CHOICE, per_class=4), Reporter())
    assert np.bincount(few.training.labels).tolist() == [4, 4, 4]
    assert len(few.test.labels) == 24


def test_mirrored_views_are_looked_at_in_learning_and_judging(tmp_path: Path) -> None:
    assert views_of(()) == [()]
    assert views_of((2, 3)) == [(), (2,), (3,), (2, 3)]
    images = open_image_set(write_zip(tmp_path / "p.zip", pictures()), CHOICE, Reporter())
    assert images.mirrors == (3,)
    backbone = open_backbone("none", SIZE, seed=0, amp=False, device="cpu")
    pixels = images.test.images[:2]
    both = frozen_features(pixels, [(), (3,)], backbone, lambda *_: None)
    mirrored = frozen_features(np.flip(pixels, 3).copy(), [()], backbone, lambda *_: None)
    np.testing.assert_allclose(both[:, 1], mirrored[:, 0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(both[:, 0], both[:, 1], rtol=1e-3)


def test_one_class_baselines_rank_what_lies_apart_above_what_they_learnt_from() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, (50, 40)).astype(np.float32)
    test = np.concatenate([rng.normal(0, 1, (20, 40)), rng.normal(3, 1, (20, 40))]).astype(np.float32)
    scores = one_class_scores(normal, test, seed=0)
    assert tuple(scores) == NAMES
    assert all(values[:20].max() < values[20:].min() for values in scores.values())
    assert all(np.isfinite(values).all() for values in one_class_scores(normal[:2], test, seed=0).values())


def test_the_whole_network_learns_what_its_frozen_features_cannot_tell(small_lot: Path) -> None:
    recipe = TransferRecipe(
        CHOICE, weights="none", fine_tune="all", normal="normal", tuning=Tuning(epochs=5, batch=8, lr=1e-3)
    )
    images = open_image_set(small_lot, CHOICE, Reporter())
    (result,) = judge(images, recipe)
    assert result.auroc(DETECTOR) > 0.9
    np.testing.assert_array_equal(judge(images, recipe)[0].scores[DETECTOR], result.scores[DETECTOR])


def test_a_training_that_diverges_says_where(small_lot: Path) -> None:
    images = open_image_set(small_lot, CHOICE, Reporter())
    recipe = TransferRecipe(CHOICE, weights="none", fine_tune="all", tuning=Tuning(epochs=4, batch=8, lr=1e30))
    with pytest.raises(DivergedError, match=r"the loss is nan at step \d+, on B\d_\d.tif"):
        judge(images, recipe)


@pytest.mark.parametrize("fine_tune_what", ["head", "all"])
def test_the_checkpoint_of_scans_judges_them_as_the_table_says(
    small_lot: Path, tmp_path: Path, fine_tune_what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--weights", "none", "--size", "64", "--fine-tune", fine_tune_what, "--epochs", "2", "--batch", "8"]
    assert main(["transfer", str(small_lot), "--out", str(tmp_path), *options]) == 0
    found = json.loads((tmp_path / "transfer.json").read_text())
    assert list(found["classes"]) == ["normal"]
    checkpoint = load_checkpoint(tmp_path / "classifier.pt", "classifier")
    assert checkpoint.bounds is not None and len(checkpoint.exposures) == 24
    assert 0.0 < checkpoint.thresholds["threshold"] < 1.0
    images = open_image_set(small_lot, CHOICE, Reporter())
    p_abnormal = predict(classifier_of(checkpoint), images.test.images, "cpu", amp=False)
    assert checkpoint.data_digest == images.digest
    area = checkpoint.metrics["test_auroc"]
    of_lots = found["classes"]["normal"][DETECTOR]
    assert area == of_lots["auroc"]
    over_lots = auroc_interval(p_abnormal.astype(np.float64), images.test.labels, images.test.groups)
    assert of_lots["interval"] == pytest.approx(over_lots)
    assert "95 % intervals of the AUROC, over lots" in (tmp_path / "transfer.md").read_text()
    ranked = [p > q for p in p_abnormal[images.test.labels == 1] for q in p_abnormal[images.test.labels == 0]]
    assert np.mean(ranked) == pytest.approx(area)
    kill = KeyboardInterrupt()
    monkeypatch.setattr("train.papers.transfer.results.write_text", lambda *_: (_ for _ in ()).throw(kill))
    assert main(["transfer", str(small_lot), "--out", str(tmp_path), *options, "--seed", "1"]) == 130
    assert load_checkpoint(tmp_path / "classifier.pt", "classifier").seed == 1
    assert not [*tmp_path.glob("transfer.*"), *tmp_path.glob("roc.*")]  # of the other checkpoint


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"y_test": None}, "has no y_test; it holds x_train, y_train, x_test"),
        ({"x_train": np.zeros((36, 28, 28), np.float32)}, r"x_train is float32 \(36, 28, 28\), expected uint8"),
        ({"y_train": np.zeros(7, np.int64)}, r"y_train is int64 \(7,\), expected 36 whole numbers"),
        ({"y_test": np.zeros(24, np.int64)}, "class 1 of .* has 12 images to train on and 0 to test"),
        ({"y_train": np.zeros(36, int), "y_test": np.zeros(24, int)}, "holds one class only, 0"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, changed: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_image_set(write_arrays(tmp_path / "bars.npz", **changed), CHOICE, Reporter())


def test_a_file_of_no_known_kind_or_cut_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.zip is not there"):
        open_image_set(tmp_path / "nowhere.zip", CHOICE, Reporter())
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(DataError, match=r"notes.txt is a file of an unknown kind"):
        open_image_set(tmp_path / "notes.txt", CHOICE, Reporter())
    data = write_arrays(tmp_path / "bars.npz")
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"bars.npz cannot be read"):
        open_image_set(data, CHOICE, Reporter())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        open_image_set(tmp_path / "empty", CHOICE, Reporter())


SOUND = png(np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"crack/zz.png": SOUND[: len(SOUND) // 2]}, "crack/zz.png cannot be read as a picture"),
        ({"crack/zz.jpg": b"no picture at all"}, "crack/zz.jpg cannot be read as a picture"),
        ({"crack/zz.png": png(np.full((20, 20), 900, np.uint16))}, "crack/zz.png has pixels of mode I;16, expected 8"),
        ({"loose.png": SOUND}, "loose.png in .* lies in no class folder"),
        ({"lone/1.png": SOUND, "lone/2.png": SOUND}, "class lone of .* has 1 images to train on and 1 to test"),
        ({"train/crack/1.png": SOUND}, "lies neither in train/ nor in test/, others do"),
    ],
)
def test_a_picture_that_makes_no_sense_is_named(tmp_path: Path, more: dict[str, bytes], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_image_set(write_zip(tmp_path / "p.zip", pictures() | more), CHOICE, Reporter())


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    files = pictures()
    data = write_zip(tmp_path / "p.zip", files)
    with zipfile.ZipFile(data) as archive:
        start = archive.getinfo("crack/00.png").header_offset + 100
    content = bytearray(data.read_bytes())
    content[start : start + 20] = bytes(20)
    data.write_bytes(content)
    with pytest.raises(DataError, match=r"crack/00.png in .*p.zip cannot be unpacked"):
        open_image_set(data, CHOICE, Reporter())


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MAX_FILES", 19, "holds 20 files, at most 19 are read"),
        ("MAX_ZIP_BYTES", 4000, r"bytes unpacked, at most 4,000 are read"),
        ("MAX_FILE_BYTES", 100, r"is .* bytes, at most 100 are read"),
        ("MAX_PICTURE_PX", 700, "is 28 x 28 px, at most 700 px are read"),
    ],
)
def test_a_zip_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    data = write_zip(tmp_path / "p.zip", pictures())
    monkeypatch.setattr(train.papers.transfer.pictures, limit, value)
    with pytest.raises(DataError, match=words):
        open_image_set(data, CHOICE, Reporter())


def test_more_images_than_memory_are_refused_with_numbers(tmp_path: Path) -> None:
    huge = dataclasses.replace(CHOICE, size=Size(20000, 20000))
    with pytest.raises(DataError, match=r"60 images of 20000 x 20000 px take 22 GiB"):
        open_image_set(write_arrays(tmp_path / "bars.npz"), huge, Reporter())


def test_a_class_that_is_not_there_cannot_be_normal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_arrays(tmp_path / "bars.npz")
    command = ["transfer", str(data), "--out", str(tmp_path / "out"), "--weights", "none", "--normal", "seven"]
    assert main(command) == 65
    assert "there is no class 'seven' in bars.npz to take as normal\n  try: choose one of 0, 1, 2" in (
        capsys.readouterr().err
    )


def test_a_gpu_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = ["transfer", str(tmp_path), "--out", str(tmp_path), "--weights", "none", "--device", "cuda"]
    assert main(command) == 1
    assert "torch cannot compute on 'cuda'" in capsys.readouterr().err
