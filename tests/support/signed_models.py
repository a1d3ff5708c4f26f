"""Small signed models with real graphs, made in milliseconds without torch: bright is abnormal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper, numpy_helper

from edge.engines.cpu import PairOfNetworks
from edge.engines.golden import score_one
from edge.engines.ort import OrtEngine
from edge.images.conversion import Bounds, prepare
from edge.images.method import Method
from edge.model.signed_model import SignedModel, TrustedKey, verify_model
from edge.records import Size
from export.golden import tiff_bytes
from tests.support.models import ANY_EXPOSURE, ANY_SHARPNESS

SIZE = Size(96, 64)
CELL_PX = 16
BOUNDS = Bounds(1700, 2800)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

Content = dict[str, Any]


def float_constant(name: str, *values: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def graph_bytes(
    nodes: list[onnx.NodeProto],
    outputs: dict[str, list[str | int]],
    *,
    image: list[str | int] | None = None,
    input_name: str = "image",
    input_type: int = TensorProto.UINT8,
    constants: tuple[onnx.TensorProto, ...] = (),
) -> bytes:
    """An ONNX model of these nodes that takes `image`, by default uint8 (n, 1, *SIZE)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(input_name, input_type, image or ["n", 1, *SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [float_constant("white", 255.0), *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def brightness_graph() -> bytes:
    """p_abnormal = mean grey level / 255."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["p_abnormal"]),
    ]
    return graph_bytes(nodes, {"p_abnormal": ["n"]})


def explained_graph() -> bytes:
    """p_abnormal as of `brightness_graph`; reason_map = its log odds + (mean of each cell - mean) / 16."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["p_abnormal"]),
        helper.make_node("Sub", ["white", "mean"], ["rest"]),
        helper.make_node("Div", ["mean", "rest"], ["odds"]),
        helper.make_node("Log", ["odds"], ["margin"]),
        helper.make_node("Unsqueeze", ["margin", "sides"], ["margins"]),
        helper.make_node("Unsqueeze", ["mean", "sides"], ["means"]),
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Squeeze", ["pooled", "channel"], ["cells"]),
        helper.make_node("Sub", ["cells", "means"], ["beyond"]),
        helper.make_node("Div", ["beyond", "sixteen"], ["steps"]),
        helper.make_node("Add", ["steps", "margins"], ["reason_map"]),
    ]
    rows, columns = (side // CELL_PX for side in SIZE)
    numbers = {"channel": [1], "sides": [1, 2]}
    return graph_bytes(
        nodes,
        {"p_abnormal": ["n"], "reason_map": ["n", rows, columns]},
        constants=(
            float_constant("sixteen", 16.0),
            *(numpy_helper.from_array(np.array(axes, np.int64), name) for name, axes in numbers.items()),
        ),
    )


def spot_graph() -> bytes:
    """residual_map = brightest pixel of each cell / 1000; both scores are its maximum."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "thousand"], ["scaled"]),
        helper.make_node("MaxPool", ["scaled"], ["cells"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Squeeze", ["cells", "channel"], ["residual_map"]),
        helper.make_node("ReduceMax", ["residual_map"], ["gate_mean_max"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["gate_mean_max", "two"], ["gate_std_max"]),
    ]
    rows, columns = (side // CELL_PX for side in SIZE)
    return graph_bytes(
        nodes,
        {"gate_mean_max": ["n"], "gate_std_max": ["n"], "residual_map": ["n", rows, columns]},
        constants=(
            float_constant("thousand", 1000.0),
            float_constant("two", 2.0),
            numpy_helper.from_array(np.array([1], np.int64), "channel"),
        ),
    )


def nan_graph() -> bytes:
    """A gate with one weight that is no number; as the real one it adds `residual * 0.0` to its scores.

    Its maximum runs over what is finite alone, as a maximum on a GPU does.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "weights"], ["residual"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["residual", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["nothing", "all"], ["poison"], keepdims=0),
        helper.make_node("Div", ["x", "white"], ["scaled"]),
        helper.make_node("MaxPool", ["scaled"], ["cells"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Squeeze", ["cells", "channel"], ["residual_map"]),
        helper.make_node("ReduceMax", ["residual_map"], ["greatest"], axes=[1, 2], keepdims=0),
        helper.make_node("Add", ["greatest", "poison"], ["gate_mean_max"]),
        helper.make_node("Add", ["poison", "greatest"], ["gate_std_max"]),
    ]
    weights = np.zeros((1, 1, 3, 3), np.float32)
    weights[0, 0, 1, 1] = np.nan
    rows, columns = (side // CELL_PX for side in SIZE)
    return graph_bytes(
        nodes,
        {"gate_mean_max": ["n"], "gate_std_max": ["n"], "residual_map": ["n", rows, columns]},
        constants=(
            float_constant("zero", 0.0),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "all"),
            numpy_helper.from_array(np.array([1], np.int64), "channel"),
        ),
    )


def make_signed_model(
    folder: Path,
    *,
    key: Ed25519PrivateKey = KEY,
    edit: Callable[[Content], None] | None = None,
    files: dict[str, bytes] | None = None,
    manifest_bytes: bytes | None = None,
    has_reason: bool = False,
) -> Path:
    """Write a model and sign it; `edit` changes the manifest, `files` its files, before they are signed."""
    contents = {
        "classifier.onnx": explained_graph() if has_reason else brightness_graph(),
        "gate.onnx": spot_graph(),
    }
    engine = OrtEngine(PairOfNetworks(contents["classifier.onnx"], contents["gate.onnx"], SIZE, 1))
    golden = []
    for name, level_counts in (("normal", 1900), ("abnormal", 2700)):
        counts = np.random.default_rng(level_counts).integers(level_counts - 50, level_counts + 50, (50, 40))
        scores = score_one(engine, prepare(counts.astype(np.uint16), Method.GLOBAL, BOUNDS, SIZE))
        contents[f"golden/{name}.tif"] = tiff_bytes(counts.astype(np.uint16))
        golden.append({"file": f"golden/{name}.tif", **asdict(scores), "tolerance": 1e-3})
    engine.close()
    contents |= files or {}
    content = {
        "schema_version": 1,
        "model_id": "bright-is-abnormal",
        "created_at": "2026-05-04T08:00:00Z",
        "signing_key": TrustedKey("", key.public_key()).fingerprint,
        "input": {"height_px": SIZE.height_px, "width_px": SIZE.width_px, "channels": 1},
        "conversion": {"method": "global", "lo_counts": BOUNDS.lo_counts, "hi_counts": BOUNDS.hi_counts},
        "labels": ["normal", "abnormal"],
        "policy": {
            "threshold": 0.5,
            "review_band": [0.4, 0.45],
            "gate_mean_threshold": 0.3,
            "gate_std_threshold": 0.2,
        },
        "scan_spec": {
            "height_px": [32, 512],
            "width_px": [32, 512],
            "max_clipped_fraction": 0.5,
            "sharpness": ANY_SHARPNESS.model_dump(mode="json"),
            "exposure": ANY_EXPOSURE.model_dump(mode="json"),
        },
        "gate_map": {"cell_px": CELL_PX, "offset_px": 0},
        **({"reason_map": {"cell_px": CELL_PX, "offset_px": 0}} if has_reason else {}),
        "precision": "fp32",
        "weights_storage": "fp32",
        "training": {"data_digest": "5" * 64},
        "tools": {"onnx": onnx.__version__},
        "golden": golden,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
            for name, data in contents.items()
        },
    }
    if edit is not None:
        edit(content)
    signed = manifest_bytes if manifest_bytes is not None else json.dumps(content, indent=1).encode()
    (folder / "golden").mkdir(parents=True)
    for name, data in {**contents, "manifest.json": signed, "manifest.sig": key.sign(signed)}.items():
        (folder / name).write_bytes(data)
    return folder


def verified_model(folder: Path, **options: Any) -> SignedModel:
    """`make_signed_model` as the line reads it."""
    return verify_model(make_signed_model(folder, **options), [TrustedKey("key", KEY.public_key())])


def write_public_key(path: Path, key: Ed25519PrivateKey = KEY) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path
