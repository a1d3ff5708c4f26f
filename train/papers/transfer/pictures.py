"""Ordinary 8-bit pictures out of a folder or a zip, whatever somebody put into it: limits first, then decoding.

Pillow decodes, because it refuses a picture that is cut short where OpenCV fills the rest with grey.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from edge.records import Image as Picture
from edge.records import Size
from train.errors import DataError
from train.files import files_below, is_picture_name

MAX_FILES: Final = 1_000_000
MAX_FILE_BYTES: Final = 64 << 20
MAX_ZIP_BYTES: Final = 16 << 30
"""Most bytes of an archive's members unpacked, all together."""
MAX_PICTURE_PX: Final = 100_000_000
_EIGHT_BIT_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

Read = Callable[[str], bytes]
"""The bytes of one of the names."""


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Names of the pictures in it, sorted, relative to it, with forward slashes; and how to read one."""

    names: tuple[str, ...]
    read: Read


@contextmanager
def open_pictures(path: Path) -> Iterator[PictureFolder]:
    """The pictures of a folder or a zip file. Raises DataError where it is neither or its size makes no sense."""
    if path.is_dir():
        yield _folder(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _zip(path, archive)
    else:
        what = "a file of an unknown kind" if path.exists() else "not there"
        raise DataError(
            f"{path} is {what}", hint="give an mnist.npz, a zip or a folder of class folders, or a folder of scans"
        )


def decode(name: str, content: bytes, size: Size) -> Picture:
    """A picture uint8 (1 or 3, height_px, width_px), red first, stretched to a size. Raises DataError naming it."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _check_kind(name, opened)
            pixels = np.asarray(opened if opened.mode == "L" else opened.convert("RGB"))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(
            f"{name} cannot be read as a picture: {error or type(error).__name__}",
            hint="it is damaged or cut short; replace it or take it out",
        ) from error
    return resized(pixels, size)


def resized(pixels: np.ndarray, size: Size) -> Picture:
    """Pixels uint8 (height, width) or (height, width, 3) -> uint8 (1 or 3, height_px, width_px).

    The area mean where it shrinks, cubic where it grows: a 28 px digit must not become a staircase.
    """
    shrinks = pixels.shape[0] * pixels.shape[1] > size.height_px * size.width_px
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    stretched = cv2.resize(pixels, (size.width_px, size.height_px), interpolation=way)
    return np.ascontiguousarray(stretched[None] if stretched.ndim == 2 else stretched.transpose(2, 0, 1))


def check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise DataError for a zip that would unpack to more than any data set of pictures is."""
    members = archive.infolist()
    total_bytes = sum(member.file_size for member in members)
    for value, limit, what in (
        (len(members), MAX_FILES, "files"),
        (total_bytes, MAX_ZIP_BYTES, "bytes unpacked"),
    ):
        if value > limit:
            raise DataError(f"{path} holds {value:,} {what}, at most {limit:,} are read", hint="split it, or unpack it")


def _folder(path: Path) -> PictureFolder:
    files = [found for found in files_below(path) if is_picture_name(found.name) and found.is_file()]

    def read(name: str) -> bytes:
        file = path / name
        try:
            _check_bytes(name, file.stat().st_size)
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}", hint="check the file and its rights") from error

    return PictureFolder(tuple(file.relative_to(path).as_posix() for file in files), read)


def _zip(path: Path, archive: zipfile.ZipFile) -> PictureFolder:
    check_members(path, archive)
    names = sorted(member.filename for member in archive.infolist() if is_picture_name(member.filename))
    # Finder adds a shadow of every file to the zips it makes.
    names = [name for name in names if not name.startswith("__MACOSX/")]

    def read(name: str) -> bytes:
        _check_bytes(name, archive.getinfo(name).file_size)
        try:
            with archive.open(name) as stream:
                return stream.read(MAX_FILE_BYTES)
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"{name} in {path} cannot be unpacked: {error}", hint="the zip is damaged; copy or make it again"
            ) from error

    return PictureFolder(tuple(names), read)


def _check_bytes(name: str, size_bytes: int) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{name} is {size_bytes:,} bytes, at most {MAX_FILE_BYTES:,} are read", hint="shrink it or take it out"
        )


def _check_kind(name: str, opened: Image.Image) -> None:
    if opened.width * opened.height > MAX_PICTURE_PX:
        raise DataError(
            f"{name} is {opened.height} x {opened.width} px, at most {MAX_PICTURE_PX:,} px are read",
            hint="shrink it or take it out",
        )
    if opened.mode not in _EIGHT_BIT_MODES:
        raise DataError(
            f"{name} has pixels of mode {opened.mode}, expected 8 bits a channel",
            hint="16-bit scans go in as an electrode set: labels.csv, or LOT/normal and LOT/abnormal",
        )
