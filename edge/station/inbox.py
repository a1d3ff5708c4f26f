"""Complete scans of the station folder, oldest first. The directory listing is the truth.

A file is handed out once it is **complete**: size, time and inode stood still for `stable_polls` looks and
`stable_for_s` seconds, its TIFF structure lies inside the file, and its marker is there if markers are
asked for. Time means the monotonic `now_s` of the caller. File times only order the files, so a station
with a wrong clock delays nothing. A file that stays incomplete for `incomplete_after_s` without a change is
handed out as final: it gets its verdict `unreadable`. So does one that may not be read: a share says that of what
its writer has locked. What waiting does not change goes out at once: bytes that are no scan, a link, a folder, a pipe.

A folder of many known files costs a listing and no stat: a name whose inode is the recorded one is passed over. Where
there are no markers and no sub-folders, looks that come soon after a listing need none: they are at the names of what
waits, and of what the watcher touched. Where much waits, in any folder, they are at the oldest of it, so that the first
of a backlog do not wait for the next listing.

A replaced file shows by its inode; one rewritten in place by the watcher's touch, or else by the rolling re-stat of
`restat_per_poll` known files per listing. A rewrite in place that keeps size and time is seen by its change time.

A file that is **written again in place** looks whole at every moment: half of it may be the next scan and half the last
one. It is held for `rewrite_hold_s` without a change, a fifth of that once its writer was seen to close it. Who makes a
new file, under another name first, is never held, nor who sets a marker after the last write; one left from the scan
before says nothing. The file counts, by its inode and birth, and not its name: a slot of a ring may be renamed, or
linked, before it is written to. What is replaced or rewritten before it was read is counted, and so is what was whole
and went unread, to where it is no scan of the folder.

While the folder is away nothing is taken as deleted, nothing is handed out, and `state` says why.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from edge.errors import ScanError, ScanIncomplete
from edge.records import Arrival, ExpectedFile, FileStamp
from edge.scans.scan import Limits, check_complete
from edge.station.backlog import FEW, Backlog, Unsettled, Waiting, age
from edge.station.folder import HINTS, Away, FolderState, StationFolder
from edge.station.known import KnownFiles
from edge.station.pace import LISTING_SPACING_S, SPACING_S, Pace, Stopwatch, real_time
from edge.station.unread import UnreadScans
from edge.system.logs import event
from edge.system.names import display_name, is_scan_name

log = logging.getLogger(__name__)

FORGET_EVERY_S = 60.0
"""Between two sweeps for known files that are gone: two of them bound what is remembered of files taken away."""

LONGEST_WAIT_S = 10.0
"""Between two readings of a file that does not change and cannot be read, however long that lasts: what a share had
lost for hours is judged within seconds of its return."""

TOUCHES = 65_536
"""Touched names kept between two looks; the rolling re-stat finds what falls out."""

CHECKS_PER_LOOK = 16
"""Files without room whose structure is looked at in a look: what is written over later was a scan, or was not."""

CLOSED_SHARE = 0.2
"""Share of the hold of a file written again in place that is left once its writer closed it."""


class Inbox:
    """The station folder as a source of complete scans.

    One thread owns it and calls `poll`. `touch`, `finished`, `retry` and the properties are safe
    from any thread. What was handed out is in flight, and not handed out again, until `finished` or `retry`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        known: Mapping[str, FileStamp],
        limits: Limits,
        stable_polls: int = 2,
        stable_for_s: float = 0.2,
        incomplete_after_s: float = 60.0,
        rewrite_hold_s: float = 10.0,
        restat_per_poll: int = 200,
        poll_s: float = 0.1,
        done_suffix: str | None = None,
        recursive: bool = False,
        remembered: str | None = None,
        stopwatch: Stopwatch = real_time,
    ) -> None:
        """`known`: the files that have an outcome, copied. `poll_s`: between two looks while nothing moves.
        `done_suffix`, `recursive`, `remembered`: see `StationFolder`. `stopwatch`: tells what a look cost.
        """
        self._folder = StationFolder(folder, done_suffix=done_suffix, recursive=recursive, remembered=remembered)
        self._limits = limits
        self._stable_polls = stable_polls
        self._stable_for_s = stable_for_s
        self._look_every_s = stable_for_s / max(1, stable_polls - 1)
        self._incomplete_after_s = incomplete_after_s
        self._rewrite_hold_s = max(stable_for_s, rewrite_hold_s)
        self._restat_per_poll = restat_per_poll
        self._pace = Pace(min(LISTING_SPACING_S, poll_s) if self._folder.is_plain else SPACING_S, stopwatch)

        self._known = KnownFiles(known)
        self._waiting: dict[str, Waiting] = {}
        self._in_flight: dict[str, Waiting] = {}
        self._ready = Backlog()
        self._touched: deque[tuple[str, bool, os.stat_result | None]] = deque(maxlen=TOUCHES)
        self._unread = UnreadScans(self._folder, self._known)
        self._unchecked: deque[str] = deque()
        self._closed_ns: dict[str, int] = {}  # name -> change time of the file when a writer closed it
        self._closes_mislead = False
        self._returned: deque[tuple[FileStamp, bool]] = deque()
        self._sweep_at_s: float | None = None

        self._state = FolderState()
        self._is_first_listing = True
        self._listing = 0
        self._fresh: set[str] = set()  # touched since the last look, and not known
        self._unsettled = Unsettled(self._waiting)
        self._due_s = math.inf
        self._next_hand_out_s = math.inf
        self._unmarked: dict[str, float] = {}  # file -> since when it lacks its marker

    @property
    def state(self) -> FolderState:
        """The folder at the last look."""
        return self._state

    @property
    def pending_count(self) -> int:
        """Files found and not handed out yet, complete or not."""
        return len(self._waiting)

    @property
    def in_flight_count(self) -> int:
        """Files handed out, neither finished nor returned."""
        return len(self._in_flight)

    @property
    def unmarked_count(self) -> int:
        """Files of the last listing that only lack their marker; 0 without `done_suffix`."""
        return len(self._unmarked)

    @property
    def unmarked_since_s(self) -> Mapping[str, float]:
        """Each of these files, and when it was first seen so; for the thread that calls `poll`."""
        return self._unmarked

    @property
    def whereabouts(self) -> str | None:
        """Where the folder is, to be kept for the next run (`StationFolder`); for the thread that calls `poll`."""
        return self._folder.whereabouts

    @property
    def unread(self) -> Mapping[str, str]:
        """Files and sub-folders that could not be looked at, and why; for the thread that calls `poll`."""
        return self._folder.unread

    @property
    def overwritten_count(self) -> int:
        """Files that were replaced or written over before they were read."""
        return self._unread.overwritten_count

    @property
    def removed_count(self) -> int:
        """Whole files that went before they were read."""
        return self._unread.removed_count

    def restless(self, now_s: float) -> list[str]:
        """Files that are written to again before each time they could be read; for the thread that calls `poll`."""
        return [file for file, waiting in self._waiting.items() if waiting.is_restless(now_s, self._rewrite_hold_s)]

    def touch(self, name: str, is_new: bool = False) -> None:
        """`name` (relative path) was made or moved here (`is_new`), or closed after writing; for local folders."""
        self._touched.append((name, is_new, self._folder.glance(name)))

    def finished(self, stamp: FileStamp) -> None:
        """The file has its outcome in the ledger."""
        self._returned.append((stamp, True))

    def retry(self, stamp: FileStamp) -> None:
        """The file has no outcome yet: hand it out again, at growing intervals, also after it became final."""
        self._returned.append((stamp, False))

    def wait_s(self, now_s: float, period_s: float) -> float:
        """How long to sleep before the next useful `poll`; `period_s` at most, which is right while nothing moves."""
        if self._state.away is not None:
            return period_s
        next_look_s = self._pace.next_look_s if self._can_look_by_name else self._pace.next_listing_s
        next_s = min(self._next_hand_out_s, max(self._due_s, next_look_s))
        return max(0.0, min(period_s, next_s - now_s))

    def poll(self, now_s: float, now: datetime, room: int = 64) -> list[Arrival]:
        """Look at the folder; at most `room` complete files that are not in flight, by time, then name.

        `now_s`: monotonic seconds; `now`: the wall clock for the arrivals, aware. Never raises for what the folder
        holds, nor for what happens to it.
        """
        self._take_returned(now_s)
        self._take_touched(now_s)
        is_listing = now_s >= self._pace.next_listing_s
        is_looking = is_listing or (self._can_look_by_name and now_s >= self._pace.next_look_s)
        self._pace.begin()
        if is_listing:
            self._look(now_s)
        elif is_looking:
            self._look_by_name(now_s)
        self._pace.has_looked()
        if self._state.away is not None:
            return []
        handed_out = self._hand_out(now_s, now, room)
        if is_looking:
            self._check_waiting()
            self._pace.end(now_s, is_listing=is_listing, is_busy=bool(self._ready))
        self._next_hand_out_s = now_s + SPACING_S if self._ready and handed_out else math.inf
        return handed_out

    def present(self) -> set[str] | None:
        """All files of the folder that match, None while it is away. For housekeeping: lists the folder anew."""
        return None if self._state.away is not None else self._folder.all_scans()

    @property
    def _can_look_by_name(self) -> bool:
        """Whether a look needs no listing, and has something to do."""
        if self._is_first_listing:
            return False
        if self._is_little:
            return self._folder.is_plain
        return bool(self._unsettled) and len(self._ready) < FEW

    @property
    def _is_little(self) -> bool:
        return len(self._waiting) + len(self._fresh) <= FEW

    def _look_by_name(self, now_s: float) -> None:
        """Look at what waits or was touched, or at the oldest of it: the folder may hold many others."""
        self._due_s = math.inf
        is_little = self._is_little
        for file in [*self._unsettled.all(), *self._fresh] if is_little else self._unsettled.oldest():
            status = self._folder.lstat(file)
            if status is not None and self._is_told_by_name(file, status):
                self._look_at(file, status, now_s)
        if is_little:
            self._fresh.clear()

    def _is_told_by_name(self, file: str, status: os.stat_result) -> bool:
        """Not of what changed since the listing: that may have lost its marker, or be a sub-folder by now."""
        if self._folder.is_plain:
            return True
        waiting, has_stable_inodes = self._waiting[file], self._folder.has_stable_inodes
        return waiting.listing == self._listing and waiting.stamp.matches(status, has_stable_inodes=has_stable_inodes)

    def _look(self, now_s: float) -> None:
        """List the folder, look at what is new or waiting, and at some of the known."""
        self._listing += 1
        self._due_s = math.inf
        self._fresh.clear()
        expects_scans = bool(self._known or self._waiting or self._in_flight)
        listing = self._folder.look(self._known.stamps, expects_scans=expects_scans)
        for file, inode in listing.found:
            self._consider(file, inode, now_s)
        if listing.away is not None:
            self._go_away(listing.away, listing.detail, now_s)
        elif self._folder.was_denied():
            self._go_away(Away.NO_PERMISSION, f"{self._folder.path}: its files cannot be looked at", now_s)
        else:
            if self._state.away is not None:
                event(log.info, "station folder is back", folder=str(self._folder.path))
                self._state = FolderState()
            self._unmarked = {file: self._unmarked.get(file, now_s) for file, _ in listing.unmarked}
            self._is_first_listing = False
            gone = [file for file, waiting in self._waiting.items() if waiting.listing != self._listing]
            if gone or self._unread.has_replaced:
                names = {inode: file for file, inode in (*listing.found, *listing.unmarked)}
                self._unread.note_replaced(names)
                for file in gone:
                    waiting = self._waiting[file]
                    if waiting.stamp.is_file and waiting.has_stood_still and waiting.is_news:
                        self._unread.note_removed(waiting.stamp, names)
            for file in gone:
                self._drop(file)
            self._unsettled.line_up()
            for file in self._known.next_round(self._restat_per_poll):
                if file in self._known.stamps:
                    self._restat(file, False, now_s)
            self._forget_gone(now_s)

    def _go_away(self, away: Away, detail: str, now_s: float) -> None:
        if self._state.away != away:
            event(log.warning, "station folder is away", detail=detail)
            since_s = self._state.away_since_s
            self._state = FolderState(away, detail, HINTS[away], now_s if since_s is None else since_s)
        # Whatever stood still has to show it again: it was not watched in between.
        self._is_first_listing = True
        self._ready.clear()
        self._unsettled.clear()
        for waiting in self._waiting.values():
            waiting.begin_anew(now_s)

    def _consider(self, file: str, inode: int, now_s: float) -> None:
        """A listed file that is not known by name and inode."""
        if file in self._in_flight:
            return
        waiting = self._waiting.get(file)
        if waiting is not None and waiting.is_ready:
            waiting.listing = self._listing
            return
        if self._known.explains(file, inode):
            return
        status = self._folder.lstat(file)
        if status is None:
            return
        if file in self._known.stamps and self._is_still(file, status, was_touched=False):
            self._known.note_inode(file, inode)
            return
        self._look_at(file, status, now_s)

    def _look_at(self, file: str, status: os.stat_result, now_s: float) -> None:
        """A file without an outcome."""
        waiting = self._waiting.get(file)
        if waiting is None:
            waiting = self._reopen(file, status, now_s)
        else:
            self._observe(waiting, status, now_s)
            waiting.listing = self._listing
        settled_s = max(waiting.not_before_s, waiting.since_s + self._hold_s(waiting))
        if waiting.looks >= self._stable_polls and now_s >= settled_s:
            waiting.settle()
            if waiting.is_news:
                self._unread.note_whole(waiting.stamp)
            self._unchecked.append(waiting.stamp.file)
            self._ready.add(waiting.stamp, is_arrival=waiting.is_arrival)
        else:
            self._look_again(waiting)

    def _reopen(self, file: str, status: os.stat_result, now_s: float) -> Waiting:
        """A file that is new, or new again."""
        known, is_other = self._known.stamps.get(file), self._unread.has_arrived(file)
        self._known.discard(file)
        stamp = FileStamp.of(file, status)
        self._unread.note_arrival(stamp)
        waiting = self._waiting[file] = Waiting(
            stamp=stamp,
            since_s=now_s,
            is_arrival=not self._is_first_listing,
            listing=self._listing,
            judged=known,
        )
        if known is not None and not is_other and self._is_same_file(known, status):
            waiting.is_rewrite = known.is_whole and not self._unread.was_made_anew(known)
        else:
            self._recognise(waiting, status)
        self._look_again(waiting)
        return waiting

    def _recognise(self, waiting: Waiting, status: os.stat_result) -> None:
        """Whether a file that is new under its name held a scan before under another one, as in a ring."""
        file = waiting.stamp.file
        found = self._unread.former(file, status)
        if found is None:
            return
        former, was_unread = found
        if (former.size_bytes, former.modified_ns) == (status.st_size, status.st_mtime_ns):
            waiting.has_stood_still = True  # renamed or linked: what is written to it from now on is a rewrite
            if not was_unread:
                waiting.judged = replace(former, file=file)
            return
        waiting.is_rewrite = True
        # Of one in flight its reader tells whether it came too late.
        if former.file not in self._in_flight and was_unread and self._unread.release(former.inode):
            self._unread.note_overwritten(former.file, "a rewrite in place")

    def _observe(self, waiting: Waiting, status: os.stat_result, now_s: float) -> bool:
        """Note another look at a waiting file; whether it stood still."""
        stood_still = waiting.stamp.matches(status, has_stable_inodes=self._folder.has_stable_inodes)
        if stood_still:
            waiting.looks += 1
        else:
            self._note_change(waiting, status)
            waiting.change(now_s)
            waiting.listing = 0  # no listing has seen it so
        waiting.stamp = FileStamp.of(waiting.stamp.file, status)
        waiting.is_ready = False
        self._unread.note_arrival(waiting.stamp)
        return stood_still

    def _note_change(self, waiting: Waiting, status: os.stat_result) -> None:
        """A waiting file has changed: what is written to after it stood still was a scan.

        Unless it only grew, and was not complete for all that is known.
        """
        file, former = waiting.stamp.file, waiting.stamp
        if not self._is_same_file(former, status):
            waiting.is_rewrite = waiting.has_stood_still = False
            self._recognise(waiting, status)
            return
        self._note_write(waiting)
        if waiting.has_stood_still:
            waiting.is_rewrite, waiting.has_stood_still = True, False
            # Of two names of one file the first that is seen to change takes the count.
            was_unread = self._unread.release(former.inode)
            was_scan = waiting.is_complete or status.st_size <= former.size_bytes
            if was_unread and waiting.is_news and was_scan:
                self._unread.note_overwritten(file, "a rewrite in place")

    def _note_write(self, waiting: Waiting) -> None:
        """A waiting file was written to: if it had been closed, its writer works in pieces, and closes tell nothing."""
        file = waiting.stamp.file
        if waiting.is_rewrite and self._closed_ns.get(file) == waiting.stamp.changed_ns and not self._closes_mislead:
            self._closes_mislead = True
            event(log.warning, "written to after its close: a close counts no more", file=display_name(file))

    def _is_same_file(self, stamp: FileStamp, status: os.stat_result) -> bool:
        """Whether the change, if any, was made in place."""
        return stat.S_ISREG(status.st_mode) and (stamp.inode == status.st_ino or not self._folder.has_stable_inodes)

    def _hold_s(self, waiting: Waiting) -> float:
        """How long the file must stand still."""
        if not self._is_in_doubt(waiting):
            return self._stable_for_s
        is_closed = self._closed_ns.get(waiting.stamp.file) == waiting.stamp.changed_ns and not self._closes_mislead
        return max(self._stable_for_s, self._rewrite_hold_s * (CLOSED_SHARE if is_closed else 1.0))

    def _is_in_doubt(self, waiting: Waiting) -> bool:
        """Whether it was written again in place, and no marker that is younger than that says that it is whole."""
        if not waiting.is_rewrite:
            return False
        marked_ns = self._folder.marked_ns(waiting.stamp.file)
        return marked_ns is None or marked_ns < waiting.stamp.changed_ns

    def _drop(self, file: str) -> None:
        """A waiting file is gone."""
        del self._waiting[file]
        self._unread.drop(file)
        self._closed_ns.pop(file, None)

    def _look_again(self, waiting: Waiting) -> None:
        """Let `wait_s` wake the loop when the next look at this file can tell something."""
        steps = max(1, min(waiting.looks, self._stable_polls - 1))
        stood_s = steps * self._look_every_s if waiting.looks < self._stable_polls else self._hold_s(waiting)
        due_s = max(waiting.not_before_s, waiting.since_s + stood_s)
        self._due_s = min(self._due_s, due_s)

    def _hand_out(self, now_s: float, now: datetime, room: int) -> list[Arrival]:
        handed_out: list[Arrival] = []
        for _ in range(4 * room):  # so many incomplete files in a row must not hold the loop up
            if len(handed_out) >= room or not self._ready:
                break
            waiting = self._waiting.get(self._ready.take())
            if waiting is None or not waiting.is_ready:
                continue
            file = waiting.stamp.file
            status = self._folder.lstat(file)
            if status is None:
                waiting.is_ready = False  # the next look tells whether it is gone
            elif self._observe(waiting, status, now_s) and self._may_go(waiting, now_s):
                self._in_flight[file] = self._waiting.pop(file)
                self._unread.drop(file)
                self._closed_ns.pop(file, None)
                expected = ExpectedFile(waiting.stamp, self._folder.has_stable_inodes)
                is_in_doubt = self._is_in_doubt(waiting)
                handed_out.append(Arrival(waiting.stamp, now, waiting.is_final, expected, is_in_doubt))
            else:
                self._look_again(waiting)
        return sorted(handed_out, key=lambda arrival: age(arrival.stamp))

    def _may_go(self, waiting: Waiting, now_s: float) -> bool:
        """Whether a file that stood still is complete, or final; if neither, when to look again."""
        file = waiting.stamp.file
        waiting.is_final = now_s >= waiting.since_s + self._incomplete_after_s
        if not waiting.stamp.is_file:
            return True
        try:
            if not waiting.is_complete:
                check_complete(self._folder.path / file, self._limits)
                waiting.is_complete = True
        except ScanIncomplete as error:
            self._was_not_whole(waiting)
            if not waiting.is_final:
                self._back_off(waiting, now_s)
                return False
            if error.reason == "no-permission":
                # It goes out once, and again only when it became readable or another file.
                is_news = self._known.bar(waiting.stamp)
                if not is_news:
                    self._known.add(replace(self._waiting.pop(file).stamp, is_whole=False))
                return is_news
        except ScanError:
            waiting.is_final = True
        self._known.unbar(file)
        return True

    def _check_waiting(self) -> None:
        """Look at what is ready and finds no room, so that it is known to be a scan when it is written over."""
        checks_left = CHECKS_PER_LOOK
        while self._unchecked and checks_left:
            waiting = self._waiting.get(self._unchecked.popleft())
            if waiting is None or not waiting.is_ready or not waiting.stamp.is_file:
                continue
            checks_left -= 1
            try:
                check_complete(self._folder.path / waiting.stamp.file, self._limits)
                waiting.is_complete = True
            except ScanIncomplete:
                self._was_not_whole(waiting)
            except ScanError:
                pass  # no scan at all: its verdict says so

    def _was_not_whole(self, waiting: Waiting) -> None:
        """It stood still for another reason: what is written to it now makes it whole."""
        waiting.has_stood_still = waiting.is_complete = False
        self._unread.release(waiting.stamp.inode)

    def _back_off(self, waiting: Waiting, now_s: float) -> None:
        """Half as long again as it has lasted: bytes can change below an unchanged time (mapped files, cached
        attributes), and a share comes back."""
        wait_s = min(max(self._stable_for_s, (now_s - waiting.since_s) / 2), LONGEST_WAIT_S)
        final_s = waiting.since_s + self._incomplete_after_s
        waiting.not_before_s = min(final_s, now_s + wait_s) if now_s < final_s else now_s + wait_s

    def _take_returned(self, now_s: float) -> None:
        while self._returned:
            stamp, is_finished = self._returned.popleft()
            waiting = self._in_flight.pop(stamp.file, None)
            if is_finished:
                if waiting is not None:
                    stamp = replace(waiting.stamp, is_whole=stamp.is_whole)  # with its change time
                self._unread.read(stamp)
                self._known.add(stamp)
                self._waiting.pop(stamp.file, None)
                self._restat(stamp.file, waiting is not None and waiting.was_touched, now_s)
            elif waiting is not None:
                self._known.unbar(stamp.file)
                self._waiting[stamp.file] = waiting
                status = self._folder.lstat(stamp.file)
                if status is None:
                    others = self._waiting.values()
                    if any(other.is_rewrite and other.stamp.inode == waiting.stamp.inode for other in others):
                        self._unread.note_overwritten(stamp.file, "a rewrite in place")
                elif waiting.stamp.matches(status, has_stable_inodes=self._folder.has_stable_inodes):
                    self._was_not_whole(waiting)
                elif not self._is_same_file(waiting.stamp, status):
                    self._unread.overwritten_count += 1  # its reader has logged it
                self._back_off(waiting, now_s)
                self._look_again(waiting)

    def _take_touched(self, now_s: float) -> None:
        touched = set()
        for file, is_new, status in [self._touched.popleft() for _ in range(len(self._touched))]:
            touched.add(file)
            if status is None or not is_scan_name(file):
                continue
            read = self._known.stamps.get(file)
            if file in self._in_flight:
                read = self._in_flight[file].stamp
            if not is_new:
                waiting = self._waiting.get(file)
                if waiting is not None and waiting.stamp.changed_ns != status.st_ctime_ns:
                    self._note_write(waiting)
                self._closed_ns[file] = status.st_ctime_ns
            elif read is None or read.inode != status.st_ino or read.changed_ns != status.st_ctime_ns:
                self._unread.note_arrival(FileStamp.of(file, status))
        for file in touched:
            waiting = self._in_flight.get(file)
            if waiting is not None:
                waiting.was_touched = True
            elif file in self._known.stamps:
                self._restat(file, True, now_s)
            elif file not in self._waiting and self._folder.takes(file):
                self._fresh.add(file)
                self._due_s = now_s

    def _restat(self, file: str, was_touched: bool, now_s: float) -> None:
        """Take a known file for new if it is not the one that is known."""
        status = self._folder.lstat(file)
        if status is not None and not self._is_still(file, status, was_touched=was_touched):
            self._reopen(file, status, now_s)

    def _is_still(self, file: str, status: os.stat_result, *, was_touched: bool) -> bool:
        return self._known.is_still(
            file, status, was_touched=was_touched, has_stable_inodes=self._folder.has_stable_inodes
        )

    def _forget_gone(self, now_s: float) -> None:
        if self._sweep_at_s is None:
            self._sweep_at_s = now_s + FORGET_EVERY_S
        elif now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + FORGET_EVERY_S
            present = self._folder.all_scans()
            if present is not None:
                self._known.forget_gone(present)
                self._unread.forget(present)
                for file in self._closed_ns.keys() - present:
                    del self._closed_ns[file]
                self._folder.forget_complaints()
