"""The one fake of the test suite: a scripted engine, and scans that it understands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import tifffile

from edge.contract.messages import ModelInfo
from edge.engines import Batch, EngineOutput
from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry
from edge.images.spec import InputSpec, ScanSpec
from edge.pipeline.verdicts import VerdictFactory
from edge.records import Policy, Size
from tests.support.models import ANY_EXPOSURE, ANY_SHARPNESS, SizedEngine

SIZE = Size(64, 48)
BOOT_ID = UUID("00000000-0000-4000-8000-000000000001")
POLICY = Policy(threshold=0.5, gate_mean_threshold=0.1, gate_std_threshold=0.1)
INPUT_SPEC = InputSpec(
    Method.GLOBAL,
    Bounds(1700, 2800),
    SIZE,
    ScanSpec((32, 512), (32, 512), 0.5, ANY_SHARPNESS.model, ANY_EXPOSURE.model),
)


def brightness(images: Batch) -> EngineOutput:
    p_abnormal = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
    zeros = np.zeros(len(images), np.float32)
    return EngineOutput(p_abnormal, zeros, zeros.copy(), np.zeros((len(images), 4, 3), np.float32))


class ScriptedEngine(SizedEngine):
    """Scores follow the brightness of the image, unless a script says otherwise: bright is abnormal."""

    def __init__(self, script: Callable[[Batch], EngineOutput] = brightness, max_batch: int = 4) -> None:
        super().__init__(script, SIZE, 1, max_batch)


def verdict_factory(station: str = "xray-1", *, model: str = "cd" * 32) -> VerdictFactory:
    """The verdict factory of a scripted model with this digest."""
    return VerdictFactory(
        station=station,
        topic=f"factory/site/area/line/{station}/inspection/verdict",
        boot_id=BOOT_ID,
        model=ModelInfo(
            id="scripted",
            sha256=model,
            conversion=Method.GLOBAL,
            bounds_counts=(1700, 2800),
            engine="scripted",
            precision="fp32",
            degraded=None,
        ),
        policy=POLICY,
        input_size=SIZE,
        map_geometry=MapGeometry(16, 0),
        naming=re.compile(r"(?P<bundle>[^_/]+)_(?P<part_id>[^/]+?)\.tiff?$"),
    )


def write_scan(path: Path, level_counts: int = 1900, seed: int = 0, size: Size = Size(100, 80)) -> Path:  # noqa: B008
    """A small scan of nearly one grey level; 1900 counts are normal for the scripted engine, 2700 abnormal."""
    noise = np.random.default_rng([seed, level_counts]).integers(-20, 20, size)
    tifffile.imwrite(path, (level_counts + noise).astype(np.uint16), metadata=None)
    return path
