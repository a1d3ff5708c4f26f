"""Do the fast engines decide as the plain float32 path does? The demo's networks on simulated scans.

The reference is torch, where the checkpoints lie that the committed model was made of, else the model's own graphs in
float32 on onnxruntime. int8 is made of those graphs as `edge-export model --precision int8` makes it.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.progress import track

from edge.engines import Engine
from edge.engines.choose import open_on_cpu
from edge.engines.cpu import PairOfNetworks
from edge.images.conversion import prepare
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.model.signed_model import SignedModel, read_model
from edge.pipeline.decide import decide
from edge.pipeline.loaded_model import DEMO_KEY
from edge.records import Image, Scores
from edge.validation.statistics import Rate
from export.comparison import compare
from export.parity import engine_scores, torch_scores
from export.precision import CALIBRATION_SCANS
from export.quick_pass import with_quick_pass
from tests.bench.bench_model import ENGINES
from train.checkpoint import load_checkpoint
from train.classifier.models import classifier_of
from train.gate.network import gate_of
from train.simulator.simulate import simulate_scan

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "demo" / "model"
CHECKPOINTS = PROJECT / "build" / "demo-model" / "run"
"""Where `make demo-model` leaves them; they are not committed."""
SCANS_PER_LOT = 20
FIRST_LOT, FIRST_CALIBRATION_LOT = 5001, 6001
"""No network has learnt from these lots, and int8 takes its ranges from others than it is judged on."""


def measure(scans: int, checkpoints: Path = CHECKPOINTS) -> dict[str, Any]:
    """Equal decisions of each of ENGINES, of `scans`, half of them abnormal; the reference by name."""
    model = read_model(MODEL, DEMO_KEY)
    images = [_image(model, FIRST_LOT, number) for number in track(range(scans), "simulating")]
    reference, expected = _reference(model, images, checkpoints)
    policy = model.policy()
    files = [str(number) for number in range(scans)]
    engines = {}
    made = {"fp32": _pair(model), "int8": _int8(model)}
    for name, (engine, kind) in ENGINES.items():
        networks = made[kind]
        found = compare(name, files, expected, _scores(open_on_cpu(networks, engine), images, name), policy)
        equal = Rate(scans - len(found.flips), scans)
        engines[name] = {
            "equal": equal.hits,
            "interval": [round(limit, 4) for limit in equal.interval],
            "p_abnormal_moved_by": found.worst.p_abnormal,
            "flips": [str(flip) for flip in found.flips],
        }
    outcomes = Counter(decide(scores, policy).outcome.value for scores in expected)
    return {"model": model.model_id, "reference": reference, "scans": scans, "outcomes": outcomes, "engines": engines}


def _image(model: SignedModel, first_lot: int, number: int) -> Image:
    scan = simulate_scan(9, first_lot + number // SCANS_PER_LOT, number, abnormal=number % 2 == 1)
    return prepare(scan.counts, model.method, model.bounds, model.size)


def _reference(model: SignedModel, images: list[Image], folder: Path) -> tuple[str, list[Scores]]:
    """What is plain float32 here, and what it says."""
    if not all((folder / f"{kind}.pt").is_file() for kind in ("classifier", "gate")):
        why = f"no checkpoints in {folder}"
    else:
        classifier, gate = (load_checkpoint(folder / f"{kind}.pt", kind) for kind in ("classifier", "gate"))
        thresholds = {**classifier.thresholds, **gate.thresholds}
        of_model = model.manifest.policy.model_dump(exclude={"review_band"})
        if {name: thresholds.get(name) for name in of_model} == of_model:
            networks = classifier_of(classifier), gate_of(gate)
            scores = [torch_scores(*networks, model.method, [image])[0] for image in track(images, "torch fp32")]
            return "torch fp32", scores
        why = f"the checkpoints in {folder} are not those of the model"
    return f"onnxruntime fp32 ({why})", _scores(open_on_cpu(_pair(model), "onnxruntime"), images, "onnxruntime fp32")


def _scores(engine: Engine, images: list[Image], what: str) -> list[Scores]:
    scores = engine_scores(engine, track(images, what))
    engine.close()
    return scores


def _pair(model: SignedModel) -> PairOfNetworks:
    return PairOfNetworks(model.classifier, model.gate, model.size, model.channels, model.precision)


def _int8(model: SignedModel) -> PairOfNetworks:
    plain = {name: expanded(onnx.load_from_string(model.contents[name])) for name in (CLASSIFIER_FILE, GATE_FILE)}
    ranges = [_image(model, FIRST_CALIBRATION_LOT, number) for number in range(CALIBRATION_SCANS)]
    graphs, _ = with_quick_pass(plain, ranges, model.policy(), print)
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    return replace(_pair(model), classifier=classifier, gate=gate, precision="int8")


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the float32 weights it computes with, where the file holds int8 ones (export/storage.py)."""
    plain = copy.deepcopy(model)
    graph = plain.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]:
        stored, scale = (numpy_helper.to_array(tensors[name]) for name in node.input)
        axis = onnx.helper.get_node_attr_value(node, "axis")
        shape = [-1 if index == axis else 1 for index in range(stored.ndim)]
        weights = stored.astype(np.float32) * scale.reshape(shape)
        for name in node.input:
            graph.initializer.remove(tensors[name])
        graph.initializer.append(numpy_helper.from_array(weights, node.output[0]))
        graph.node.remove(node)
    return plain
