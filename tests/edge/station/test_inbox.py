"""When a file counts as complete, in which order files go out, and which of them go out again."""

from __future__ import annotations

import mmap
import os
import socket
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge.station.inbox
import edge.station.known
from edge.records import FileStamp
from edge.scans.scan import Limits
from edge.station.inbox import FORGET_EVERY_S, Inbox
from edge.station.pace import LISTING_SPACING_S, SPACING_S
from edge.system.files import birth_ns
from tests.support.station import LOOK_S, MINUTE_AGO_NS, NOW, TIFF, Calls, Line, drop, stamp_of, tiff

# --- complete or not -------------------------------------------------------------------------------------


def test_a_file_that_arrives_complete_is_handed_out_at_the_second_look_and_only_once(line: Line) -> None:
    scan = drop(line.folder / "a.tif")

    assert line.look() == []
    assert line.inbox.pending_count == 1
    assert line.look() == ["a.tif"]
    assert line.handed_out == [stamp_of(scan, line.folder)]
    assert (line.inbox.pending_count, line.inbox.in_flight_count) == (0, 1)
    assert line.looks(3) == []
    line.finish()
    assert line.looks(3) == []
    assert line.inbox.in_flight_count == 0


def test_a_burst_of_looks_does_not_shorten_the_time_a_file_must_stand_still(line: Line) -> None:
    drop(line.folder / "a.tif")

    assert [line.look(after_s=0.03) for _ in range(7)] == [[]] * 7
    assert line.look(after_s=0.03) == ["a.tif"]


def test_looks_that_are_far_apart_do_not_shorten_their_number(folder: Path) -> None:
    line = Line(folder, stable_polls=4)
    drop(folder / "a.tif")

    assert [line.look(after_s=60) for _ in range(3)] == [[]] * 3
    assert line.look(after_s=60) == ["a.tif"]


def test_a_file_that_grows_is_left_alone_until_it_stands_still(line: Line) -> None:
    scan = line.folder / "a.tif"
    for end in range(40, len(TIFF), 100):
        scan.write_bytes(TIFF[:end])
        assert line.look() == []

    scan.write_bytes(TIFF)

    assert line.look() == []
    assert line.look() == ["a.tif"]
    assert not line.is_final(line.handed_out[0])


def test_a_truncated_file_is_handed_out_as_final_when_nobody_completes_it(line: Line) -> None:
    (line.folder / "a.tif").write_bytes(TIFF[:-1])

    assert line.looks(int(59 / LOOK_S)) == []
    assert line.looks(int(3 / LOOK_S)) == ["a.tif"]
    assert line.is_final(line.handed_out[0])


def test_every_change_of_an_incomplete_file_starts_its_patience_anew(line: Line) -> None:
    scan = line.folder / "a.tif"
    scan.write_bytes(TIFF[:200])
    assert line.looks(int(50 / LOOK_S)) == []

    scan.write_bytes(TIFF[:300])

    assert line.looks(int(50 / LOOK_S)) == []
    scan.write_bytes(TIFF)
    assert line.looks(3) == ["a.tif"]
    assert not line.is_final(line.handed_out[0])


def test_an_empty_file_is_waited_for(folder: Path) -> None:
    line = Line(folder, incomplete_after_s=10)
    (folder / "a.tif").touch()

    assert line.looks(int(9 / LOOK_S)) == []
    assert line.looks(int(2 / LOOK_S)) == ["a.tif"]


def test_a_preallocated_file_without_header_is_waited_for(line: Line) -> None:
    scan = line.folder / "a.tif"
    scan.write_bytes(bytes(len(TIFF)))
    assert line.looks(40) == []

    with scan.open("r+b") as file:
        file.write(TIFF)

    assert line.looks(3) == ["a.tif"]


def test_a_file_completed_under_an_unchanged_time_is_found_complete(line: Line) -> None:
    """Mapped files and cached attributes: the bytes are newer than the time says."""
    scan = line.folder / "a.tif"
    scan.write_bytes(bytes(len(TIFF)))
    os.utime(scan, ns=(MINUTE_AGO_NS, MINUTE_AGO_NS))
    assert line.looks(8) == []

    scan.write_bytes(TIFF)
    os.utime(scan, ns=(MINUTE_AGO_NS, MINUTE_AGO_NS))

    assert line.looks(20) == ["a.tif"]


@pytest.mark.parametrize(
    "data", [b"this is no image at all", b"\x89PNG\r\n\x1a\n" + bytes(100), b"II*\0" + b"\xff" * 40]
)
def test_bytes_that_are_no_scan_are_handed_out_as_soon_as_they_stand_still_or_are_final(
    folder: Path, data: bytes
) -> None:
    line = Line(folder, incomplete_after_s=5)
    (folder / "a.tif").write_bytes(data)

    assert line.looks(24) == ["a.tif"]
    assert line.is_final(line.handed_out[0])


def test_a_text_file_called_tif_is_handed_out_at_the_second_look(line: Line) -> None:
    (line.folder / "a.tif").write_bytes(b"this is no image at all")

    assert line.looks(2) == ["a.tif"]


def test_a_file_larger_than_the_limit_is_handed_out_to_be_refused(folder: Path) -> None:
    inbox = Inbox(folder, known={}, limits=Limits(max_bytes=100))
    drop(folder / "a.tif")

    assert inbox.poll(0.0, NOW) == []
    assert [arrival.stamp.file for arrival in inbox.poll(1.0, NOW)] == ["a.tif"]


def test_a_file_that_is_deleted_while_it_is_waited_for_is_forgotten(line: Line) -> None:
    scan = drop(line.folder / "a.tif")
    line.look()

    scan.unlink()

    assert line.looks(3) == []
    assert line.inbox.pending_count == 0


@pytest.mark.parametrize("marker", ["a.tif.done", "a.done", "A.TIF.DONE", "a.DONE"])
def test_with_markers_a_scan_waits_for_its_own(folder: Path, marker: str) -> None:
    line = Line(folder, done_suffix=".done")
    drop(folder / "a.tif")
    (folder / "b.tif.done").touch()
    assert line.looks(4) == []
    assert (line.inbox.unmarked_count, line.inbox.pending_count) == (1, 0)

    (folder / marker).touch()

    assert line.looks(2) == ["a.tif"]
    assert line.inbox.unmarked_count == 0


def test_a_marker_does_not_replace_the_other_conditions(folder: Path) -> None:
    line = Line(folder, done_suffix=".done")
    (folder / "a.tif.done").touch()
    (folder / "a.tif").write_bytes(TIFF[:-1])

    assert line.looks(20) == []


# --- order -----------------------------------------------------------------------------------------------


def test_files_go_out_oldest_first_and_by_name_where_the_time_is_the_same(line: Line) -> None:
    for name, modified_s in [("c.tif", 50), ("b.tif", 100), ("z.tif", 10), ("a.tif", 100)]:
        drop(line.folder / name, modified_s=modified_s)

    assert line.looks(2) == ["z.tif", "c.tif", "a.tif", "b.tif"]


@pytest.mark.parametrize("modified_s", [-1e9, 0, 4e9])
def test_a_station_with_a_wrong_clock_delays_nothing(line: Line, modified_s: float) -> None:
    drop(line.folder / "a.tif", modified_s=modified_s)

    assert line.look() == []
    assert line.look() == ["a.tif"]


def test_a_backlog_goes_out_strictly_oldest_first_in_portions(line: Line) -> None:
    names = [f"{(7 * index) % 40:02d}.tif" for index in range(40)]
    for name in names:
        drop(line.folder / name, modified_s=1000 + int(name[:2]))

    assert line.look(room=6) == []
    handed_out = [line.look(room=6) for _ in range(8)]

    assert list(chain(*handed_out)) == sorted(names)
    assert [len(portion) for portion in handed_out] == [6, 6, 6, 6, 6, 6, 4, 0]


def test_an_arrival_is_not_starved_by_a_backlog(line: Line) -> None:
    for index in range(200):
        drop(line.folder / f"old {index:03d}.tif", modified_s=1000 + index)
    line.look(room=4)
    line.look(room=4)

    drop(line.folder / "new.tif", modified_s=9000)
    portions = [line.look(room=4) for _ in range(4)]

    assert "new.tif" in chain(*portions)
    others = [file for file in chain(*portions) if file != "new.tif"]
    assert others == [f"old {index:03d}.tif" for index in range(4, 4 + len(others))]


def test_arrivals_with_old_times_do_not_starve_the_newest_either(line: Line) -> None:
    line.look()
    for index in range(100):
        drop(line.folder / f"copied {index:03d}.tif", modified_s=1000 + index)
    drop(line.folder / "live.tif", modified_s=9000)
    line.look()

    assert "live.tif" in line.look(room=4)


def test_no_room_means_nothing_is_handed_out(line: Line) -> None:
    drop(line.folder / "a.tif")
    line.look()

    assert line.look(room=0) == []
    assert line.look(room=1) == ["a.tif"]


# --- known files -----------------------------------------------------------------------------------------


def test_files_with_an_outcome_are_not_handed_out_after_a_restart(line: Line) -> None:
    drop(line.folder / "a.tif")
    drop(line.folder / "b.tif")
    known = {stamp.file: stamp for name in line.judge_all() for stamp in [stamp_of(line.folder / name, line.folder)]}
    assert set(known) == {"a.tif", "b.tif"}

    restarted = Line(line.folder, known=known)
    drop(line.folder / "c.tif")

    assert restarted.looks(4) == ["c.tif"]


def test_a_replaced_file_shows_by_its_inode_without_any_stat(folder: Path) -> None:
    line = Line(folder, restat_per_poll=0)
    drop(folder / "a.tif", tiff(1))
    assert line.judge_all() == ["a.tif"]

    drop(folder / "a.tif", tiff(2))

    assert line.judge_all() == ["a.tif"]


def test_a_replacement_of_equal_size_and_time_is_another_file(folder: Path) -> None:
    line = Line(folder)
    drop(folder / "a.tif", tiff(1), modified_s=1000)
    assert line.judge_all() == ["a.tif"]
    keep_inode = os.open(folder / "a.tif", os.O_RDONLY)

    drop(folder / "a.tif", tiff(2), modified_s=1000)
    os.close(keep_inode)

    assert line.judge_all() == ["a.tif"]


def test_a_file_rewritten_in_place_is_found_at_once_if_it_was_touched(folder: Path) -> None:
    line = Line(folder, restat_per_poll=0)
    scan = drop(folder / "a.tif", tiff(1))
    line.judge_all()
    scan.write_bytes(tiff(2))
    assert line.looks(3) == []

    line.inbox.touch("a.tif")

    assert line.looks(2) == ["a.tif"]


def test_a_touched_file_is_found_rewritten_even_if_size_and_time_were_kept(folder: Path) -> None:
    line = Line(folder)
    scan = drop(folder / "a.tif", tiff(1), modified_s=1000)
    line.judge_all()

    scan.write_bytes(tiff(2))
    os.utime(scan, (1000, 1000))
    line.inbox.touch("a.tif")

    assert line.looks(3) == ["a.tif"]


def test_a_file_rewritten_in_place_without_event_is_found_within_one_round(folder: Path) -> None:
    line = Line(folder, restat_per_poll=10)
    for index in range(50):
        drop(folder / f"{index:02d}.tif", tiff(index))
    line.judge_all()
    line.looks(5)

    (folder / "31.tif").write_bytes(tiff(99))

    assert line.looks(50 // 10 + 1 + 2) == ["31.tif"]


def test_an_event_that_comes_late_does_not_hand_a_judged_file_out_again(line: Line) -> None:
    drop(line.folder / "a.tif")
    line.look()
    line.look()
    line.inbox.touch("a.tif")
    line.look()
    line.finish()
    line.inbox.touch("a.tif")

    assert line.looks(4) == []


def test_a_file_rewritten_while_it_is_in_flight_is_handed_out_again(line: Line) -> None:
    scan = drop(line.folder / "a.tif", tiff(1))
    assert line.looks(2) == ["a.tif"]

    scan.write_bytes(tiff(2))
    assert line.looks(3) == []
    line.finish()

    assert line.looks(3) == ["a.tif"]


def test_a_file_rewritten_in_flight_with_its_time_kept_is_handed_out_again_if_touched(line: Line) -> None:
    scan = drop(line.folder / "a.tif", tiff(1), modified_s=1000)
    line.looks(2)

    scan.write_bytes(tiff(2))
    os.utime(scan, (1000, 1000))
    line.inbox.touch("a.tif")
    line.look()
    line.finish()

    assert line.looks(3) == ["a.tif"]


def test_a_new_time_on_the_same_bytes_is_handed_out_for_the_ledger_to_tell(line: Line) -> None:
    scan = drop(line.folder / "a.tif")
    line.judge_all()

    os.utime(scan)

    assert line.looks(3) == ["a.tif"]


def test_new_permissions_on_judged_files_cause_no_work(line: Line) -> None:
    scan = drop(line.folder / "a.tif")
    line.judge_all()

    scan.chmod(0o640)

    assert line.looks(4) == []


# --- written again in place ------------------------------------------------------------------------------

HOLD_S = 10.0


def write_into(path: Path, data: bytes, start: int = 0) -> None:
    """As a writer that keeps the file and its size: r+, conv=notrunc, a ring buffer."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def seconds_until(line: Line, file: str) -> float:
    """How long it takes until the file goes out, as final or not."""
    began_s = line.now_s
    while file not in line.look():
        assert line.now_s < began_s + 3 * HOLD_S
    return line.now_s - began_s


@pytest.mark.parametrize("former", ["judged", "in flight", "in the backlog", "judged before the restart"])
def test_a_file_that_is_written_again_in_place_has_to_stand_still_much_longer(folder: Path, former: str) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = drop(folder / "a.tif", tiff(1))
    for _ in range(3):
        line.look(room=0 if former == "in the backlog" else 64)
    if former.startswith("judged"):
        line.finish()
        line.look()
    if former.endswith("restart"):
        line = Line(folder, rewrite_hold_s=HOLD_S, known=dict(line.inbox._known.stamps))
    data = tiff(2)
    write_into(scan, data[:400])
    if former == "in flight":
        line.look()
        line.inbox.retry(line.handed_out[0])
    assert line.looks(int(0.8 * HOLD_S / LOOK_S)) == []  # the writer's pause
    write_into(scan, data[400:], 400)
    assert HOLD_S <= seconds_until(line, "a.tif") <= HOLD_S + 1.0
    assert line.arrivals[-1].is_rewrite


def test_a_writer_that_closes_its_file_is_waited_for_a_fifth_of_it_until_that_proved_wrong(folder: Path) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = drop(folder / "a.tif", tiff(1))
    line.judge_all()
    write_into(scan, tiff(2))
    line.inbox.touch("a.tif")
    assert HOLD_S / 5 <= seconds_until(line, "a.tif") <= HOLD_S / 5 + 1.0
    line.finish()
    line.look()

    write_into(scan, tiff(3)[:400])
    line.inbox.touch("a.tif")
    assert line.looks(4) == []
    write_into(scan, tiff(3)[400:], 400)
    line.inbox.touch("a.tif")
    assert seconds_until(line, "a.tif") >= HOLD_S


def test_a_map_that_is_written_after_its_file_was_closed_has_not_been_closed(folder: Path) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = drop(folder / "a.tif", tiff(1))
    line.judge_all()
    with scan.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    line.inbox.touch("a.tif")
    line.look()
    mapped[:] = tiff(2)
    mapped.flush()
    mapped.close()
    assert seconds_until(line, "a.tif") >= HOLD_S


@pytest.mark.parametrize("how", ["renamed over it", "deleted and made anew"])
def test_a_new_file_under_the_name_of_a_judged_one_is_not_held(folder: Path, how: str) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = drop(folder / "a.tif", tiff(1))
    line.judge_all()
    if how == "renamed over it":
        drop(scan, tiff(2))
    else:
        # The inode number may come again at once: where the lowest free one is taken, it does.
        scan.unlink()
        scan.write_bytes(tiff(2))
    line.inbox.touch("a.tif", is_new=how == "deleted and made anew")
    assert seconds_until(line, "a.tif") <= 1.0
    assert not line.arrivals[-1].is_rewrite


def test_a_file_that_was_deleted_and_made_anew_with_its_inode_number_is_not_held_without_an_event(folder: Path) -> None:
    """As on a share; the time of birth tells."""
    scan = drop(folder / "a.tif", tiff(2))
    if birth_ns(scan) is None:
        pytest.skip("this file system does not tell when a file was made")
    stamp = replace(stamp_of(scan, folder), modified_ns=1)
    held = Line(folder, rewrite_hold_s=HOLD_S, known={"a.tif": stamp})
    assert held.looks(8) == []
    line = Line(folder, rewrite_hold_s=HOLD_S, known={"a.tif": replace(stamp, changed_ns=MINUTE_AGO_NS)})
    assert seconds_until(line, "a.tif") <= 1.0
    assert not line.arrivals[-1].is_rewrite


@pytest.mark.parametrize("marker", ["a.tif.done", "A.Done"])
def test_a_marker_speaks_for_a_rewrite_only_if_it_was_set_after_it(folder: Path, marker: str) -> None:
    """A station that leaves its markers is held as one without; one that sets them anew is not, nor is it accused."""
    line = Line(folder, rewrite_hold_s=HOLD_S, done_suffix=".done")
    scan = drop(folder / "a.tif", tiff(1))
    (folder / marker).touch()
    line.judge_all()
    time.sleep(0.01)  # file systems tick slowly
    write_into(scan, tiff(2)[:400])
    assert line.looks(int(0.8 * HOLD_S / LOOK_S)) == []  # the writer's pause
    write_into(scan, tiff(2)[400:], 400)
    assert seconds_until(line, "a.tif") >= HOLD_S
    assert line.arrivals[-1].is_rewrite
    line.finish()
    line.look()

    write_into(scan, tiff(3))
    assert line.looks(8) == []
    (folder / marker).touch()
    assert seconds_until(line, "a.tif") <= 1.0
    assert not line.arrivals[-1].is_rewrite


@pytest.mark.parametrize("how", ["renamed", "linked"])
@pytest.mark.parametrize(
    "former", ["judged", "in the backlog", "being read", "given back", "judged before the restart", "forgotten"]
)
def test_a_slot_of_a_ring_that_is_written_again_under_the_next_name_is_held(
    folder: Path, how: str, former: str
) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    slot, scan = drop(folder / "a.tif", tiff(1)), folder / "b.tif"
    if how == "renamed" and birth_ns(slot) is None:
        pytest.skip("this file system does not tell when a file was made")
    for _ in range(3):
        line.look(room=0 if former == "in the backlog" else 64)
    if former not in ("in the backlog", "being read", "given back"):
        line.finish()
        line.look()
    if former.endswith("restart"):
        line = Line(folder, rewrite_hold_s=HOLD_S, known=dict(line.inbox._known.stamps))
    if former == "forgotten":
        line.inbox._known.discard("a.tif")
    time.sleep(0.01)  # file systems tick slowly
    if how == "renamed":
        slot.rename(scan)
    else:
        os.link(slot, scan)
    write_into(scan, tiff(2)[:400])
    if former == "given back":
        line.look()
        line.inbox.retry(line.handed_out.pop())
    assert "b.tif" not in line.looks(int(0.8 * HOLD_S / LOOK_S), finish=True)  # the writer's pause
    write_into(scan, tiff(2)[400:], 400)
    assert seconds_until(line, "b.tif") >= HOLD_S
    assert [arrival.is_rewrite for arrival in line.arrivals if arrival.stamp.file == "b.tif"] == [True]
    assert line.inbox.overwritten_count == (former in ("in the backlog", "given back"))
    assert line.inbox.removed_count == 0


def test_a_slot_that_is_renamed_first_and_written_later_is_held_too(folder: Path) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    slot = drop(folder / "a.tif", tiff(1))
    if birth_ns(slot) is None:
        pytest.skip("this file system does not tell when a file was made")
    line.judge_all()
    scan = slot.rename(folder / "b.tif")
    assert line.look() == []
    write_into(scan, tiff(2)[:400])
    assert line.looks(int(0.8 * HOLD_S / LOOK_S)) == []
    write_into(scan, tiff(2)[400:], 400)
    assert seconds_until(line, "b.tif") >= HOLD_S
    assert line.inbox.overwritten_count == 0, "it was judged"


def test_a_new_file_with_the_inode_number_of_a_deleted_or_renamed_one_is_not_held(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems give freed numbers again; here each new file claims the number of the one before."""
    line = Line(folder, rewrite_hold_s=HOLD_S)
    former = drop(folder / "a.tif", tiff(1))
    line.judge_all()
    renamed = former.rename(folder / "renamed.tif")
    assert seconds_until(line, "renamed.tif") <= 1.0
    line.finish()
    line.look()
    renamed.rename(folder.parent / "moved away.tif")
    time.sleep(0.01)  # file systems tick slowly
    new = drop(folder / "b.tif", tiff(2))
    line.inbox._known.by_inode[new.stat().st_ino] = line.inbox._known.by_inode[
        (folder.parent / "moved away.tif").stat().st_ino
    ]
    assert seconds_until(line, "b.tif") <= 1.0
    assert not any(arrival.is_rewrite for arrival in line.arrivals)


def test_every_scan_that_was_overwritten_unread_is_counted_and_no_other(folder: Path) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = folder / "a.tif"
    scan.touch()  # a placeholder
    line.look()
    for seed in range(3):
        drop(scan, tiff(seed))
        line.look(after_s=0.15)
    assert line.inbox.overwritten_count == 2
    for seed in range(3, 5):  # between two looks, but not between two events
        drop(scan, tiff(seed))
        line.inbox.touch("a.tif", is_new=True)
    assert line.looks(3) == ["a.tif"]
    assert line.inbox.overwritten_count == 4

    drop(scan, tiff(5))  # before the reader comes to it
    line.inbox.retry(line.handed_out[0])
    assert line.looks(3) == ["a.tif"]
    assert line.inbox.overwritten_count == 5
    line.finish()
    drop(scan, tiff(6))
    assert line.looks(3, finish=True) == ["a.tif"]
    slow = folder / "slow.tif"
    for end in (200, 400):
        slow.write_bytes(TIFF[:end])
        line.looks(2)
    slow.write_bytes(TIFF)
    assert line.judge_all() == ["slow.tif"]
    assert line.inbox.overwritten_count == 5


@pytest.mark.parametrize("has_events", [True, False])
@pytest.mark.parametrize("done_suffix", [None, ".done"])
def test_a_scan_that_is_renamed_when_it_is_whole_and_followed_at_once_was_not_overwritten(
    folder: Path, has_events: bool, done_suffix: str | None
) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S, done_suffix=done_suffix)
    current = folder / "cur.tif"
    for seed in range(10):
        current.write_bytes(tiff(seed)[:200])
        if has_events:
            line.inbox.touch("cur.tif", is_new=True)
        line.look()
        current.write_bytes(tiff(seed))
        line.look()
        current.rename(folder / f"B1_{seed}.tif")
        if has_events:
            line.inbox.touch(f"B1_{seed}.tif", is_new=True)
    for seed in range(10):
        (folder / f"B1_{seed}.done").touch()
    line.looks(6)
    assert sorted(arrival.stamp.file for arrival in line.arrivals) == [f"B1_{seed}.tif" for seed in range(10)]
    assert (line.inbox.overwritten_count, line.inbox.removed_count) == (0, 0)
    assert not any(arrival.is_rewrite for arrival in line.arrivals)


def test_a_whole_scan_that_is_deleted_or_moved_away_unread_is_counted_and_no_other(folder: Path) -> None:
    """As by a clean-up of the station's, while the disk of the state is full and nothing is taken."""
    line = Line(folder, rewrite_hold_s=HOLD_S)
    for name in ("a.tif", "b.tif", "c.tif", "d.tif"):
        drop(folder / name, tiff(ord(name[0])))
    (folder / "half.tif").write_bytes(TIFF[:400])
    for _ in range(3):
        line.look(room=0)
    (folder / "a.tif").unlink()
    (folder / "b.tif").rename(folder / "b.tif.old")
    (folder / "c.tif").rename(folder / "renamed.tif")
    assert set(line.looks(3)) == {"d.tif", "renamed.tif"}
    assert line.inbox.removed_count == 2

    (folder / "d.tif").unlink()  # handed out, and gone when its reader comes to it
    (folder / "half.tif").unlink()  # a draft
    for stamp in line.handed_out:
        (line.inbox.retry if stamp.file == "d.tif" else line.inbox.finished)(stamp)
    line.looks(3)
    assert line.inbox.removed_count == 3
    (folder / "renamed.tif").unlink()  # it has its verdict
    line.looks(3)
    assert line.inbox.removed_count == 3


def test_a_judged_scan_that_is_looked_at_again_when_it_is_moved_on_was_not_lost(folder: Path) -> None:
    line = Line(folder)
    scan = drop(folder / "a.tif")
    line.judge_all()
    line.inbox.touch("a.tif")
    scan.chmod(0o600)
    for _ in range(3):
        line.look(room=0)
    scan.unlink()
    line.looks(3)
    assert line.inbox.removed_count == 0


def test_a_scan_that_lost_its_marker_is_not_gone(folder: Path) -> None:
    line = Line(folder, done_suffix=".done")
    drop(folder / "a.tif")
    (folder / "a.tif.done").touch()
    for _ in range(3):
        line.look(room=0)
    (folder / "a.tif.done").unlink()
    line.looks(3)
    assert line.inbox.removed_count == 0


def test_a_preallocated_file_that_its_reader_gave_back_was_no_scan(folder: Path) -> None:
    line = Line(folder, rewrite_hold_s=HOLD_S)
    scan = folder / "a.tif"
    scan.write_bytes(TIFF[:400] + bytes(len(TIFF) - 400))
    assert line.looks(2) == ["a.tif"]
    line.inbox.retry(line.handed_out[0])
    line.look(after_s=0.01)
    write_into(scan, TIFF[400:], 400)
    assert seconds_until(line, "a.tif") <= 1.0
    assert line.inbox.overwritten_count == 0
    assert not line.arrivals[-1].is_rewrite


def test_a_rewrite_that_keeps_size_and_time_shows_by_its_change_time_without_an_event(folder: Path) -> None:
    line = Line(folder)
    scan = drop(folder / "a.tif", tiff(1), modified_s=1000)
    line.judge_all()
    write_into(scan, tiff(2))
    os.utime(scan, (1000, 1000))
    assert line.judge_all() == ["a.tif"]
    line = Line(folder, known=dict(line.inbox._known.stamps))
    assert line.looks(3) == []
    write_into(scan, tiff(3))
    os.utime(scan, (1000, 1000))
    line = Line(folder, known=dict(line.inbox._known.stamps))
    assert line.judge_all() == ["a.tif"]


def test_change_times_that_change_of_themselves_are_soon_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.station.known, "NOISY_CHANGES", 3)
    line = Line(folder)
    scan = drop(folder / "a.tif")
    line.judge_all()
    for _ in range(5):
        os.utime(scan, ns=(scan.stat().st_atime_ns, scan.stat().st_mtime_ns))
        line.judge_all()
    assert len(line.arrivals) == 1 + 3


def test_the_same_bytes_under_a_new_name_are_a_new_file(line: Line) -> None:
    scan = drop(line.folder / "a.tif")
    line.judge_all()

    scan.rename(line.folder / "b.tif")

    assert line.looks(3) == ["b.tif"]


def test_a_judged_file_may_go_and_come_back_changed(line: Line) -> None:
    drop(line.folder / "a.tif", tiff(1)).unlink()
    drop(line.folder / "a.tif", tiff(1))
    assert line.looks(2) == ["a.tif"]
    (line.folder / "a.tif").unlink()
    line.finish()
    assert line.looks(2) == []

    drop(line.folder / "a.tif", tiff(2, height_px=30))

    assert line.looks(2) == ["a.tif"]


def test_files_that_are_gone_for_long_are_forgotten(folder: Path) -> None:
    line = Line(folder)
    for index in range(20):
        drop(folder / f"{index}.tif")
    line.judge_all()
    for index in range(15):
        (folder / f"{index}.tif").unlink()
    assert len(line.inbox._known) == 20

    for expected in [20, 5]:  # found gone, found gone again
        line.look(after_s=FORGET_EVERY_S)
        assert len(line.inbox._known) == expected

    assert line.looks(3) == []


def test_what_is_present_can_be_asked_for(folder: Path) -> None:
    line = Line(folder, done_suffix=".done")
    drop(folder / "a.tif")
    drop(folder / "b.TIFF")
    (folder / "notes.txt").touch()
    line.look()

    assert line.inbox.present() == {"a.tif", "b.TIFF"}


# --- giving back -----------------------------------------------------------------------------------------


def test_a_file_its_reader_finds_incomplete_comes_back_at_growing_intervals_and_is_final_in_the_end(
    line: Line,
) -> None:
    """A preallocated scan: only a reader of its pixels sees that they are not written yet."""
    drop(line.folder / "a.tif")
    line.look()
    since_s, ages_s, is_final = line.now_s, [], False
    for _ in range(int(62 / LOOK_S)):
        if line.look():
            ages_s.append(line.now_s - since_s)
            is_final = line.is_final(line.handed_out[-1])
            if is_final:
                break
            line.inbox.retry(line.handed_out[-1])

    assert is_final
    assert ages_s[-1] == pytest.approx(60, abs=2 * LOOK_S)
    assert len(ages_s) < 16
    assert all(later >= min(1.5 * earlier, earlier + 10) for earlier, later in pairwise(ages_s[:-1]))


def test_a_file_that_cannot_be_read_even_when_it_is_final_is_not_read_again_and_again(line: Line) -> None:
    """A bad sector, or a share that fails on this one file: no outcome, for as long as it lasts."""
    drop(line.folder / "a.tif")
    ages_s = []
    line.look()
    since_s = line.now_s
    for _ in range(int(600 / LOOK_S)):
        if line.look():
            ages_s.append(line.now_s - since_s)
            line.inbox.retry(line.handed_out[-1])

    assert line.inbox.pending_count == 1
    spans_s = [later - earlier for earlier, later in pairwise(ages_s)]
    assert len(ages_s) < 75
    assert max(spans_s) <= 10 + 2 * LOOK_S
    assert min(span for span, age in zip(spans_s, ages_s, strict=False) if age >= 60) >= 10


def test_a_file_that_changes_after_it_was_given_back_only_has_to_stand_still(line: Line) -> None:
    scan = drop(line.folder / "a.tif", tiff(1))
    line.look()
    line.look(after_s=40)
    line.inbox.retry(line.handed_out[0])
    assert line.looks(3) == []

    scan.write_bytes(tiff(2))

    assert line.looks(3) == ["a.tif"]


def test_a_file_that_vanished_and_was_given_back_is_forgotten(line: Line) -> None:
    drop(line.folder / "a.tif")
    line.looks(2)
    (line.folder / "a.tif").unlink()

    line.inbox.retry(line.handed_out[0])

    assert line.looks(4) == []
    assert (line.inbox.pending_count, line.inbox.in_flight_count) == (0, 0)


# --- what is not a plain file ----------------------------------------------------------------------------


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [make_directory, make_link, make_pipe, make_socket])
def test_what_is_no_plain_file_is_handed_out_once_and_blocks_nothing(
    line: Line, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line.folder)
    make(line.folder / "a.tif")
    drop(line.folder / "b.tif")

    assert sorted(line.looks(2)) == ["a.tif", "b.tif"]
    line.finish()
    assert line.looks(3) == []
    known = {"a.tif": stamp_of(line.folder / "a.tif", line.folder)}
    assert Line(line.folder, known=known).looks(3) == ["b.tif"]


@pytest.mark.parametrize("make", [make_directory, make_link, make_pipe, make_socket])
def test_what_took_the_place_of_a_judged_scan_and_its_inode_number_is_handed_out(
    line: Line, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line.folder)
    former = stamp_of(drop(line.folder / "a.tif"), line.folder)
    (line.folder / "a.tif").unlink()
    make(line.folder / "a.tif")
    known = {"a.tif": replace(former, inode=(line.folder / "a.tif").lstat().st_ino)}

    assert Line(line.folder, known=known).looks(3) == ["a.tif"]


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_directory])
def test_a_scan_that_becomes_something_else_under_its_number_before_it_was_read_is_counted(
    line: Line, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line.folder)
    path = drop(line.folder / "a.tif")
    line.looks(1)
    number = path.lstat().st_ino
    path.unlink()
    make(path)
    seen = line.inbox._folder.lstat
    monkeypatch.setattr(
        line.inbox._folder, "lstat", lambda file: os.stat_result([*seen(file)[:1], number, *seen(file)[2:]])
    )

    assert line.looks(3) == ["a.tif"]
    assert line.inbox.overwritten_count == 1


def test_a_directory_called_like_a_scan_is_one_finding_whatever_is_put_into_it(line: Line) -> None:
    (line.folder / "a.tif").mkdir()
    line.judge_all()
    known = {"a.tif": stamp_of(line.folder / "a.tif", line.folder)}

    (line.folder / "a.tif" / "b.tif").touch()
    line.inbox.touch("a.tif")

    assert line.looks(4) == []
    assert Line(line.folder, known=known).looks(4) == []


def test_a_scan_in_place_of_a_directory_is_a_new_file(line: Line) -> None:
    (line.folder / "a.tif").mkdir()
    line.judge_all()
    (line.folder / "a.tif").rmdir()

    drop(line.folder / "a.tif")

    assert line.judge_all() == ["a.tif"]


def test_a_file_that_may_be_read_a_little_later_gets_no_verdict_before(nobodys_folder: Path) -> None:
    """A writer on a Windows share locks what it writes; others set the rights of a file last."""
    line = Line(nobodys_folder)
    scan = drop(nobodys_folder / "a.tif")
    scan.chmod(0)

    assert line.looks(int(10 / LOOK_S)) == []
    scan.chmod(0o600)
    assert line.looks(int(10 / LOOK_S)) == ["a.tif"]
    assert not line.is_final(line.handed_out[0])


def test_a_file_that_may_not_be_read_is_handed_out_once_and_again_when_it_may(nobodys_folder: Path) -> None:
    line = Line(nobodys_folder, incomplete_after_s=5)
    scan = drop(nobodys_folder / "a.tif")
    scan.chmod(0)

    assert line.looks(int(6 / LOOK_S)) == ["a.tif"]
    assert line.is_final(line.handed_out[0])
    line.inbox.retry(line.handed_out.pop())
    assert line.looks(int(6 / LOOK_S)) == ["a.tif"], "given back without an outcome, it goes out again"
    line.finish()
    assert line.looks(4) == []
    scan.chmod(0o200)
    assert line.looks(int(30 / LOOK_S)) == []
    assert line.inbox.pending_count == 0
    scan.chmod(0o600)
    assert line.looks(4) == ["a.tif"]
    assert not line.is_final(line.handed_out[0])
    line.finish()
    assert line.looks(4) == []


# --- cost ------------------------------------------------------------------------------------------------


def ten_thousand(folder: Path) -> dict[str, FileStamp]:
    known = {}
    for index in range(10_000):
        path = folder / f"B{index // 100:06d}_{index:08d}_scan.tif"
        path.touch()
        known[path.name] = stamp_of(path, folder)
    return known


def test_a_look_at_ten_thousand_known_files_is_one_listing_and_a_few_stats(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder, known=ten_thousand(folder), restat_per_poll=200)
    line.look()
    drop(folder / "new.tif")
    calls = Calls(folder, monkeypatch)

    line.look(after_s=10.0)  # on a busy machine a look is long, and the rest after it too

    assert calls.count == {"scandir": 1, "lstat": 201, "stat": 0, "open": 1}
    assert line.look(after_s=10.0) == ["new.tif"]


def test_a_backlog_is_stated_until_it_stands_still_and_not_at_every_look(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder)
    for index in range(500):
        drop(folder / f"{index}.tif")
    line.look(room=1)
    line.look(room=1)
    calls = Calls(folder, monkeypatch)

    for _ in range(10):
        assert len(line.look(room=1)) == 1

    assert calls.count["lstat"] == 10
    assert calls.count["scandir"] <= 10


def test_a_storm_of_wake_ups_does_not_become_a_storm_of_listings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(folder)
    line.look()
    calls = Calls(folder, monkeypatch)

    for _ in range(1000):
        line.look(after_s=0.001)

    assert 1 <= calls.count["scandir"] <= 50


def test_a_storm_of_wake_ups_does_not_become_a_storm_of_stats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(folder, restat_per_poll=10, poll_s=1.0)
    for index in range(30):
        drop(folder / f"{index}.tif")
    line.judge_all()
    calls = Calls(folder, monkeypatch)

    for _ in range(50):
        line.look(after_s=0.02)

    assert 10 <= calls.count["lstat"] <= 10 * (1 + 1.0 / LISTING_SPACING_S)


def test_between_two_listings_a_touched_scan_is_looked_at_by_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder, stable_for_s=0.04)
    for index in range(10):
        drop(folder / f"{index}.tif")
    line.judge_all()
    drop(folder / "new.tif")
    line.inbox.touch("new.tif", is_new=True)
    calls = Calls(folder, monkeypatch)

    assert line.look(after_s=0.001) == []  # too soon after the listing
    assert line.inbox.wait_s(line.now_s, 0.5) < SPACING_S
    assert line.look(after_s=0.03) == []
    assert line.look(after_s=0.045) == ["new.tif"]

    assert calls.count["scandir"] == 0
    assert calls.count["lstat"] <= 4


@pytest.mark.parametrize(("poll_s", "after_s"), [(0.1, 0.11), (0.5, LISTING_SPACING_S + 0.01)])
def test_a_scan_that_nothing_tells_of_is_listed_within_the_period(folder: Path, poll_s: float, after_s: float) -> None:
    line = Line(folder, poll_s=poll_s)
    line.look()
    drop(folder / "told.tif")
    line.inbox.touch("told.tif", is_new=True)
    drop(folder / "untold.tif")

    line.look(after_s=after_s - 0.02)
    assert line.inbox.pending_count == 1
    line.look(after_s=0.02)
    assert line.inbox.pending_count == 2


def test_between_two_listings_nothing_is_said_of_names_that_are_no_scans(folder: Path) -> None:
    line = Line(folder)
    line.look()
    for name in (".a.tif", "~a.tif", "a.txt"):
        (folder / name).write_bytes(TIFF)
        line.inbox.touch(name, is_new=True)

    line.look(after_s=0.03)

    assert line.inbox.pending_count == 0


@pytest.mark.parametrize("options", [{"done_suffix": ".done"}, {"recursive": True}])
def test_with_markers_or_sub_folders_every_look_lists(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    line = Line(folder, **options)
    line.look()
    drop(folder / "a.tif")
    line.inbox.touch("a.tif", is_new=True)
    calls = Calls(folder, monkeypatch)

    line.look(after_s=0.03)

    assert calls.count["scandir"] == 1
    assert line.inbox.pending_count == (0 if "done_suffix" in options else 1)


def test_a_file_that_waits_for_room_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(folder)
    for index in range(5):
        drop(folder / f"{index}.tif")
    assert [line.look(room=0) for _ in range(3)] == [[]] * 3
    calls = Calls(folder, monkeypatch)

    assert len(line.look()) == 5

    assert calls.count["open"] <= 1, "the folder alone"


class Stopwatch:
    """Time and processor time stand still but for what is spent."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.spent_s, self.spent_s


def list_slowly(monkeypatch: pytest.MonkeyPatch, stopwatch: Stopwatch, cost_s: float) -> None:
    """Each listing of a folder costs so much from now on."""
    really = os.scandir

    def scandir(source: object) -> object:
        stopwatch.spent_s += cost_s
        return really(source)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)


def test_after_a_listing_that_cost_much_the_next_one_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopwatch = Stopwatch()
    line = Line(folder, stopwatch=stopwatch)
    list_slowly(monkeypatch, stopwatch, cost_s=1.0)
    calls = Calls(folder, monkeypatch)

    line.look()
    for _ in range(19):  # 1 s for the listing itself, and 4 s of rest
        line.look(after_s=0.25)
    assert calls.count["scandir"] == 1

    line.look(after_s=0.25)
    assert calls.count["scandir"] == 2


def backlog_once_listed(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Line:
    """300 scans with markers, listed once at such a cost that the next listing is far away."""
    stopwatch = Stopwatch()
    line = Line(folder, stopwatch=stopwatch, **options)
    for index in range(300):
        drop(folder / f"{index:03d}.tif", modified_s=1000 + index)
        (folder / f"{index:03d}.tif.done").touch()
    list_slowly(monkeypatch, stopwatch, cost_s=10.0)
    line.look()
    line.now_s += 10.0
    return line


@pytest.mark.parametrize("options", [{}, {"recursive": True}, {"done_suffix": ".done"}, {"stable_polls": 4}])
def test_the_oldest_of_a_backlog_do_not_wait_for_the_second_listing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    line = backlog_once_listed(folder, monkeypatch, **options)
    calls = Calls(folder, monkeypatch)

    handed_out = [file for _ in range(100) for file in line.look(after_s=0.1, room=8)]

    assert calls.count["scandir"] == 0
    assert handed_out == [f"{index:03d}.tif" for index in range(300)]
    assert calls.count["lstat"] < 3000, "a few looks at each"


def test_a_file_of_a_backlog_that_is_gone_or_grows_holds_no_other_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = backlog_once_listed(folder, monkeypatch)
    (folder / "000.tif").unlink()
    handed_out: list[str] = []
    for _ in range(50):
        with (folder / "001.tif").open("ab") as growing:
            growing.write(b"x")
        handed_out += line.look(after_s=0.1)

    assert handed_out == [f"{index:03d}.tif" for index in range(2, 300)]


def begin_next_scan(scan: Path) -> None:
    """As a station with markers: takes the marker away, then writes into the old file, not yet to its end."""
    scan.with_name(f"{scan.name}.done").unlink()
    with scan.open("r+b") as file:
        file.write(tiff(seed=9)[: len(TIFF) // 2])


def make_folder_of(scan: Path) -> None:
    scan.unlink()
    scan.mkdir()


@pytest.mark.parametrize(
    ("options", "spoil"), [({"done_suffix": ".done"}, begin_next_scan), ({"recursive": True}, make_folder_of)]
)
@pytest.mark.parametrize("is_settled", [False, True])
def test_what_of_a_backlog_became_no_scan_since_it_was_listed_does_not_go_out(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    spoil: Callable[[Path], None],
    is_settled: bool,
) -> None:
    line = backlog_once_listed(folder, monkeypatch, **options)
    if is_settled:
        for _ in range(5):
            line.look(after_s=0.1, room=0)

    spoil(folder / "000.tif")

    assert "000.tif" not in [file for _ in range(30) for file in line.look(after_s=0.1)]


def test_a_backlog_is_remembered_in_few_bytes_a_file(folder: Path) -> None:
    """A hundred thousand scans may wait after a weekend: what is remembered of each is the line's memory."""
    count = 2000
    for index in range(count):
        (folder / f"B01_{index:06d}.tif").write_bytes(TIFF)
    line = Line(folder)
    tracemalloc.start()
    try:
        line.look(room=0)
        line.look(room=0)
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert line.inbox.pending_count == count
    assert used_bytes / count < 800


def test_while_ready_files_wait_for_room_the_folder_is_listed_less_often(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder)
    for index in range(100):
        drop(folder / f"{index}.tif")
    line.look(room=1)
    line.look(room=1)
    calls = Calls(folder, monkeypatch)

    assert sum(len(line.look(after_s=0.02, room=1)) for _ in range(50)) == 50

    assert 3 <= calls.count["scandir"] <= 5


def test_a_scan_that_is_overwritten_in_the_backlog_is_reported_and_one_that_grows_is_not(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.tif", "b.tif", "d.tif"):
        drop(line.folder / name)
    (line.folder / "c.tif").write_bytes(TIFF[:-1])
    assert [line.look(room=0) for _ in range(3)] == [[]] * 3
    drop(line.folder / "a.tif", tiff(seed=1))
    (line.folder / "b.tif").write_bytes(tiff(seed=1))
    (line.folder / "d.tif").write_bytes(tiff(seed=1, height_px=40))  # a larger one, in place
    with (line.folder / "c.tif").open("ab") as file:
        file.write(TIFF[-1:])

    assert line.look() == []
    assert sorted(line.looks(4)) == ["a.tif", "b.tif", "c.tif", "d.tif"]

    said = [record for record in caplog.records if record.msg == "overwritten before it was read"]
    assert sorted(record.fields["file"] for record in said) == ["a.tif", "b.tif", "d.tif"]  # type: ignore[attr-defined]
    assert line.inbox.overwritten_count == 3


def test_the_loop_is_told_when_the_next_look_is_worthwhile(line: Line, tmp_path: Path) -> None:
    line.look()
    assert line.inbox.wait_s(line.now_s, 0.5) == 0.5
    drop(line.folder / "a.tif")
    line.look()
    assert line.inbox.wait_s(line.now_s, 0.5) == pytest.approx(0.2)
    assert line.inbox.wait_s(line.now_s, 0.1) == 0.1
    assert line.look(after_s=line.inbox.wait_s(line.now_s, 0.5)) == ["a.tif"]
    assert line.inbox.wait_s(line.now_s, 0.5) == 0.5
    line.inbox.retry(line.handed_out[0])
    line.look()
    assert line.inbox.wait_s(line.now_s, 60) == pytest.approx((0.2 + LOOK_S) / 2)
    line.folder.rename(tmp_path / "elsewhere")
    line.look()
    assert line.inbox.wait_s(line.now_s, 0.5) == 0.5


def test_a_backlog_keeps_the_loop_going_only_while_there_is_room(line: Line) -> None:
    for index in range(10):
        drop(line.folder / f"{index}.tif")
    line.look()

    line.look(room=4)
    assert line.inbox.wait_s(line.now_s, 0.5) < 0.1
    line.look(room=0)
    assert line.inbox.wait_s(line.now_s, 0.5) == 0.5


def test_the_folder_is_left_as_it_was(line: Line) -> None:
    for index in range(5):
        drop(line.folder / f"{index}.tif", modified_s=1000)
    os.utime(line.folder, (2000, 2000))
    before = {path.name: path.stat().st_mtime for path in [line.folder, *line.folder.iterdir()]}

    line.judge_all()

    assert {path.name: path.stat().st_mtime for path in [line.folder, *line.folder.iterdir()]} == before


# --- everything at once ----------------------------------------------------------------------------------

ACTIONS = st.tuples(
    st.sampled_from(["drop", "rewrite", "start", "delete", "touch", "look", "look", "finish", "retry", "away", "back"]),
    st.integers(0, 3),
    st.integers(1, 4),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_the_last_bytes_of_every_file_are_handed_out(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int, int]]
) -> None:
    """A file is never handed out twice at a time; once all is quiet, all files were handed out as they now are."""
    home = tmp_path_factory.mktemp("home")
    folder, elsewhere = home / "scans", home / "elsewhere"
    folder.mkdir()
    line = Line(folder, restat_per_poll=2)
    in_flight: dict[str, FileStamp] = {}
    last: dict[str, FileStamp] = {}

    def look(after_s: float = 0.3) -> None:
        line.now_s += after_s
        for stamp in [arrival.stamp for arrival in line.inbox.poll(line.now_s, NOW, room=2)]:
            assert stamp.file not in in_flight
            in_flight[stamp.file] = stamp

    for action, number, seed in actions:
        place = folder if folder.exists() else elsewhere
        scan = place / f"{number}.tif"
        if action == "drop":
            drop(scan, tiff(seed))
        elif action == "start":
            scan.write_bytes(tiff(seed)[:150])
        elif action == "rewrite" and scan.exists():
            scan.write_bytes(tiff(seed, height_px=20 + seed))
        elif action == "delete":
            scan.unlink(missing_ok=True)
        elif action == "touch":
            line.inbox.touch(scan.name)
        elif action == "look":
            look(after_s=(0.03, 0.03, 0.09, 0.3)[seed - 1])  # the first three may need no listing
        elif action == "finish" and scan.name in in_flight:
            last[scan.name] = in_flight.pop(scan.name)
            line.inbox.finished(last[scan.name])
        elif action == "retry" and scan.name in in_flight:
            line.inbox.retry(in_flight.pop(scan.name))
        elif action == "away" and folder.exists():
            folder.rename(elsewhere)
        elif action == "back" and not folder.exists():
            elsewhere.rename(folder)
    if not folder.exists():
        elsewhere.rename(folder)
    for _ in range(int(70 / 0.3)):
        look()
        for stamp in list(in_flight.values()):
            last[stamp.file] = in_flight.pop(stamp.file)
            line.inbox.finished(stamp)

    assert line.inbox.state.away is None or not last
    for path in folder.glob("*.tif"):
        assert last[path.name] == stamp_of(path, folder)
