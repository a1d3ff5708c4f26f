"""Files that are there whole or not at all, whatever kills the program that writes them."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final
from zipfile import BadZipFile, ZipFile, is_zipfile

import cv2
import numpy as np
import numpy.typing as npt

import edge.system.files
from edge.system.names import IGNORED_FOLDERS
from train.errors import DataError, TrainError

DAMAGE: Final = (
    *(ArithmeticError, AssertionError, AttributeError, BadZipFile, EOFError, LookupError, MemoryError),
    *(pickle.UnpicklingError, RuntimeError, struct.error, TypeError, ValueError, zlib.error),
)
"""What readers of stored tensors raise for a file that is damaged, or not theirs; a disk that fails is an OSError."""
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
"""How the name of an image that is no scan of the line ends, in any case of its letters."""


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(PICTURE_SUFFIXES)


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and its sub-folders, sorted; through no link to a folder.

    Raises DataError for one that cannot be listed: `Path.rglob` leaves it out without a word.
    """

    def refuse(error: OSError) -> None:
        place = Path(error.filename or folder)
        if place == folder or not _is_file_systems_own(place):
            raise _not_listed(place, error)

    return sorted(Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names)


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder, sorted. Raises DataError where it cannot be listed: `Path.glob` finds nothing there."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _not_listed(folder, error) from None


def folders_of(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, links to folders among them. Raises DataError as `entries_of`, OSError."""
    return [path for path in entries_of(folder) if path.is_dir() and not _is_file_systems_own(path)]


def _is_file_systems_own(folder: Path) -> bool:
    """Whether it is one such as `lost+found`: root alone may list it, and no scans are put there."""
    return folder.name.lower() in IGNORED_FOLDERS


def _not_listed(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder {folder} cannot be listed: {error.strerror}",
        hint="look at the folder and who may read it, or take it out of the data: what lies in it would be missing",
    )


def read_picture(path: Path, flags: int) -> npt.NDArray[np.integer | np.floating] | None:
    """Pixels of an image as `cv2.imread` gives them with these flags, None where it is not one.

    Raises DataError for a name that is not UTF-8: OpenCV 5.0 crashes on it, and no table can hold it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: its name is not UTF-8", hint="rename it, or take it out of the folder") from None
    return cv2.imread(str(path), flags)


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of `path` once it is on the disk; its folder is made.

    Raises OSError, also where torch.save says in words of its own what the disk said.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with edge.system.files.write_whole(path, durable=True) as stream:
            yield stream
    except RuntimeError as error:
        reason = error.__context__
        if isinstance(reason, OSError):
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU and never as code. Raises OSError, ValueError where the file is damaged."""
    import torch  # `edge-train bounds` runs without it

    try:
        if is_zipfile(path):  # not so what older releases of torch wrote
            with ZipFile(path) as members:
                if (damaged := members.testzip()) is not None:  # torch does not look at checksums
                    raise ValueError(f"{damaged} in it is damaged: another checksum than when it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else repr(error)) from error


@contextmanager
def results_folder(path: Path) -> Iterator[None]:
    """Make a folder for results and write to it, before hours of work need it; inside, no other command has it.

    Raises TrainError where one has it, OSError where it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path):
        pass
    with ExitStack() as stack:
        try:
            stack.enter_context(edge.system.files.hold_folder(path))
        except BlockingIOError:
            raise TrainError(
                f"another edge-train writes into {path}", hint="wait for it, or name another folder with --out"
            ) from None
        try:
            yield
        except OSError as error:  # that of a full disk names nothing by itself
            if error.filename is None:
                error.filename = str(path)
            raise


def clear_results(folder: Path, *patterns: str) -> None:
    """Remove results of an earlier run before this one's take their place: a kill must not leave those beside these."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """UTF-8, but for names of files in it that are not: they keep their bytes."""
    with write_whole(path) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: object) -> None:
    """JSON with sorted keys; a NaN in it is a ValueError."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    with write_whole(path) as stream:
        stream.write(text.encode() + b"\n")
