"""Which files a replay finds, wherever they lie, and the list of them on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import edge.validation.file_list
from edge.errors import SettingsError
from edge.settings import FolderSettings, Settings
from edge.station.folder import IGNORED_FOLDERS, StationFolder
from edge.validation.file_list import write_file_list
from edge.validation.replay import ReplayOptions, plan_replay, run_replay
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
        results.append(run_replay(plan_replay(options, settings), settings, scripted_model(), BOOT_ID))
    first, second = (json.loads(result.summary.read_text()) for result in results)
    assert first["metrics"] == second["metrics"] and first["metrics"]["scans_count"] == 20
    assert "day1/B01_0019.tif" in results[1].report.read_text()
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("address", ["memory://nowhere/at/all", "no-such-protocol://x/y"])
def test_a_store_that_cannot_be_listed_is_named(tmp_path: Path, address: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(SettingsError, match=address):
        plan_replay(ReplayOptions(folder=address, out=tmp_path / "out"), Settings())
