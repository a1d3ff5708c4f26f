"""The fuzzed process: reads whatever libFuzzer makes up, lets ScanError pass, and ends with anything else.

`python -m tests.torture.fuzz_child CORPUS [libFuzzer options]`. Nothing of edge may be imported before atheris
instruments it, so this module stands alone.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["edge"]):
    from edge.errors import ScanError
    from edge.scans.scan import Limits, check_complete, read_scan

MEMORY = Path("/dev/shm")


def main() -> None:
    limits = Limits(max_px=4_000_000, max_bytes=1 << 20)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        file = Path(folder) / "scan.tif"

        def one(data: bytes) -> None:
            file.write_bytes(data)
            with contextlib.suppress(ScanError):
                check_complete(file, limits)
            with contextlib.suppress(ScanError):
                read_scan(file, file="scan.tif", limits=limits)

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
