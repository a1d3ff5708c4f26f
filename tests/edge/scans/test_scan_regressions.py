"""Every file that ever broke the reader, or would have: read again on each run."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from edge.errors import ScanError
from edge.scans.scan import REASONS, Limits, check_complete, read_scan
from tests.torture.hostile import handmade

SLOWEST_S = 2.0  # of processor time
FOUND = sorted((Path(__file__).parent / "regressions").glob("*.tif"))
FILES = [pytest.param(data, id=f"handmade-{number}") for number, data in enumerate(handmade())]
FILES += [pytest.param(file.read_bytes(), id=file.name) for file in FOUND]


@pytest.mark.parametrize("data", FILES)
def test_a_hostile_file_is_read_or_refused_with_a_reason_in_good_time(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "scan.tif"
    file.write_bytes(data)
    started_s = time.thread_time()
    with contextlib.suppress(ScanError):
        check_complete(file, Limits())
    reason = "read"
    try:
        frame = read_scan(file, file="scan.tif", limits=Limits())
    except ScanError as refused:
        reason = refused.reason
    else:
        assert frame.counts.shape == (frame.scan.height_px, frame.scan.width_px)
    assert reason in {*REASONS, "read"}
    assert time.thread_time() - started_s < SLOWEST_S
