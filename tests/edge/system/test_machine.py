"""What the process knows of its memory and of the machine's clock."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from edge.system import machine


def test_resident_memory_grows_by_what_is_touched() -> None:
    before = machine.resident_bytes()
    held = bytearray(32 << 20)
    held[::4096] = b"\1" * len(held[::4096])
    after = machine.resident_bytes()
    assert before and after and after - before > 24 << 20


def test_memory_that_the_kernel_does_not_tell_is_not_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STATM", tmp_path / "absent")
    assert machine.resident_bytes() is None


def test_the_kernel_is_asked_and_answers() -> None:
    assert machine._clock_state() in range(6), "adjtimex(2) may be asked by anyone outside a sandbox"


@pytest.mark.parametrize(
    ("state", "notes", "synchronised"),
    [
        (0, None, True),
        (1, None, True),
        (5, ("synchronized",), False),
        (-1, None, None),
        (-1, (), False),
        (-1, ("synchronized",), True),
    ],
)
def test_the_kernel_has_the_word_and_timesyncd_where_it_may_not_be_asked(
    state: int,
    notes: tuple[str, ...] | None,
    synchronised: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "timesync"
    if notes is not None:
        folder.mkdir()
        for name in notes:
            (folder / name).touch()
    monkeypatch.setattr(machine, "TIMESYNC", folder)
    monkeypatch.setattr(machine, "_clock_state", lambda: state)
    assert machine.clock_synchronised() is synchronised


def test_memory_that_is_free_in_the_heap_goes_back_to_the_kernel() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    block_bytes = 64 << 10  # too small for a mapping of its own
    blocks = [libc.malloc(block_bytes) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, block_bytes)
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(block)
    before = machine.resident_bytes()
    machine.return_free_memory()
    after = machine.resident_bytes()
    libc.free(blocks[-1])

    assert before is not None
    assert after is not None
    assert before - after > 50e6
