"""What is looked at in the station folder, and what its absence means."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.records import FileStamp
from edge.station import folder as folder_module
from edge.station.folder import MAX_DEPTH, TOO_DEEP, Away, StationFolder
from edge.station.known import NOISY_INODES
from edge.station.mounts import FileSystem
from edge.system.names import display_name
from tests.support.station import LOOK_S, TIFF, Calls, Line, drop, stamp_of, tiff

# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.tif", "A.TIF", "a.Tiff", "ä ö.tif", "a\nb.tif", "\x1b[31m.tif", "-rf.tif", "a\\xffb.tif", "a.b.tif"]
)
def test_scans_are_found_whatever_their_name(line: Line, name: str) -> None:
    drop(line.folder / name)

    assert line.judge_all() == [name]
    assert line.looks(3) == []


def test_names_that_are_not_text_are_found_and_can_be_shown(line: Line) -> None:
    name = os.fsdecode(b"B7 \xff\xfe scan.tif")
    drop(line.folder / name)

    assert line.judge_all() == [name]
    assert display_name(name) == "B7 \\xff\\xfe scan.tif"
    assert line.looks(3) == []


@pytest.mark.parametrize(
    "name",
    [
        "a.tif.tmp",
        "a.tif.part",
        "a.tmp",
        ".a.tif",
        "._a.tif",
        ".a.tif.Xy12",
        "~a.tif",
        "~$a.tif",
        "a.tif~",
        "a.png",
        "tif",
    ],
)
def test_temporary_and_foreign_names_are_ignored(line: Line, name: str) -> None:
    drop(line.folder / name)

    assert line.looks(4) == []
    assert line.inbox.pending_count == 0


@given(st.lists(st.binary(min_size=1, max_size=12), min_size=2, max_size=2, unique=True))
def test_shown_names_are_well_formed_and_never_look_the_same(names: list[bytes]) -> None:
    shown = [display_name(os.fsdecode(name.replace(b"\0", b"\1"))) for name in names]

    assert (shown[0] == shown[1]) == (names[0].replace(b"\0", b"\1") == names[1].replace(b"\0", b"\1"))
    for text in shown:
        text.encode("utf-8")
        assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text)


def test_ordinary_names_are_shown_as_they_are() -> None:
    for name in ["B000123_00000042_scan.tif", "Blech Nr. 7, Kanüle.tif", "2024-05-01/a.tif", "扫描.tif"]:
        assert display_name(name) == name
    assert display_name("a\n\x1b\u202e\\.tif") == "a\\u000a\\u001b\\u202e\\\\.tif"


# --- sub-folders -----------------------------------------------------------------------------------------


def test_sub_folders_are_left_alone_unless_asked_for(line: Line) -> None:
    (line.folder / "monday").mkdir()
    drop(line.folder / "monday" / "a.tif")

    assert line.looks(4) == []


def test_sub_folders_are_looked_into_if_asked_for(folder: Path, tmp_path: Path) -> None:
    line = Line(folder, recursive=True, done_suffix=".done")
    outside = tmp_path / "outside"
    for place in [folder / "monday" / "early", folder / ".hidden", outside]:
        place.mkdir(parents=True)
        drop(place / "a.tif")
        (place / "a.done").touch()
    (folder / "link").symlink_to(outside)
    (folder / "monday" / "loop").symlink_to(folder)
    drop(folder / "monday" / "b.tif")

    assert line.judge_all() == ["monday/early/a.tif"]
    assert line.inbox.unmarked_count == 1
    drop(folder / "monday" / "early" / "a.tif", tiff(5))
    assert line.judge_all() == ["monday/early/a.tif"]
    assert line.inbox.present() == {"monday/b.tif", "monday/early/a.tif"}


def test_a_sub_folder_that_cannot_be_read_does_not_hide_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder, recursive=True)
    for name in ["bad", "good"]:
        (folder / name).mkdir()
        drop(folder / name / "a.tif")
    scandir = os.scandir

    def failing(source: int | str) -> object:
        if isinstance(source, int) and Path(f"/proc/self/fd/{source}").readlink().name == "bad":
            raise OSError(errno.EIO, "Input/output error")
        return scandir(source)

    monkeypatch.setattr(os, "scandir", failing)

    assert line.looks(3) == ["good/a.tif"]
    assert line.inbox.state.away is None
    assert line.inbox.unread == {"bad": "Input/output error"}
    assert line.inbox.present() is None  # what is in it may still be there
    monkeypatch.setattr(os, "scandir", scandir)
    assert line.looks(3) == ["bad/a.tif"]
    assert line.inbox.unread == {}


def test_a_thousand_folders_in_each_other_stop_nobody_and_are_reported(folder: Path) -> None:
    line = Line(folder, recursive=True)
    deepest = folder
    for _ in range(1000):
        deepest = deepest / "d"
    subprocess.run(["mkdir", "-p", deepest], check=True)
    drop(folder.joinpath(*"d" * MAX_DEPTH) / "a.tif")
    drop(folder.joinpath(*"d" * (MAX_DEPTH + 1)) / "b.tif")

    assert line.looks(3) == ["d/" * MAX_DEPTH + "a.tif"]
    assert line.inbox.unread == {"/".join("d" * (MAX_DEPTH + 1)): TOO_DEEP}
    assert line.inbox.present() == {"d/" * MAX_DEPTH + "a.tif"}
    subprocess.run(["rm", "-rf", folder / "d"], check=True)  # too deep for pytest to remove


def test_a_path_that_is_too_long_for_the_kernel_is_reported(folder: Path) -> None:
    line = Line(folder, recursive=True)
    name, depth = "d" * 250, 16
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=inner)
        inner, outer = os.open(name, os.O_RDONLY, dir_fd=inner), inner
        os.close(outer)
    os.close(os.open("a.tif", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
    os.close(inner)

    assert line.looks(3) == []
    assert list(line.inbox.unread.values()) == [TOO_DEEP]
    subprocess.run(["rm", "-rf", folder / name], check=True)


def test_a_sub_folder_called_like_a_scan_is_a_sub_folder_if_they_are_asked_for(folder: Path) -> None:
    line = Line(folder, recursive=True, known={"lot.tif": FileStamp("lot.tif", 0, 0, 0)})
    (folder / "lot.tif").mkdir()
    drop(folder / "lot.tif" / "a.tif")

    assert line.judge_all() == ["lot.tif/a.tif"]
    assert line.looks(3) == []


def test_what_a_file_system_puts_into_its_top_folder_is_left_alone(folder: Path) -> None:
    line = Line(folder, recursive=True)
    for name in ("lost+found", "$RECYCLE.BIN", "System Volume Information"):
        (folder / name).mkdir()
        drop(folder / name / "deleted.tif")

    assert line.looks(3) == []
    assert line.inbox.unread == {}


def test_a_sub_folder_that_becomes_a_link_while_the_folder_is_listed_leads_nowhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(folder, recursive=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    drop(outside / "a.tif")
    (folder / "lot").mkdir()
    scandir = os.scandir

    def swapped(source: int | str) -> object:
        entries = list(scandir(source))
        if (folder / "lot").is_dir() and not (folder / "lot").is_symlink():
            (folder / "lot").rmdir()
            (folder / "lot").symlink_to(outside)
        return contextlib.nullcontext(iter(entries))

    monkeypatch.setattr(os, "scandir", swapped)
    assert line.looks(4) == []
    assert (folder / "lot").is_symlink()
    assert line.inbox.unread == {}


# --- the folder goes away --------------------------------------------------------------------------------


def judged(line: Line, count: int = 3) -> None:
    for index in range(count):
        drop(line.folder / f"{index}.tif")
    assert len(line.judge_all()) == count


def test_a_folder_that_is_missing_at_the_start_is_reported_and_found_later(tmp_path: Path) -> None:
    line = Line(tmp_path / "scans")

    assert line.looks(2) == []
    assert line.inbox.state.away is Away.MISSING
    assert line.inbox.state.away_since_s == 1000 + LOOK_S
    assert line.inbox.state.hint
    assert str(tmp_path / "scans") in line.inbox.state.detail
    assert line.inbox.present() is None
    line.folder.mkdir()
    drop(line.folder / "a.tif")
    assert line.looks(2) == ["a.tif"]
    assert line.inbox.state.away is None
    assert line.inbox.state.away_since_s is None


def test_a_folder_renamed_away_and_back_loses_and_repeats_nothing(line: Line, tmp_path: Path) -> None:
    judged(line)
    drop(line.folder / "waiting.tif")
    (line.folder / "slow.tif").write_bytes(TIFF[:100])
    line.look()

    line.folder.rename(tmp_path / "elsewhere")
    assert line.looks(5) == []
    assert line.inbox.state.away is Away.MISSING
    assert line.inbox.pending_count == 2
    (tmp_path / "elsewhere").rename(line.folder)

    assert line.looks(2) == ["waiting.tif"]
    assert line.inbox.state.away is None
    assert line.looks(3) == []


def test_what_stood_still_before_the_outage_has_to_show_it_again(line: Line, tmp_path: Path) -> None:
    drop(line.folder / "a.tif")
    line.look()
    line.folder.rename(tmp_path / "elsewhere")
    line.look(after_s=3600)
    (tmp_path / "elsewhere").rename(line.folder)

    assert line.look() == []
    assert line.look() == ["a.tif"]


def test_the_time_away_does_not_count_as_standing_still_incomplete(line: Line, tmp_path: Path) -> None:
    (line.folder / "a.tif").write_bytes(TIFF[:100])
    line.looks(3)
    line.folder.rename(tmp_path / "elsewhere")
    line.look(after_s=3600)
    (tmp_path / "elsewhere").rename(line.folder)

    assert line.looks(int(59 / LOOK_S)) == []
    assert line.looks(int(3 / LOOK_S)) == ["a.tif"]


def test_an_empty_mount_point_in_place_of_the_folder_counts_as_away(line: Line, tmp_path: Path) -> None:
    judged(line)
    line.folder.rename(tmp_path / "elsewhere")
    line.folder.mkdir()

    assert line.looks(3) == []
    assert line.inbox.state.away is Away.EMPTY
    assert len(line.inbox._known) == 3
    line.folder.rmdir()
    (tmp_path / "elsewhere").rename(line.folder)
    assert line.looks(4) == []
    assert line.inbox.state.away is None


def test_what_is_present_is_not_asked_of_another_folder(line: Line, tmp_path: Path) -> None:
    """Between two looks the share goes: nobody may conclude that all its files are gone."""
    assert line.inbox.present() is None
    judged(line)
    assert line.inbox.present() == {"0.tif", "1.tif", "2.tif"}

    line.folder.rename(tmp_path / "elsewhere")
    assert line.inbox.present() is None
    line.folder.mkdir()

    assert line.inbox.present() is None


def test_an_empty_folder_at_the_start_counts_as_away_if_scans_are_known(folder: Path) -> None:
    known = {"a.tif": FileStamp("a.tif", 1, 2, 3)}

    line = Line(folder, known=known)

    line.look()
    assert line.inbox.state.away is Away.EMPTY
    drop(folder / "b.tif")
    assert line.looks(2) == ["b.tif"]
    assert line.inbox.state.away is None


def test_an_empty_folder_is_no_reason_to_worry_when_nothing_is_known_or_it_was_emptied(line: Line) -> None:
    line.look()
    assert line.inbox.state.away is None
    judged(line)

    for path in line.folder.iterdir():
        path.unlink()

    line.look()
    assert line.inbox.state.away is None


def remembered(folder: Path, home: FileSystem | None = None) -> str:
    """What an earlier run keeps of the folder, with no scan left in it."""
    line = Line(folder)
    drop(folder / "a.tif")
    with pytest.MonkeyPatch.context() as patch:
        if home is not None:
            patch.setattr(folder_module, "file_system", lambda _path: home)
        assert line.judge_all() == ["a.tif"]
    (folder / "a.tif").unlink()
    assert line.inbox.whereabouts is not None
    return line.inbox.whereabouts


def test_an_empty_folder_at_the_start_is_there_only_if_it_is_the_one_that_held_scans(
    folder: Path, tmp_path: Path
) -> None:
    """With `after = "move"` no scan is known at the start."""
    where = remembered(folder)
    line = Line(folder, remembered=where)
    line.look()
    assert line.inbox.state.away is None
    assert line.inbox.whereabouts == where

    folder.rename(tmp_path / "the-share")
    folder.mkdir()
    for _ in range(2):
        line = Line(folder, remembered=where)
        line.looks(2)
        assert line.inbox.state.away is Away.EMPTY
        assert line.inbox.whereabouts == where
    drop(folder / "b.tif")
    assert line.looks(3) == ["b.tif"]
    assert line.inbox.state.away is None


def test_a_share_that_is_not_mounted_at_the_start_is_away_until_the_station_writes_below(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = remembered(folder, FileSystem("cifs", folder))
    (folder / "NOT-MOUNTED").touch()
    line = Line(folder, remembered=where)
    line.look()
    assert line.inbox.state.away is Away.UNMOUNTED
    assert "cifs is not mounted" in line.inbox.state.detail

    drop(folder / "b.tif")
    assert line.looks(3) == ["b.tif"]


def test_what_is_remembered_of_another_folder_says_nothing_of_this_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for where in (remembered(tmp_path / "other"), "", "{", "[]", '{"path": 1}'):
        line = Line(folder, remembered=where)
        line.look()
        assert line.inbox.state.away is None
        assert line.inbox.whereabouts is None


def test_at_run_time_an_empty_folder_in_place_of_one_that_held_scans_is_away_though_none_is_known(
    line: Line, tmp_path: Path
) -> None:
    judged(line)
    for path in line.folder.iterdir():
        path.unlink()
    line.looks(2)
    line.inbox._known.stamps.clear()
    line.folder.rename(tmp_path / "the-share")
    line.folder.mkdir()
    line.looks(2)
    assert line.inbox.state.away is Away.EMPTY


def test_a_recreated_folder_with_new_scans_is_the_folder(line: Line, tmp_path: Path) -> None:
    judged(line)
    line.folder.rename(tmp_path / "yesterday")
    line.folder.mkdir()
    drop(line.folder / "new.tif")

    assert line.looks(2) == ["new.tif"]
    assert line.inbox.state.away is None


def test_a_mount_point_that_shows_after_an_unmount_is_not_taken_for_the_folder(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, below = FileSystem("cifs", line.folder), FileSystem("ext4", Path("/"))
    homes = [mounted]
    monkeypatch.setattr(folder_module, "file_system", lambda _path: homes[-1])
    judged(line)
    line.folder.rename(tmp_path / "share")
    line.folder.mkdir()
    drop(line.folder / "stray.tif")
    homes.append(below)

    assert line.looks(4) == []
    assert line.inbox.state.away is Away.UNMOUNTED
    assert line.inbox.pending_count == 0
    (tmp_path / "share").rename(tmp_path / "back")
    line.folder.rename(tmp_path / "below")
    (tmp_path / "back").rename(line.folder)
    homes.append(mounted)
    assert line.looks(4) == []
    assert line.inbox.state.away is None


def test_a_mount_between_two_steps_of_a_look_mixes_nothing_up(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount point is opened, then the share is mounted: the former must not pass for the latter."""
    mounted, below = FileSystem("cifs", line.folder), FileSystem("ext4", Path("/"))
    monkeypatch.setattr(folder_module, "file_system", lambda _path: mounted)
    judged(line)
    line.folder.rename(tmp_path / "share")
    line.folder.mkdir()
    drop(line.folder / "stray.tif")

    def mount_meanwhile(_path: Path) -> FileSystem:
        line.folder.rename(tmp_path / "below")
        (tmp_path / "share").rename(line.folder)
        return mounted

    monkeypatch.setattr(folder_module, "file_system", mount_meanwhile)
    assert line.look() == []
    line.folder.rename(tmp_path / "share")
    (tmp_path / "below").rename(line.folder)
    monkeypatch.setattr(folder_module, "file_system", lambda _path: below)

    assert line.looks(4) == []
    assert line.inbox.state.away is Away.UNMOUNTED


def test_a_share_mounted_after_the_start_is_taken_for_the_folder(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = [FileSystem("ext4", Path("/"))]
    monkeypatch.setattr(folder_module, "file_system", lambda _path: homes[-1])
    line.look()
    line.folder.rename(tmp_path / "below")
    line.folder.mkdir()
    drop(line.folder / "a.tif")
    homes.append(FileSystem("cifs", line.folder))

    assert line.looks(2) == ["a.tif"]


def test_a_file_in_place_of_the_folder_counts_as_away(line: Line) -> None:
    line.folder.rmdir()
    line.folder.touch()

    assert line.look() == []
    assert line.inbox.state.away is Away.NOT_A_FOLDER


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o300])
def test_a_folder_without_permission_counts_as_away(nobodys_folder: Path, mode: int) -> None:
    folder = nobodys_folder
    line = Line(folder)
    drop(folder / "a.tif")
    folder.chmod(mode)

    assert line.looks(3) == []
    assert line.inbox.state.away is Away.NO_PERMISSION
    folder.chmod(0o700)
    assert line.looks(2) == ["a.tif"]
    assert line.inbox.state.away is None


def test_a_sub_folder_that_may_be_listed_but_not_searched_does_not_stop_the_others(nobodys_folder: Path) -> None:
    line = Line(nobodys_folder, recursive=True)
    for name in ["bad", "good"]:
        (nobodys_folder / name).mkdir()
        drop(nobodys_folder / name / "a.tif")
    (nobodys_folder / "bad").chmod(0o400)

    assert line.looks(3) == ["good/a.tif"]
    assert line.inbox.state.away is None
    assert line.inbox.unread == {"bad/a.tif": "Permission denied"}
    (nobodys_folder / "bad").chmod(0o700)
    assert line.looks(3) == ["bad/a.tif"]
    assert line.inbox.unread == {}


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.ENOTCONN, errno.ETIMEDOUT])
def test_an_error_while_listing_counts_as_away_and_drops_nothing(
    line: Line, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    judged(line)
    drop(line.folder / "a.tif")
    line.look()

    class Broken:
        """Fails after the first names, as a share does that goes away during a listing."""

        def __init__(self, source: int | str) -> None:
            self._entries = real(source)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            yield_one = next(self._entries)

            def entries() -> Iterator[os.DirEntry[str]]:
                yield yield_one
                raise OSError(code, os.strerror(code))

            return entries()

        def __exit__(self, *_: object) -> None:
            self._entries.close()

    real = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Broken)
        assert line.looks(3) == []
        assert line.inbox.state.away is Away.IO_ERROR
        assert line.inbox.pending_count == 1

    assert line.looks(2) == ["a.tif"]


def test_files_finished_while_the_folder_is_away_are_not_handed_out_again(line: Line, tmp_path: Path) -> None:
    drop(line.folder / "a.tif")
    line.looks(2)
    line.folder.rename(tmp_path / "elsewhere")
    line.look()

    line.finish()
    line.look()
    (tmp_path / "elsewhere").rename(line.folder)

    assert line.looks(4) == []


def test_one_file_that_cannot_be_looked_at_does_not_stop_the_others(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drop(line.folder / "bad.tif")
    drop(line.folder / "good.tif")
    lstat = os.lstat

    def failing(path: str) -> os.stat_result:
        if str(path).endswith("bad.tif"):
            raise OSError(errno.EIO, "Input/output error")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", failing)

    assert line.looks(6) == ["good.tif"]
    assert line.inbox.state.away is None
    expected = {"file": "bad.tif", "folder": str(line.folder), "error": "Input/output error"}
    assert [(record.message, record.fields) for record in caplog.records] == [("file skipped", expected)]


# --- file systems with inodes of their own kind ----------------------------------------------------------


class ShiftedEntry:
    """A directory entry whose inode is not its file's, as on overlays."""

    def __init__(self, entry: os.DirEntry[str], shift: int) -> None:
        self.name = entry.name
        self._inode = entry.inode() + shift
        self.is_dir = entry.is_dir

    def inode(self) -> int:
        return self._inode


class ShiftedInodes:
    """os.scandir on a file system whose listing has other inodes than stat."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 1_000_000
        self._scandir = os.scandir
        monkeypatch.setattr(os, "scandir", self._shifted)

    @contextmanager
    def _shifted(self, source: int | str) -> Iterator[Iterator[ShiftedEntry]]:
        with self._scandir(source) as entries:
            yield (ShiftedEntry(entry, self.shift) for entry in entries)


def test_listed_inodes_that_differ_from_the_files_cost_one_stat_and_no_rereading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {}
    for index in range(30):
        known[f"{index}.tif"] = stamp_of(drop(folder / f"{index}.tif"), folder)
    ShiftedInodes(monkeypatch)
    line = Line(folder, known=known, restat_per_poll=0)
    calls = Calls(folder, monkeypatch)

    assert line.looks(4) == []

    assert calls.count["lstat"] == 30


def test_listed_inodes_that_change_at_every_look_are_soon_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {}
    for index in range(300):
        known[f"{index}.tif"] = stamp_of(drop(folder / f"{index}.tif"), folder)
    shifted = ShiftedInodes(monkeypatch)
    line = Line(folder, known=known, restat_per_poll=50)
    for _ in range(20):
        shifted.shift += 1_000_000
        assert line.look() == []
    calls = Calls(folder, monkeypatch)

    shifted.shift += 1_000_000
    assert line.look() == []

    assert NOISY_INODES < 20 * 300
    assert calls.count["lstat"] == 50


def test_where_inodes_are_invented_a_new_one_alone_makes_no_new_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "file_system", lambda _path: FileSystem("fuse.sshfs", Path("/")))
    real = stamp_of(drop(folder / "a.tif"), folder)
    invented = FileStamp("a.tif", 77, real.size_bytes, real.modified_ns)
    line = Line(folder, known={"a.tif": invented})
    assert line.looks(4) == []

    (folder / "a.tif").write_bytes(tiff(2))

    assert line.looks(4) == ["a.tif"]


def test_all_scans_of_a_large_folder_are_told_by_their_names_alone(tmp_path: Path) -> None:
    """Once a minute beside a hundred thousand scans that wait: tuples and inode numbers took three times as much."""
    count = 2000
    for index in range(count):
        (tmp_path / f"B01_{index:06d}.tif").touch()
    folder = StationFolder(tmp_path)
    folder.look({}, expects_scans=False)
    tracemalloc.start()
    try:
        scans = folder.all_scans()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert scans is not None
    assert len(scans) == count
    assert peak_bytes / count < 180
