"""X-ray images of fusion welds with masks of their defects: the gate's benchmark (L 3.3).

A folder holds `images/NAME.png`, `masks/NAME.png` for those of them whose defects were drawn, and
`unlabelled/NAME.png`. Networks use masked welds alone; of those without a mask filters use what a list of flaws
describes (`train/papers/welds/cells.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.files import entries_of, is_picture_name, read_picture
from train.gate.perturb import PATCH_PX

_MASK_HINT = "defects are drawn in 255 on 0; a weld whose defects are not drawn has no mask file"


@dataclass(frozen=True, slots=True)
class Weld:
    """One weld: its image uint8 (h, w), and where its defects are, bool (h, w); None where they are not drawn."""

    name: str
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_] | None


def read_welds(folder: Path) -> list[Weld]:
    """All welds of a folder, masked ones first, each group by name.

    Raises DataError for a folder without images, a file that is no 8-bit grey image, an image smaller than a patch,
    a mask that is empty or full, of another size than its image, or without one, and two files of one name.
    """
    images = _files(folder / "images")
    if not images:
        raise DataError(
            f"no images in {folder / 'images'}",
            hint="expected DIR/images/NAME.png and, for welds whose defects were drawn, DIR/masks/NAME.png",
        )
    drawn, unlabelled = _files(folder / "masks"), _files(folder / "unlabelled")
    for named in ([*images, *unlabelled], drawn):
        _refuse_doubles(named)
    masks = {path.stem: path for path in drawn}
    astray = sorted(masks.keys() - {path.stem for path in images})
    if astray:
        raise DataError(
            f"{masks[astray[0]]}: no image of the same name in {folder / 'images'}",
            hint="a mask is named like its image",
        )
    welds = [_read_weld(path, masks.get(path.stem)) for path in [*images, *unlabelled]]
    return sorted(welds, key=lambda weld: (weld.mask is None, weld.name))


def digest_of(welds: Sequence[Weld], *further: bytes) -> str:
    """SHA-256 over names and pixels of welds and masks, and whatever else a table is made from."""
    digest = hashlib.sha256()
    for weld in welds:
        digest.update(weld.name.encode() + str(weld.image.shape).encode() + weld.image.tobytes())
        if weld.mask is not None:
            digest.update(weld.mask.tobytes())
    for part in further:
        digest.update(part)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Image files of a folder by name; none where there is no such folder."""
    return [path for path in entries_of(folder) if is_picture_name(path.name)] if folder.exists() else []


def _refuse_doubles(paths: Sequence[Path]) -> None:
    """Raises DataError where two files would be one weld: tables count by name."""
    first: dict[str, Path] = {}
    for path in paths:
        if first.setdefault(path.stem, path) is not path:
            raise DataError(
                f"{first[path.stem]} and {path} have the same name but for their endings or folders",
                hint="each weld has a name of its own, and one mask: rename one, or take it out of the folder",
            )


def _read_weld(path: Path, mask_path: Path | None) -> Weld:
    image = _read_grey(path)
    if min(image.shape) < PATCH_PX:
        height, width = image.shape
        raise DataError(
            f"{path} is {height} x {width} px, smaller than a patch of {PATCH_PX} x {PATCH_PX} px",
            hint="take it out of the folder",
        )
    return Weld(path.stem, image, None if mask_path is None else _read_mask(mask_path, path, image.shape))


def _read_mask(path: Path, image_path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    drawn = _read_grey(path)
    if drawn.shape != shape:
        raise DataError(
            f"{path} is {drawn.shape[0]} x {drawn.shape[1]} px, its image {image_path.name} {shape[0]} x {shape[1]} px",
            hint="a mask covers its image pixel by pixel: export it again at the size of the image",
        )
    mask = drawn > 127
    if not mask.any():
        raise DataError(
            f"{path}: no pixel of the mask is above 127, the brightest is {int(drawn.max())}",
            hint=_MASK_HINT,
        )
    if mask.all():
        raise DataError(
            f"{path}: every pixel of the mask is above 127: no sound weld is left to hold a defect against",
            hint=_MASK_HINT,
        )
    return mask


def _read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """The image uint8 (h, w). Raises DataError for an unreadable, a colour or a 16-bit file."""
    image = read_picture(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{path}: not an image that can be read", hint="copy it again, or take it out of the folder")
    if image.dtype != np.uint8:
        raise DataError(
            f"{path} holds {image.dtype} up to {image.max()}, expected 8 bit",
            hint="convert it to 8 bit first: the amplitudes of the perturbations are made for [0, 255]",
        )
    if image.ndim != 2:
        raise DataError(f"{path} has {image.shape[2]} channels, expected 1", hint="save it as a grey image")
    return np.asarray(image, np.uint8)
