"""Contact sheets of the weld benchmark's patches: what a person looks at before a network does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.files import write_text, write_whole
from train.gate.perturb import PATCH_PX, Patch
from train.papers.welds.data import FoldData, PatchCounts, fold_data
from train.papers.welds.folds import weld_folds
from train.papers.welds.images import Weld
from train.papers.welds.patches import contrast_table

COLUMNS = 8
ROWS = 5
_GAP_PX = 4
_HEADING_PX = 36
_PERTURBATION_RANGE = 0.25
"""Range of grey of sheets that show W * delta alone: black at less than minus this, white at more than plus."""

Images = npt.NDArray[np.floating]


def write_sheets(
    welds: Sequence[Weld],
    photos: Sequence[Patch],
    out: Path,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """One PNG per kind of patch, with patches of every fold, and `contrasts.md`; returns the paths of all.

    Patches are stretched to their own darkest and brightest thousandth, so that weak defects show on a screen.
    """
    folds = weld_folds(welds, seed)
    each = -(-COLUMNS * ROWS // len(folds))
    counts = PatchCounts(each, each, each, each, each, each, each, each)
    made = []
    for number, fold in enumerate(folds):
        made.append(fold_data(welds, photos, fold, counts, seed))
        if progress is not None:
            progress(number + 1, len(folds))
    paths = []
    for name, (heading, images) in _kinds(made, np.random.default_rng(seed)).items():
        paths.append(out / f"{name}.png")
        _write_png(paths[-1], sheet(f"{name}: {heading}", images[: COLUMNS * ROWS]))
    paths.append(out / "contrasts.md")
    write_text(paths[-1], contrast_table(welds))
    return paths


def sheet(heading: str, images: Images) -> npt.NDArray[np.uint8]:
    """A grid uint8 of images (n, 192, 192) in [0, 1], under one line of text."""
    rows = max(1, -(-len(images) // COLUMNS))
    cell = PATCH_PX + _GAP_PX
    grid = np.full((_HEADING_PX + rows * cell, COLUMNS * cell + _GAP_PX), 255, np.uint8)
    cv2.putText(grid, heading, (_GAP_PX, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 1, cv2.LINE_AA)
    for number, image in enumerate(images):
        top, left = _HEADING_PX + number // COLUMNS * cell, _GAP_PX + number % COLUMNS * cell
        grid[top : top + PATCH_PX, left : left + PATCH_PX] = np.rint(np.clip(image, 0, 1) * 255)
    return grid


def _kinds(folds: Sequence[FoldData], rng: np.random.Generator) -> dict[str, tuple[str, Images]]:
    """Heading and images of every sheet, by its name."""
    accepted = _greys([fold.accepted for fold in folds])
    kinds: dict[str, tuple[str, Images]] = {
        "accepted": ("training welds, clear of defects", _stretched(accepted)),
        "defective": (
            "training welds",
            _stretched(_greys([fold.defective for fold in folds])),
        ),
    }
    for name in folds[0].perturbations:
        delta = np.concatenate([fold.perturbations[name] for fold in folds]).astype(np.float32)
        kinds[f"perturbation-{name}"] = (
            f"W * delta, black -{_PERTURBATION_RANGE}, white +{_PERTURBATION_RANGE}",
            0.5 + 0.5 * delta / np.float32(_PERTURBATION_RANGE),
        )
        ground = accepted[rng.integers(0, len(accepted), size=len(delta))]
        kinds[f"perturbed-{name}"] = ("accepted patch + W * delta", _stretched(np.clip(ground + delta, 0, 1)))
    for name in folds[0].tests:
        images = np.concatenate([fold.tests[name] for fold in folds]).astype(np.float32)
        kinds[f"test-{name}"] = ("test welds", _stretched(images))
    return kinds


def _greys(patches: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """All of them (n, h, w) in [0, 1]."""
    return np.concatenate(patches).astype(np.float32) / np.float32(255)


def _stretched(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each of images (n, h, w) from its darkest to its brightest thousandth of pixels, to [0, 1]."""
    if len(images) == 0:
        return images
    low, high = np.percentile(images, (0.1, 99.9), axis=(1, 2), keepdims=True)
    return np.asarray(np.clip((images - low) / np.maximum(high - low, 1e-6), 0, 1), np.float32)


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise DataError(f"{path}: a sheet of {image.shape} could not be encoded", hint="report this with the command")
    with write_whole(path) as stream:
        stream.write(data.tobytes())
