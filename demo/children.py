"""Child processes of the demo: started apart from the terminal, always stopped."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TAIL_LINES = 12


@contextmanager
def child(command: Sequence[str | Path], log: Path, *, grace_s: float = 20.0) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` with its output in `log`; however the block ends, the process has ended too."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the commands are the demo's own
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=plain_environment(),
            start_new_session=True,  # Ctrl-C is for the demo alone, which then stops its children in order
        )
    try:
        yield process
    finally:
        stop(process, grace_s)


def stop(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM, then SIGKILL after the grace or on Ctrl-C; the exit code (negative: the signal that ended it)."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
    return process.wait()


def plain_environment() -> dict[str, str]:
    """The environment without settings of another edge-worker on this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return "\n".join(lines[-TAIL_LINES:]) or "(no output)"
