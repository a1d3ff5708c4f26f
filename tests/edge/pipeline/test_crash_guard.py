"""A file that kills its reader is condemned by a child's death, never by an operator's kill."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edge.pipeline.crash_guard
from edge.errors import ScanIncomplete
from edge.pipeline.crash_guard import DecodeMarks, kills_its_reader
from edge.records import FileStamp
from edge.scans.scan import Limits
from tests.support import fakes

LIMITS = Limits(max_px=1_000_000, max_bytes=10_000_000)
STAMP = FileStamp("a.tif", 7, 100, 1)
DIE_WHILE_DECODING = """
import os, signal, sys
from pathlib import Path
from edge.errors import ScanIncomplete
from edge.records import FileStamp
from edge.pipeline.crash_guard import DecodeMarks
with DecodeMarks(Path(sys.argv[1])).decoding(FileStamp("a.tif", 7, 100, 1)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_in_a_decode_leaves_a_suspect_of_that_very_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE_WHILE_DECODING, str(tmp_path)], timeout=60)
    assert done.returncode == -9
    marks = DecodeMarks(tmp_path)
    assert marks.is_suspect(STAMP)
    assert not marks.is_suspect(FileStamp("a.tif", 7, 100, 2))
    with marks.decoding(STAMP):
        pass
    assert not marks.is_suspect(STAMP)
    assert not DecodeMarks(tmp_path).is_suspect(STAMP)


def test_an_exception_in_a_decode_leaves_no_suspect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), DecodeMarks(tmp_path).decoding(STAMP):
        raise ValueError("bad")
    assert not DecodeMarks(tmp_path).is_suspect(STAMP)


def test_a_good_scan_that_an_outside_kill_interrupted_is_not_condemned(tmp_path: Path) -> None:
    assert kills_its_reader(fakes.write_scan(tmp_path / "a.tif"), LIMITS) is None


def test_an_unreadable_but_harmless_file_is_not_condemned(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"not a TIFF")
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) is None


class Children:
    """Stand in for the interpreter; each child does the next of the deeds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        interpreter = folder / "python"
        interpreter.write_text(f"#!/bin/sh\necho >> {folder}/begun\n. {folder}/deed.$(wc -l < {folder}/begun)\n")
        interpreter.chmod(0o755)
        monkeypatch.setattr(edge.pipeline.crash_guard.sys, "executable", str(interpreter))
        monkeypatch.setattr(edge.pipeline.crash_guard, "PAUSE_S", 0.0)

    def will(self, *deeds: str) -> None:
        for number, deed in enumerate(deeds, 1):
            (self._folder / f"deed.{number}").write_text(deed)

    @property
    def count(self) -> int:
        return len((self._folder / "begun").read_text().splitlines())


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Children:
    return Children(tmp_path, monkeypatch)


def test_two_deaths_of_its_children_condemn_a_file_and_name_their_signals(tmp_path: Path, children: Children) -> None:
    children.will("echo opening; kill -SEGV $$", "echo opening; exit 1")
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) == "killed by SIGSEGV, exit code 1"


def test_one_death_alone_does_not_condemn_a_suspect(tmp_path: Path, children: Children) -> None:
    """As where the machine had no memory for a moment."""
    children.will("echo opening; exit 1", "echo opening; exit 0")
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) is None
    assert children.count == 2


@pytest.mark.parametrize("deed", ["echo opening; kill -KILL $$", "exit 1", "kill -SEGV $$"])
def test_a_child_that_is_killed_from_outside_or_never_gets_to_the_file_proves_nothing(
    tmp_path: Path, children: Children, deed: str
) -> None:
    children.will("echo opening; exit 1", deed)
    with pytest.raises(ScanIncomplete) as caught:
        kills_its_reader(tmp_path / "a.tif", LIMITS)
    assert caught.value.reason == "read-failed"


def test_children_that_hang_are_ended_and_the_file_is_blamed(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    children.will(*["echo opening; exec sleep 60"] * 2)
    monkeypatch.setattr(edge.pipeline.crash_guard, "PROBE_TIMEOUT_S", 0.3)
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) == "no end after 0 s, no end after 0 s"


def test_a_file_that_computes_for_ever_is_not_taken_for_one_that_was_killed_from_outside(tmp_path: Path) -> None:
    program = (
        "import edge.pipeline.crash_guard as s; from pathlib import Path; s.PROBE_CPU_S = 1\n"
        "def for_ever(*_, **__):\n    while True: pass\n"
        "s.read_scan = for_ever; s._probe(Path('a.tif'), s.Limits())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGXCPU, b"opening\n")
