"""What is remembered of files that had their outcome is bounded."""

import pytest

import edge.station.known
from edge.records import FileStamp
from edge.station.known import KnownFiles


def test_of_files_that_are_gone_only_the_newest_are_remembered_by_their_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.station.known, "GONE_INODES", 3)
    known = KnownFiles({})
    for inode in range(10):
        known.add(FileStamp(f"{inode}.tif", inode, 1, 1))
    assert [*known.by_inode] == [*range(10)], "while their names are there all are"
    for _ in range(2):  # what is missing for the second time is forgotten
        known.forget_gone({"9.tif"})
    known.add(FileStamp("10.tif", 10, 1, 1))
    assert [*known.by_inode] == [6, 7, 8, 9, 10]
