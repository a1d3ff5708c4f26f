"""Where the scans of a replay lie: a folder of this machine, or a store that the library fsspec reaches.

Scans are always read from a local folder, by the code of the line. What lies in a store is copied, a part at a time,
into a temporary folder and removed when it is judged.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.errors import SettingsError
from edge.scans.scan import SUFFIXES
from edge.station.folder import IGNORED_FOLDERS, IGNORED_STARTS
from edge.system.logs import event
from edge.system.names import display_name

log = logging.getLogger(__name__)


class Source(Protocol):
    """A folder of scans, wherever it lies. It can be sent to another process."""

    @property
    def name(self) -> str:
        """The folder as the command line names it."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether `fetched` costs nothing."""
        ...

    def names(self) -> Iterator[str]:
        """The files the inbox would find, relative, in any order. Raises SettingsError."""
        ...

    def fetched(self, files: Sequence[str], /) -> AbstractContextManager[Path]:
        """Context manager: a local folder that holds `files`."""
        ...


def open_source(folder: Path | str, *, recursive: bool) -> Source:
    """The folder of scans that the command line names; what holds `://` is a store."""
    return StoredFolder(str(folder), recursive) if "://" in str(folder) else LocalFolder(Path(folder), recursive)


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of this machine, mounted shares included."""

    path: Path
    recursive: bool

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def is_local(self) -> bool:
        return True

    def names(self) -> Iterator[str]:
        """Without a list of the folder in memory. A sub-folder that cannot be listed is logged and left out."""
        try:
            yield from self._below("")
        except OSError as error:
            raise SettingsError(
                f"{self.path} is not a folder that can be listed: {error.strerror}", hint="name the folder of scans"
            ) from None

    @contextmanager
    def fetched(self, _files: Sequence[str], /) -> Iterator[Path]:
        """The folder itself."""
        yield self.path

    def _below(self, prefix: str) -> Iterator[str]:
        folders = []
        with os.scandir(self.path / prefix) as entries:
            for entry in entries:
                if entry.name.startswith(IGNORED_STARTS):
                    continue
                if self.recursive and entry.is_dir(follow_symlinks=False):
                    if entry.name.lower() not in IGNORED_FOLDERS:
                        folders.append(f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES):
                    yield prefix + entry.name
        for folder in folders:
            try:
                yield from self._below(folder)
            except OSError as error:
                event(log.warning, "folder skipped", folder=display_name(folder), error=error.strerror)


@dataclass(frozen=True, slots=True)
class StoredFolder:
    """A folder of a store that fsspec knows, such as `s3://bucket/scans`; its credentials are that library's."""

    url: str
    recursive: bool

    @property
    def name(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    def names(self) -> Iterator[str]:
        store, root = self._open_store()
        try:
            if not store.isdir(root):
                raise FileNotFoundError(f"{root} is not a folder")
            for _, folders, files in store.walk(root, maxdepth=None if self.recursive else 1, detail=True):
                for name in list(folders):
                    if name.startswith(IGNORED_STARTS) or name.lower() in IGNORED_FOLDERS:
                        del folders[name]
                for name, facts in files.items():
                    if name.lower().endswith(SUFFIXES) and not name.startswith(IGNORED_STARTS):
                        yield facts["name"].removeprefix(root).lstrip("/")
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{self.url} cannot be listed: {error}", hint="check the address and the credentials of the store"
            ) from None

    @contextmanager
    def fetched(self, files: Sequence[str], /) -> Iterator[Path]:
        """A copy of the files. One that cannot be had is left out, and so becomes `vanished`."""
        store, root = self._open_store()
        folder = Path(tempfile.mkdtemp(prefix="edge-replay-"))
        try:
            for file in files:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    store.get_file(f"{root}/{file}", str(target))
                except OSError as error:
                    target.unlink(missing_ok=True)
                    event(log.warning, "file not fetched", file=display_name(file), error=str(error))
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _open_store(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError:
            raise SettingsError(
                f"{self.url} lies in a store, and the library fsspec is not installed",
                hint="pip install fsspec and what it needs for the store (s3fs, gcsfs), or mount the store as a folder",
            ) from None
        try:
            store, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # of a protocol that is unknown, or whose library is missing
            raise SettingsError(f"{self.url} cannot be opened: {error}", hint="install what fsspec asks for") from None
        return store, root.rstrip("/")
