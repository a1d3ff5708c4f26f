"""Unpackers that crash, eat, hang or lie: one verdict each, and the next scan is read at once."""

import ctypes
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from edge.errors import ScanError, ScanIncomplete
from edge.pipeline.crash_guard import kills_its_reader
from edge.scans.decoder import Decoder, _processor_time_s
from edge.scans.scan import Limits, read_scan
from edge.scans.syscall_filter import CALLS, PROCESSORS, WITHOUT_EXEC, allow_only_unpacking
from tests.support import fakes
from tests.support.tiff_files import electrode, tiff, written_by_tifffile

LIMITS = Limits(max_px=1_000_000, max_bytes=4_000_000)
POISON = b"POISON"
CHILD = """
import ctypes, json, os, signal, socket, sys
from edge.errors import ScanError
from edge.scans import decode_child
from edge.scans.pixels import decode
{before}
def poisoned(data, layout):
    if b"POISON" in data:
        {deed}
    return decode(data, layout)
decode_child.decode = poisoned
decode_child.main(1_000_000, 4_000_000)
"""
CRASH = "ctypes.string_at(0)"
BURN = "while True: pass"
HANG = "ctypes.CDLL(None).recv(0, ctypes.create_string_buffer(1), 1, 0)"
MEASURE = """
import time
began_s = time.thread_time()
for _ in range(1_000_000): pass
turns = int(0.25e6 / (time.thread_time() - began_s))
"""
WORK = "for _ in range(turns): pass"
"""A quarter of a second of processor time, five times as long as `signalled` waits, on any machine."""
DEEDS = {
    CRASH: "killed by SIGSEGV, killed by SIGSEGV",
    "eaten = [bytes(1 << 20) for _ in range(1 << 14)]": "exit code 1, exit code 1",
    "ctypes.CDLL(None).syscall(0x40000000 | 39)": "killed by SIGSYS, killed by SIGSYS",
    BURN: "ended a process: more than 1.0 s of processor time",
    "sys.stdout.close(); os._exit(0)": "exit code 0, exit code 0",
    "return decode(data, layout)[:-1]": "an answer that is none, an answer that is none",
}


def packed(seed: int = 0, trailer: bytes = b"", compression: str = "lzw") -> bytes:
    return written_by_tifffile(electrode(seed=seed), compression=compression) + trailer


def scripted(tmp_path: Path, deed: str, *, before: str = "", wall_s: float = 20.0) -> Decoder:
    """The real child and its real limits, save what it does to a poisoned file. `before`: done at its start."""
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(deed=deed, before=before))
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
    with closing(scripted(tmp_path, deed)) as decoder:
        with pytest.raises(ScanError) as caught:
            read(decoder, tmp_path, packed(trailer=POISON))
        assert caught.value.reason == "decoder-crash"
        assert caught.value.message.endswith(DEEDS[deed])
        assert caught.value.scan is not None and caught.value.scan.width_px == 45
        assert np.array_equal(read(decoder, tmp_path, packed(seed=1)), electrode(seed=1))


def test_an_unpacker_has_one_thread_however_many_the_processor_has(tmp_path: Path, decoder: Decoder) -> None:
    """Else the unpackers of a large machine fill the number of tasks that the service may have."""
    read(decoder, tmp_path, packed())
    (child,) = decoder._idle
    assert len(list(Path(f"/proc/{child._process.pid}/task").iterdir())) == 1


def test_one_death_alone_does_not_condemn_a_file(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    flag.touch()
    before = f"is_first = os.path.exists({str(flag)!r}) and not os.unlink({str(flag)!r})"
    with closing(scripted(tmp_path, f"is_first and {CRASH}", before=before)) as decoder:
        assert np.array_equal(read(decoder, tmp_path, packed(trailer=POISON)), electrode())
    assert not flag.exists()


def test_a_file_whose_unpackers_are_killed_from_outside_waits_and_is_not_blamed(tmp_path: Path) -> None:
    """As by the kernel of a machine without memory."""
    with (
        closing(scripted(tmp_path, HANG)) as decoder,
        signalled(signal.SIGKILL),
        pytest.raises(ScanIncomplete) as caught,
    ):
        read(decoder, tmp_path, packed(trailer=POISON))
    assert caught.value.reason == "read-failed"
    assert caught.value.message.endswith("killed by SIGKILL, killed by SIGKILL")


@pytest.mark.parametrize("is_stopped", [True, False], ids=["stopped", "waiting"])
def test_an_unpacker_that_gets_no_processor_lets_the_file_wait_and_is_not_its_fault(
    tmp_path: Path, is_stopped: bool
) -> None:
    """Twice in a row, and the next attempt reads it."""
    deed, before = (WORK, MEASURE) if is_stopped else (HANG, "")
    with closing(scripted(tmp_path, deed, before=before, wall_s=0.2)) as decoder:
        for _ in range(2):
            with (
                signalled(signal.SIGSTOP) if is_stopped else nullcontext(),
                pytest.raises(ScanIncomplete, match=r"stopped or starved: 0\.\d s of processor time in 1 s") as caught,
            ):
                read(decoder, tmp_path, packed(trailer=POISON))
            assert caught.value.reason == "read-failed"
        if is_stopped:
            assert np.array_equal(read(decoder, tmp_path, packed(trailer=POISON)), electrode())


def attempts(decoder: Decoder, folder: Path) -> tuple[int, np.ndarray | ScanError]:
    """What comes of a poisoned file that is read until it waits no more, and how often it waited."""
    for waited in range(100):
        try:
            return waited, read(decoder, folder, packed(trailer=POISON))
        except ScanIncomplete:
            pass
        except ScanError as error:
            return waited, error
    raise AssertionError("it waits for ever")


SLIVER_S = -0.8
"""On the clock for an attempt, less the 1 s of processor time that a small file may take: too little to burn that."""


@pytest.fixture
def computes_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a fifth of a second may bring less than what shows in 20 s that a process is not stopped."""
    monkeypatch.setattr("edge.scans.decoder.LEAST_CPU_S", 1e-6)


@pytest.mark.usefixtures("computes_at_all")
def test_a_file_that_burns_time_is_found_out_where_no_attempt_is_long_enough(tmp_path: Path) -> None:
    """On a starved machine: what it has used counts over its attempts."""
    with closing(scripted(tmp_path, BURN, wall_s=SLIVER_S)) as decoder:
        waited, error = attempts(decoder, tmp_path)
    assert isinstance(error, ScanError)
    assert error.reason == "decoder-crash"
    assert error.message.endswith("more than 1.0 s of processor time")
    assert waited >= 1


@pytest.mark.usefixtures("computes_at_all")
def test_a_scan_is_unpacked_where_no_attempt_is_long_enough(tmp_path: Path) -> None:
    deed = "until_s = time.monotonic() + 0.6\n        while time.monotonic() < until_s: pass"
    with closing(scripted(tmp_path, deed, before="import time", wall_s=SLIVER_S)) as decoder:
        waited, counts = attempts(decoder, tmp_path)
        assert isinstance(counts, np.ndarray)
        assert np.array_equal(counts, electrode())
        assert waited >= 1
        assert np.array_equal(read(decoder, tmp_path, packed(seed=1)), electrode(seed=1)), "and it serves on"
        assert len(children()) == 1


@pytest.mark.usefixtures("computes_at_all")
def test_unpackers_of_files_that_do_not_come_again_use_no_time_and_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.scans.decoder.MAX_KEPT", 1)
    with closing(scripted(tmp_path, BURN, wall_s=SLIVER_S)) as decoder:
        for seed in range(2):
            with pytest.raises(ScanIncomplete):
                read(decoder, tmp_path, packed(seed=seed, trailer=POISON))
        (pid,) = children()
        until_s = time.monotonic() + 60
        while "\nState:\tT" not in status(pid) and time.monotonic() < until_s:
            pass
        assert "\nState:\tT" in status(pid)
    assert children() == []


@pytest.mark.usefixtures("computes_at_all")
def test_of_the_unpackers_of_the_same_bytes_under_two_names_one_is_kept(tmp_path: Path) -> None:
    def wait_for(name: str) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(ScanIncomplete):
            read(decoder, tmp_path / name, packed(trailer=POISON))

    # The threads outlive the decoder: an unpacker dies with the one that started it.
    with ThreadPoolExecutor(2) as threads, closing(scripted(tmp_path, BURN, wall_s=SLIVER_S)) as decoder:
        list(threads.map(wait_for, ["a", "b"]))
        assert len(children()) == 1
        decoder.close()
        assert children() == []


def test_an_unpacker_that_does_not_begin_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starved machine starts another one with each attempt."""
    monkeypatch.setattr("edge.scans.decoder.START_S", 0.2)
    with closing(Decoder(LIMITS, program=("sleep", "60"))) as decoder:
        with pytest.raises(ScanIncomplete, match="no process can be started"):
            read(decoder, tmp_path, packed())
        assert children() == []


def test_a_starved_unpacker_that_still_computes_too_much_is_the_files_fault(tmp_path: Path) -> None:
    """It is stopped again and again, and what counts is what it computes in between."""
    with (
        closing(scripted(tmp_path, BURN)) as decoder,
        signalled(signal.SIGSTOP, signal.SIGCONT),
        pytest.raises(ScanError) as caught,
    ):
        read(decoder, tmp_path, packed(trailer=POISON))
    assert caught.value.reason == "decoder-crash"
    assert caught.value.message.endswith("more than 1.0 s of processor time")


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


PROBES = """
libc = ctypes.CDLL(None, use_errno=True)
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
mine = ctypes.create_string_buffer(b"normal--")
ours, theirs = Span(ctypes.addressof(mine), 8), Span({address}, 8)
def call(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) in (-1, 2**64 - 1) and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), name)
def across(name):
    call(name, os.getppid(), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
def made_executable():
    where = libc.mmap(None, 4096, 7, 0x22, -1, 0)
    if where == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
libc.mmap.restype = ctypes.c_void_p
probes = {{
    "unlink": lambda: os.unlink({state!r} + "/unlinked"),
    "truncate": lambda: os.truncate({state!r} + "/truncated", 0),
    "rename": lambda: os.rename({state!r} + "/renamed", {state!r} + "/gone"),
    "symlink": lambda: os.symlink("/etc/passwd", {state!r} + "/planted"),
    "chmod": lambda: os.chmod({state!r}, 0o777),
    "mkdir": lambda: os.mkdir({state!r} + "/made"),
    "stat": lambda: os.stat({state!r}),
    "kill": lambda: os.kill(os.getppid(), 0),
    "setrlimit": lambda: __import__("resource").setrlimit(0, (1000, 1000)),
    "write": lambda: os.write(1, b"x"),
    "open": lambda: os.open({state!r}, 0),
    "socket": lambda: socket.socket(),
    "connect": lambda: call("connect", 0, b"\\1\\0" + bytes(14), 16),
    "fork": lambda: os.fork() or os._exit(0),
    "thread": lambda: __import__("threading").Thread(target=print).start(),
    "execve": lambda: call("execve", b"/bin/true", None, None),
    "ptrace": lambda: call("ptrace", 16, os.getppid(), None, None),
    "process_vm_readv": lambda: across("process_vm_readv"),
    "process_vm_writev": lambda: across("process_vm_writev"),
    "io_uring_setup": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(120)),
    "executable memory": made_executable,
    "memory of ten scans": lambda: bytes(200_000_000),
}}
import resource, threading
def tried(probe):
    try:
        probe()
    except (MemoryError, RuntimeError, ValueError):  # also for threads and limits
        return "refused"
    except Exception as error:
        return "refused" if getattr(error, "errno", None) == 1 else repr(error)
    return "permitted"
def report():
    return json.dumps({{name: tried(probe) for name, probe in probes.items()}})
"""
REFUSED_WITHOUT_A_FILTER = {
    *("connect", "execve", "fork", "io_uring_setup", "memory of ten scans", "open", "ptrace", "socket", "thread"),
    *("process_vm_readv", "process_vm_writev"),
}
"""What limits refuse as well, or Yama where it is on; `execve` and `thread` would end the process or go on in it."""


@pytest.mark.parametrize("is_filtered", [True, False])
def test_an_unpacker_under_control_of_a_file_reaches_nothing(tmp_path: Path, is_filtered: bool) -> None:
    """In the real child, after its own confinement; without the filter most of it is permitted."""
    state = tmp_path / "state"
    state.mkdir()
    for name in ("unlinked", "truncated", "renamed"):
        (state / name).write_bytes(b"ledger")
    memory = ctypes.create_string_buffer(b"abnormal")
    before = PROBES.format(state=str(state), address=ctypes.addressof(memory))
    if not is_filtered:
        before += "\ndecode_child.allow_only_unpacking = lambda: False"
        before += f"\nfor name in {REFUSED_WITHOUT_A_FILTER!r}: del probes[name]"
    deed = 'raise ScanError("decoder-failed", report(), hint="")'
    with closing(scripted(tmp_path, deed, before=before)) as decoder:
        assert decoder.is_filtered() is is_filtered
        with pytest.raises(ScanError) as caught:
            read(decoder, tmp_path, packed(trailer=POISON))
    assert caught.value.reason == "decoder-failed", caught.value
    found = json.loads(caught.value.message.removeprefix("scan.tif: "))
    if is_filtered:
        assert set(found.values()) == {"refused"}, found
        assert {path.name: path.read_bytes() for path in state.iterdir()} == dict.fromkeys(
            ("unlinked", "truncated", "renamed"), b"ledger"
        )
        assert memory.value == b"abnormal"
    else:
        assert set(found.values()) == {"permitted"}, found


def test_where_the_kernel_filters_nothing_scans_are_read_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(scripted(tmp_path, "pass", before="decode_child.allow_only_unpacking = lambda: False")) as decoder:
        assert np.array_equal(read(decoder, tmp_path, packed()), electrode())
        assert not decoder.is_filtered()
    assert "system calls of the unpacker not filtered" in caplog.text


@pytest.mark.parametrize("machine", sorted(PROCESSORS))
def test_each_processor_has_a_number_for_each_call(machine: str) -> None:
    assert set(PROCESSORS[machine].numbers) == {*CALLS, *WITHOUT_EXEC}


def test_a_processor_without_a_table_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not allow_only_unpacking()


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
    (tmp_path / "child.py").write_text(CHILD.format(deed=BURN, before=""))
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
    """Children of every thread of a process, but those that multiprocessing keeps for other tests."""
    tasks = Path(f"/proc/{pid or os.getpid()}/task")
    below = [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return [int(child) for child in below if b"multiprocessing" not in command_line(child)]


def command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended just now
        return b""


@contextmanager
def signalled(*signals: signal.Signals) -> Iterator[None]:
    """Every unpacker gets these signals in turn, from when it has said that it is ready."""
    is_over = threading.Event()
    before_s: dict[int, float] = {}

    def is_ready(pid: int) -> bool:
        """Behind its filter it has next to nothing to compute until it says so; then it waits, or computes."""
        if "Seccomp:\t2" not in (said := status(pid)):
            return False
        used_s = _processor_time_s(pid)
        return "State:\tR" not in said or used_s - before_s.setdefault(pid, used_s) >= 0.02

    def send() -> None:
        for number in itertools.cycle(signals):
            if is_over.wait(0.05):
                return
            for pid in children():
                if b"child.py" in Path(f"/proc/{pid}/cmdline").read_bytes() and is_ready(pid):
                    os.kill(pid, number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        is_over.set()
        sender.join()


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
