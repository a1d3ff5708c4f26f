"""What a graph computes in: few bits where they suffice, float32 where they do not, and decisions that stay."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.records import Policy, Scores, Size
from export.arithmetic import computes_in, element_types
from export.comparison import compare, refuse_changed_decisions
from export.errors import ExportError, ParityError
from export.graphs import IR_VERSION, OPSET, ClassifierGraph, GateGraph, classifier_onnx, gate_onnx
from export.layers import worst_layers
from export.parity import engine_scores
from export.precision import LARGEST_HALF, to_float16, to_int8
from export.storage import Storage, store_weights
from tests.export.networks import lively_classifier, lively_gate
from tests.support.cpu_engines import CPU_ENGINES, open_graphs

pytestmark = pytest.mark.timeout(600)  # torch exports two networks
SIZE = Size(96, 70)
IMAGES = list(np.random.default_rng(7).integers(0, 256, (4, 1, *SIZE), dtype=np.uint8))


@pytest.fixture(scope="module")
def plain() -> dict[str, onnx.ModelProto]:
    return {
        CLASSIFIER_FILE: classifier_onnx(ClassifierGraph(lively_classifier()), 1, SIZE),
        GATE_FILE: gate_onnx(GateGraph(lively_gate()), 1, SIZE),
    }


@pytest.fixture(scope="module")
def half(plain: dict[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    return {name: to_float16(graph) for name, graph in plain.items()}


@pytest.fixture(scope="module")
def quantised(plain: dict[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    """The quick pass alone."""
    return {name: to_int8(graph, IMAGES) for name, graph in plain.items()}


def scores_of(graphs: dict[str, onnx.ModelProto], engine: str, precision: str) -> list[Scores]:
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    opened = open_graphs(engine, classifier, gate, size=SIZE, precision=precision, threads=2)
    return engine_scores(opened, IMAGES)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_fp16_holds_every_weight_and_activation_between_the_first_and_the_last_weighted_layer(
    half: dict[str, onnx.ModelProto],
) -> None:
    for model in half.values():
        types = element_types(model)
        for node in model.graph.node:
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "Relu"):
                assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}


def test_the_graphs_say_themselves_what_they_compute_in(
    plain: dict[str, onnx.ModelProto], half: dict[str, onnx.ModelProto], quantised: dict[str, onnx.ModelProto]
) -> None:
    """Weights that are merely stored in fewer bits are computed with in float32."""
    for storage in get_args(Storage):
        assert computes_in(store_weights(plain[CLASSIFIER_FILE], storage)) == "fp32"
    for graphs, found in ((plain, ["fp32", "fp32"]), (half, ["fp16", "fp16"]), (quantised, ["int8", "int8"])):
        assert [computes_in(graphs[name]) for name in (CLASSIFIER_FILE, GATE_FILE)] == found


def _value(name: str, kind: int, shape: Sequence[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _product(arithmetic: str, prefix: str = "") -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """A product of `x` with weights, `PREFIXy`, in float16, behind rounded activations, or with weights so stored."""
    weights = numpy_helper.from_array(np.ones((8, 8), np.float32 if arithmetic == "int8" else np.float16), f"{prefix}w")
    if arithmetic == "int8":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", f"{prefix}step"], [f"{prefix}q"]),
            helper.make_node("DequantizeLinear", [f"{prefix}q", f"{prefix}step"], [f"{prefix}h"]),
            helper.make_node("MatMul", [f"{prefix}h", f"{prefix}w"], [f"{prefix}y"]),
        ]
        return nodes, [weights, numpy_helper.from_array(np.array(1, np.float32), f"{prefix}step")]
    if arithmetic == "fp16":
        nodes = [
            helper.make_node("Cast", ["x"], [f"{prefix}c"], to=TensorProto.FLOAT16),
            helper.make_node("Abs", [f"{prefix}c"], [f"{prefix}h"]),
            helper.make_node("MatMul", [f"{prefix}h", f"{prefix}w"], [f"{prefix}p"]),
            helper.make_node("Cast", [f"{prefix}p"], [f"{prefix}y"], to=TensorProto.FLOAT),
        ]
        return nodes, [weights]
    nodes = [
        helper.make_node("Cast", [f"{prefix}w"], [f"{prefix}v"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", f"{prefix}v"], [f"{prefix}y"]),
    ]
    return nodes, [weights]


def _within(place: str, arithmetic: str) -> onnx.ModelProto:
    """A model with the product of `_product` in a branch, a loop or a function, on an input `image`."""
    nodes, tensors = _product(arithmetic)
    square = _value("y", TensorProto.FLOAT, (8, 8))
    inputs = [_value("image", TensorProto.FLOAT, (8, 8)), _value("is", TensorProto.BOOL, ())]
    functions = []
    around = [helper.make_node("Identity", ["image"], ["x"])]
    held: list[TensorProto] = []
    if place in ("If", "If in an If"):
        other, more = _product("stored", "other.")
        branch = helper.make_graph(nodes, "then", [], [square], tensors)
        kept = helper.make_graph(other, "else", [], [_value("other.y", TensorProto.FLOAT, (8, 8))], more)
        node = helper.make_node("If", ["is"], ["out"], then_branch=kept, else_branch=branch)
        if place == "If in an If":
            outer = helper.make_graph([node], "outer", [], [_value("out", TensorProto.FLOAT, (8, 8))])
            kept = helper.make_graph(
                [helper.make_node("Identity", ["x"], ["z"])], "as it is", [], [_value("z", TensorProto.FLOAT, (8, 8))]
            )
            node = helper.make_node("If", ["is"], ["result"], then_branch=outer, else_branch=kept)
        around.append(node)
    elif place == "Loop":
        carried = [_value("turn", TensorProto.INT64, ()), _value("on", TensorProto.BOOL, ())]
        go_on = helper.make_node("Identity", ["on"], ["more"])
        body = helper.make_graph(
            [*nodes, go_on],
            "body",
            [*carried, _value("x", TensorProto.FLOAT, (8, 8))],
            [_value("more", TensorProto.BOOL, ()), square],
            tensors,
        )
        held = [numpy_helper.from_array(np.array(2, np.int64), "turns")]
        around = [helper.make_node("Loop", ["turns", "is", "image"], ["result"], body=body)]
    elif place == "Scan":
        body = helper.make_graph(nodes, "body", [_value("x", TensorProto.FLOAT, (8, 8))], [square], tensors)
        inputs[0] = _value("image", TensorProto.FLOAT, (2, 8, 8))
        around = [helper.make_node("Scan", ["image"], ["result"], body=body, num_scan_inputs=1)]
    else:
        held = tensors
        opsets = [helper.make_opsetid("", OPSET)]
        names = [tensor.name for tensor in tensors]
        functions = [helper.make_function("own", "product", ["x", *names], ["y"], nodes, opsets)]
        around = [helper.make_node("product", ["image", *names], ["result"], domain="own")]
    result = around[-1].output[0]
    graph = helper.make_graph(around, "graph", inputs, [_value(result, TensorProto.FLOAT, None)], held)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION)


@pytest.mark.parametrize(("arithmetic", "found"), [("int8", "int8"), ("fp16", "fp16"), ("stored", "fp32")])
@pytest.mark.parametrize("place", ["If", "If in an If", "Loop", "Scan", "function"])
def test_what_a_branch_a_loop_or_a_function_computes_in_counts(place: str, arithmetic: str, found: str) -> None:
    model = _within(place, arithmetic)
    onnxruntime.InferenceSession(model.SerializeToString())  # it can be run
    assert computes_in(model) == found


def test_fp16_leaves_softmax_and_residual_statistics_in_fp32(half: dict[str, onnx.ModelProto]) -> None:
    for name, kinds in ((CLASSIFIER_FILE, ("Softmax",)), (GATE_FILE, ("AveragePool", "Sqrt", "ReduceMax", "Div"))):
        types = element_types(half[name])
        nodes = [node for node in half[name].graph.node if node.op_type in kinds]
        assert {node.op_type for node in nodes} == set(kinds)
        assert {types[node.output[0]] for node in nodes} == {TensorProto.FLOAT}
        # The image to float, into fp16, out of it; the classifier's logits and its reason map each for themselves.
        assert operators(half[name])["Cast"] == (4 if name == CLASSIFIER_FILE else 3)


def test_a_weight_that_float16_cannot_hold_is_refused(plain: dict[str, onnx.ModelProto]) -> None:
    model = copy.deepcopy(plain[GATE_FILE])
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), 2 * LARGEST_HALF, np.float32), bias.name))
    with pytest.raises(ExportError, match="too large for float16") as caught:
        to_float16(model)
    assert caught.value.hint == "use --precision fp32", "an int8 model holds float16 weights too"


def test_the_original_graphs_are_left_alone(plain: dict[str, onnx.ModelProto]) -> None:
    before = {name: model.SerializeToString() for name, model in plain.items()}
    for graph in plain.values():
        to_float16(graph)
        to_int8(graph, IMAGES[:1])
    assert {name: model.SerializeToString() for name, model in plain.items()} == before


def test_int8_quantises_the_classifiers_convolutions_but_the_first_and_the_shortcuts(
    plain: dict[str, onnx.ModelProto],
    quantised: dict[str, onnx.ModelProto],
) -> None:
    graph = quantised[CLASSIFIER_FILE].graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    before = plain[CLASSIFIER_FILE].graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in before.initializer}
    first, *others = [node for node in before.node if node.op_type == "Conv"]
    floats = [first.name, *(node.name for node in others if shapes[node.input[1]][2:] == (1, 1))]
    assert len(layers) == 36 and len(floats) == 4
    for layer in layers:
        is_quantised = [made_by.get(source) == "DequantizeLinear" for source in layer.input[:2]]
        assert is_quantised == [layer.name not in floats] * 2, layer.name


def test_the_sums_of_the_residual_blocks_are_not_rounded(quantised: dict[str, onnx.ModelProto]) -> None:
    """What they round would stay in the stream for all later layers."""
    graph = quantised[CLASSIFIER_FILE].graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    sums = [node for node in graph.node if node.op_type == "Add" and "reason_map" not in node.output]
    assert len(sums) == 16
    assert {made_by[source] for node in sums for source in node.input} == {"Conv", "Relu", "MaxPool"}


def test_int8_weights_have_a_scale_per_output_channel(quantised: dict[str, onnx.ModelProto]) -> None:
    graph = quantised[CLASSIFIER_FILE].graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    stored = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    assert len(stored) == 32
    for node in stored:
        weight, scale = (numpy_helper.to_array(tensors[name]) for name in node.input[:2])
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[0],)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_file_is_valid_and_of_the_pinned_kind(
    precision: str, half: dict[str, onnx.ModelProto], quantised: dict[str, onnx.ModelProto]
) -> None:
    for model in (half if precision == "fp16" else quantised).values():
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == IR_VERSION
        assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
        assert not any(node.domain for node in model.graph.node)


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.02), ("int8", 0.15)])
def test_scores_stay_close_on_every_engine(
    engine: str,
    precision: str,
    error: float,
    plain: dict[str, onnx.ModelProto],
    half: dict[str, onnx.ModelProto],
    quantised: dict[str, onnx.ModelProto],
) -> None:
    """Random weights on noise: the harshest case. Trained networks are for the parity gate."""
    expected = scores_of(plain, "onnxruntime", "fp32")
    observed = scores_of(half if precision == "fp16" else quantised, engine, precision)
    for one, other in zip(observed, expected, strict=True):
        for name in ("p_abnormal", "gate_mean_max", "gate_std_max"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=error)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_reason_map_adds_up_to_the_answer_in_fewer_bits(precision: str, request: pytest.FixtureRequest) -> None:
    graphs = request.getfixturevalue("half" if precision == "fp16" else "quantised")
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    engine = open_graphs("onnxruntime", classifier, gate, size=SIZE, precision=precision, has_reason=True)
    for image in IMAGES[:2]:
        output = engine.infer(image[np.newaxis])
        assert output.reason_map is not None
        assert 1 / (1 + np.exp(-output.reason_map.mean())) == pytest.approx(output.p_abnormal[0], abs=2e-3)
    engine.close()


def test_the_layers_that_differ_most_are_named_worst_first(
    plain: dict[str, onnx.ModelProto], quantised: dict[str, onnx.ModelProto]
) -> None:
    layers = worst_layers(quantised[CLASSIFIER_FILE], plain[CLASSIFIER_FILE], IMAGES[:2])
    errors = [layer.relative_error for layer in layers]
    assert len(layers) == 8
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[0] < 0.5
    assert [layer.relative_error for layer in worst_layers(plain[GATE_FILE], plain[GATE_FILE], IMAGES[:1])] == [0.0] * 8


POLICY = Policy(threshold=0.5, gate_mean_threshold=0.3, gate_std_threshold=0.3, review_band=(0.48, 0.52))
SURE = Scores(0.9, 0.1, 0.1)


def test_a_decision_that_flips_stops_the_export_and_is_listed() -> None:
    before, after = [SURE, Scores(0.45, 0.1, 0.1)], [SURE, Scores(0.55, 0.1, 0.1)]
    found = compare("int8", ["a.tif", "b.tif"], before, after, POLICY)
    with pytest.raises(ParityError, match=r"flips 1 of 2 .*b\.tif: normal -> abnormal, p 0\.4500 -> 0\.5500"):
        refuse_changed_decisions(found)


def test_a_gate_that_changes_its_mind_stops_the_export() -> None:
    found = compare("int8", ["a.tif"], [SURE], [dataclasses.replace(SURE, gate_std_max=0.31)], POLICY)
    with pytest.raises(ParityError, match="abnormal -> review"):
        refuse_changed_decisions(found)


def test_a_flip_into_the_review_band_is_what_the_band_is_for() -> None:
    found = compare("int8", ["a.tif"], [Scores(0.47, 0.1, 0.1)], [Scores(0.49, 0.1, 0.1)], POLICY)
    assert [str(flip) for flip in found.flips] == ["a.tif: normal -> review, p 0.4700 -> 0.4900 (in the review band)"]
    refuse_changed_decisions(found)


WIDE = dataclasses.replace(POLICY, review_band=(0.4, 0.6))
NOT_BY_THE_BAND = {
    "a gate that goes blind": (Scores(0.5, 0.9, 0.9), Scores(0.39, 0.0, 0.0)),
    "a gate that sees ghosts": (Scores(0.39, 0.0, 0.0), Scores(0.4, 0.9, 0.0)),
    "a p that jumps out of the band": (Scores(0.5, 0.1, 0.1), Scores(0.01, 0.1, 0.1)),
    "a p that jumps into it": (Scores(0.9, 0.1, 0.1), Scores(0.5, 0.1, 0.1)),
    "a score that is none": (Scores(0.5, float("nan"), 0.1), Scores(0.39, 0.1, 0.1)),
}


@pytest.mark.parametrize("case", NOT_BY_THE_BAND)
def test_a_flip_that_the_review_band_alone_does_not_explain_stops_the_export(case: str) -> None:
    """The band is for a p that rounding moves over its edge, and for nothing else."""
    before, after = NOT_BY_THE_BAND[case]
    found = compare("int8", ["a.tif"], [before], [after], WIDE)
    with pytest.raises(ParityError, match="flips 1 of 1 decisions outside the review band"):
        refuse_changed_decisions(found)


def test_balanced_accuracy_that_is_lost_stops_the_export() -> None:
    """Within the band nothing flips, yet every other scan lands on the wrong side of the threshold."""
    before, after = [Scores(0.51, 0.1, 0.1)] * 2, [Scores(0.51, 0.1, 0.1), Scores(0.49, 0.1, 0.1)]
    found = compare("int8", ["a.tif", "b.tif"], before, after, POLICY, [1, 1])
    assert found.loss_points == pytest.approx(50.0)
    with pytest.raises(ParityError, match=r"loses 50\.00 points"):
        refuse_changed_decisions(found)


def test_the_largest_difference_and_the_99th_percentile_are_told_apart() -> None:
    before, after = [SURE] * 1000, [*[SURE] * 999, Scores(0.8, 0.1, 0.1)]
    found = compare("fp16", [f"{n}.tif" for n in range(1000)], before, after, POLICY)
    assert found.worst.p_abnormal == pytest.approx(0.1)
    assert found.p99.p_abnormal == 0.0
