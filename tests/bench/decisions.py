"""Do the fast engines decide as the plain float32 path does? The demo's networks on simulated scans.

The reference is torch, where the checkpoints lie that the committed bundle was made of, else the bundle's own graphs in
float32 on onnxruntime. int8 is made of those graphs as `edge-export bundle --precision int8` makes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.progress import track

from edge.engines import Engine
from edge.engines.cpu import PairOfNetworks
from edge.engines.ort import OrtEngine
from edge.images.conversion import prepare
from edge.model.bundle import Bundle, open_bundle
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.pipeline.decide import decide
from edge.pipeline.loaded_model import DEMO_KEY
from edge.records import Image, Scores
from edge.validation.statistics import Rate
from export.comparison import compare
from export.parity import engine_scores, torch_scores
from export.precision import CALIBRATION_SCANS, to_precision
from tests.bench.bench_model import ENGINES
from train.checkpoint import load_checkpoint
from train.classifier.models import classifier_of
from train.gate.network import gate_of
from train.simulator.simulate import simulate_scan

PROJECT = Path(__file__).parents[2]
BUNDLE = PROJECT / "demo" / "bundle"
CHECKPOINTS = PROJECT / "build" / "demo-model" / "run"
"""Where `make demo-model` leaves them; they are not committed."""
SCANS_PER_BUNDLE = 20
FIRST_BUNDLE, FIRST_CALIBRATION_BUNDLE = 5001, 6001
"""No network has learnt from these bundles, and int8 takes its ranges from others than it is judged on."""


def measure(scans: int, checkpoints: Path = CHECKPOINTS) -> dict[str, Any]:
    """Equal decisions of each of ENGINES, of `scans`, half of them abnormal; the reference by name."""
    bundle = open_bundle(BUNDLE, DEMO_KEY)
    images = [_image(bundle, FIRST_BUNDLE, number) for number in track(range(scans), "simulating")]
    reference, expected = _reference(bundle, images, checkpoints)
    policy = bundle.policy()
    files = [str(number) for number in range(scans)]
    engines = {}
    for name, (engine, precision) in ENGINES.items():
        networks = _int8(bundle) if precision == "int8" else _pair(bundle)
        found = compare(name, files, expected, _scores(_open(engine, networks), images, name), policy)
        equal = Rate(scans - len(found.flips), scans)
        engines[name] = {
            "equal": equal.hits,
            "interval": [round(limit, 4) for limit in equal.interval],
            "p_abnormal_moved_by": found.worst.p_abnormal,
            "flips": [str(flip) for flip in found.flips],
        }
    outcomes = Counter(decide(scores, policy).outcome.value for scores in expected)
    return {"model": bundle.model_id, "reference": reference, "scans": scans, "outcomes": outcomes, "engines": engines}


def _image(bundle: Bundle, first_bundle: int, number: int) -> Image:
    scan = simulate_scan(9, first_bundle + number // SCANS_PER_BUNDLE, number, abnormal=number % 2 == 1)
    return prepare(scan.counts, bundle.method, bundle.bounds, bundle.size)


def _reference(bundle: Bundle, images: list[Image], folder: Path) -> tuple[str, list[Scores]]:
    """What is plain float32 here, and what it says."""
    if not all((folder / f"{kind}.pt").is_file() for kind in ("classifier", "gate")):
        why = f"no checkpoints in {folder}"
    else:
        classifier, gate = (load_checkpoint(folder / f"{kind}.pt", kind) for kind in ("classifier", "gate"))
        thresholds = {**classifier.thresholds, **gate.thresholds}
        of_bundle = bundle.manifest.policy.model_dump(exclude={"review_band"})
        if {name: thresholds.get(name) for name in of_bundle} == of_bundle:
            networks = classifier_of(classifier), gate_of(gate)
            scores = [torch_scores(*networks, bundle.method, [image])[0] for image in track(images, "torch fp32")]
            return "torch fp32", scores
        why = f"the checkpoints in {folder} are not those of the bundle"
    return f"onnxruntime fp32 ({why})", _scores(OrtEngine(_pair(bundle)), images, "onnxruntime fp32")


def _scores(engine: Engine, images: list[Image], what: str) -> list[Scores]:
    scores = engine_scores(engine, track(images, what))
    engine.close()
    return scores


def _open(name: str, networks: PairOfNetworks) -> Engine:
    if name == "onnxruntime":
        return OrtEngine(networks)
    from edge.engines.ov import OvEngine

    return OvEngine(networks)


def _pair(bundle: Bundle) -> PairOfNetworks:
    return PairOfNetworks(bundle.classifier, bundle.gate, bundle.size, bundle.channels, bundle.precision)


def _int8(bundle: Bundle) -> PairOfNetworks:
    graphs = {name: expanded(onnx.load_from_string(bundle.contents[name])) for name in (CLASSIFIER_FILE, GATE_FILE)}
    ranges = [_image(bundle, FIRST_CALIBRATION_BUNDLE, number) for number in range(CALIBRATION_SCANS)]
    graphs = to_precision(graphs, "int8", ranges)
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    return replace(_pair(bundle), classifier=classifier, gate=gate, precision="int8")


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the float32 weights it computes with, where the file holds int8 ones (export/storage.py)."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
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
