"""One file to what the networks take: read, check against the model's range, convert. Runs in the decode pool."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from edge.engines.preprocessor import Pixels, Preprocessor
from edge.engines.tensorrt.kernel_args import RawScan
from edge.errors import ScanError, ScanIncomplete
from edge.images.conversion import Histogram, clipped_fraction, histogram
from edge.images.exposure import exposure
from edge.images.sharpness import sharpness
from edge.images.spec import InputSpec, ScanSpec
from edge.pipeline.decide import out_of_spec, unreadable
from edge.records import Arrival, Counts, Decision, FileStamp, Image, Scan, counts_sha256
from edge.scans.decoder import DECODER_CRASH
from edge.scans.scan import Decode, Limits, check_expected, modified_at, read_scan
from edge.system.files import CHUNK_BYTES, open_regular
from edge.system.names import display_name

OUT_OF_SPEC_MAX_PX = 16_000_000
"""Largest scan that is held in memory although the networks are not asked: several are read ahead."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file that is ready to be judged.

    Exactly one of `pixels` (the networks decide) and `decision` (nothing left to decide) is set.
    """

    arrival: Arrival
    scan: Scan
    pixels: Pixels | None
    """As the engine takes them (edge/engines/preprocessor.py)."""
    decision: Decision | None
    detail: str | None
    read_ms: float
    convert_ms: float
    counts: Counts | None = None
    """What was read, for evidence; None without pixels, or with more than OUT_OF_SPEC_MAX_PX that are not judged."""
    pixels_sha256: str | None = None
    """Hash of size and counts, whatever file they lie in; None where there are no pixels."""

    @property
    def image(self) -> Image | None:
        """What the networks see, for pictures."""
        return self.pixels.image() if isinstance(self.pixels, RawScan) else self.pixels


def prepare_scan(
    path: Path,
    arrival: Arrival,
    preprocessor: Preprocessor,
    limits: Limits,
    decode: Decode,
) -> Prepared:
    """Read and convert one file; what cannot be judged comes back as a decision, not as an exception.

    Raises ScanIncomplete when another look may help: whether there will be one is for the caller to say.
    """
    started = time.perf_counter()
    try:
        frame = read_scan(
            path,
            file=display_name(arrival.stamp.file),
            limits=limits,
            decode=decode,
            expected=arrival.expected,
        )
    except ScanIncomplete:
        raise
    except ScanError as error:
        return give_up(arrival, error, _elapsed_ms(started))
    read_ms = _elapsed_ms(started)
    pixels_sha256 = counts_sha256(frame.counts)
    started = time.perf_counter()
    complaint, hist = _wrong_size(frame.counts, preprocessor.spec.scan_spec), None
    if complaint is None:
        hist = histogram(frame.counts)
        spec = preprocessor.spec
        complaints = (
            _wrong_exposure(hist, spec),
            spec.scan_spec.sharpness.complaint(sharpness(frame.counts, hist)),
        )
        complaint = "; ".join(filter(None, complaints)) or None
    if complaint is not None:
        convert_ms = _elapsed_ms(started)
        counts = frame.counts if frame.counts.size <= OUT_OF_SPEC_MAX_PX else None
        return Prepared(arrival, frame.scan, None, out_of_spec(), complaint, read_ms, convert_ms, counts, pixels_sha256)
    pixels = preprocessor.prepare(frame.counts, hist)
    convert_ms = _elapsed_ms(started)
    return Prepared(arrival, frame.scan, pixels, None, None, read_ms, convert_ms, frame.counts, pixels_sha256)


def give_up(arrival: Arrival, error: ScanError, read_ms: float = 0.0) -> Prepared:
    """A file that gets its verdict without pixels, for the reason the reader gave."""
    if isinstance(error, ScanIncomplete):
        arrival = replace(arrival, stamp=replace(arrival.stamp, is_whole=False))
    scan = error.scan or unread_scan(arrival.stamp)
    return Prepared(arrival, scan, None, unreadable(error.reason), error.message, read_ms, 0.0)


def unread_scan(stamp: FileStamp) -> Scan:
    """Identity of a file whose bytes could not be read: the hash of its directory entry stands in for theirs.

    The verdict needs an id that repeats for the same file and differs for the next one; a directory or
    a file without read permission has no other.
    """
    entry = f"unread\0{stamp.file}\0{stamp.inode}\0{stamp.size_bytes}\0{stamp.modified_ns}"
    return Scan(
        file=display_name(stamp.file),
        sha256=hashlib.sha256(entry.encode("utf-8", "surrogateescape")).hexdigest(),
        size_bytes=stamp.size_bytes,
        modified_at=modified_at(stamp.modified_ns),
    )


def condemn(path: Path, arrival: Arrival, limits: Limits, death: str) -> Prepared:
    """A file whose decoding kills its reader: hashed in chunks, never decoded again.

    Raises ScanIncomplete if another file stands there by now: this one's death is none of its doing.
    """
    stamp = arrival.stamp
    scan = unread_scan(stamp)
    if stamp.size_bytes <= limits.max_bytes:
        # By now a link, a pipe without a writer or a file that grows without end may stand there.
        with contextlib.suppress(OSError), open_regular(path) as (file, _):
            digest, left_bytes = hashlib.sha256(), stamp.size_bytes
            while left_bytes and (chunk := file.read(min(left_bytes, CHUNK_BYTES))):
                digest.update(chunk)
                left_bytes -= len(chunk)
            scan = Scan(scan.file, digest.hexdigest(), stamp.size_bytes, scan.modified_at)
    if arrival.expected is not None:
        check_expected(path, arrival.expected)
    return Prepared(arrival, scan, None, unreadable(DECODER_CRASH), f"decoding it ended a process: {death}", 0.0, 0.0)


def _wrong_size(counts: Counts, spec: ScanSpec) -> str | None:
    """Why the model was not made for scans of this size, or None when it was."""
    height_px, width_px = counts.shape
    for name, value, (lowest, highest) in (
        ("height", height_px, spec.height_px),
        ("width", width_px, spec.width_px),
    ):
        if not lowest <= value <= highest:
            return f"{name} {value} px, the model takes {lowest} to {highest} px"
    return None


def _wrong_exposure(hist: Histogram, spec: InputSpec) -> str | None:
    """Why the model was not made for these counts, or None when it was; `hist`: int64 (65536,)."""
    if spec.bounds is not None:
        clipped = clipped_fraction(hist, spec.bounds)
        if clipped > spec.scan_spec.max_clipped_fraction:
            return (
                f"{clipped:.0%} of the pixels lie outside {spec.bounds.lo_counts} to {spec.bounds.hi_counts} counts, "
                f"the model takes at most {spec.scan_spec.max_clipped_fraction:.0%}"
            )
    return spec.scan_spec.exposure.complaint(exposure(hist))


def _elapsed_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
