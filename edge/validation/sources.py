"""Where the scans of a replay lie: a folder of this machine, or a store that the library fsspec reaches.

Scans are always read from a local folder, by the code of the line. What lies in a store is copied into a temporary
folder, a few scans ahead of the networks, and removed when it is judged. A scan that is gone becomes `vanished`, as one
of a folder does; a store that does not answer, refuses or breaks off ends the replay, which takes up there later: an
outage must not make verdicts.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge.errors import SettingsError, SourceError
from edge.system.logs import event
from edge.system.names import IGNORED_FOLDERS, IGNORED_STARTS, display_name, is_scan_name

log = logging.getLogger(__name__)

FETCHED_AHEAD = 4
"""Scans of a store that are copied at the same time, and that wait for the networks."""
PAUSES_S = (1.0, 5.0)
"""Before a scan is asked for again, after what the store's own library tried."""
MOST_NAME_BYTES = 255
"""Longest part of a path on the file systems of Linux."""

Todo = tuple[int, str]
"""A file by its name, with its place in the list of files."""


@dataclass(frozen=True, slots=True)
class Served:
    """Files in a local folder, in the order they were asked for."""

    folder: Path
    files: Iterator[Todo]
    """Each comes when it lies in the folder. Raises SourceError."""
    release: Callable[[str], None]
    """Says that a file is no longer needed."""


class Source(Protocol):
    """A folder of scans, wherever it lies. It can be sent to another process."""

    @property
    def name(self) -> str:
        """The folder as the command line names it."""
        ...

    @property
    def place(self) -> str:
        """Where it lies, from wherever it was named; files of one name in two folders are two."""
        ...

    def names(self) -> Iterator[str]:
        """The files the inbox would find, relative, in any order. Raises SettingsError, SourceError."""
        ...

    def served(self, files: Iterable[Todo], /) -> AbstractContextManager[Served]:
        """Context manager that brings `files` to where they can be read."""
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
    def place(self) -> str:
        return str(self.path.resolve())

    def names(self) -> Iterator[str]:
        """Without a list of the folder in memory. A sub-folder that cannot be listed is logged and left out."""
        try:
            yield from self._below("")
        except OSError as error:
            raise SettingsError(
                f"{self.path} is not a folder that can be listed: {error.strerror}", hint="name the folder of scans"
            ) from None

    @contextmanager
    def served(self, files: Iterable[Todo], /) -> Iterator[Served]:
        """The folder itself."""
        yield Served(self.path, iter(files), lambda _: None)

    def _below(self, prefix: str) -> Iterator[str]:
        folders = []
        with os.scandir(self.path / prefix) as entries:
            for entry in entries:
                if entry.name.startswith(IGNORED_STARTS):
                    continue
                if self.recursive and entry.is_dir(follow_symlinks=False):
                    if entry.name.lower() not in IGNORED_FOLDERS:
                        folders.append(f"{prefix}{entry.name}/")
                elif is_scan_name(entry.name):
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
    def place(self) -> str:
        return self.url

    def names(self) -> Iterator[str]:
        """S3: page by page; other stores: folder by folder. Nothing that was listed stays in memory."""
        with closing(_Store(self.url)) as store:
            for name in store.s3_names(self.recursive) if store.is_s3 else store.names(self.recursive):
                *folders, last = name.split("/")
                if not is_scan_name(last) or any(
                    part.startswith(IGNORED_STARTS) or part.lower() in IGNORED_FOLDERS for part in folders
                ):
                    continue
                if last.startswith(IGNORED_STARTS):
                    continue
                if not all(0 < len(part.encode()) <= MOST_NAME_BYTES for part in (*folders, last)):
                    raise SettingsError(
                        f"{self.url} holds {display_name(name)[:200]!r}, a name that no file of this machine can have",
                        hint="rename it, or name another folder of the store",
                    )
                yield name

    @contextmanager
    def served(self, files: Iterable[Todo], /) -> Iterator[Served]:
        """Copies of the files, FETCHED_AHEAD of them at a time."""
        folder = Path(tempfile.mkdtemp(prefix="edge-replay-"))
        try:
            with closing(_Store(self.url)) as store:
                yield Served(folder, store.copied(files, folder), lambda file: (folder / file).unlink(missing_ok=True))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Store:
    """A folder of a store, open; close it at the end.

    Its library is called in threads: it may raise whatever the libraries below it do, and a thread hands that over as
    an answer.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise SettingsError(
                f"{url} lies in a store, and the library fsspec is not installed",
                hint="pip install fsspec and what it needs for the store (s3fs, gcsfs), or mount the store as a folder",
            ) from None
        try:
            self._store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # of a protocol that is unknown, or whose library is missing
            raise SettingsError(f"{url} cannot be opened: {error}", hint="install what fsspec asks for") from None
        self._url, self._root = url, root.rstrip("/")
        self._pool = ThreadPoolExecutor(FETCHED_AHEAD, thread_name_prefix="store")

    @property
    def is_s3(self) -> bool:
        """Whether it is one of s3fs, which gives all keys of a folder at once unless it is asked for pages."""
        return hasattr(self._store, "call_s3")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def names(self, recursive: bool) -> Iterator[str]:
        """All files, relative."""
        if not self._ask(self._store.isdir, self._root):
            raise self._no_folder()
        walk = self._store.walk(self._root, maxdepth=None if recursive else 1, on_error="raise", detail=True)
        while (found := self._ask(next, walk, None)) is not None:
            _, folders, files = found
            for name in list(folders):
                if name.startswith(IGNORED_STARTS) or name.lower() in IGNORED_FOLDERS:
                    del folders[name]
            for facts in files.values():
                yield facts["name"].removeprefix(self._root).removeprefix("/")

    def s3_names(self, recursive: bool) -> Iterator[str]:
        """All keys, relative, a page of a thousand at a time."""
        bucket, _, below = self._root.partition("/")
        prefix = f"{below}/" if below else ""
        asked = {"Bucket": bucket, "Prefix": prefix, **({} if recursive else {"Delimiter": "/"})}
        page = self._ask(self._store.call_s3, "list_objects_v2", **asked)
        if not page.get("KeyCount"):
            raise self._no_folder()
        while True:
            for facts in page.get("Contents", ()):
                yield facts["Key"].removeprefix(prefix)
            if not page.get("IsTruncated"):
                return
            token = page["NextContinuationToken"]
            page = self._ask(self._store.call_s3, "list_objects_v2", **asked, ContinuationToken=token)

    def copied(self, files: Iterable[Todo], folder: Path) -> Iterator[Todo]:
        """The files, each when its copy lies in `folder` or when it is known to be gone."""
        begun: deque[tuple[Todo, Future[None]]] = deque()
        for todo in files:
            begun.append((todo, self._pool.submit(self._copy, todo[1], folder)))
            if len(begun) == FETCHED_AHEAD:
                yield self._ended(*begun.popleft(), folder)
        while begun:
            yield self._ended(*begun.popleft(), folder)

    def _copy(self, file: str, folder: Path) -> None:
        remote, target = f"{self._root}/{file}", folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store.get_file(remote, str(target))
            with suppress(NotImplementedError):  # of a store without times: that of the copy stands
                modified_s = self._store.modified(remote).timestamp()
                os.utime(target, (modified_s, modified_s))
        except BaseException:
            target.unlink(missing_ok=True)  # half a scan must not be read
            raise

    def _ended(self, todo: Todo, copy: Future[None], folder: Path) -> Todo:
        """The file, once it is copied; asked for again where the store may answer the next time."""
        for pause_s in (*PAUSES_S, None):
            error = copy.exception()
            if error is None:
                return todo
            if isinstance(error, FileNotFoundError) and folder.is_dir():
                event(log.warning, "file not fetched", file=display_name(todo[1]), error=str(error))
                return todo
            if pause_s is None or isinstance(error, PermissionError):
                break
            time.sleep(pause_s)
            copy = self._pool.submit(self._copy, todo[1], folder)
        raise SourceError(
            f"{display_name(todo[1])} of {self._url} cannot be copied to {folder.parent}: {_words(error)}",
            hint="run it again when the store answers, there is room, or you may read it: what was judged is kept",
        ) from error

    def _ask(self, call: Callable[..., Any], *arguments: Any, **words: Any) -> Any:
        error = (asked := self._pool.submit(call, *arguments, **words)).exception()
        if error is None:
            return asked.result()
        if isinstance(error, FileNotFoundError):
            raise self._no_folder() from error
        raise SourceError(
            f"{self._url} cannot be listed: {_words(error)}", hint="check the address and the credentials of the store"
        ) from error

    def _no_folder(self) -> SettingsError:
        return SettingsError(f"{self._url} is no folder of the store, or an empty one", hint="check the address")


def _words(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
