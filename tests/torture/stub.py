"""A model of a kind that exists in the tests alone: no networks, scores that follow from the pixels.

The score of a scan is a checksum of its converted pixels, so that whoever knows the file knows what its
verdict must say. `expected_p_abnormal` repeats the conversion in its own words: a verdict on wrong pixels
differs from it. The production loader refuses such a model even when a trusted key signed it.
"""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.engines import Batch, EngineOutput, EngineSpec
from edge.model.manifest import Manifest
from edge.model.signed_model import SignedModel, TrustedKey
from edge.pipeline.loaded_model import LoadedModel
from edge.records import Counts, Size
from tests.support.models import ANY_EXPOSURE, ANY_SHARPNESS

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KIND = "torture-stub"
SIZE = Size(96, 64)
LO_COUNTS, HI_COUNTS = 1700, 2800
MODEL_ID = "torture-stub"


class StubEngine:
    """p(abnormal) is a checksum of the image, the gate knows everything."""

    def __init__(self, max_batch: int = 8) -> None:
        self.spec = EngineSpec("stub", "fp32", SIZE, 1, max_batch)

    def infer(self, images: Batch) -> EngineOutput:
        zeros = np.zeros(len(images), np.float32)
        scores = np.array([_score(image.tobytes()) for image in images], np.float32)
        return EngineOutput(scores, zeros, zeros.copy(), np.zeros((len(images), 2, 2), np.float32))

    def close(self) -> None:
        """Nothing is open."""


def expected_p_abnormal(counts: Counts) -> float:
    """What the verdict on uint16 counts of shape SIZE must say, from the published formula of the conversion."""
    clipped = np.clip(counts.astype(np.float64), LO_COUNTS, HI_COUNTS)
    grey = np.minimum(255, np.floor((clipped - LO_COUNTS) / (HI_COUNTS - LO_COUNTS) * 256)).astype(np.uint8)
    return float(np.float32(_score(grey.tobytes())))


def write_stub_model(folder: Path, *, created_at: str = "2026-05-04T08:00:00Z") -> Path:
    """The model, signed by the tests' key; the public key lies beside it as `key.pub.pem`."""
    folder.mkdir(parents=True)
    files = ("classifier.onnx", "gate.onnx", "golden/a.tif", "golden/b.tif")
    score = {"p_abnormal": 0.0, "gate_mean_max": 0.0, "gate_std_max": 0.0, "tolerance": 0.01}
    content = {
        "kind": KIND,
        "schema_version": 1,
        "model_id": MODEL_ID,
        "created_at": created_at,
        "signing_key": TrustedKey("", KEY.public_key()).fingerprint,
        "input": {"height_px": SIZE.height_px, "width_px": SIZE.width_px, "channels": 1},
        "conversion": {"method": "global", "lo_counts": LO_COUNTS, "hi_counts": HI_COUNTS},
        "labels": ["normal", "abnormal"],
        "policy": {"threshold": 0.5, "review_band": None, "gate_mean_threshold": 0.3, "gate_std_threshold": 0.2},
        "scan_spec": {
            "height_px": [32, 4096],
            "width_px": [32, 4096],
            "max_clipped_fraction": 0.5,
            "sharpness": ANY_SHARPNESS.model_dump(mode="json"),
            "exposure": ANY_EXPOSURE.model_dump(mode="json"),
        },
        "gate_map": {"cell_px": 16, "offset_px": 0},
        "precision": "fp32",
        "weights_storage": "fp32",
        "training": {"data_digest": "5" * 64},
        "tools": {},
        "golden": [{"file": name, **score} for name in files[2:]],
        "files": {name: {"sha256": "0" * 64, "size_bytes": 1} for name in files},
    }
    data = json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sig").write_bytes(KEY.sign(data))
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    folder.with_name("key.pub.pem").write_bytes(public)
    return folder


def load_stub_model(folder: Path, engine: StubEngine) -> LoadedModel:
    """What the torture worker runs. ValueError if the folder holds no stub model."""
    content = json.loads((folder / "manifest.json").read_bytes())
    if content.pop("kind", None) != KIND:
        raise ValueError(f"{folder} is no {KIND} model: the torture worker runs nothing else")
    manifest = Manifest.model_validate_json(json.dumps(content))
    return LoadedModel(SignedModel(manifest, "0" * 64, "nobody", {}), engine, datetime.now(UTC))


def _score(image: bytes) -> float:
    return zlib.crc32(image) / 2**32
