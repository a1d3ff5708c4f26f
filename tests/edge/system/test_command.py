"""The frame of the programs: every way a command can end has its words and its exit code."""

import logging
import os
import subprocess
import sys

import pytest

from edge.errors import EngineError
from edge.system.command import run_program


def raising(error: BaseException) -> int:
    raise error


def test_an_error_is_two_lines_and_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program("edge-x", lambda: raising(EngineError("no card", hint="look inside"))) == 70
    assert capsys.readouterr().err == "edge-x: no card\n  try: look inside\n"


def test_under_journald_both_lines_bear_their_priority(capsys: pytest.CaptureFixture[str]) -> None:
    run_program("edge-x", lambda: raising(EngineError("no card", hint="look inside")), stderr_prefix="<3>")
    assert capsys.readouterr().err == "<3>edge-x: no card\n<3>  try: look inside\n"


def test_a_defect_is_logged_with_its_trace_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run_program("edge-x", lambda: raising(ZeroDivisionError("by zero"))) == 1
    assert "edge-x: ZeroDivisionError: by zero\n  try: report this" in capsys.readouterr().err
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL and record.exc_info


def test_a_file_that_fails_is_named_and_ends_with_74(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program("edge-x", lambda: raising(PermissionError(13, "Permission denied", "/srv/x"))) == 74
    first, second = capsys.readouterr().err.splitlines()
    assert first == "edge-x: [Errno 13] Permission denied: '/srv/x'"
    assert second.startswith("  try: look at the folder")


def test_a_library_that_does_not_load_is_no_defect_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program("edge-x", lambda: raising(ImportError("libGL.so.1: cannot open shared object file"))) == 70
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("does not load: libGL.so.1: cannot open shared object file")
    assert "apt install libgl1" in second


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program("edge-x", lambda: raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "edge-x: interrupted\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    program = (
        "import sys; from edge.system.command import run_program\n"
        "sys.exit(run_program('edge-x', lambda: print('x' * 200_000) or 0))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_that_ends_well_keeps_its_code() -> None:
    assert run_program("edge-x", lambda: 3) == 3
