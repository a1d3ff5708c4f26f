"""Unpackers that crash, eat, hang or lie: one verdict each, and the next scan is read at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge.errors import ScanError, ScanIncomplete
from edge.pipeline.crash_guard import kills_its_reader
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, read_scan
from tests.support import fakes
from tests.support.tiff_files import electrode, tiff, written_by_tifffile

LIMITS = Limits(max_px=1_000_000, max_bytes=4_000_000)
POISON = b"POISON"
CHILD = """
import os, signal, sys, time
from edge.scans import decode_child
from edge.scans.pixels import decode
def poisoned(data, layout):
    if b"POISON" in data:
        {deed}
    return decode(data, layout)
decode_child.decode = poisoned
decode_child.main(1_000_000, 4_000_000)
"""
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"
DEEDS = {
    CRASH: "killed by SIGSEGV, killed by SIGSEGV",
    "eaten = [bytes(1 << 20) for _ in range(1 << 14)]": "exit code 1, exit code 1",
    "time.sleep(60)": "no answer in time, no answer in time",
    "sys.stdout.close(); os._exit(0)": "exit code 0, exit code 0",
    "return decode(data, layout)[:-1]": "an answer that is none, an answer that is none",
}


def packed(seed: int = 0, trailer: bytes = b"", compression: str = "lzw") -> bytes:
    return written_by_tifffile(electrode(seed=seed), compression=compression) + trailer


def scripted(tmp_path: Path, deed: str, wall_s: float = 20.0) -> Decoder:
    """The real child and its real limits, save what it does to a poisoned file."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(deed=deed))
    return Decoder(LIMITS, program=(sys.executable, str(script)), wall_s=wall_s)


def read(decoder: Decoder, folder: Path, data: bytes) -> np.ndarray:
    path = folder / "scan.tif"
    path.write_bytes(data)
    return read_scan(path, file="scan.tif", limits=LIMITS, decode=decoder.decode).counts


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(LIMITS)) as decoder:
        yield decoder


@pytest.mark.parametrize("deed", DEEDS)
def test_a_file_that_ends_its_unpacker_is_refused_and_the_next_one_is_read(tmp_path: Path, deed: str) -> None:
    with closing(scripted(tmp_path, deed, wall_s=0.5 if "sleep" in deed else 20.0)) as decoder:
        with pytest.raises(ScanError) as caught:
            read(decoder, tmp_path, packed(trailer=POISON))
        assert caught.value.reason == "decoder-crash"
        assert caught.value.message.endswith(DEEDS[deed])
        assert caught.value.scan is not None and caught.value.scan.width_px == 45
        decoder._wall_s = 20.0
        assert np.array_equal(read(decoder, tmp_path, packed(seed=1)), electrode(seed=1))


def test_an_unpacker_has_one_thread_however_many_the_processor_has(tmp_path: Path, decoder: Decoder) -> None:
    """Else the unpackers of a large machine fill the number of tasks that the service may have."""
    read(decoder, tmp_path, packed())
    (child,) = decoder._idle
    assert len(list(Path(f"/proc/{child._process.pid}/task").iterdir())) == 1


def test_one_death_alone_does_not_condemn_a_file(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    flag.touch()
    deed = f"os.path.exists({str(flag)!r}) and (os.unlink({str(flag)!r}), {CRASH})"
    with closing(scripted(tmp_path, deed)) as decoder:
        assert np.array_equal(read(decoder, tmp_path, packed(trailer=POISON)), electrode())
    assert not flag.exists()


def test_a_file_whose_unpackers_are_killed_from_outside_waits_and_is_not_blamed(tmp_path: Path) -> None:
    """As by the kernel of a machine without memory."""
    with closing(scripted(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")) as decoder:
        with pytest.raises(ScanIncomplete) as caught:
            read(decoder, tmp_path, packed(trailer=POISON))
        assert caught.value.reason == "read-failed"
        assert caught.value.message.endswith("killed by SIGKILL, killed by SIGKILL")


def test_one_process_serves_many_scans_and_is_replaced_when_it_was_killed_idle(
    decoder: Decoder, tmp_path: Path
) -> None:
    for seed in range(3):
        assert np.array_equal(read(decoder, tmp_path, packed(seed=seed)), electrode(seed=seed))
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    assert np.array_equal(read(decoder, tmp_path, packed()), electrode())
    assert len(children()) == 1 and children() != [pid]


def test_an_uncompressed_scan_starts_no_process(decoder: Decoder, tmp_path: Path) -> None:
    assert np.array_equal(read(decoder, tmp_path, tiff()), electrode())
    assert children() == []


def test_what_the_unpacker_says_of_a_damaged_file_arrives_as_said(decoder: Decoder, tmp_path: Path) -> None:
    damaged = bytearray(packed(compression="zlib"))
    damaged[-40:-20] = bytes(range(1, 21))
    with pytest.raises(ScanError) as apart:
        read(decoder, tmp_path, bytes(damaged))
    with pytest.raises(ScanError) as here:
        read_scan(tmp_path / "scan.tif", file="scan.tif", limits=LIMITS)
    assert (apart.value.reason, apart.value.message) == (here.value.reason, here.value.message)


@pytest.mark.parametrize("program", [("/nowhere/python",), (sys.executable, "-c", "raise SystemExit(3)")])
def test_without_an_unpacker_a_scan_waits_and_is_not_blamed(tmp_path: Path, program: tuple[str, ...]) -> None:
    with closing(Decoder(LIMITS, program=program)) as decoder, pytest.raises(ScanIncomplete) as caught:
        read(decoder, tmp_path, packed())
    assert caught.value.reason == "read-failed"


def test_the_unpacker_can_open_nothing_start_nothing_and_take_no_more_memory_than_a_scan_needs() -> None:
    program = f"""
import os, socket
from edge.scans.decode_child import confine
confine({LIMITS.max_px}, {LIMITS.max_bytes})
def refused(deed):
    try:
        deed()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "permitted"
print(refused(lambda: open("/etc/hostname")), refused(socket.socket), refused(os.pipe),
      refused(lambda: bytes(200_000_000)), refused(lambda: bytes(16_000_000)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["OSError", "OSError", "OSError", "MemoryError", "permitted"], done.stderr


def test_the_process_that_asks_never_loads_the_unpacking_library(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(packed())
    program = """
import sys
from pathlib import Path
import edge.daemon.line
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, read_scan
decoder = Decoder(Limits())
read_scan(Path(sys.argv[1]), file="scan.tif", limits=Limits(), decode=decoder.decode)
decoder.close()
print("imagecodecs" in sys.modules, "imagecodecs" in Path("/proc/self/maps").read_text())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "scan.tif")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_busy_unpacker_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD.format(deed="time.sleep(600)"))
    (tmp_path / "scan.tif").write_bytes(packed(trailer=POISON))
    program = """
import sys
from pathlib import Path
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits, read_scan
decoder = Decoder(Limits(), program=(sys.executable, sys.argv[1]))
print("asking", flush=True)
read_scan(Path(sys.argv[2]), file="scan.tif", limits=Limits(), decode=decoder.decode)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "child.py"), str(tmp_path / "scan.tif")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None and asking.stdout.readline() == b"asking\n"
        until_s = time.monotonic() + 60
        while not (below := children(asking.pid)) and time.monotonic() < until_s:
            pass
        asking.kill()
    (pid,) = below
    while is_alive(pid) and time.monotonic() < until_s:
        pass
    assert not is_alive(pid)


def test_what_lies_in_the_working_directory_is_no_module_of_the_unpackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    """A replay is started in a folder of scans, which others write into."""
    planted = "from pathlib import Path; Path(__file__).with_name('ran').touch()"
    for name in ("imagecodecs.py", "numpy.py", "edge.py"):
        (tmp_path / name).write_text(planted)
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text(planted)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(decoder, tmp_path, packed()), electrode())
    assert kills_its_reader(tmp_path / "scan.tif", LIMITS, fakes.INPUT_SPEC) is None
    assert not list(tmp_path.rglob("ran"))


def children(pid: int | None = None) -> list[int]:
    """Of every thread of a process."""
    tasks = Path(f"/proc/{pid or os.getpid()}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
