"""int8 models: a quick pass in 8 bits, and in the same graph float32 for doubtful scans.

Where a score of the quick pass lies near a limit of the policy, an `If` computes the graph in float32, and that one
answers. So float32 decides; elsewhere the scores carry the error of the quick pass, far from every limit.

    classifier   doubtful: p within WIDTH of the threshold or an end of the review band, on the scale log(p / (1 - p)).
    gate         doubtful: a score above its limit less a margin. What it refuses, with its map, is always precise.

Width and margin are SAFETY times the greatest difference between the two passes over the calibration scans, and never
less than LEAST_WIDTH and LEAST_MARGIN. They stand in the manifest, as the scores between which scans are doubtful.

OpenVINO computes an If's branches as fast as the same graph outside, in int8 too, and a branch that is not taken costs
nothing. onnxruntime gives the same answers, but slowly. TensorRT takes an If; whether it takes these was never tried,
so the line's TensorRT refuses such a model.

There was int8 without a quick pass, for every scan alike: the classifier's first stage and the whole gate in float32,
activations signed for TensorRT's sake. It took more time than the quick pass with its doubtful scans, and decided 3 of
1000 scans as float32 does not. In the place of float32, for doubtful scans alone, it took 0.23 instead of 0.39 s of
processor (1000 x 500), and one of 241 was decided otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.engines.choose import open_on_cpu
from edge.engines.cpu import PairOfNetworks
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE, QuickPass
from edge.records import Image, Policy, Scores, Size
from export.arithmetic import DOUBT, Doubts, doubts_of, limits_of
from export.errors import ExportError
from export.parity import engine_scores
from export.precision import Progress, hide_image, pin_and_check, to_int8
from export.storage import store_weights

SAFETY: Final = 4.0
LEAST_WIDTH: Final = 1.0
"""On the scale log(p / (1 - p)): around a threshold of 0.5 from 0.27 to 0.73."""
LEAST_MARGIN: Final = 0.05
"""Share of a gate's limit."""
LEAST_P: Final = 1e-6
"""A p nearer to 0 or 1 counts as this one: what float32 holds of it says little."""

Graphs = Mapping[str, onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class Drift:
    """Greatest difference between quick and precise pass: of log(p / (1 - p)), and of the gate's scores."""

    logit: float
    gate_mean_max: float
    gate_std_max: float


def with_quick_pass(
    plain: Graphs,
    calibration: Sequence[Image],
    policy: Policy,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> tuple[dict[str, onnx.ModelProto], QuickPass]:
    """The graphs `plain`, in float32, with a quick pass before them, and where that one does not decide alone.

    `calibration`: converted scans uint8 (channels, height_px, width_px). The weights of `plain` are stored as float16,
    to take half the space. Raises ExportError.
    """
    quick = {name: to_int8(graph, calibration, progress) for name, graph in plain.items()}
    precise = {name: store_weights(graph, "fp16") for name, graph in plain.items()}
    of_quick, of_precise = _scores(quick, calibration, "int8"), _scores(precise, calibration, "fp32")
    drift = _drift(of_quick, of_precise)
    if not all(map(math.isfinite, astuple(drift))):
        raise ExportError(
            f"calibration scans have scores that are not finite in the quick pass or in float32: {drift}",
            hint="the networks overflow: train them again; --precision fp32 makes no quick pass",
        )
    where = quick_pass_of(drift, policy)
    doubtful = sum(map(where.doubts, of_quick))
    say(
        f"the quick pass moves {len(calibration)} calibration scans by at most: log(p / (1 - p)) {drift.logit:.2f}, "
        f"gate mean {drift.gate_mean_max:.1e}, gate std {drift.gate_std_max:.1e}; {doubtful} of them are doubtful"
    )
    if 2 * doubtful > len(calibration):
        say(
            "warning: most scans would be computed twice, which may take longer than --precision fp32, unless the scans"
            " of the line are less doubtful than those of --calibrate"
        )
    doubts = doubts_of(where)
    return {name: join(quick[name], precise[name], doubts[name]) for name in plain}, where


def quick_pass_of(drift: Drift, policy: Policy) -> QuickPass:
    """Where scans are doubtful, by what the two passes differed on others."""
    width = max(LEAST_WIDTH, SAFETY * drift.logit)
    cuts = [policy.threshold, *(policy.review_band or ())]
    intervals = sorted((_around(cut, -width), _around(cut, width)) for cut in cuts)
    merged = intervals[:1]
    for low, high in intervals[1:]:
        if low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    limits = (policy.gate_mean_threshold, policy.gate_std_threshold)
    moved = (drift.gate_mean_max, drift.gate_std_max)
    mean_from, std_from = (
        limit - max(LEAST_MARGIN * limit, SAFETY * by) for limit, by in zip(limits, moved, strict=True)
    )
    return QuickPass(p_abnormal=tuple(merged), gate_mean_from=mean_from, gate_std_from=std_from)


def join(quick: onnx.ModelProto, precise: onnx.ModelProto, doubts: Doubts) -> onnx.ModelProto:
    """One graph: `quick`, and where a scan of the batch is doubtful by it, `precise` in its place. Raises ExportError.

    The layers of the quick pass keep their names.
    """
    outputs = [output.name for output in precise.graph.output]
    joined = copy.deepcopy(quick)
    _rename(joined.graph, {name: f"quick.{name}" for name in outputs})
    graph = joined.graph
    within = hide_image(precise).graph
    own = {tensor.name for tensor in within.initializer} | {name for node in within.node for name in node.output}
    _rename(within, {name: f"precise.{name}" for name in own})
    for node in within.node:
        node.name = node.name and f"precise.{node.name}"
    del within.input[:]  # a branch sees the image as the graph around it does
    within.name = "precise"
    shapes = {f"quick.{output.name}": output for output in precise.graph.output}
    kept = helper.make_graph([], "quick", [], [])
    for name, like in shapes.items():
        kept.node.append(helper.make_node("Identity", [name], [f"kept.{name}"], name=f"kept.{name}"))
        value = copy.deepcopy(like)
        value.name = f"kept.{name}"
        kept.output.append(value)
    doubt = _doubt(graph, doubts)
    graph.node.append(helper.make_node("If", [doubt], outputs, name="doubtful", then_branch=within, else_branch=kept))
    del graph.output[:]
    graph.output.extend(precise.graph.output)
    return pin_and_check(joined, "joined")


def _doubt(graph: onnx.GraphProto, doubts: Doubts) -> str:
    """Add what finds doubtful scans by the quick scores; the name of the tensor that says whether there is one."""

    def constant(value: float) -> str:
        name = f"{DOUBT}{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{DOUBT}{kind}.{len(graph.node)}"
        graph.node.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    outside = []
    limits = map(constant, limits_of(doubts))
    for output, intervals in doubts.items():
        score = f"quick.{output}"
        for _ in intervals:
            outside.append(node("Max", node("Sub", next(limits), score), node("Sub", score, next(limits))))
    zero = "no.distance"
    graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), zero))
    # A NaN that a minimum overlooks stays one in the scores, and goes to a person.
    nearest = node("ReduceMin", node("Min", *outside), keepdims=0)
    return node("Not", node("Greater", nearest, zero))


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for part in (node.input, node.output):
            for index, name in enumerate(part):
                part[index] = names.get(name, name)
    for tensor in (*graph.initializer, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)


def _scores(graphs: Graphs, images: Sequence[Image], precision: str) -> list[Scores]:
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    size, channels = Size(*images[0].shape[1:]), images[0].shape[0]
    engine = open_on_cpu(PairOfNetworks(classifier, gate, size, channels, precision), "onnxruntime")
    try:
        return engine_scores(engine, images)
    finally:
        engine.close()


def _drift(quick: Sequence[Scores], precise: Sequence[Scores]) -> Drift:
    first, second = ([(_logit(one.p_abnormal), *astuple(one)[1:]) for one in scores] for scores in (quick, precise))
    return Drift(*np.abs(np.subtract(first, second)).max(axis=0).tolist())


def _logit(p: float) -> float:
    p = min(max(p, LEAST_P), 1.0 - LEAST_P)
    return math.log(p / (1.0 - p))


def _around(cut: float, by: float) -> float:
    """The p that lies `by` from a cut on the scale of the logit; the end of the scale if the cut is beyond LEAST_P."""
    if not LEAST_P < cut < 1.0 - LEAST_P and (by < 0) == (cut < 0.5):
        return float(round(cut))
    return 1.0 / (1.0 + math.exp(-_logit(cut) - by))
