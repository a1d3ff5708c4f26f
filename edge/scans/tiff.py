"""The TIFF files a scan may come in: header to layout. Bytes in, no files; edge/scans/pixels.py goes on from there.

Accepted: one page of one 16-bit unsigned grey sample, and reduced copies of it that say so; little or big endian;
classic or BigTIFF; strips or tiles; uncompressed, PackBits, LZW or Deflate, with or without the horizontal predictor.
Source: TIFF 6.0 (Adobe 1992), its Technical Note on Deflate, and the BigTIFF design of libtiff.

What writers leave out is taken as meant only where one meaning is possible: the pointer to a next directory at the
very end of a file, the length of a single uncompressed strip, a last strip that is filled up to RowsPerStrip.

Strict on purpose. General TIFF libraries guess where a file contradicts itself and load tables of whatever length it
names; a file that contradicts itself must not become pixels here, and every length is checked against the file
and the limits before anything of that length is allocated. Orientation is not applied: counts are as stored.

Every function raises ScanError with its reason word, or ScanIncomplete where a writer may still be at work.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge.errors import ScanError, ScanIncomplete
from edge.records import Size

ReadAt = Callable[[int, int], bytes]
"""(offset_bytes, length_bytes) to the bytes there, which may be fewer at the end of the file."""

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_ENTRIES = 65_535
_MAX_DIRECTORIES = 32
_INTEGER_TYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # SHORT, LONG, IFD; LONG8 and IFD8 of BigTIFF
_TEXT_TYPES = (1, 2)  # BYTE and ASCII
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_DESCRIPTION_BYTES = 65_536
"""As much of ImageDescription as is looked at."""
_LOOK_BYTES = 1 << 20
_METADATA_BYTES = 1 << 20
"""What follows the pixels unnamed and is longer is no metadata."""

# Strips or tiles: as many as the pixels that may be read allow. A strip is at least a row and a tile at least 16 x 16
# px, so no scan of 256 columns or more (LZW: 1024) is refused for them. Each costs a fixed time, 30 us (LZW: 130), and
# 50 bytes of tables: 8 s and 13 MB for all that the default `folder.max_px` allows.
_PX_PER_SEGMENT = 256
_PX_PER_LZW_SEGMENT = 1024
_SEGMENTS_OF_SMALL_LIMITS = 16_384

# Coded bytes of one strip or tile: no coding makes them twice as many, but some writers fill up whole sectors.
_CODED_BYTES_PER_BYTE = 2
_SPARE_CODED_BYTES = 65_536

_WHOLE_SCAN_IN_ONE_STRIP = 2**32 - 1


class Compression(IntEnum):
    """The values of the Compression tag that are read."""

    NONE = 1
    LZW = 5
    DEFLATE = 8
    PACKBITS = 32773
    DEFLATE_OLD = 32946


class _Tag(IntEnum):
    """The tags that matter here; all others are passed over."""

    UNWRITTEN = 0
    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC_INTERPRETATION = 262
    FILL_ORDER = 266
    IMAGE_DESCRIPTION = 270
    STRIP_OFFSETS = 273
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    SAMPLE_FORMAT = 339
    IMAGE_DEPTH = 32997
    TILE_DEPTH = 32998
    STK_PLANE_LIST = 33628
    STK_PLANES = 33629


_TAGS = frozenset(int(tag) for tag in _Tag)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the counts of a scan lie in its file, checked to lie inside it without overlap."""

    size: Size
    byte_order: str
    """`<` or `>`, as numpy and struct write it."""
    compression: Compression
    has_predictor: bool
    is_inverted: bool
    """MINISWHITE: the file stores 65535 - counts."""
    is_tiled: bool
    segment: Size
    """Size of a strip (the last one may be lower) or of a tile (always whole; what overhangs is padding)."""
    offsets_bytes: npt.NDArray[np.int64]
    lengths_bytes: npt.NDArray[np.int64]

    @property
    def segment_bytes(self) -> int:
        """Bytes of a whole strip or tile once it is unpacked."""
        return self.segment.height_px * self.segment.width_px * 2

    def place(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of the scan that a strip or tile holds."""
        height, width = self.segment
        down, across = divmod(index, -(-self.size.width_px // width))
        top, left = down * height, across * width
        return (
            slice(top, min(top + height, self.size.height_px)),
            slice(left, min(left + width, self.size.width_px)),
        )

    @property
    def is_one_block(self) -> bool:
        """Whether the pixels lie in the file as they do in memory, one uncompressed row after the other."""
        if self.compression is not Compression.NONE or self.is_tiled:
            return False
        ends = self.offsets_bytes + self.lengths_bytes
        return bool((ends[:-1] == self.offsets_bytes[1:]).all())


@dataclass(frozen=True, slots=True)
class _Entry:
    type: int
    count: int
    value: bytes
    """The field that holds the values, or their offset where they do not fit."""


@dataclass(frozen=True, slots=True)
class _Directory:
    read_at: ReadAt
    size_bytes: int
    byte_order: str
    entries: dict[int, _Entry]
    descriptions: list[_Entry]
    """ImageDescription, of which some writers of microscopes make two."""
    following: int
    """Where the next directory begins; 0 if this is the last one."""
    ranges: list[tuple[int, int]]
    """(start, end) of the directory and the tables read so far: no pixel may lie there."""
    named: list[tuple[int, int]]
    """(start, end) of the values of all its tags, known or not, as far as they do not lie in the directory."""

    def scalar(self, tag: _Tag, default: int | None = None) -> int:
        if default is not None and tag not in self.entries:
            return default
        return int.from_bytes(self._raw(tag, expected=1)[0], "little" if self.byte_order == "<" else "big")

    def integers(self, tag: _Tag, expected: int) -> npt.NDArray[np.uint64]:
        """The `expected` unsigned integers of a tag, which must hold exactly so many."""
        raw, dtype = self._raw(tag, expected)
        return np.frombuffer(raw, dtype).astype(np.uint64)

    def _raw(self, tag: _Tag, expected: int) -> tuple[bytes, np.dtype[Any]]:
        """The bytes of a tag's integers, and their type."""
        entry = self.entries.get(tag)
        if entry is None:
            raise contradiction(f"the tag {tag.name} is missing")
        if entry.type not in _INTEGER_TYPES or entry.count != expected:
            raise contradiction(
                f"the tag {tag.name} holds {entry.count} values of type {entry.type}: "
                f"expected {expected} of an unsigned integer type"
            )
        dtype = np.dtype(self.byte_order + _INTEGER_TYPES[entry.type])
        length = dtype.itemsize * expected
        raw = entry.value[:length]
        if length > len(entry.value):
            start = self.offset_in(entry)
            raw = _bytes_at(self.read_at, self.size_bytes, start, length, f"the table {tag.name}")
            self.ranges.append((start, start + length))
        return raw, dtype

    def text(self, entry: _Entry, most_bytes: int) -> bytes:
        """The beginning of a text; empty if it is none or lies outside the file."""
        start = self.offset_in(entry)
        if entry.type not in _TEXT_TYPES or entry.count <= len(entry.value) or start >= self.size_bytes:
            return b""
        return self.read_at(start, min(entry.count, most_bytes))

    def offset_in(self, entry: _Entry) -> int:
        return int.from_bytes(entry.value, "little" if self.byte_order == "<" else "big")


def unfinished(reason: str, message: str, hint: str | None = None) -> ScanIncomplete:
    """The error of a file whose writer may still be at work."""
    default = "wait for the station to finish writing; if it has, have the scan written again"
    return ScanIncomplete(reason, message, hint=hint or default)


def foreign(reason: str, message: str, hint: str | None = None) -> ScanError:
    """The error of a file that is not in a format this product reads."""
    form = "one 16-bit unsigned grayscale page per TIFF, uncompressed, PackBits, LZW or Deflate"
    return ScanError(reason, message, hint=hint or f"set the station to write {form}")


def contradiction(message: str, reason: str = "inconsistent-header") -> ScanError:
    """The error of a TIFF whose parts do not fit each other."""
    hint = "the file is damaged, or its writer does not follow TIFF 6.0: scan the electrode again"
    return ScanError(reason, message, hint=hint)


def read_layout(read_at: ReadAt, size_bytes: int, max_px: int) -> Layout:
    """Parse and check the header and the strip or tile tables, without touching a pixel."""
    tags = _read_one_page(read_at, size_bytes)
    _check_grey(tags)
    size = Size(tags.scalar(_Tag.IMAGE_LENGTH), tags.scalar(_Tag.IMAGE_WIDTH))
    _check_pixels(size, max_px, "the scan")
    _check_one_plane(tags, size)
    coding = tags.scalar(_Tag.COMPRESSION, default=1)
    if coding not in tuple(Compression):
        raise foreign(
            "unsupported-compression",
            f"compression {coding}: expected 1 (none), 5 (LZW), 8 or 32946 (Deflate) or 32773 (PackBits)",
        )
    compression = Compression(coding)
    predictor = tags.scalar(_Tag.PREDICTOR, default=1)
    if predictor not in (1, 2):
        raise foreign("unsupported-compression", f"predictor {predictor}: expected 1 (none) or 2 (horizontal)")
    if predictor == 2 and compression in (Compression.NONE, Compression.PACKBITS):
        # Some readers undo it, others do not.
        raise contradiction("a predictor without LZW or Deflate")

    is_tiled = _Tag.TILE_OFFSETS in tags.entries
    if is_tiled and _Tag.STRIP_OFFSETS in tags.entries:
        raise contradiction("the scan is laid out in strips and in tiles")
    if is_tiled:
        segment = Size(tags.scalar(_Tag.TILE_LENGTH), tags.scalar(_Tag.TILE_WIDTH))
    else:
        rows = tags.scalar(_Tag.ROWS_PER_STRIP, default=_WHOLE_SCAN_IN_ONE_STRIP)
        segment = Size(min(rows, size.height_px), size.width_px)
    _check_pixels(segment, max_px, "a tile" if is_tiled else "a strip")
    down, across = -(-size.height_px // segment.height_px), -(-size.width_px // segment.width_px)
    _check_segment_count(down * across, max_px, compression)
    _check_pixels(Size(down * segment.height_px, across * segment.width_px), 2 * max_px, "the scan with its padding")
    offsets = tags.integers(_Tag.TILE_OFFSETS if is_tiled else _Tag.STRIP_OFFSETS, expected=down * across)
    if compression is Compression.NONE and not is_tiled and down == 1:
        lengths = _length_of_one_strip(tags, size)
    else:
        lengths = tags.integers(_Tag.TILE_BYTE_COUNTS if is_tiled else _Tag.STRIP_BYTE_COUNTS, expected=down * across)
    _check_segments_are_inside(offsets, lengths, size_bytes)

    layout = Layout(
        size=size,
        byte_order=tags.byte_order,
        compression=compression,
        has_predictor=predictor == 2,
        is_inverted=tags.scalar(_Tag.PHOTOMETRIC_INTERPRETATION) == 0,
        is_tiled=is_tiled,
        segment=segment,
        offsets_bytes=offsets.astype(np.int64),
        lengths_bytes=lengths.astype(np.int64),
    )
    _check_nothing_overlaps(layout, tags.ranges)
    _check_nothing_follows(layout, tags)
    if compression is Compression.NONE:
        _check_uncompressed_lengths(layout)
    else:
        _check_coded_lengths(layout)
    return layout


class _Form(NamedTuple):
    """How a file writes its directories, by its header."""

    byte_order: str
    is_big: bool
    first: int
    """Where the first directory begins."""
    header_bytes: int


def _read_header(read_at: ReadAt, size_bytes: int) -> _Form:
    if size_bytes == 0:
        raise unfinished("empty", "the file is empty")
    header = read_at(0, 16)
    magic = header[:4]
    if magic not in _MAGICS:
        if not any(header):
            raise unfinished("zero-tail", "the file begins with zeros: nothing is written yet")
        if size_bytes < 4 and any(known.startswith(magic) for known in _MAGICS):
            raise unfinished("truncated", f"the file ends after {size_bytes} bytes")
        raise foreign("not-tiff", f"the file begins with {magic!r}: expected the header of a TIFF")
    order = "<" if magic[:1] == b"I" else ">"
    is_big = b"+" in magic
    header_bytes = 16 if is_big else 8
    if len(header) < header_bytes:
        raise unfinished("truncated", f"the file ends after {size_bytes} bytes")
    if is_big:
        offset_bytes, zero, first = struct.unpack(order + "HHQ", header[4:])
        if (offset_bytes, zero) != (8, 0):
            raise contradiction("the BigTIFF header does not announce 8-byte offsets")
    else:
        (first,) = struct.unpack(order + "I", header[4:8])
    if first == 0:
        raise unfinished("truncated", "the header names no directory yet")
    return _Form(order, is_big, first, header_bytes)


def _read_directory(read_at: ReadAt, size_bytes: int, form: _Form, at: int) -> _Directory:
    order = form.byte_order
    count_format, entry_format, next_bytes = ("Q", "HHQ8s", 8) if form.is_big else ("H", "HHI4s", 4)
    count_bytes, entry_bytes = struct.calcsize(order + count_format), struct.calcsize(order + entry_format)
    (count,) = struct.unpack(order + count_format, _bytes_at(read_at, size_bytes, at, count_bytes, "the directory"))
    if count == 0:
        raise unfinished("zero-tail", "the directory has no entries yet")
    if count > _MAX_ENTRIES:
        raise contradiction(f"the directory claims {count} entries: expected at most {_MAX_ENTRIES}")
    end = at + count_bytes + count * entry_bytes
    raw = _bytes_at(read_at, size_bytes, at + count_bytes, count * entry_bytes, "the directory")
    entries: dict[int, _Entry] = {}
    descriptions: list[_Entry] = []
    named: list[tuple[int, int]] = []
    for code, kind, values, value in struct.iter_unpack(order + entry_format, raw):
        length = _TYPE_BYTES.get(kind, 0) * values
        if length > len(value):
            start = int.from_bytes(value, "little" if order == "<" else "big")
            named.append((start, start + length))
        if code not in _TAGS:
            continue
        if code == _Tag.UNWRITTEN:
            raise unfinished("zero-tail", "the directory is not wholly written yet")
        if code == _Tag.IMAGE_DESCRIPTION:
            descriptions.append(_Entry(kind, values, value))
            continue
        if code in entries:
            raise contradiction(f"the tag {_Tag(code).name} stands twice")
        entries[code] = _Entry(kind, values, value)
    # Some writers let the file end where this pointer belongs.
    following = int.from_bytes(read_at(end, next_bytes), "little" if order == "<" else "big")
    if following >= size_bytes:
        raise unfinished("truncated", f"a further page is announced at byte {following}, the file has {size_bytes}")
    own = [(at, end + next_bytes)]
    return _Directory(read_at, size_bytes, order, entries, descriptions, following, own, [*named, *own])


def _read_one_page(read_at: ReadAt, size_bytes: int) -> _Directory:
    """The directory of the scan: the first one. All others must say that they hold reduced copies of it."""
    form = _read_header(read_at, size_bytes)
    page = _read_directory(read_at, size_bytes, form, form.first)
    if page.scalar(_Tag.NEW_SUBFILE_TYPE, default=0) & 0b101 or page.scalar(_Tag.SUBFILE_TYPE, default=1) == 2:
        raise foreign("multi-page", "the first page is the reduced copy or the mask of another: expected a scan")
    page.ranges.append((0, form.header_bytes))
    seen = {form.first}
    waiting = _further_directories(page)
    while waiting:
        at = waiting.pop()
        if at == form.first:
            raise foreign("multi-page", "the pages lead back to the first one: expected one page")
        if at in seen:
            continue  # sub-directories are often both listed and chained
        seen.add(at)
        if len(seen) > _MAX_DIRECTORIES:
            raise foreign("multi-page", f"more than {_MAX_DIRECTORIES} pages: expected one")
        other = _read_directory(read_at, size_bytes, form, at)
        if other.scalar(_Tag.NEW_SUBFILE_TYPE, default=0) != 1:
            raise foreign(
                "multi-page",
                f"a further page is at byte {at}: expected one page, or thumbnails marked as such (NewSubfileType 1)",
            )
        if (other_px := _pixels_said(other)) and other_px >= _pixels_said(page):
            raise foreign(
                "multi-page",
                f"the page at byte {at} says that it is a reduced copy, and has {other_px} px, the scan "
                f"{_pixels_said(page)}: expected one page, or smaller copies of it",
            )
        waiting += _further_directories(other)
        page.ranges.extend(other.ranges)
        page.named.extend((*other.named, *_pixels_of(other)))
    return page


def _pixels_said(page: _Directory) -> int:
    """Height times width; 0 where the directory does not say."""
    return page.scalar(_Tag.IMAGE_LENGTH, default=0) * page.scalar(_Tag.IMAGE_WIDTH, default=0)


def _pixels_of(copy: _Directory) -> list[tuple[int, int]]:
    """Where the strips or tiles of a reduced copy lie; all of the file where its tables do not say."""
    for at, length in ((_Tag.STRIP_OFFSETS, _Tag.STRIP_BYTE_COUNTS), (_Tag.TILE_OFFSETS, _Tag.TILE_BYTE_COUNTS)):
        if at in copy.entries and length in copy.entries:
            count = min(copy.entries[at].count, _SEGMENTS_OF_SMALL_LIMITS)
            try:
                starts, lengths = copy.integers(at, count), copy.integers(length, count)
            except ScanError:
                break
            return [(start, start + size) for start, size in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return [(0, copy.size_bytes)]


def _further_directories(page: _Directory) -> list[int]:
    """Where the next directory and the sub-directories of one begin."""
    found = [page.following] if page.following else []
    sub_directories = page.entries.get(_Tag.SUB_IFDS)
    if sub_directories is not None:
        if sub_directories.count > _MAX_DIRECTORIES:
            raise foreign("multi-page", f"{sub_directories.count} sub-images: expected one page")
        found += map(int, page.integers(_Tag.SUB_IFDS, expected=sub_directories.count))
    return found


def _check_one_plane(page: _Directory, size: Size) -> None:
    """Refuse a stack whose images stand behind one directory: a reader of TIFF would see its first one alone."""
    planes = page.entries[_Tag.STK_PLANES].count if _Tag.STK_PLANES in page.entries else 1
    planes = max(planes, *(page.scalar(tag, default=1) for tag in (_Tag.IMAGE_DEPTH, _Tag.TILE_DEPTH)))
    if planes == 1 and _Tag.STK_PLANE_LIST in page.entries and _Tag.STK_PLANES not in page.entries:
        raise foreign("multi-page", "the page is a MetaMorph stack of unknown length: expected one image")
    for entry in page.descriptions[:2]:
        planes = max(planes, _planes_described(page.text(entry, _DESCRIPTION_BYTES), size))
    if planes > 1:
        raise foreign("multi-page", f"the page is a stack of {planes} images: expected one")


def _planes_described(described: bytes, size: Size) -> int:
    """How many images the words of ImageJ, OME or tifffile announce; 1 if they announce none."""
    if described.startswith(b"ImageJ="):
        said = dict(re.findall(rb"^(images|channels|slices|frames)=(\d{1,9})\s*$", described, re.MULTILINE))
        axes = (said.get(axis, b"1") for axis in (b"channels", b"slices", b"frames"))
        return max(int(said.get(b"images", b"1")), math.prod(map(int, axes)))
    if pixels := re.search(rb"<(?:\w+:)?Pixels\s[^>]*>", described):
        return math.prod(map(int, re.findall(rb"\sSize[ZCT]\s*=\s*[\"'](\d{1,9})[\"']", pixels[0])))
    if shape := re.match(rb'\{"shape": \[([\d, ]{1,200})\]', described):
        px = math.prod(map(int, re.findall(rb"\d+", shape[1])))
        return px // (size.height_px * size.width_px)
    return 1


def _check_grey(tags: _Directory) -> None:
    samples = tags.scalar(_Tag.SAMPLES_PER_PIXEL, default=1)
    if samples != 1:
        raise foreign("multi-sample", f"{samples} samples per pixel: expected 1")
    photometric = tags.scalar(_Tag.PHOTOMETRIC_INTERPRETATION)
    if photometric not in (0, 1):
        raise foreign("not-grayscale", f"photometric interpretation {photometric}: expected 0 or 1")
    bits = tags.scalar(_Tag.BITS_PER_SAMPLE, default=1)
    kind = tags.scalar(_Tag.SAMPLE_FORMAT, default=1)
    if bits != 16 or kind != 1:
        name = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kind, "undefined")
        raise foreign("not-16-bit", f"{bits}-bit {name} samples: expected 16-bit unsigned")
    if tags.scalar(_Tag.FILL_ORDER, default=1) != 1:
        raise foreign("unsupported-compression", "the bits of every byte are stored in reverse order")


def _check_segment_count(count: int, max_px: int, compression: Compression) -> None:
    px_each = _PX_PER_LZW_SEGMENT if compression is Compression.LZW else _PX_PER_SEGMENT
    most = max(_SEGMENTS_OF_SMALL_LIMITS, max_px // px_each)
    if count > most:
        raise foreign(
            "too-large",
            f"{count} strips or tiles: at most {most} are read",
            hint="set the station to write more rows into each strip, or raise `folder.max_px`: one is allowed "
            f"for each {px_each} px of it",
        )


def _length_of_one_strip(tags: _Directory, size: Size) -> npt.NDArray[np.uint64]:
    """Bytes (1,) of an uncompressed scan's one strip: a length left out or zero can only be the size of its pixels."""
    if _Tag.STRIP_BYTE_COUNTS in tags.entries:
        lengths = tags.integers(_Tag.STRIP_BYTE_COUNTS, expected=1)
        if lengths[0]:
            return lengths
    return np.array([size.height_px * size.width_px * 2], np.uint64)


def _check_pixels(size: Size, max_px: int, what: str) -> None:
    height, width = size
    if height < 1 or width < 1:
        raise contradiction(f"{what} is {height} x {width} px")
    if height * width > max_px:
        raise foreign(
            "too-large",
            f"{what} is {height} x {width} px: at most {max_px} px are read",
            hint="raise `folder.max_px` if the station writes scans of that size",
        )


def _bytes_at(read_at: ReadAt, size_bytes: int, start: int, length: int, what: str) -> bytes:
    """Exactly `length` bytes; that they are inside the file is checked before they are asked for."""
    raw = read_at(start, length) if start + length <= size_bytes else b""
    if len(raw) < length:
        raise unfinished("truncated", f"{what} ends at byte {start + length}, the file has {size_bytes}")
    return raw


def _check_segments_are_inside(
    offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], size_bytes: int
) -> None:
    if not (offsets.all() and lengths.all()):
        raise unfinished("zero-tail", "the strip or tile tables are not wholly written yet")
    end = np.uint64(size_bytes)
    outside = (lengths > end) | (offsets > end - np.minimum(lengths, end))  # without a sum that could wrap
    if outside.any():
        index = int(outside.argmax())
        raise unfinished(
            "truncated",
            f"strip or tile {index + 1} of {len(offsets)} ends at byte {int(offsets[index]) + int(lengths[index])}, "
            f"the file has {size_bytes}",
        )


def _check_nothing_overlaps(layout: Layout, ranges: list[tuple[int, int]]) -> None:
    starts = np.concatenate([layout.offsets_bytes, [start for start, _ in ranges]])
    ends = np.concatenate([layout.offsets_bytes + layout.lengths_bytes, [end for _, end in ranges]])
    order = np.argsort(starts, kind="stable")
    overlaps = ends[order][:-1] > starts[order][1:]
    if overlaps.any():
        raise contradiction(f"two parts of the file overlap at byte {starts[order][1:][overlaps.argmax()]}")


def _check_nothing_follows(layout: Layout, page: _Directory) -> None:
    """Refuse a stack without words: behind the pixels lie further images, which no tag names.

    Some writers append the frames of a stack behind the one directory of the first. What follows a scan otherwise is
    named by a tag, zero, or metadata: shorter than the pixels, or, of a small scan, short and no multiple of them.
    """
    image_bytes = 2 * layout.size.height_px * layout.size.width_px
    end = int((layout.offsets_bytes + layout.lengths_bytes).max())
    if page.size_bytes - end < image_bytes:
        return
    for named, stop in sorted((*page.named, *page.ranges, (page.size_bytes, page.size_bytes))):
        start = min(named, page.size_bytes)  # where a tag that is not read points was never checked
        gap_bytes = start - end
        is_image = gap_bytes >= image_bytes and (gap_bytes >= _METADATA_BYTES or gap_bytes % image_bytes == 0)
        if is_image and _holds_anything(page.read_at, end, start):
            raise foreign(
                "multi-page",
                f"behind the pixels lie {gap_bytes} bytes that no tag names, the image has {image_bytes}: expected "
                "one image",
            )
        end = max(end, stop)


def _holds_anything(read_at: ReadAt, start: int, end: int) -> bool:
    """Whether any byte of that part of the file is not zero."""
    return any(read_at(at, min(_LOOK_BYTES, end - at)).strip(b"\0") for at in range(start, end, _LOOK_BYTES))


def _check_uncompressed_lengths(layout: Layout) -> None:
    expected = np.full(len(layout.lengths_bytes), layout.segment_bytes)
    if not layout.is_tiled:
        rows, columns = layout.place(len(expected) - 1)
        is_padded = layout.lengths_bytes[-1] == layout.segment_bytes
        if not is_padded:
            expected[-1] = (rows.stop - rows.start) * columns.stop * 2
    wrong = layout.lengths_bytes != expected
    if wrong.any():
        index = int(wrong.argmax())
        raise contradiction(
            f"strip or tile {index + 1} of {len(expected)} has {layout.lengths_bytes[index]} bytes: "
            f"its pixels need {expected[index]}"
        )


def _check_coded_lengths(layout: Layout) -> None:
    """Refuse what would only cost time: no coding needs so many bytes for these pixels."""
    most = _CODED_BYTES_PER_BYTE * layout.segment_bytes + _SPARE_CODED_BYTES
    wrong = layout.lengths_bytes > most
    if wrong.any():
        index = int(wrong.argmax())
        raise contradiction(
            f"strip or tile {index + 1} of {len(wrong)} has {layout.lengths_bytes[index]} coded bytes for "
            f"{layout.segment_bytes} bytes of pixels: expected at most {most}"
        )
