"""Pieces of evidence for tests, as the worker leaves them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from edge.contract.messages import Verdict, canonical_json
from edge.evidence.record import (
    IMAGE,
    RECORD,
    RESIDUAL,
    SCAN,
    VERDICT,
    KeptFile,
    Piece,
    Record,
    ResidualScale,
    evidence_path,
    open_piece,
)
from edge.records import Counts, counts_sha256
from tests.support.samples import sample_verdict


def sample_counts(height_px: int = 40, width_px: int = 20) -> Counts:
    return np.random.default_rng(3).integers(0, 1 << 16, (height_px, width_px), dtype=np.uint16)


def sample_piece(
    folder: Path, number: int = 1, *, verdict: Verdict | None = None, counts: Counts | None = None
) -> Piece:
    """The evidence of `verdict` below `folder`, by default of `sample_verdict(number)` on noise."""
    verdict = sample_verdict(number) if verdict is None else verdict
    counts = sample_counts() if counts is None else counts
    contents = {
        VERDICT: canonical_json(verdict),
        SCAN: png(counts),
        IMAGE: png((counts >> 8).astype(np.uint8)),
        RESIDUAL: png(np.full((4, 2), 64, np.uint8)),
    }
    record = Record(
        verdict_id=verdict.verdict_id,
        file=verdict.scan.file,
        part_id=verdict.part_id,
        bundle=verdict.bundle,
        outcome=verdict.outcome,
        reasons=verdict.reasons,
        decided_at=verdict.times.decided_at,
        kept="outcome",
        files={
            name: KeptFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            for name, data in contents.items()
        },
        height_px=counts.shape[0],
        width_px=counts.shape[1],
        counts_sha256=counts_sha256(counts),
        bounds_counts=(1200, 48000),
        residual=ResidualScale(per_level=0.05 / 64, threshold=0.05, cell_px=10, offset_px=0),
        boxes_px=verdict.gate.boxes_px,
        note=None,
    )
    contents[RECORD] = json.dumps(record.model_dump(mode="json", by_alias=True)).encode()
    evidence = evidence_path(verdict.times.decided_at, verdict.verdict_id)
    path = folder / evidence
    path.mkdir(parents=True)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return open_piece(folder, evidence)


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])
