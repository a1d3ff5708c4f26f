"""What the page draws: raw counts, small pictures, and what the networks tell, the two maps, as coloured layers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge.errors import EvidenceError
from edge.evidence.colours import heat_colours, reason_colours
from edge.evidence.record import Piece
from edge.records import Counts

MAX_SHOWN_PX = 16_000_000
"""Pixels that a page gets; a larger scan is shown at 1/2, 1/3, ... of its size."""
MAX_PX = 64_000_000
"""Largest scan that is unpacked here: 128 MB of counts."""
THUMBNAIL_PX = 160
MAX_CACHED_BYTES = 64_000_000
"""Unpacked counts that `CountsCache` holds: a dozen scans of 2000 x 1000."""

_unpacking = threading.BoundedSemaphore(2)
"""Scans unpacked at a time, whatever the browsers ask for."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a layer lies, as shares of the scan's width and height."""

    left: float
    top: float
    width: float
    height: float


def display_step(height_px: int, width_px: int) -> int:
    """Every how-manieth row and column is shown. Raises EvidenceError for a scan that is too large altogether."""
    if height_px * width_px > MAX_PX:
        raise EvidenceError(
            f"the scan has {height_px} x {width_px} px, the desk shows up to {MAX_PX} px",
            hint="look at the file itself with a program for large images",
            reason="too-large",
        )
    step = 1
    while -(-height_px // step) * -(-width_px // step) > MAX_SHOWN_PX:
        step += 1
    return step


def raw_counts(piece: Piece) -> bytes:
    """The counts as the page wants them: uint16 little-endian, row by row, every `display_step`-th row and column.

    Raises EvidenceError where the picture is missing, damaged or too large.
    """
    counts = _counts(piece)
    step = display_step(*counts.shape)
    return np.ascontiguousarray(counts[::step, ::step], "<u2").tobytes()


class CountsCache:
    """Counts of the newest scans that were asked for, so that the next one can be unpacked while this one is read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def counts(self, piece: Piece) -> bytes:
        """`raw_counts` of the piece. Raises EvidenceError."""
        key = piece.record.verdict_id
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        counts = raw_counts(piece)
        with self._lock:
            self._kept[key] = counts
            while sum(map(len, self._kept.values())) > MAX_CACHED_BYTES:
                self._kept.popitem(last=False)
        return counts


def image_png(piece: Piece) -> bytes:
    """The image as the networks saw it, as one grey channel. Raises EvidenceError."""
    with _unpacking:
        image = piece.image()
    return _encode(".png", np.ascontiguousarray(image[0 if len(image) == 1 else 1]))


def residual_png(piece: Piece) -> bytes:
    """The residual map in colours over the gate's threshold, clear where it is far below. Raises EvidenceError."""
    levels = piece.residual()
    scale = piece.record.residual
    assert scale is not None  # Piece.residual() has asked
    return _encode_colours(heat_colours(levels / np.float32(max(scale.threshold, 1e-9))))


def reason_png(piece: Piece) -> bytes:
    """The classifier's map in colours, clear where it says no more than the threshold. Raises EvidenceError."""
    return _encode_colours(reason_colours(piece.reason()))


def residual_layer(piece: Piece) -> Layer | None:
    """Where the residual map lies on the scan; None where there is none. Raises EvidenceError."""
    scale = piece.record.residual
    if scale is None or "residual.png" not in piece.record.files or "image.png" not in piece.record.files:
        return None
    rows, columns = piece.residual().shape
    image_height, image_width = png_size(piece.read("image.png"))
    return Layer(
        left=scale.offset_px / image_width,
        top=scale.offset_px / image_height,
        width=columns * scale.cell_px / image_width,
        height=rows * scale.cell_px / image_height,
    )


def reason_layer(piece: Piece) -> Layer | None:
    """Where the classifier's map lies on the scan; None where there is none. Raises EvidenceError."""
    scale = piece.record.reason_map
    if scale is None or "reason.png" not in piece.record.files:
        return None
    rows, columns = piece.reason().shape
    return Layer(
        left=scale.offset_px / scale.image_width_px,
        top=scale.offset_px / scale.image_height_px,
        width=columns * scale.cell_px / scale.image_width_px,
        height=rows * scale.cell_px / scale.image_height_px,
    )


def thumbnail_jpeg(piece: Piece) -> bytes:
    """A small picture of the scan as its page first shows it: between the model's bounds, where it has any.

    Else between its own 1st and 99th percentile. Raises EvidenceError.
    """
    counts = _counts(piece)
    height, width = counts.shape
    scale = min(THUMBNAIL_PX / height, THUMBNAIL_PX / width, 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(counts, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    low, high = piece.record.bounds_counts or np.percentile(small, (1, 99))
    return _encode(".jpg", np.clip((small - low) / max(high - low, 1.0) * 255, 0, 255).round().astype(np.uint8))


def scan_tiff(piece: Piece) -> bytes:
    """The counts as an uncompressed 16-bit TIFF, as training reads it. Raises EvidenceError."""
    with _unpacking:
        counts = piece.counts()
    return _encode(".tif", counts, cv2.IMWRITE_TIFF_COMPRESSION, 1)


def png_size(data: bytes) -> tuple[int, int]:
    """Height and width in px of a PNG, from its header."""
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _encode_colours(colours: npt.NDArray[np.uint8]) -> bytes:
    """PNG of red, green, blue, opacity (h, w, 4)."""
    return _encode(".png", np.ascontiguousarray(colours[..., [2, 1, 0, 3]]))


def _counts(piece: Piece) -> Counts:
    record = piece.record
    display_step(record.height_px or 0, record.width_px or 0)  # before anything is unpacked
    with _unpacking:
        return piece.counts()


def _encode(suffix: str, pixels: npt.NDArray[np.uint8] | Counts, *settings: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels, settings)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix} of {pixels.dtype} {pixels.shape}")
    return bytes(data)
