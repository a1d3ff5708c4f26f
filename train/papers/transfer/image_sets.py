"""Labelled images of any number of classes, in a training part and a test part, at one size in memory.

Four kinds are read. An .npz with x_train, y_train, x_test and y_test, as MNIST comes. A zip or a folder of pictures,
whose class is the folder they lie in; where a folder above is called `train` or `test` that is the split, else a share
of each class is drawn for the test. And a folder of labelled 16-bit scans (`train.dataset`), of which whole lots are
held out.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Image, Size
from edge.system.names import is_scan_name
from edge.system.progress import Reporter
from train.bounds import bounds_needed
from train.dataset import LABELS, LABELS_NAME, LoadedScans, load_split, read_labels, split_by_lot
from train.errors import DataError
from train.files import entries_of, folders_of
from train.papers.transfer.pictures import PictureFolder, check_members, decode, open_pictures, resized
from train.survey import natural

ARRAYS: Final = ("x_train", "y_train", "x_test", "y_test")
SPLITS: Final = ("train", "test")
LEAST_TRAINING: Final = 2
"""Images of a class: of one alone there is no deviation to standardise by."""
MAX_BYTES: Final = 16 << 30
"""Most bytes that all images may take at their size in memory."""
_WINDOW = 256
"""Pictures read ahead."""


@dataclass(frozen=True)
class Part:
    """Images uint8 (n, channels, height_px, width_px) and what is known of each."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    """Indices of classes (n,)."""
    names: tuple[str, ...]
    groups: tuple[str, ...]
    """What must not be torn apart when a part of them is held out: of scans their lot, of others themselves."""


@dataclass(frozen=True)
class ImageSet:
    """A data set as the detector takes it."""

    name: str
    classes: tuple[str, ...]
    training: Part
    test: Part
    digest: str
    """SHA-256 over content, class and split of every image."""
    split: str
    """How it was split, for the report."""
    copies: int
    """Test images whose bytes are also a training image's."""
    mirrors: tuple[int, ...]
    """Axes of (n, channels, height, width) along which an image may be mirrored and stays what it is."""
    scans: ScanFacts | None = None
    """Only of 16-bit scans: what a checkpoint for the line must know."""


@dataclass(frozen=True)
class ScanFacts:
    """How the scans became images, and all of them as they were read."""

    method: Method
    bounds: Bounds | None
    training: LoadedScans
    test: LoadedScans


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken of a data set, and at which size."""

    size: Size
    per_class: int | None = None
    """At most so many training images of each class."""
    test_share: float = 0.3
    """Share of each class, or of the lots, that is the test, where the set itself is not split."""
    method: Method = Method.GLOBAL
    """Conversion of 16-bit scans."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Listed:
    """A picture before it is read."""

    name: str
    label: str
    split: str


def open_image_set(path: Path, choice: Choice, reporter: Reporter) -> ImageSet:
    """Read a data set. Raises DataError naming the file, the class or the array that makes no sense."""
    if not 0.0 < choice.test_share < 1.0:
        raise DataError(f"a test share of {choice.test_share}", hint="a share between 0 and 1, such as 0.3")
    if choice.per_class is not None and choice.per_class < LEAST_TRAINING:
        raise DataError(
            f"{choice.per_class} images per class", hint=f"at least {LEAST_TRAINING}, or leave --per-class out"
        )
    if path.suffix == ".npz":
        return _arrays(path, choice)
    if path.is_dir() and _holds_scans(path):
        return _scans(path, choice, reporter)
    with open_pictures(path) as folder:
        return _pictures(path, folder, choice, reporter)


def _holds_scans(path: Path) -> bool:
    if (path / LABELS_NAME).is_file():
        return True
    labels = (label for lot in folders_of(path) for label in folders_of(lot) if label.name in LABELS)
    return any(is_scan_name(file.name) for label in labels for file in entries_of(label))


def _scans(path: Path, choice: Choice, reporter: Reporter) -> ImageSet:
    training_rows, test_rows = split_by_lot(read_labels(path), choice.test_share, choice.seed)
    for label, name in enumerate(LABELS):
        if (count := sum(row.label == label for row in training_rows)) < LEAST_TRAINING:
            raise DataError(
                f"{count} {name} scans in the training lots of {path}, at least {LEAST_TRAINING} are needed",
                hint="label more scans, or try another --seed",
            )
    bounds = bounds_needed(choice.method, training_rows, "per_scan", reporter.counter)
    scans = load_split(training_rows, test_rows, choice.method, bounds, choice.size, reporter.counter)
    training, test = scans.training, scans.held_out
    held_out = sorted({row.lot for row in test_rows})
    seen = {fact.sha256 for fact in training.facts}
    return ImageSet(
        name=path.name,
        classes=LABELS,
        training=_part_of_scans(training),
        test=_part_of_scans(test),
        digest=scans.digest,
        split=f"lots held out: {', '.join(held_out)}",
        copies=sum(fact.sha256 in seen for fact in test.facts),
        mirrors=(2, 3),
        scans=ScanFacts(choice.method, bounds, training, test),
    )


def _part_of_scans(scans: LoadedScans) -> Part:
    rows = scans.rows
    return Part(scans.images, scans.labels, tuple(row.file for row in rows), tuple(row.lot for row in rows))


def _arrays(path: Path, choice: Choice) -> ImageSet:
    with ExitStack() as stack:
        try:
            check_members(path, stack.enter_context(zipfile.ZipFile(path)))
            stored = stack.enter_context(np.load(path, allow_pickle=False))
            missing = [name for name in ARRAYS if name not in stored.files]
            if missing:
                raise DataError(
                    f"{path} has no {', '.join(missing)}; it holds {', '.join(stored.files) or 'nothing'}",
                    hint=f"an .npz of images holds {', '.join(ARRAYS)}",
                )
            arrays = {name: stored[name] for name in ARRAYS}
        except (OSError, ValueError, MemoryError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read: {error}", hint="copy it again; it may be cut short") from error
    digest, rows = hashlib.sha256(), []
    for split in SPLITS:
        pixels, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        _check_arrays(path, split, pixels, labels)
        digest.update(np.ascontiguousarray(pixels).tobytes() + labels.astype(np.int64).tobytes())
        rows += [_Listed(str(number), str(label), split) for number, label in enumerate(labels.tolist())]
    classes = _classes(path, rows)
    kept = _limited(rows, choice)
    _check_memory(len(kept), choice.size, 3 if arrays["x_train"].ndim == 4 else 1)
    contents = {split: {image.tobytes() for image in arrays[f"x_{split}"]} for split in SPLITS}
    return ImageSet(
        name=path.name,
        classes=classes,
        training=_part(kept, "train", classes, [resized(p, choice.size) for p in _chosen(arrays, kept, "train")]),
        test=_part(kept, "test", classes, [resized(p, choice.size) for p in _chosen(arrays, kept, "test")]),
        digest=digest.hexdigest(),
        split="the set's own",
        copies=len(contents["train"] & contents["test"]),
        mirrors=(),  # digits and letters are not what their mirror images are
    )


def _chosen(arrays: dict[str, np.ndarray], rows: Sequence[_Listed], split: str) -> np.ndarray:
    pixels: np.ndarray = arrays[f"x_{split}"][[int(row.name) for row in rows if row.split == split]]
    return pixels


def _check_arrays(path: Path, split: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    fits = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)
    if pixels.dtype != np.uint8 or not fits or min(pixels.shape[1:]) < 1:
        raise DataError(
            f"{path}: x_{split} is {pixels.dtype} {pixels.shape}, expected uint8 (n, height, width) or (n, h, w, 3)",
            hint="store the images with 8 bits a channel",
        )
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"{path}: y_{split} is {labels.dtype} {labels.shape}, expected {len(pixels)} whole numbers",
            hint="one class number for every image",
        )


def _pictures(path: Path, folder: PictureFolder, choice: Choice, reporter: Reporter) -> ImageSet:
    rows, split = _split(path, folder.names, choice)
    classes = _classes(path, rows)
    kept = _limited(rows, choice)
    _check_memory(len(kept), choice.size, 3)

    def load(row: _Listed) -> tuple[Image, str]:
        content = folder.read(row.name)
        return decode(row.name, content, choice.size), hashlib.sha256(content).hexdigest()

    images, sha256s = [], []
    for image, sha256 in _in_order(load, kept, reporter.counter("pictures")):
        images.append(image)
        sha256s.append(sha256)
    channels = max(len(image) for image in images)
    images = [np.repeat(image, channels, axis=0) if len(image) < channels else image for image in images]
    lines = sorted(f"{sha256},{row.label},{row.split}\n" for row, sha256 in zip(kept, sha256s, strict=True))
    of_split = {name: {s for row, s in zip(kept, sha256s, strict=True) if row.split == name} for name in SPLITS}
    parts = {
        name: _part(kept, name, classes, [i for row, i in zip(kept, images, strict=True) if row.split == name])
        for name in SPLITS
    }
    return ImageSet(
        name=path.name,
        classes=classes,
        training=parts["train"],
        test=parts["test"],
        digest=hashlib.sha256("".join(lines).encode()).hexdigest(),
        split=split,
        copies=len(of_split["train"] & of_split["test"]),
        mirrors=(3,),
    )


def _split(path: Path, names: Sequence[str], choice: Choice) -> tuple[list[_Listed], str]:
    """Class and split of every picture, and the split in words."""
    rows = []
    for name in names:
        above = PurePosixPath(name).parts[:-1]
        if not above or above[-1] in SPLITS:
            raise DataError(
                f"{name} in {path} lies in no class folder", hint="put pictures into CLASS/ or train/CLASS/"
            )
        rows.append(_Listed(name, above[-1], next((part for part in above[:-1] if part in SPLITS), "")))
    if not rows:
        raise DataError(
            f"{path} holds no pictures", hint="pictures are .jpg, .png, .bmp or 8-bit .tif in class folders"
        )
    unsplit = [row for row in rows if not row.split]
    if not unsplit:
        return rows, "the set's own train/ and test/"
    if len(unsplit) < len(rows):
        raise DataError(
            f"{unsplit[0].name} in {path} lies neither in train/ nor in test/, others do", hint="sort all or none"
        )
    rng = np.random.default_rng(choice.seed)
    drawn: list[_Listed] = []
    for label in sorted({row.label for row in rows}):
        of_class = [row for row in rows if row.label == label]
        tested = set(rng.permutation(len(of_class))[: max(1, round(choice.test_share * len(of_class)))].tolist())
        drawn += [_Listed(row.name, label, SPLITS[i in tested]) for i, row in enumerate(of_class)]
    return drawn, f"{choice.test_share:.0%} of each class drawn for the test, seed {choice.seed}"


def _classes(path: Path, rows: Sequence[_Listed]) -> tuple[str, ...]:
    """Names of the classes, sorted. Raises DataError unless there are two and each can be trained on and tested."""
    classes = tuple(sorted({row.label for row in rows}, key=natural))
    if len(classes) < 2:
        raise DataError(
            f"{path} holds one class only, {', '.join(classes)}", hint="one against the rest needs at least two"
        )
    for label in classes:
        count = {split: sum(row.label == label and row.split == split for row in rows) for split in SPLITS}
        if count["train"] < LEAST_TRAINING or not count["test"]:
            raise DataError(
                f"class {label} of {path} has {count['train']} images to train on and {count['test']} to test",
                hint=f"every class needs {LEAST_TRAINING} and 1 at least: add images, or take the class out",
            )
    return classes


def _limited(rows: Sequence[_Listed], choice: Choice) -> list[_Listed]:
    """All test images and at most `per_class` training images of each class, in the order they came."""
    if choice.per_class is None:
        return list(rows)
    rng = np.random.default_rng(choice.seed)
    left_out: set[int] = set()
    for label in sorted({row.label for row in rows}):
        of_class = [i for i, row in enumerate(rows) if row.label == label and row.split == "train"]
        left_out.update(rng.permutation(of_class)[choice.per_class :].tolist())
    return [row for i, row in enumerate(rows) if i not in left_out]


def _part(rows: Sequence[_Listed], split: str, classes: Sequence[str], images: Sequence[Image]) -> Part:
    of_split = [row for row in rows if row.split == split]
    names = tuple(row.name for row in of_split)
    return Part(np.stack(images), np.array([classes.index(row.label) for row in of_split], np.int64), names, names)


def _check_memory(count: int, size: Size, channels: int) -> None:
    needed_bytes = count * channels * size.height_px * size.width_px
    if needed_bytes > MAX_BYTES:
        raise DataError(
            f"{count} images of {size.height_px} x {size.width_px} px take {needed_bytes / 2**30:.0f} GiB,"
            f" at most {MAX_BYTES / 2**30:.0f} are kept",
            hint="a smaller --size, or fewer images with --per-class",
        )


def _in_order(
    load: Callable[[_Listed], tuple[Image, str]], rows: Sequence[_Listed], progress: Callable[[int, int], None]
) -> Iterator[tuple[Image, str]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(rows), _WINDOW):
            yield from pool.map(load, rows[start : start + _WINDOW])
            progress(min(start + _WINDOW, len(rows)), len(rows))
