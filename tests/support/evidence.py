"""Pieces of evidence for tests, as the worker leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from edge.contract.messages import Verdict
from edge.evidence.piece import Offer, Scene, Why, piece_of
from edge.evidence.reason import log_odds
from edge.evidence.record import RECORD, Piece, evidence_path, open_piece
from edge.images.residual_boxes import MapGeometry
from edge.records import Counts, counts_sha256
from tests.support.samples import sample_verdict


def sample_counts() -> Counts:
    return np.random.default_rng(3).integers(0, 1 << 16, (40, 20), dtype=np.uint16)


def sample_piece(
    folder: Path,
    number: int = 1,
    *,
    verdict: Verdict | None = None,
    counts: Counts | None = None,
    has_reason: bool = False,
) -> Piece:
    """The evidence of `verdict` below `folder`, by default of `sample_verdict(number)` on noise."""
    verdict = sample_verdict(number) if verdict is None else verdict
    counts = sample_counts() if counts is None else counts
    reason_map = None
    if has_reason and verdict.p_abnormal is not None:  # one cell alone speaks for abnormal; the mean is the answer
        reason_map = np.full((4, 2), -3.0, np.float32)
        reason_map[1, 1] = 8 * log_odds(verdict.p_abnormal) + 21
    offer = Offer(
        verdict,
        counts,
        counts_sha256(counts),
        pixels=(counts >> 8).astype(np.uint8)[np.newaxis],
        residual_map=np.full((4, 2), 0.05, np.float32),
        reason_map=reason_map,
    )
    geometry = MapGeometry(counts.shape[0] // 4, 0)
    return write_piece(
        folder, offer, "outcome", Scene(MapGeometry(10, 0), gate_threshold=0.05, reason_geometry=geometry)
    )


def write_piece(folder: Path, offer: Offer, why: Why, scene: Scene | None = None) -> Piece:
    """What the keeper would write of `offer` below `folder`; without `scene` it has no maps."""
    record, contents = piece_of(offer, why, scene or Scene(MapGeometry(10, 0), 0.05))
    contents[RECORD] = json.dumps(record.model_dump(mode="json", by_alias=True)).encode()
    evidence = evidence_path(offer.verdict.times.decided_at, offer.verdict.verdict_id)
    path = folder / evidence
    path.mkdir(parents=True)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return open_piece(folder, evidence)


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])
