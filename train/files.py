"""Files that are there whole or not at all, whatever kills the program that writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge.system.files import sync_directory


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of `path` once it is on the disk; its folder is made.

    Raises OSError, also where torch.save says in words of its own what the disk said.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except RuntimeError as error:
        reason = error.__context__
        if isinstance(reason, OSError):
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_json(path: Path, content: object) -> None:
    """JSON with sorted keys; a NaN in it is a ValueError."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    with written_whole(path) as stream:
        stream.write(text.encode() + b"\n")
