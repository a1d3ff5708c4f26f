"""A loaded model without graphs: a real manifest around a scripted engine of any size."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np

from edge.engines import Batch, EngineOutput, EngineSpec
from edge.errors import EngineError
from edge.images.method import Method
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE, ExposureSpec, FileEntry, Manifest, SharpnessSpec
from edge.model.signed_model import SignedModel
from edge.pipeline.loaded_model import LoadedModel
from edge.records import Size

SIZE = Size(96, 64)
CELL_PX = 16
ANY_SHARPNESS = SharpnessSpec(max_edge_px=(13.0, 13.0), noise_counts=(0.1, 1e5), fineness=(1e-6, 1e6))
"""Wide enough for noise, for flat fields and for what a test draws: see `edge.images.sharpness.sharpness`."""
ANY_EXPOSURE = ExposureSpec(mean=(0.0,) * 9, inverse_covariance=((0.0,) * 9,) * 9, limit=1.0)
"""Every scan lies at a distance of 0."""
MAY = datetime(2026, 5, 4, 8, 0, 0, tzinfo=UTC)


class SizedEngine:
    """Answers every batch by its script."""

    def __init__(
        self,
        script: Callable[[Batch], EngineOutput],
        size: Size,
        channels: int,
        max_batch: int,
    ) -> None:
        self._script = script
        self.spec = EngineSpec("scripted", "fp32", size, channels, max_batch)
        self.batches: list[int] = []
        self.is_closed = False

    def infer(self, images: Batch) -> EngineOutput:
        if images.shape[1:] != (self.spec.channels, *self.spec.size) or len(images) > self.spec.max_batch:
            raise EngineError(f"images are {images.shape}", hint="a defect of the caller")
        self.batches.append(len(images))
        return self._script(images)

    def close(self) -> None:
        self.is_closed = True


def bright_is_abnormal(images: Batch) -> EngineOutput:
    """p = mean brightness; the gate knows everything but images with a wide spread of grey levels."""
    p_abnormal = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
    spread = images.std(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
    rows, columns = images.shape[2] // CELL_PX, images.shape[3] // CELL_PX
    residual = np.zeros((len(images), rows, columns), np.float32)
    residual[:, rows // 2, columns // 2] = spread
    return EngineOutput(p_abnormal, spread, spread / 2, residual)


def scripted_model(
    script: Callable[[Batch], EngineOutput] = bright_is_abnormal,
    *,
    model_id: str = "scripted-1",
    threshold: float = 0.5,
    review_band: tuple[float, float] | None = None,
    gate: tuple[float, float] = (0.2, 0.2),
    max_batch: int = 4,
) -> LoadedModel:
    """Ready to judge; its signed model holds a manifest and no files."""
    golden = [
        {"file": f"golden/{name}.tif", "p_abnormal": 0.1, "gate_mean_max": 0.0, "gate_std_max": 0.0, "tolerance": 0.01}
        for name in ("a", "b")
    ]
    entry = FileEntry(sha256="0" * 64, size_bytes=1)
    manifest = Manifest.model_validate(
        {
            "schema_version": 1,
            "model_id": model_id,
            "created_at": MAY,
            "signing_key": "1" * 64,
            "input": {"height_px": SIZE.height_px, "width_px": SIZE.width_px, "channels": 1},
            "conversion": {"method": Method.GLOBAL, "lo_counts": 1700, "hi_counts": 2800},
            "labels": ("normal", "abnormal"),
            "policy": {
                "threshold": threshold,
                "review_band": review_band,
                "gate_mean_threshold": gate[0],
                "gate_std_threshold": gate[1],
            },
            "scan_spec": {
                "height_px": (64, 512),
                "width_px": (48, 512),
                "max_clipped_fraction": 0.5,
                "sharpness": ANY_SHARPNESS,
                "exposure": ANY_EXPOSURE,
            },
            "gate_map": {"cell_px": CELL_PX, "offset_px": 0},
            "precision": "fp32",
            "weights_storage": "fp32",
            "training": {"data_digest": "2" * 64, "seed": "7"},
            "tools": {},
            "golden": tuple(golden),
            "files": dict.fromkeys((CLASSIFIER_FILE, GATE_FILE, "golden/a.tif", "golden/b.tif"), entry),
        }
    )
    model = SignedModel(manifest=manifest, digest="ab" * 32, signed_by="test", contents=MappingProxyType({}))
    engine = SizedEngine(script, SIZE, 1, max_batch)
    return LoadedModel(model, engine, MAY)
