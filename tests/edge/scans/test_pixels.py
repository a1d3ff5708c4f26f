"""Coded strips unpack as their specification says, however their writer ends them, and the same way each time."""

from __future__ import annotations

import random
import time
from contextlib import closing
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ScanError
from edge.records import Counts
from edge.scans.decoder import Decoder
from edge.scans.pixels import CODES, sound_lzw
from edge.scans.scan import read_scan
from edge.scans.tiff import read_layout
from tests.support.tiff_files import (
    LIMITS,
    ROWS,
    SHORT,
    coded,
    counts_in,
    electrode,
    refusal,
    tiff,
    written_by_tifffile,
)

CLEAR, END = 256, 257
LZW, PACKBITS = 5, 32773
MANY = 1 << 20


def packed(codes: list[int]) -> bytes:
    """Codes as TIFF 6.0 writes them, whatever they stand for; 256 resets their width."""
    return packed_by_width([(code, None) for code in codes])


def packed_by_width(codes: list[tuple[int, int | None]]) -> bytes:
    """(code, width); None for the width that TIFF 6.0 asks for at its place."""
    bits, count, since_clear = 0, 0, 0
    for code, forced in codes:
        width = forced or width_of(since_clear)
        bits, count = bits << width | code & (1 << width) - 1, count + width
        since_clear = 0 if code == CLEAR else since_clear + 1
    return (bits << -count % 8).to_bytes(-(-count // 8), "big")


def width_of(since_clear: int) -> int:
    return 9 + sum(END + since_clear >= limit for limit in (511, 1023, 2047))


def codes_of(data: bytes, entries: int = 4094) -> list[int]:
    """Data as LZW codes without an end code; the table is cleared when it has so many entries."""
    codes, table, have = [CLEAR], {}, b""
    for byte in data:
        longer = have + bytes([byte])
        if len(longer) == 1 or longer in table:
            have = longer
            continue
        codes.append(have[0] if len(have) == 1 else table[have])
        table[longer] = 258 + len(table)
        have = longer[-1:]
        if 258 + len(table) >= entries:
            codes, table = [*codes, CLEAR], {}
    if have:
        codes.append(have[0] if len(have) == 1 else table[have])
    return codes


def unpacked(raw: bytes) -> bytes:
    """Section 13 of TIFF 6.0, code by code, up to its end or to the first code that stands for nothing."""
    bits, left, since_clear = int.from_bytes(raw, "big"), 8 * len(raw), 0
    table: list[bytes] = []
    before, found = b"", bytearray()
    while left >= (width := width_of(since_clear)):
        left -= width
        code = bits >> left & (1 << width) - 1
        since_clear += 1
        if code == END:
            break
        if code == CLEAR:
            table, before, since_clear = [bytes([byte]) for byte in range(256)] + [b"", b""], b"", 0
            continue
        if since_clear == 1 and table and code < CLEAR:
            now = bytes([code])
        elif before and code < len(table) <= 4095:
            now = table[code]
            table.append(before + now[:1])
        elif before and code == len(table) <= 4095:
            now = before + before[:1]
            table.append(now)
        else:
            break
        found += now
        before = now
    return bytes(found)


def in_c(raw: bytes, room: int) -> bytes:
    return bytes(imagecodecs.lzw_decode(raw, out=bytearray(room))) if raw else b""


class TestSoundLzw:
    @pytest.mark.parametrize("size", [0, 1, 2, 255, 5000, 60_000])
    @pytest.mark.parametrize("levels", [1, 3, 256])
    def test_what_writers_write_is_let_pass_as_it_is(self, size: int, levels: int) -> None:
        data = np.random.default_rng(size).integers(0, levels, size, np.uint8).tobytes()
        raw = imagecodecs.lzw_encode(data)
        assert sound_lzw(raw, MANY) == (raw, None)
        assert unpacked(raw) == data

    @pytest.mark.parametrize("sigma", [0, 5, 3000])
    def test_what_libtiff_writes_is_let_pass_as_it_is(self, sigma: float) -> None:
        counts = np.random.default_rng(1).normal(20_000, sigma, (300, 200)).astype(np.uint16)
        is_written, buffer = cv2.imencode(".tif", counts, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        assert is_written
        file = buffer.tobytes()
        layout = read_layout(lambda start, length: file[start : start + length], len(file), 100_000)
        for start, length in zip(layout.offsets_bytes, layout.lengths_bytes, strict=True):
            raw = file[start : start + length]
            assert sound_lzw(raw, MANY) == (raw, None)

    @given(st.integers(0, 2**32))
    @settings(max_examples=400, deadline=None)
    def test_of_a_damaged_stream_the_decoder_is_given_what_the_specification_explains(self, seed: int) -> None:
        chance = random.Random(seed)
        data = bytes(chance.choices(range(chance.choice([2, 30, 256])), k=chance.randint(1, 6000)))
        raw = bytearray(imagecodecs.lzw_encode(data))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(raw))
            raw[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            raw = raw or bytearray(1)
        sound = sound_lzw(bytes(raw), MANY)
        expected = unpacked(bytes(raw)) if raw[0] == 0x80 and raw[1:2] < b"\x80" else b""
        assert in_c(sound.raw, len(expected) + 1) == expected
        if sound.raw:
            assert sound_lzw(sound.raw, MANY) == (sound.raw, None)  # as sound as what a good writer writes

    @pytest.mark.parametrize(
        ("codes", "holds", "flaw"),
        [
            ([CLEAR, 300], 0, "stands for nothing"),
            ([CLEAR, 65, 259], 1, "stands for nothing"),
            ([CLEAR, 65, 258, 260, END], 3, "stands for nothing"),
            ([CLEAR, 65, 258, 259, END], 6, None),  # each refers to the very entry it makes
            ([CLEAR, 65, END, 300], 1, None),  # what follows the end is no code
            ([65, 66, END], 0, "does not begin with clearing the table"),
            ([65, CLEAR, 65, END], 0, "does not begin with clearing the table"),
            ([CLEAR] * 2000, 0, "cleared too often"),
            ([CLEAR] + [65] * (CODES - 1) + [CLEAR, 65, END], CODES, None),
            ([CLEAR] + [65] * CODES + [CLEAR, 65, END], CODES + 1, None),
            ([CLEAR] + [65] * CODES + [END], CODES, None),
            ([CLEAR] + [65] * (CODES + 9), CODES, "full and not cleared"),
            ([CLEAR, 65, 66], 2, "breaks off"),
            ([CLEAR] + [65] * 254 + [END], 254, None),  # where codes become wider
            ([CLEAR] + [65] * 255, 255, "breaks off"),
            ([CLEAR], 0, "breaks off"),
            ([], 0, "does not begin with clearing the table"),
        ],
    )
    def test_it_ends_before_the_first_code_that_stands_for_nothing(
        self, codes: list[int], holds: int, flaw: str | None
    ) -> None:
        sound = sound_lzw(packed(codes), 1000)
        assert len(in_c(sound.raw, 10_000)) == holds
        assert (flaw in sound.flaw) if flaw and sound.flaw else sound.flaw is flaw

    def test_a_scan_of_clearings_takes_no_time(self) -> None:
        raw = packed([CLEAR] * 8) * 100_000
        started = time.process_time()
        sound_lzw(raw, 16 + 8192 // 256)
        assert time.process_time() - started < 0.1  # all of them take seconds


def scan_on_a_width_change() -> tuple[Counts, list[int]]:
    """A scan and its LZW codes, the last of which is the last of 9 bits: there some writers get the end code wrong."""
    for seed in range(10_000):
        counts = np.random.default_rng(seed).integers(1600, 2800, (4, 33)).astype(np.uint16)
        codes = codes_of(counts.astype("<u2").tobytes())
        if len(codes) == 255:
            return counts, codes
    raise AssertionError("no scan ends there")


class TestLzwAsWritersEndIt:
    @pytest.mark.parametrize(
        "ending",
        [[(END, None)], [(END, 9)], [], [(0, None), (END, None)], [(4095, 12)] * 5, [(END, 9), (0, 12), (0, 12)]],
        ids=["TIFF 6.0", "one bit short", "none", "a byte more", "codes that stand for nothing", "short, then filled"],
    )
    def test_what_follows_the_last_pixel_does_not_matter(
        self, path: Path, ending: list[tuple[int, int | None]]
    ) -> None:
        counts, codes = scan_on_a_width_change()
        raw = packed_by_width([(code, None) for code in codes] + ending)
        np.testing.assert_array_equal(counts_in(path, coded(raw, LZW, counts)), counts)

    @pytest.mark.parametrize("ending", [[(END, None)], [(END, 9)], [], [(4095, 12)] * 5])
    def test_a_strip_that_lacks_its_last_sample_is_refused(
        self, path: Path, ending: list[tuple[int, int | None]]
    ) -> None:
        counts, codes = scan_on_a_width_change()
        raw = packed_by_width([(code, None) for code in codes[:-1]] + ending)
        assert refusal(path, coded(raw, LZW, counts)).reason in ("decoder-failed", "inconsistent-header")

    @pytest.mark.parametrize("entries", [300, 520, 600, 4093, 4094, 4095, 4096])
    def test_the_table_may_be_cleared_at_any_size(self, path: Path, entries: int) -> None:
        counts = electrode(90, 70)
        raw = packed([*codes_of(counts.astype("<u2").tobytes(), entries), END])
        if entries < 512:
            # Fewer than 256 bytes a table: that is how a file of nothing but clearings looks.
            assert "cleared too often" in refusal(path, coded(raw, LZW, counts)).message
        else:
            np.testing.assert_array_equal(counts_in(path, coded(raw, LZW, counts)), counts)

    @given(
        seed=st.integers(0, 2**32),
        shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        levels=st.sampled_from([1, 2, 300, 65536]),
        entries=st.integers(600, 4096),
        junk=st.binary(max_size=40),
        ends=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def test_any_scan_reads_back_whatever_follows_its_last_pixel(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        seed: int,
        shape: tuple[int, int],
        levels: int,
        entries: int,
        junk: bytes,
        ends: bool,
    ) -> None:
        counts = (65_535 - np.random.default_rng(seed).integers(0, levels, shape)).astype(np.uint16)
        codes = codes_of(counts.astype("<u2").tobytes(), entries) + [END] * ends
        path = tmp_path_factory.mktemp("lzw") / "0001.tif"
        np.testing.assert_array_equal(counts_in(path, coded(packed(codes) + junk, LZW, counts)), counts)


class TestPackBits:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"rowsperstrip": 1}, {"tile": (16, 32)}], ids=str)
    def test_it_reads_back_the_same_counts(self, path: Path, order: str, layout: dict[str, object]) -> None:
        counts = electrode()
        counts[10:30] = 2250  # runs
        data = written_by_tifffile(counts, compression="packbits", byteorder=order, **layout)
        np.testing.assert_array_equal(counts_in(path, data), counts)

    @given(
        seed=st.integers(0, 2**32),
        shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        levels=st.sampled_from([1, 2, 300, 65536]),
        junk=st.binary(max_size=60),
    )
    @settings(max_examples=150, deadline=None)
    def test_any_scan_reads_back_and_is_never_read_short(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, int], levels: int, junk: bytes
    ) -> None:
        counts = (65_535 - np.random.default_rng(seed).integers(0, levels, shape)).astype(np.uint16)
        raw = imagecodecs.packbits_encode(counts.astype("<u2").tobytes())
        path = tmp_path_factory.mktemp("packbits") / "0001.tif"
        np.testing.assert_array_equal(counts_in(path, coded(raw, PACKBITS, counts)), counts)
        refusal(path, coded(raw[: -1 - len(junk) % len(raw)] or b"\x80", PACKBITS, counts))

    def test_nothing_codes_are_passed_over(self, path: Path) -> None:
        counts = electrode(1, 3)
        raw = b"\x80\x05" + counts.astype("<u2").tobytes()[:6] + b"\x80"
        np.testing.assert_array_equal(counts_in(path, coded(raw, PACKBITS, counts)), counts)

    def test_the_line_unpacks_it_in_a_process_apart(self, path: Path) -> None:
        path.write_bytes(written_by_tifffile(electrode(), compression="packbits"))
        with closing(Decoder(LIMITS)) as decoder:
            read = read_scan(path, file="x.tif", limits=LIMITS, decode=decoder.decode)
            np.testing.assert_array_equal(read.counts, electrode())
            path.write_bytes(coded(b"\x81\7" * 100, PACKBITS, electrode()))
            with pytest.raises(ScanError, match="unpacks to more than 5490 bytes") as caught:
                read_scan(path, file="x.tif", limits=LIMITS, decode=decoder.decode)
        assert caught.value.reason == "decoder-failed"


class TestPaddedLastStrip:
    """Some writers fill the last strip up to RowsPerStrip."""

    @pytest.mark.parametrize("coding", [1, LZW, 8, PACKBITS])
    def test_its_padding_is_not_read(self, path: Path, coding: int) -> None:
        counts = electrode(13, 40)
        padded = np.pad(counts, ((0, 3), (0, 0))).astype("<u2").tobytes()
        halves = [padded[: 8 * 80], padded[8 * 80 :]]
        pack = {
            1: bytes,
            LZW: imagecodecs.lzw_encode,
            8: imagecodecs.deflate_encode,
            PACKBITS: imagecodecs.packbits_encode,
        }
        strips = [pack[coding](half) for half in halves]
        np.testing.assert_array_equal(counts_in(path, two_strips(strips, coding, counts)), counts)

    def test_it_is_refused_where_it_is_neither_cut_nor_full(self, path: Path) -> None:
        counts = electrode(13, 40)
        strips = [counts[:8].tobytes(), counts[8:].tobytes() + bytes(80)]
        error = refusal(path, two_strips(strips, 1, counts))
        assert error.reason == "inconsistent-header"
        with pytest.raises(ScanError, match="unpacks to 480 bytes: its pixels need 400"):
            raise refusal(path, two_strips([imagecodecs.deflate_encode(strip) for strip in strips], 8, counts))


def two_strips(strips: list[bytes], coding: int, counts: Counts) -> bytes:
    change = {
        259: (SHORT, [coding]),
        ROWS: (SHORT, [8]),
        273: (4, [400, 400 + len(strips[0])]),
        279: (4, [len(strip) for strip in strips]),
    }
    return tiff(counts, change=change)[:400] + b"".join(strips)
