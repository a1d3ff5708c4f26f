"""A file that kills its reader is condemned by a child's death, never by an operator's kill."""

import subprocess
import sys
from pathlib import Path

import pytest

import edge.scans.suspects
from edge.records import FileStamp
from edge.scans.scan import Limits
from edge.scans.suspects import DecodeMarks, kills_its_reader
from tests import fakes

LIMITS = Limits(max_px=1_000_000, max_bytes=10_000_000)
STAMP = FileStamp("a.tif", 7, 100, 1)
DIE_WHILE_DECODING = """
import os, signal, sys
from pathlib import Path
from edge.records import FileStamp
from edge.scans.suspects import DecodeMarks
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


def test_the_childs_death_names_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -SEGV $$\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(edge.scans.suspects.sys, "executable", str(interpreter))
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) == "killed by SIGSEGV"


def test_a_child_that_hangs_is_ended_and_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexec sleep 60\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(edge.scans.suspects.sys, "executable", str(interpreter))
    monkeypatch.setattr(edge.scans.suspects, "PROBE_TIMEOUT_S", 0.2)
    assert kills_its_reader(tmp_path / "a.tif", LIMITS) == "no end after 0 s"
