"""Which files a replay finds, wherever they lie, and the list of them on disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import edge.validation.file_list
import edge.validation.sources
from edge.errors import SettingsError, SourceError
from edge.settings import FolderSettings, Settings
from edge.station.folder import StationFolder
from edge.system.names import IGNORED_FOLDERS
from edge.validation.file_list import write_file_list
from edge.validation.replay import ReplayOptions, ReplayResult, check_replay, run_replay
from edge.validation.sources import open_source
from tests.support.fakes import BOOT_ID, write_scan
from tests.support.models import scripted_model


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with scans, and with what is none."""
    folder = tmp_path / "tree"
    for name in ("b.tif", "a.TIFF", ".hidden.tif", "~draft.tif", "notes.txt", "day/c.tif", "day/.d/e.tif", ".x/f.tif"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folder / "folder.tif").mkdir()
    (folder / sorted(IGNORED_FOLDERS)[0]).mkdir()
    (folder / sorted(IGNORED_FOLDERS)[0] / "g.tif").write_bytes(b"x")
    (folder / "link").symlink_to(folder / "day")
    (folder / os.fsdecode(b"odd_\xff\n.tif")).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("recursive", [False, True])
def test_a_replay_finds_what_the_inbox_finds(tree: Path, recursive: bool) -> None:
    inbox = StationFolder(tree, recursive=recursive).look({}, expects_scans=False)
    assert sorted(open_source(tree, recursive=recursive).names()) == sorted(file for file, _ in inbox.found)


@pytest.mark.parametrize("recursive", [False, True])
def test_a_store_shows_the_same_files_as_a_folder(tree: Path, recursive: bool) -> None:
    pytest.importorskip("fsspec")
    (tree / "link").unlink()  # stores know no links,
    (tree / "folder.tif").rmdir()  # and no folder is a file
    os.unlink(tree / os.fsdecode(b"odd_\xff\n.tif"))  # noqa: PTH108
    stored = open_source(f"file://{tree}", recursive=recursive)
    assert sorted(stored.names()) == sorted(open_source(tree, recursive=recursive).names())


def test_a_long_list_is_sorted_on_disk_and_cut_into_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.validation.file_list, "SORTED_AT_ONCE", 7)
    names = [f"{number * 37 % 1000:03}\udcff.tif" for number in range(1000)]
    files = write_file_list(iter(names), tmp_path / "files")
    assert list(files) == sorted(names) and len(files) == 1000
    assert [name for number in range(files.parts_count) for name in files.part(number)] == sorted(names)
    assert {len(files.part(number)) for number in range(files.parts_count - 1)} == {files.part_files} == {16}
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_scans_of_a_store_are_judged_as_those_of_a_folder(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    folder, store = tmp_path / "lot", fsspec.filesystem("memory")
    for number in range(20):
        (folder / f"day{number % 2}").mkdir(parents=True, exist_ok=True)
        write_scan(folder / f"day{number % 2}" / f"B01_{number:04}.tif", 1900 + 40 * number, seed=number)
    store.put(str(folder), "/bucket/lot", recursive=True)
    settings = Settings(station="xray-1", folder=FolderSettings(recursive=True))
    results = []
    for source in (folder, "memory://bucket/lot"):
        options = ReplayOptions(folder=source, out=tmp_path / f"out{len(results)}")
        results.append(run_replay(check_replay(options, settings), settings, scripted_model(), BOOT_ID))
    first, second = (json.loads(result.summary.read_text()) for result in results)
    assert first["metrics"] == second["metrics"] and first["metrics"]["scans_count"] == 20
    judged = json.loads(results[1].verdicts.read_text().splitlines()[0])
    written = store.modified("/bucket/lot/day0/B01_0000.tif").timestamp()
    assert datetime.fromisoformat(judged["scan"]["modified_at"]).timestamp() == pytest.approx(written, abs=1e-3)
    assert "day1/B01_0019.tif" in results[1].report.read_text()
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("address", ["memory://nowhere/at/all", "no-such-protocol://x/y"])
def test_a_store_that_cannot_be_listed_is_named(tmp_path: Path, address: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(SettingsError, match=address):
        check_replay(ReplayOptions(folder=address, out=tmp_path / "out"), Settings())


class OddStore:
    """A store of fsspec that answers as it is told; a scan of it is always the same bytes."""

    def __init__(self, keys: list[str], script: dict[str, list[Exception | int]], scan: bytes) -> None:
        self.keys, self.script, self.scan = keys, script, scan
        self.asked: list[str] = []

    def isdir(self, _path: str) -> bool:
        return True

    def walk(self, root: str, **_: object) -> Iterator[tuple[str, dict[str, object], dict[str, dict[str, str]]]]:
        yield root, {}, {key: {"name": f"{root}/{key}"} for key in self.keys}
        if error := self.script.get("walk"):
            raise error.pop()

    def get_file(self, remote: str, local: str) -> None:
        name = remote.removeprefix("odd/lot/")
        self.asked.append(name)
        answer = self.script[name].pop(0) if self.script.get(name) else len(self.scan)
        Path(local).write_bytes(self.scan[: answer if isinstance(answer, int) else 9])
        if isinstance(answer, Exception):
            raise answer

    def modified(self, _remote: str) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)


Odd = Callable[..., OddStore]


@pytest.fixture
def odd_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Odd:
    """Puts a store behind every address; the pauses before it is asked again are left out."""
    fsspec = pytest.importorskip("fsspec")
    scan = write_scan(tmp_path / "scan.tif").read_bytes()
    monkeypatch.setattr(edge.validation.sources, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def opened(keys: list[str], **script: list[Exception | int]) -> OddStore:
        store = OddStore(keys, {name.replace("_tif", ".tif"): answers for name, answers in script.items()}, scan)
        monkeypatch.setattr(fsspec.core, "url_to_fs", lambda _url, **_: (store, "odd/lot"))
        return store

    return opened


def replayed(tmp_path: Path) -> ReplayResult:
    settings = Settings(station="xray-1")
    checked = check_replay(ReplayOptions(folder="odd://lot", out=tmp_path / "out"), settings)
    return run_replay(checked, settings, scripted_model(), BOOT_ID)


def test_a_scan_that_left_the_store_since_it_was_listed_has_vanished(tmp_path: Path, odd_store: Odd) -> None:
    odd_store(["a.tif", "b.tif", "c.tif"], b_tif=[FileNotFoundError("b.tif")] * 9)
    result = replayed(tmp_path)
    assert (result.metrics.scans_count, result.metrics.unreadable_count) == (3, 1)
    assert b'"vanished"' in result.verdicts.read_bytes().splitlines()[1]
    assert not list(tmp_path.glob("edge-replay-*"))


def test_a_store_that_answers_the_next_time_costs_no_scan(tmp_path: Path, odd_store: Odd) -> None:
    """Half a scan is no scan: what a broken connection left of it is not read."""
    store = odd_store(["a.tif", "b.tif"], b_tif=[TimeoutError(), RuntimeError("broken off")])
    result = replayed(tmp_path)
    assert (result.metrics.scans_count, result.metrics.unreadable_count) == (2, 0)
    assert sorted(store.asked[:4]) == ["a.tif", "b.tif", "b.tif", "b.tif"]  # two are asked for at a time


@pytest.mark.parametrize(
    "error", [TimeoutError(), PermissionError("token expired"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_an_outage_of_the_store_makes_no_verdict_and_costs_no_scan_that_was_judged(
    tmp_path: Path, odd_store: Odd, error: Exception
) -> None:
    keys = [f"{number:02}.tif" for number in range(40)]
    store = odd_store(keys)
    store.script["20.tif"] = [error] * 3
    with pytest.raises(SourceError, match=r"20\.tif of odd://lot cannot be copied"):
        replayed(tmp_path)
    assert not list(tmp_path.glob("edge-replay-*")) and not (tmp_path / "out" / "verdicts.jsonl").exists()

    store.asked.clear()
    store.script.clear()
    result = replayed(tmp_path)
    assert (result.metrics.scans_count, result.metrics.unreadable_count) == (40, 0)
    assert result.run.resumed > 0 and not {"00.tif"} & set(store.asked[: 40 - result.run.resumed])


def test_few_scans_of_a_store_lie_on_this_machine_at_a_time(tmp_path: Path, odd_store: Odd) -> None:
    store = odd_store([f"{number:03}.tif" for number in range(60)])
    most, get_file = 0, store.get_file

    def counted(remote: str, local: str) -> None:
        nonlocal most
        get_file(remote, local)
        most = max(most, len(list(Path(local).parent.iterdir())))

    store.get_file = counted  # type: ignore[method-assign]
    assert replayed(tmp_path).metrics.scans_count == 60
    assert most <= 20


@pytest.mark.parametrize("name", ["/a.tif", "a//b.tif", "x" * 252 + ".tif"])
def test_a_name_that_no_file_here_can_have_is_refused(tmp_path: Path, odd_store: Odd, name: str) -> None:
    odd_store(["fine.tif", name])
    with pytest.raises(SettingsError, match="a name that no file of this machine can have"):
        replayed(tmp_path)


def test_a_listing_that_breaks_off_is_no_shorter_archive(tmp_path: Path, odd_store: Odd) -> None:
    odd_store(["a.tif"], walk=[ConnectionError("reset by peer")])
    with pytest.raises(SourceError, match="odd://lot cannot be listed: reset by peer"):
        replayed(tmp_path)


def test_keys_of_s3_are_listed_page_by_page(odd_store: Odd) -> None:
    """A million keys of one folder would fill a gigabyte in the library's own listing."""
    store, pages = odd_store([]), iter(range(50))

    def call_s3(method: str, **asked: object) -> dict[str, object]:
        assert method == "list_objects_v2" and (asked["Bucket"], asked["Prefix"]) == ("odd", "lot/")
        page = next(pages)
        assert asked.get("ContinuationToken") == (f"token {page}" if page else None)
        keys = [{"Key": f"lot/day/{page:03}-{number:03}.tif"} for number in range(1000)]
        return {
            "KeyCount": 1000,
            "Contents": keys,
            "IsTruncated": page < 49,
            "NextContinuationToken": f"token {page + 1}",
        }

    store.call_s3 = call_s3  # type: ignore[attr-defined]
    tracemalloc.start()
    names = open_source("odd://lot", recursive=True).names()
    assert next(names) == "day/000-000.tif"
    assert sum(1 for _ in names) == 49_999
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
