"""What a piece of evidence is made of: the verdict, the scan without loss, and the pictures, each as bytes in memory.

Nothing here touches the disk, but for an unreadable file that was opened when it was offered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edge.contract.messages import Verdict, canonical_json
from edge.engines.preprocessor import Pixels
from edge.engines.tensorrt.kernel_args import RawScan
from edge.errors import EvidenceError
from edge.evidence.reason import reason_levels
from edge.evidence.record import (
    IMAGE,
    ORIGINAL,
    REASON,
    RESIDUAL,
    SCAN,
    VERDICT,
    KeptFile,
    Note,
    NoteCode,
    ReasonScale,
    Record,
    ResidualScale,
)
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, Image, Outcome, Size

Why = Literal["outcome", "sample", "challenge"]

ORIGINAL_MAX_BYTES = 16 << 20
"""Largest unreadable file whose bytes are kept."""

MAX_BYTES_PER_PX = 2.05
SMALL_BYTES = 1 << 16
"""Most bytes of pictures for each pixel of the scan, and besides: 4 MiB at 2000 x 1000. Beyond it the network's image
is left out, which the scan and the model's conversion give again."""

FULL_SCALE = 4.0
"""Residual that `residual.png` shows as 255, in multiples of the gate's threshold."""

_FILTER = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP] if hasattr(cv2, "IMWRITE_PNG_FILTER") else []
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, *_FILTER]
"""Noise has no repetitions worth a search: half the time of the default for the same size."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which verdicts keep evidence; a function of the verdict alone, so that it is known before the commit."""

    sample: float
    """Share of `normal` verdicts, 0 to 1."""
    seed: int
    challenge: re.Pattern[str] | None
    """Fits the names of known scans that are mixed in to measure the reader."""

    def why(self, outcome: Outcome, file: str, verdict_id: str) -> Why | None:
        """The reason to keep evidence; None to keep none."""
        if self.challenge is not None and self.challenge.search(file):
            return "challenge"
        if outcome is not Outcome.NORMAL:
            return "outcome"
        drawn = hashlib.sha256(f"{self.seed} {verdict_id}".encode()).digest()[:8]
        return "sample" if int.from_bytes(drawn, "big") < self.sample * 2**64 else None


@dataclass(frozen=True, slots=True)
class Scene:
    """What all evidence of one model shares."""

    geometry: MapGeometry
    """Where the cells of the residual map lie."""
    gate_threshold: float
    reason_geometry: MapGeometry | None = None
    """None where the classifier gives no map."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A committed verdict and what is in hand of its scan. The arrays are not changed by anyone."""

    verdict: Verdict
    counts: Counts | None = None
    counts_sha256: str | None = None
    pixels: Pixels | None = None
    """As the engine took them."""
    residual_map: npt.NDArray[np.float32] | None = None
    """float32 (map_height, map_width); None where the networks were not asked."""
    reason_map: npt.NDArray[np.float32] | None = None
    """float32 (map_height, map_width), of another size; None also where the model has none."""
    original: BinaryIO | None = None
    """The open file of an unreadable scan."""
    note: Note | None = None
    """Why something of this is missing."""

    @property
    def pixel_bytes(self) -> int:
        image = self.pixels.counts if isinstance(self.pixels, RawScan) else self.pixels
        return sum(array.nbytes for array in (self.counts, image) if array is not None)

    def close(self) -> None:
        if self.original is not None:
            self.original.close()


def piece_of(offer: Offer, why: Why, scene: Scene) -> tuple[Record, dict[str, bytes]]:
    """The record of a piece and the content of its other files, by name."""
    verdict, notes = offer.verdict, [offer.note] if offer.note else []
    contents = {VERDICT: canonical_json(verdict)}
    if offer.counts is not None:
        contents[SCAN] = _png(offer.counts)
    if (image := _image(offer.pixels)) is not None:
        contents[IMAGE] = _png(np.ascontiguousarray(np.moveaxis(image[::-1], 0, 2)))  # OpenCV: blue first
    scale = None
    if offer.residual_map is not None:
        scale = _residual_scale(offer.residual_map, scene)
        levels = np.nan_to_num(offer.residual_map / scale.per_level, nan=255.0, posinf=255.0)
        contents[RESIDUAL] = _png(np.rint(levels.clip(0, 255)).astype(np.uint8))
    reason = None
    try:
        if (found := _reason(offer, scene)) is not None:
            contents[REASON], reason = _png(found[0]), found[1]
    except EvidenceError as error:
        notes.append(Note(code=NoteCode.NO_REASON_MAP, detail=error.message))
    if offer.original is not None:
        # Of a file that has grown since, what was judged: writing on does not make the copy larger.
        data = offer.original.read(min(verdict.scan.size_bytes, ORIGINAL_MAX_BYTES + 1))
        if hashlib.sha256(data).hexdigest() == verdict.scan.sha256:
            contents[ORIGINAL] = data
        elif len(data) > ORIGINAL_MAX_BYTES:
            notes.append(Note(code=NoteCode.FILE_TOO_LARGE, count=ORIGINAL_MAX_BYTES))
        else:
            notes.append(Note(code=NoteCode.FILE_CHANGED))
    if offer.counts is not None and IMAGE in contents:
        pictures_bytes = sum(len(contents.get(name, b"")) for name in (SCAN, IMAGE, RESIDUAL, REASON))
        if pictures_bytes > MAX_BYTES_PER_PX * offer.counts.size + SMALL_BYTES:
            del contents[IMAGE]
            notes.append(Note(code=NoteCode.IMAGE_TOO_LARGE))
    notes += [Note(code=code) for code in _explain_missing(offer)]
    record = Record(
        verdict_id=verdict.verdict_id,
        file=verdict.scan.file,
        part_id=verdict.part_id,
        bundle=verdict.bundle,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        decided_at=verdict.times.decided_at,
        kept=why,
        files={
            name: KeptFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            for name, data in contents.items()
        },
        height_px=offer.counts.shape[0] if offer.counts is not None else None,
        width_px=offer.counts.shape[1] if offer.counts is not None else None,
        counts_sha256=offer.counts_sha256 if offer.counts is not None else None,
        bounds_counts=verdict.model.bounds_counts,
        residual=scale,
        reason_map=reason,
        boxes_px=verdict.gate.boxes_px,
        notes=tuple(notes),
    )
    return record, contents


def _explain_missing(offer: Offer) -> Iterator[NoteCode]:
    """Why pictures are missing that were never there."""
    if offer.note is not None:
        return  # it says so
    if offer.verdict.outcome is Outcome.UNREADABLE:
        yield NoteCode.NO_PIXELS
        return
    if offer.counts is None:
        yield NoteCode.SCAN_TOO_LARGE
    if offer.verdict.repeats is not None:
        yield NoteCode.REPEATED
    elif offer.pixels is None:
        yield NoteCode.OUT_OF_RANGE


def _image(pixels: Pixels | None) -> Image | None:
    return pixels.image() if isinstance(pixels, RawScan) else pixels


def _residual_scale(residual_map: npt.NDArray[np.float32], scene: Scene) -> ResidualScale:
    full = FULL_SCALE * scene.gate_threshold
    if full <= 0:  # a threshold no scan stays below
        full = float(np.nanmax(residual_map, initial=1e-6))
    return ResidualScale(
        per_level=full / 255,
        threshold=max(scene.gate_threshold, 0.0),
        cell_px=scene.geometry.cell_px,
        offset_px=scene.geometry.offset_px,
    )


def _reason(offer: Offer, scene: Scene) -> tuple[npt.NDArray[np.uint8], ReasonScale] | None:
    """The reason map as it is kept; None where there is none. Raises EvidenceError for one that explains nothing."""
    verdict, pixels, geometry = offer.verdict, offer.pixels, scene.reason_geometry
    if offer.reason_map is None or geometry is None or pixels is None or offer.counts is None:
        return None
    if verdict.p_abnormal is None or verdict.threshold is None:
        return None
    image_size = pixels.size if isinstance(pixels, RawScan) else Size(*pixels.shape[1:])
    scan_size = Size(*offer.counts.shape)
    return reason_levels(offer.reason_map, geometry, image_size, scan_size, verdict.p_abnormal, verdict.threshold)


def _png(pixels: npt.NDArray[np.uint8] | Counts) -> bytes:
    """PNG of (height, width) or of (height, width, 1 or 3); lossless, 8 or 16 bit as the pixels are."""
    try:
        done, data = cv2.imencode(".png", pixels, _PNG)
    except cv2.error as error:
        raise EvidenceError(f"no PNG of {pixels.dtype} {pixels.shape}: {error.err}", hint="look at memory") from error
    if not done:
        raise EvidenceError(f"no PNG of {pixels.dtype} {pixels.shape}", hint="check the installation of OpenCV")
    return bytes(data)
