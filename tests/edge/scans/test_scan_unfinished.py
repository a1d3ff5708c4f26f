"""Files with missing pixels, files that change while they are read, and what is no file at all."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.errors import ScanError, ScanIncomplete
from edge.records import Counts, ExpectedFile
from edge.scans import scan as scan_module
from edge.scans.pixels import decode
from edge.scans.scan import Limits, check_complete, read_scan
from edge.scans.tiff import Layout
from tests.support.station import stamp_of
from tests.support.tiff_files import (
    CODING,
    LENGTHS,
    LIMITS,
    LONG,
    OFFSETS,
    ROWS,
    SHORT,
    counts_in,
    electrode,
    refusal,
    tiff,
    written_by_tifffile,
)


class TestUnfinishedPixels:
    """A writer that reserved the whole file and stopped: what it did not write is zero."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"byteorder": ">"},
            {"rowsperstrip": 8},
            {"photometric": "miniswhite"},
            {"compression": "lzw"},
            {"compression": "lzw", "predictor": True, "rowsperstrip": 8},
            {"compression": "zlib"},
            {"compression": "zlib", "predictor": True, "rowsperstrip": 8},
            {"compression": "packbits"},
            {"compression": "packbits", "rowsperstrip": 8},
            {"tile": (16, 16)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("is_reserved", [True, False])
    def test_no_beginning_of_a_scan_is_taken_for_the_scan(
        self, path: Path, options: dict[str, object], is_reserved: bool
    ) -> None:
        counts = electrode(64, 48) if "tile" in options else electrode()  # without padding, which nobody need write
        data = written_by_tifffile(counts, **options)
        for written in [*range(0, len(data) - 40, 97), len(data) - 40]:
            part = data[:written] + bytes(len(data) - written) * is_reserved
            error = refusal(path, part)
            assert isinstance(error, ScanIncomplete), (written, error.message)

    def test_a_hole_in_the_middle_of_the_pixels_is_seen(self, path: Path) -> None:
        data = bytearray(tiff(electrode(600, 400)))
        data[8192 : 8192 + 4096] = bytes(4096)
        error = refusal(path, bytes(data))
        assert (error.reason, type(error)) == ("zero-tail", ScanIncomplete)
        assert "2048 px from row 9, column 296 on" in error.message

    @pytest.mark.parametrize("coding", ["lzw", "zlib", "packbits"])
    @pytest.mark.parametrize(("start", "length"), [(8192, 4096), (8192, 512), (30_000, 64), (50_001, 4096)])
    def test_a_hole_in_the_middle_of_coded_pixels_is_seen(
        self, path: Path, coding: str, start: int, length: int
    ) -> None:
        data = bytearray(written_by_tifffile(electrode(600, 400), compression=coding, rowsperstrip=600))
        data[start : start + length] = bytes(length)
        error = refusal(path, bytes(data))
        assert (error.reason, type(error)) == ("zero-tail", ScanIncomplete)

    @pytest.mark.parametrize("coding", ["lzw", "packbits"])
    def test_a_hole_that_unpacks_to_as_many_zeros_is_seen(self, path: Path, coding: str) -> None:
        """Noise is coded byte by byte, so that what a hole leaves out is replaced by as many zeros."""
        counts = np.random.default_rng(0).integers(0, 65_536, (8, 15)).astype(np.uint16)
        data = bytearray(written_by_tifffile(counts, compression=coding))
        start = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0].dataoffsets[0]
        data[start + 60 : start + 60 + 24] = bytes(24)
        error = refusal(path, bytes(data))
        assert (error.reason, type(error)) == ("zero-tail", ScanIncomplete)

    @pytest.mark.parametrize(
        ("coding", "predictor"), [("lzw", None), ("lzw", True), ("zlib", None), ("zlib", True), ("packbits", None)]
    )
    @pytest.mark.parametrize("tile", [None, (64, 64)])
    def test_a_coded_scan_is_judged_by_its_coded_bytes_and_not_by_its_zeros(
        self, path: Path, coding: str, predictor: bool | None, tile: tuple[int, int] | None
    ) -> None:
        dead_row, mask = electrode(300, 200), electrode(300, 200)
        dead_row[-1] = 0
        mask[:20], mask[-20:], mask[:, :20], mask[:, -20:] = 0, 0, 0, 0
        for counts in (dead_row, mask, np.zeros((300, 200), np.uint16)):
            data = written_by_tifffile(counts, compression=coding, predictor=predictor, tile=tile)
            np.testing.assert_array_equal(counts_in(path, data), counts)

    @pytest.mark.parametrize("coding", ["lzw", "zlib", "packbits"])
    def test_coded_strips_may_be_filled_up_to_whole_sectors(self, path: Path, coding: str) -> None:
        counts = electrode(40, 50)
        page = tifffile.TiffFile(io.BytesIO(written_by_tifffile(counts, compression=coding, rowsperstrip=20))).pages[0]
        strips = [
            page.parent.filehandle.read_array("u1", length, offset=start).tobytes()
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        filled = [strip.ljust(8192, b"\0") for strip in strips]
        change = {
            CODING: (SHORT, [int(page.compression)]),
            ROWS: (LONG, [20]),
            OFFSETS: (LONG, [4096, 4096 + 8192]),
            LENGTHS: (LONG, [8192, 8192]),
        }
        data = tiff(counts, change=change).ljust(4096, b"\0")[:4096] + b"".join(filled)
        np.testing.assert_array_equal(counts_in(path, data), counts)

    def test_zeros_beside_the_pixels_are_no_hole(self, path: Path) -> None:
        data = tiff(electrode(100, 400), pixels_at=20_000) + bytes(20_000)
        np.testing.assert_array_equal(counts_in(path, data), electrode(100, 400))

    @pytest.mark.parametrize("tile", [None, (64, 64)])
    @pytest.mark.parametrize(
        "where",
        [np.s_[:300], np.s_[-1:], np.s_[:, -20:], np.s_[:8], np.s_[200:210]],
        ids=["background", "last row", "last columns", "first rows", "rows inside"],
    )
    def test_zeros_of_a_whole_scan_are_read_where_the_folder_expects_them(
        self, path: Path, where: tuple[slice, ...], tile: tuple[int, int] | None
    ) -> None:
        """And waited for where it does not, or not so many, with a hint that names the setting and the number."""
        counts = electrode(600, 400)
        counts[where] = 0
        zero_px = int(np.count_nonzero(counts == 0))
        path.write_bytes(written_by_tifffile(counts, tile=tile))
        limits = Limits(expected_zero_px=zero_px)
        np.testing.assert_array_equal(read_scan(path, file="x.tif", limits=limits).counts, counts)
        for fewer in (0, zero_px - 1):
            error = refusal(path, None, Limits(expected_zero_px=fewer))
            assert (error.reason, type(error)) == ("zero-tail", ScanIncomplete)
            assert f"set `folder.expected_zero_px` to the most that its scans may hold, here {zero_px}" in error.hint

    @pytest.mark.parametrize("tile", [None, (128, 128)])
    @pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
    def test_true_zeros_do_not_hide_a_hole(self, path: Path, share: float, tile: tuple[int, int] | None) -> None:
        counts = electrode(512, 1024)
        counts[:, : int(1024 * share)] = 0
        limits = Limits(expected_zero_px=int(np.count_nonzero(counts == 0)))
        data = written_by_tifffile(counts, tile=tile)
        path.write_bytes(data)
        assert read_scan(path, file="x.tif", limits=limits).counts.size == counts.size
        start = len(data) - counts.nbytes
        for begin, length in [(0.5, 0.25), (0.9, 0.1), (0.4, 0.01), (1 - 4000 / counts.nbytes, 4000 / counts.nbytes)]:
            hole = bytearray(data)
            at, size = start + int(begin * counts.nbytes), int(length * counts.nbytes)
            hole[at : at + size] = bytes(size)
            assert refusal(path, bytes(hole), limits).reason == "zero-tail", (begin, length)

    @pytest.mark.parametrize("missing", [[3], [31], [8, 9, 10]])
    def test_a_tile_that_is_not_written_is_seen(self, path: Path, missing: list[int]) -> None:
        counts = electrode(500, 270)  # the tiles at the right and below are cut
        data = bytearray(written_by_tifffile(counts, tile=(64, 64)))
        offsets = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[0].dataoffsets
        for index in missing:
            data[offsets[index] : offsets[index] + 8192] = bytes(8192)
        assert refusal(path, bytes(data)).reason == "zero-tail"

    def test_where_no_station_writes_a_background_of_zeros_is_told_by_itself(self, path: Path) -> None:
        finished = Limits(expected_zero_px=None)
        counts = electrode(600, 400)
        counts[:300] = 0
        counts[300:, :20] = 0
        path.write_bytes(tiff(counts))
        np.testing.assert_array_equal(read_scan(path, file="x.tif", limits=finished).counts, counts)
        counts[300:, :20] = 1
        assert refusal(path, tiff(counts), finished).reason == "zero-tail"

    def test_dead_pixels_are_no_hole(self, path: Path) -> None:
        counts = electrode()
        counts[::7, ::5] = 0
        counts[-1, -15:] = 0
        np.testing.assert_array_equal(counts_in(path, tiff(counts)), counts)

    def test_the_padding_of_tiles_is_no_hole(self, path: Path) -> None:
        counts = electrode(300, 270)
        np.testing.assert_array_equal(counts_in(path, written_by_tifffile(counts, tile=(256, 256))), counts)

    def test_black_is_not_unwritten_where_white_is_zero(self, path: Path) -> None:
        """Stored 65535 is count 0: a black last row was written; a white one looks like a missing one."""
        counts = electrode()
        counts[-1] = 0
        data = written_by_tifffile(65535 - counts, photometric="miniswhite")
        np.testing.assert_array_equal(counts_in(path, data), counts)
        counts[-1] = 65535
        assert refusal(path, written_by_tifffile(65535 - counts, photometric="miniswhite")).reason == "zero-tail"


@contextmanager
def without_privileges() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestNotARegularFile:
    @pytest.mark.parametrize(
        "read",
        [lambda path: read_scan(path, file=path.name, limits=LIMITS), lambda path: check_complete(path, LIMITS)],
        ids=["read", "check"],
    )
    @pytest.mark.parametrize("kind", ["pipe", "directory", "link", "link to itself", "socket", "device"])
    def test_what_is_no_file_is_refused_without_waiting(
        self, tmp_path: Path, kind: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.tif"
        (tmp_path / "real.tif").write_bytes(tiff())
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "link":
                path.symlink_to(tmp_path / "real.tif")
            case "link to itself":
                path.symlink_to(path)
            case "socket":
                monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind("x.tif")
            case "device":
                path = Path("/dev/zero")
        with pytest.raises(ScanError, match="expected a regular file") as caught:
            read(path)
        assert caught.value.reason == "not-a-file"
        assert not isinstance(caught.value, ScanIncomplete)

    def test_a_file_that_is_not_there_has_vanished(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "x.tif", tmp_path / "gone" / "x.tif", tmp_path / "file" / "x.tif"):
            error = refusal(path)
            assert (error.reason, error.scan, type(error)) == ("vanished", None, ScanIncomplete)

    def test_a_file_that_may_not_be_read_says_so(self, path: Path) -> None:
        path.write_bytes(tiff())
        path.chmod(0)
        with without_privileges():
            error = refusal(path)
        assert (error.reason, error.scan, type(error)) == ("no-permission", None, ScanIncomplete)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs the process files of Linux")
    def test_a_disk_that_answers_with_an_error_is_named(self) -> None:
        """Reading address 0 of one's own memory is an input/output error on a regular file."""
        error = refusal(Path("/proc/self/mem"))
        assert (error.reason, type(error)) == ("read-failed", ScanIncomplete)

    @pytest.mark.parametrize("says_bytes", [99, 101])
    def test_a_file_that_does_not_hold_what_its_size_says_is_not_believed(self, path: Path, says_bytes: int) -> None:
        """Some network and special file systems report sizes that are not true."""
        path.write_bytes(bytes(100))
        with path.open("rb", buffering=0) as file, pytest.raises(ScanIncomplete, match=f"had {says_bytes} bytes"):
            scan_module._read_whole(file.fileno(), says_bytes, "x.tif")

    def test_an_impossible_name_is_an_error_of_this_file_only(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / ("x" * 300 + ".tif")).reason == "read-failed"


def rewrite(path: Path, data: bytes) -> None:
    """In place, and with the old time: only the bytes show it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten in place": lambda path: rewrite(path, tiff(electrode(seed=9))),
    "appended to": lambda path: path.write_bytes(tiff() + b"more"),
    "cut": lambda path: os.truncate(path, 3000),
    "touched": lambda path: os.utime(path, ns=(0, 1)),
    "replaced by another": lambda path: replace(path, tiff(electrode(seed=9))),
    "replaced by its equal": lambda path: replace(path, tiff()),
}


class TestChangesWhileReading:
    @pytest.mark.parametrize("how", CHANGES)
    @pytest.mark.parametrize("data", [tiff(), tiff()[:-50] + bytes(50)], ids=["whole", "half-written"])
    def test_a_file_that_changes_while_it_is_decoded_gives_no_pixels(self, path: Path, how: str, data: bytes) -> None:
        def decode_and_meanwhile(data: bytes, layout: Layout) -> Counts:
            CHANGES[how](path)
            return decode(data, layout)

        path.write_bytes(data)
        with pytest.raises(ScanIncomplete) as caught:
            read_scan(path, file=path.name, limits=LIMITS, decode=decode_and_meanwhile)
        error = caught.value
        assert error.reason == "changed-while-reading"
        assert error.scan is not None
        assert error.scan.sha256 == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize("how", [name for name in CHANGES if name != "rewritten in place"])
    def test_a_file_that_changed_since_it_was_found_complete_is_not_read(self, path: Path, how: str) -> None:
        path.write_bytes(tiff())
        expected = ExpectedFile(stamp_of(path, path.parent), has_stable_inodes=True)
        CHANGES[how](path)
        with pytest.raises(ScanIncomplete) as caught:
            read_scan(path, file=path.name, limits=Limits(max_bytes=len(tiff())), expected=expected)
        assert caught.value.reason == "changed-while-reading"
        assert caught.value.scan is None

    def test_where_inodes_are_invented_another_one_is_no_other_file(self, path: Path) -> None:
        path.write_bytes(tiff())
        stamp = replace_fields(stamp_of(path, path.parent), inode=1)
        unstable = ExpectedFile(stamp, has_stable_inodes=False)
        assert read_scan(path, file=path.name, limits=LIMITS, expected=unstable).scan.size_bytes == len(tiff())
        with pytest.raises(ScanIncomplete, match="changed after it was found complete"):
            read_scan(path, file=path.name, limits=LIMITS, expected=ExpectedFile(stamp, has_stable_inodes=True))

    @pytest.mark.parametrize("size_bytes", [100, 9000])
    def test_a_file_whose_length_changes_before_it_is_read_is_not_decoded(
        self, path: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_and_before(fd: int, length: int) -> bytes:
            monkeypatch.undo()
            os.truncate(path, size_bytes)
            return os.read(fd, length)

        path.write_bytes(tiff())
        monkeypatch.setattr(os, "read", read_and_before)
        assert refusal(path).reason == "changed-while-reading"

    def test_a_scan_that_is_moved_on_after_it_was_read_keeps_its_verdict(self, path: Path) -> None:
        def decode_and_meanwhile(data: bytes, layout: Layout) -> Counts:
            path.unlink()
            return decode(data, layout)

        path.write_bytes(tiff())
        frame = read_scan(path, file=path.name, limits=LIMITS, decode=decode_and_meanwhile)
        np.testing.assert_array_equal(frame.counts, electrode())

    def test_no_file_stays_open_after_reading_or_refusing(self, path: Path) -> None:
        before = set(Path("/proc/self/fd").iterdir())
        counts_in(path, tiff())
        refusal(path, b"no scan")
        assert set(Path("/proc/self/fd").iterdir()) == before
