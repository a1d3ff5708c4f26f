"""A file that kills its reader is condemned by a child's death, never by an operator's kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import edge.pipeline.crash_guard
from edge.errors import LedgerError, ScanIncomplete
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
with DecodeMarks(Path(sys.argv[1]) / "marks").decoding(FileStamp("a.tif", 7, 100, 1)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_in_a_decode_leaves_a_suspect_of_that_very_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIE_WHILE_DECODING, str(tmp_path)], timeout=60)
    assert done.returncode == -9
    marks = DecodeMarks(tmp_path / "marks")
    assert marks.is_suspect(STAMP)
    assert not marks.is_suspect(FileStamp("a.tif", 7, 100, 2))
    with marks.decoding(STAMP):
        pass
    assert not marks.is_suspect(STAMP)
    assert not DecodeMarks(tmp_path / "marks").is_suspect(STAMP)


def test_a_suspect_outlives_a_second_death_before_its_turn_came_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE_WHILE_DECODING, str(tmp_path)], timeout=60)
    other = FileStamp("b.tif", 8, 100, 1)
    with DecodeMarks(tmp_path / "marks").decoding(other):
        later = DecodeMarks(tmp_path / "marks")  # as after a kill at this moment
        assert later.is_suspect(STAMP)
        assert later.is_suspect(other)
    assert not DecodeMarks(tmp_path / "marks").is_suspect(other)
    assert DecodeMarks(tmp_path / "marks").is_suspect(STAMP)


def test_processes_side_by_side_keep_their_marks_apart(tmp_path: Path) -> None:
    other = FileStamp("b.tif", 8, 100, 1)
    first, second = (DecodeMarks(tmp_path / name, others=tmp_path.glob("*")) for name in "12")
    with first.decoding(STAMP), second.decoding(other):
        after_both_died = DecodeMarks(tmp_path / "3", others=tmp_path.glob("*"))
    assert after_both_died.is_suspect(STAMP) and after_both_died.is_suspect(other)
    with after_both_died.decoding(STAMP):
        assert DecodeMarks(tmp_path / "3").is_suspect(STAMP)
    assert not after_both_died.is_suspect(STAMP)


def test_marks_are_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"someone's")
    marks = DecodeMarks(tmp_path / "marks")
    (tmp_path / "marks").unlink()
    (tmp_path / "marks").symlink_to(outside)
    with marks.decoding(STAMP):
        pass
    assert outside.read_bytes() == b"someone's"
    with pytest.raises(LedgerError, match="decode marks"):
        DecodeMarks(tmp_path / "marks")


def test_more_decodes_than_there_is_room_for_marks_are_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.pipeline.crash_guard, "MARKS", 1)
    marks = DecodeMarks(tmp_path / "marks")
    with marks.decoding(STAMP), marks.decoding(FileStamp("b.tif", 8, 100, 1)):
        assert DecodeMarks(tmp_path / "marks").is_suspect(STAMP)
    assert not DecodeMarks(tmp_path / "marks").is_suspect(STAMP)


def test_an_exception_in_a_decode_leaves_no_suspect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), DecodeMarks(tmp_path / "marks").decoding(STAMP):
        raise ValueError("bad")
    assert not DecodeMarks(tmp_path / "marks").is_suspect(STAMP)


def test_a_good_scan_that_an_outside_kill_interrupted_is_not_condemned(tmp_path: Path) -> None:
    assert kills_its_reader(fakes.write_scan(tmp_path / "a.tif"), LIMITS, fakes.INPUT_SPEC) is None


def test_an_unreadable_but_harmless_file_is_not_condemned(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"not a TIFF")
    assert kills_its_reader(tmp_path / "a.tif", LIMITS, fakes.INPUT_SPEC) is None


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
    assert kills_its_reader(tmp_path / "a.tif", LIMITS, fakes.INPUT_SPEC) == "killed by SIGSEGV, exit code 1"


def test_one_death_alone_does_not_condemn_a_suspect(tmp_path: Path, children: Children) -> None:
    """As where the machine had no memory for a moment."""
    children.will("echo opening; exit 1", "echo opening; exit 0")
    assert kills_its_reader(tmp_path / "a.tif", LIMITS, fakes.INPUT_SPEC) is None
    assert children.count == 2


@pytest.mark.parametrize("deed", ["echo opening; kill -KILL $$", "exit 1", "kill -SEGV $$"])
def test_a_child_that_is_killed_from_outside_or_never_gets_to_the_file_proves_nothing(
    tmp_path: Path, children: Children, deed: str
) -> None:
    children.will("echo opening; exit 1", deed)
    with pytest.raises(ScanIncomplete) as caught:
        kills_its_reader(tmp_path / "a.tif", LIMITS, fakes.INPUT_SPEC)
    assert caught.value.reason == "read-failed"


def test_children_that_get_no_processor_are_ended_and_the_file_is_not_blamed(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    children.will(*["echo opening; exec sleep 60"] * 2)
    monkeypatch.setattr(edge.pipeline.crash_guard, "PROBE_TIMEOUT_S", 0.3)
    with pytest.raises(ScanIncomplete, match="no end after 0 s, no end after 0 s"):
        kills_its_reader(tmp_path / "a.tif", LIMITS, fakes.INPUT_SPEC)


def test_a_file_that_computes_for_ever_is_not_taken_for_one_that_was_killed_from_outside() -> None:
    program = (
        "import edge.pipeline.crash_guard as s; from pathlib import Path; s.PROBE_CPU_S = 1\n"
        "def for_ever(*_, **__):\n    while True: pass\n"
        "s.read_scan = for_ever; s._probe(Path('a.tif'), s.Limits(), s.Method.NAIVE, None, s.Size(2, 2))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGXCPU, b"opening\n")


def test_a_suspect_is_unpacked_behind_the_filter_of_system_calls_and_not_in_the_child_itself(tmp_path: Path) -> None:
    counts = np.full((64, 48), 2000, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", counts, compression="lzw", metadata=None)
    program = (
        "import sys; import edge.pipeline.crash_guard as s; from pathlib import Path;"
        "prepared = []; convert = s.prepare;"
        "s.prepare = lambda *asked: prepared.append(int(asked[0].mean())) or convert(*asked);"
        "s._probe(Path(sys.argv[1]), s.Limits(), s.Method.NAIVE, None, s.Size(2, 2));"
        "print(prepared, 'imagecodecs' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.tif")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[1:] == ["[2000] False"], done.stderr


ABORT_WHILE_CONVERTING = """
import os
import edge.images.conversion as conversion
look_up = conversion._look_up
def abort(counts, table, target):
    os.abort() if counts[0, 0] == 1234 else look_up(counts, table, target)
conversion._look_up = abort
import edge.pipeline.crash_guard
edge.pipeline.crash_guard.PAUSE_S = 0.0
"""
WORKER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from edge.engines.preprocessor import Preprocessor
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.read_ahead import ReadAhead
from edge.records import Arrival, FileStamp
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from tests.support.fakes import INPUT_SPEC, ScriptedEngine
folder, file = Path(sys.argv[1]), "a.tif"
marks = DecodeMarks(folder / "marks")
reader = ReadAhead(folder, limits=Limits(), decode=decode, marks=marks, threads=1)
stamp = FileStamp.of(file, (folder / file).lstat())
reader.add(Arrival(stamp, datetime.now(UTC), is_final=False), Preprocessor(ScriptedEngine(), INPUT_SPEC))
_, prepared = reader.next(wait=True)
print(prepared.decision.outcome.value, prepared.decision.reasons[0], prepared.detail)
"""


def test_a_scan_whose_conversion_ends_the_process_is_condemned_after_two_more_deaths(tmp_path: Path) -> None:
    """A real abort(), in the worker and in its children alike."""
    counts = np.full((64, 48), 2000, np.uint16)
    counts[0, 0] = 1234
    tifffile.imwrite(tmp_path / "a.tif", counts, metadata=None)
    (tmp_path / "sitecustomize.py").write_text(ABORT_WHILE_CONVERTING)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}

    def start() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100)

    assert start().returncode == -signal.SIGABRT
    second = start()
    assert second.returncode == 0, second.stderr
    assert second.stdout.split()[:2] == ["unreadable", "decoder-crash"]
    assert second.stdout.count("killed by SIGABRT") == 2
