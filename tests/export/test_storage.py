"""Stored weights: smaller files, the same arithmetic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.engines.ort import PROVIDERS, session_options
from export.errors import ExportError
from export.storage import MIN_ELEMENTS, Storage, quantise, store_weights
from tests.bench.decisions import expanded

RNG = np.random.default_rng(5)


def weight(*shape: int) -> np.ndarray:
    """Channels of very different size, as batch norm folding leaves them."""
    values = RNG.normal(0, 1, shape) * np.geomspace(0.01, 10, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return values.astype(np.float32)


def network(**weights: np.ndarray) -> onnx.ModelProto:
    """Convolution, transposed convolution and a fully connected layer over 8 channels of 8 x 8."""
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "up"], ["b"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "full", "bias"], ["y"], transB=1),
    ]
    tensors = {
        "conv": weight(64, 32, 3, 3),
        "up": weight(64, 128, 2, 2),
        "full": weight(256, 128),
        "bias": weight(256),
    } | weights
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, optimised: Path | None = None) -> np.ndarray:
    """Opened as the line opens it."""
    options = session_options("fp32", 1)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)
    x = np.random.default_rng(6).normal(0, 1, (2, 32, 8, 8)).astype(np.float32)
    return session.run(None, {"x": x})[0]


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("axis", [0, 1])
def test_no_weight_moves_by_more_than_half_a_step_of_its_channel(axis: int) -> None:
    values = np.moveaxis(weight(40, 30, 3, 3), 0, axis)
    stored, scale = quantise(values, axis)
    assert stored.dtype == np.int8
    assert stored.min() >= -127
    steps = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    assert (np.abs(stored * steps - values) <= steps * 0.5001).all()
    assert (np.abs(stored).max(axis=tuple(i for i in range(4) if i != axis)) == 127).all()


def test_a_dead_channel_stays_zero() -> None:
    stored, scale = quantise(np.zeros((2, 9), np.float32), 0)
    assert not stored.any()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("storage", get_args(Storage))
def test_stored_graphs_are_valid_and_leave_the_original_alone(storage: str) -> None:
    model = network()
    before = model.SerializeToString()
    onnx.checker.check_model(store_weights(model, storage), full_check=True)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("storage", "share"), [("fp32", 1.0), ("fp16", 0.5), ("int8", 0.25)])
def test_the_file_shrinks_as_promised(storage: str, share: float) -> None:
    whole = network().ByteSize()
    assert store_weights(network(), storage).ByteSize() == pytest.approx(whole * share, rel=0.05)


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_at_run_time_nothing_is_left_of_the_storage(storage: str, tmp_path: Path) -> None:
    """The graph onnxruntime executes is the plain one: same operators, all weights float32."""
    run(store_weights(network(), "fp32"), tmp_path / "plain.onnx")
    run(store_weights(network(), storage), tmp_path / "stored.onnx")
    plain, stored = onnx.load(tmp_path / "plain.onnx"), onnx.load(tmp_path / "stored.onnx")
    assert Counter(node.op_type for node in stored.graph.node) == Counter(node.op_type for node in plain.graph.node)
    types = {tensor.data_type for tensor in stored.graph.initializer}
    assert types == {tensor.data_type for tensor in plain.graph.initializer}
    assert TensorProto.INT8 not in types
    assert TensorProto.FLOAT16 not in types


def test_int8_storage_computes_with_exactly_the_dequantised_weights() -> None:
    tensors = initialisers(network())
    rounded = {}
    for name, axis in (("conv", 0), ("up", 1), ("full", 0)):
        stored, scale = quantise(tensors[name], axis)
        shape = [-1 if i == axis else 1 for i in range(stored.ndim)]
        rounded[name] = stored.astype(np.float32) * scale.reshape(shape)
    expected = run(network(**{**tensors, **rounded}))
    np.testing.assert_array_equal(run(store_weights(network(**tensors), "int8")), expected)


@pytest.mark.parametrize(("storage", "error"), [("fp16", 1e-3), ("int8", 2e-2)])
def test_rounding_changes_results_by_little(storage: str, error: float) -> None:
    model = network()
    plain, stored = run(model), run(store_weights(model, storage))
    difference = np.abs(plain - stored).max() / np.abs(plain).max()
    assert 0 < difference < error


def test_small_tensors_stay_as_they_are() -> None:
    """The gate and the first convolution are among them: they are small, and they round badly."""
    few = network(full=weight(256, 128)[:, :63].copy()) if MIN_ELEMENTS > 256 * 63 else None
    assert few is not None
    tensors = initialisers(store_weights(few, "int8"))
    assert tensors["full"].dtype == np.float32
    assert tensors["bias"].dtype == np.float32
    assert "conv_int8" in tensors


def test_a_weight_that_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(ExportError, match="conv is too large for float16") as caught:
        store_weights(network(conv=weight(64, 32, 3, 3) * 1e5), "fp16")
    assert "--precision fp32" in caught.value.hint, "an int8 model takes no --weights-storage"


def test_a_weight_used_twice_is_stored_once() -> None:
    model = network(conv=weight(32, 32, 5, 5))
    again = helper.make_node("Conv", ["a", "conv"], ["a2"], pads=[2, 2, 2, 2])
    nodes = [helper.make_node("Conv", ["x", "conv"], ["a"], pads=[2, 2, 2, 2]), again]
    nodes += [helper.make_node("GlobalAveragePool", ["a2"], ["y"])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32, 1, 1]))
    stored = store_weights(model, "int8")
    assert [node.op_type for node in stored.graph.node].count("DequantizeLinear") == 1
    run(stored)


def test_the_bench_expands_stored_weights_to_what_is_computed_with() -> None:
    """It makes its int8 graphs of a model, of which no float32 weights are left."""
    stored = store_weights(network(), "int8")
    plain = expanded(stored)
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in network().graph.node]
    assert all(values.dtype == np.float32 for values in initialisers(plain).values())
    np.testing.assert_array_equal(run(plain), run(stored))
