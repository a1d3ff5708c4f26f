"""Wakes the inbox when the station folder changes. What is in the folder is for the inbox's listing to say.

Events are hints: inotify sees no writer on another machine, the kernel drops events when its queue is
full, and a watch ends silently when the folder is unmounted. Nothing is lost with them, because the inbox
lists the folder by period anyway; they only make it look sooner.

The way of watching follows the file system of the folder (`/proc/self/mountinfo`):

* a local one is watched with inotify, through watchdog;
* any other (SMB, NFS, FUSE, 9p, VirtualBox, unknown) is polled, and the poll is the inbox's own listing.
  watchdog's PollingObserver is not used: it stats every file of the folder at every turn and stops for
  good when the folder goes away, while the listing asks only for names and inodes and outlives the outage.

Local kinds are listed rather than remote ones, so that an unforeseen file system is polled: that
costs at most one period per scan, whereas an inotify watch that never fires would look healthy.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from watchdog.events import FileClosedEvent, FileCreatedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyConstants

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import Mask

from edge.station.mounts import MOUNTINFO, file_system
from edge.system.logs import event
from edge.system.names import IGNORED_STARTS

log = logging.getLogger(__name__)

RENEW_S = 600.0
"""A watch this old is set anew: an unmount and mount of the same file system ends it without a sign."""

RETRY_S = 5.0
"""Wait before inotify is asked again after it refused (watch or instance limit reached)."""

JOIN_S = 5.0


class WatchMode(StrEnum):
    """What wakes the inbox before its period is over."""

    INOTIFY = "inotify"
    POLL = "poll"


class Watcher:
    """Sets `wake` and calls `touched(path relative to folder, is_new)` when something may have arrived.

    `is_new`: the name was made or moved there; else a file of this name was closed after writing.

    One thread owns it and calls `step` in each of its turns; `touched` is called from watchdog's thread and
    must neither block nor raise. The folder may be absent at any time, also at the start.
    """

    def __init__(
        self,
        folder: Path,
        wake: threading.Event,
        touched: Callable[[str, bool], None],
        *,
        recursive: bool = False,
        mountinfo: Path = MOUNTINFO,
    ) -> None:
        self._folder = folder
        self._wake = wake
        self._touched = touched
        self._recursive = recursive
        self._mountinfo = mountinfo
        self._observer: BaseObserver | None = None
        self._decided_for: tuple[int, int] | None = None
        self._opened_s = -math.inf
        self._retry_at_s = -math.inf
        self._died_s = -math.inf
        self.mode = WatchMode.POLL
        self.reason = "not started"
        """Why `mode` is what it is."""
        self.restarts = 0
        """Observers that died since the start."""
        self._told: tuple[WatchMode, str] | None = None

    @property
    def alive(self) -> bool:
        """Whether an observer runs with all its threads; False is no fault while `mode` is `poll`."""
        observer = self._observer
        if observer is None or not observer.is_alive():
            return False
        emitters = list(observer.emitters)
        return bool(emitters) and all(emitter.is_alive() for emitter in emitters)

    def start(self) -> None:
        """Watch the folder if it is there; else the first `step` that finds it does. Never raises for the folder."""
        self._decide(self._identity())

    def step(self, now_s: float) -> None:
        """Start, renew or drop the observer as the folder asks for. `now_s`: monotonic seconds."""
        if self._opened_s == -math.inf:
            self._opened_s = now_s
        identity = self._identity()
        if self._observer is not None and identity == self._decided_for:
            if not self.alive:
                self.restarts += 1
                event(
                    log.warning, "observer died and is started again", folder=str(self._folder), restarts=self.restarts
                )
                self._retry_at_s = max(now_s, self._died_s + RETRY_S)  # at once, unless it keeps dying
                self._died_s = self._retry_at_s
                self.stop()
            elif now_s - self._opened_s >= RENEW_S:
                self.stop()
        if identity != self._decided_for and now_s >= self._retry_at_s:
            self._decide(identity)
            self._opened_s = now_s
            was_refused = identity is not None and self._decided_for is None
            self._retry_at_s = now_s + RETRY_S if was_refused else -math.inf

    def stop(self) -> None:
        """End the observer's threads; may be called twice, and before start. A later `step` starts anew."""
        observer, self._observer = self._observer, None
        self._decided_for = None
        self.mode = WatchMode.POLL
        self.reason = "stopped"
        if observer is not None:
            observer.stop()
            if observer.ident is not None:
                observer.join(JOIN_S)

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the folder: a watch stays with the inode, not with the name."""
        try:
            status = self._folder.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _decide(self, identity: tuple[int, int] | None) -> None:
        self._choose(identity)
        if self._told != (self.mode, self.reason):
            self._told = self.mode, self.reason
            was_refused = identity is not None and self._decided_for is None
            say = log.warning if was_refused else log.info
            event(say, "folder watched", folder=str(self._folder), by=self.mode.value, because=self.reason)

    def _choose(self, identity: tuple[int, int] | None) -> None:
        self.stop()
        if identity is None:
            self.reason = "the folder is away"
            return
        home = file_system(self._folder, self._mountinfo)
        if not home.is_local:
            self._decided_for = identity
            self.reason = f"inotify sees no remote writer on {home.kind}"
            return
        try:
            self._observer = self._observe()
        except OSError as error:
            self.reason = f"inotify refused: {error.strerror or error}"
            return
        self._decided_for = identity
        self.mode = WatchMode.INOTIFY
        self.reason = home.kind
        self._wake.set()  # what arrived before the watch was set made no event

    def _observe(self) -> BaseObserver:
        # The real path: watchdog does not follow links, and would watch the link itself.
        folder = os.path.realpath(self._folder)
        observer = _ArrivalObserver()
        try:
            observer.schedule(
                _Hints(folder, self._wake, self._touched),
                folder,
                recursive=self._recursive,
                event_filter=[FileCreatedEvent, FileClosedEvent],
            )
            observer.start()
        except OSError:
            observer.stop()
            raise
        return observer


class _Hints(FileSystemEventHandler):
    """Hands events over and does nothing else: an exception here would end watchdog's thread."""

    def __init__(self, folder: str, wake: threading.Event, touched: Callable[[str, bool], None]) -> None:
        self._prefix = folder.rstrip("/") + "/"
        self._wake = wake
        self._touched = touched

    def dispatch(self, event: FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        self._touched(path.removeprefix(self._prefix), isinstance(event, FileCreatedEvent))
        self._wake.set()


class _ArrivalEmitter(InotifyEmitter):
    """Asks the kernel for arrivals only: created, moved in, closed after writing.

    Opens and reads stay out because the worker's own would wake it. Moves *out* stay out because watchdog
    holds every event behind one of them for half a second, to pair it with a move in: with a station that
    renames each finished file, all events would come that late.
    """

    def get_event_mask_from_filter(self) -> Mask:
        mask = (
            InotifyConstants.IN_CREATE
            | InotifyConstants.IN_MOVED_TO
            | InotifyConstants.IN_CLOSE_WRITE
            | InotifyConstants.IN_DELETE_SELF
        )
        return cast("Mask", mask)

    def queue_event(self, event: FileSystemEvent) -> None:
        """Not for drafts, which the listing passes over: a station makes two events of one before the scan's own."""
        if not os.fsdecode(event.src_path).rpartition("/")[2].startswith(IGNORED_STARTS):
            super().queue_event(event)


class _ArrivalObserver(InotifyObserver):
    def __init__(self) -> None:
        super().__init__()
        self._emitter_class = _ArrivalEmitter
