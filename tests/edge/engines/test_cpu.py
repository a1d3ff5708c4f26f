"""What the engines of the CPU refuse at opening, and what they make of a graph that misbehaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.engines.choose import open_engine
from edge.engines.golden import check_golden
from edge.errors import EngineError
from tests.support.cpu_engines import CPU_ENGINES, open_graphs
from tests.support.signed_models import SIZE, brightness_graph, float_constant, graph_bytes, verified_model

IMAGES = np.full((1, 1, *SIZE), 51, np.uint8)


@pytest.fixture(params=CPU_ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def refusal(name: str, classifier: bytes | None = None, gate: bytes | None = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        open_graphs(name, classifier, gate)
    assert caught.value.hint
    return caught.value


def mean_then(*nodes: onnx.NodeProto, shape: list[str | int] | None = None, constants: tuple = ()) -> bytes:
    """A classifier whose `mean` (n,) is the mean grey level and whose further nodes make p_abnormal of it."""
    first = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    return graph_bytes([*first, *nodes], {"p_abnormal": shape or ["n"]}, constants=constants)


def test_scores_are_those_of_the_graphs(name: str) -> None:
    output = open_graphs(name).infer(IMAGES)
    assert output.p_abnormal == pytest.approx([0.2])
    assert output.gate_mean_max == pytest.approx([0.051])
    assert output.residual_map.shape == (1, SIZE.height_px // 16, SIZE.width_px // 16)


@pytest.mark.parametrize("asked", ["auto", *CPU_ENGINES])
def test_a_model_repeats_its_golden_scores(tmp_path: Path, asked: str) -> None:
    model = verified_model(tmp_path / "model")
    engine = open_engine(model, asked, threads=1)
    assert engine.spec.name == ("onnxruntime" if asked == "auto" else asked)
    check_golden(model, engine)
    engine.close()


def test_the_default_batch_is_one(name: str) -> None:
    assert open_graphs(name).spec.max_batch == 1
    assert open_graphs(name, max_batch=3).spec.max_batch == 3


def test_bytes_that_are_no_graph_are_refused(name: str) -> None:
    assert "cannot load gate.onnx" in refusal(name, gate=b"no graph").message


OF_AN_UNKNOWN_OPSET = {
    "onnxruntime": "cannot load classifier.onnx: ",
    "openvino": "classifier.onnx has output p_abnormal of shape [1], expected a free batch",
}


def test_a_graph_of_an_unknown_opset_is_refused(name: str) -> None:
    """OpenVINO reads it by the newest operators it knows, whose mean takes its axes another way; what it then makes of
    a graph that still fits, the golden scans judge."""
    model = onnx.load_from_string(brightness_graph())
    model.opset_import[0].version = 99
    assert OF_AN_UNKNOWN_OPSET[name] in refusal(name, model.SerializeToString()).message


@pytest.mark.parametrize(
    "image", [["n", 1, 32, 32], ["n", 3, *SIZE], [1, 1, *SIZE], ["n", 1, "h", "w"], ["n", 1, SIZE.height_px]]
)
def test_a_graph_for_other_images_than_the_manifest_says_is_refused(name: str, image: list[str | int]) -> None:
    node = helper.make_node("Shape", ["image"], ["shape"])
    cast = helper.make_node("Cast", ["shape"], ["p_abnormal"], to=TensorProto.FLOAT)
    assert (
        "classifier.onnx takes" in refusal(name, graph_bytes([node, cast], {"p_abnormal": ["k"]}, image=image)).message
    )


def test_a_graph_with_another_input_name_is_refused(name: str) -> None:
    node = helper.make_node("Cast", ["picture"], ["p_abnormal"], to=TensorProto.FLOAT)
    graph = graph_bytes([node], {"p_abnormal": ["n", 1, *SIZE]}, input_name="picture")
    assert "classifier.onnx takes" in refusal(name, graph).message


def test_a_graph_that_wants_floats_is_refused(name: str) -> None:
    node = helper.make_node("ReduceMean", ["image"], ["p_abnormal"], axes=[1, 2, 3], keepdims=0)
    assert "classifier.onnx takes" in refusal(name, graph_bytes([node], {"p_abnormal": ["n"]}, input_type=1)).message


def test_a_graph_without_the_promised_output_is_refused(name: str) -> None:
    assert "has no output gate_mean_max" in refusal(name, gate=brightness_graph()).message


def test_an_output_of_another_rank_is_refused(name: str) -> None:
    axes = numpy_helper.from_array(np.array([1], np.int64), "one")
    graph = mean_then(helper.make_node("Unsqueeze", ["mean", "one"], ["p_abnormal"]), shape=["n", 1], constants=(axes,))
    assert "has no output p_abnormal, float32 with 1 dimensions" in refusal(name, graph).message


def test_an_output_whose_batch_is_fixed_is_refused(name: str) -> None:
    """A graph exported for one scan at a time would fail on the second one."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "zero")
    node = helper.make_node("ReduceMean", ["mean"], ["p_abnormal"], axes=[0], keepdims=1)
    assert "expected a free batch" in refusal(name, mean_then(node, shape=[1], constants=(axes,))).message


def test_results_of_another_shape_than_promised_are_never_returned(name: str) -> None:
    graph = mean_then(helper.make_node("Concat", ["mean", "mean"], ["p_abnormal"], axis=0), shape=["k"])
    with pytest.raises(EngineError, match=r"returned p_abnormal as float32 \(2,\), expected float32 \(1,\)"):
        open_graphs(name, graph).infer(IMAGES)


def test_a_score_that_is_not_a_number_is_handed_on(name: str) -> None:
    """The decision knows what to do with it: a person looks."""
    zero = float_constant("zero", 0.0)
    nodes = [helper.make_node("Mul", ["mean", "zero"], ["no"]), helper.make_node("Div", ["no", "zero"], ["p_abnormal"])]
    output = open_graphs(name, mean_then(*nodes, constants=(zero,))).infer(IMAGES)
    assert np.isnan(output.p_abnormal).all()


def test_weights_outside_the_graph_are_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would not be covered by the signature."""
    model = onnx.load_from_string(brightness_graph())
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(4096, 255, np.float32), "white"))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "weights.bin").exists()
    assert "cannot load classifier.onnx" in refusal(name, (tmp_path / "m.onnx").read_bytes()).message


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 1, *SIZE), np.uint8),
        np.zeros((3, 1, *SIZE), np.uint8),
        np.zeros((1, 1, *SIZE), np.float32),
        np.zeros((1, *SIZE), np.uint8),
        np.zeros((1, 1, *reversed(SIZE)), np.uint8),
    ],
    ids=lambda images: f"{images.dtype}{images.shape}",
)
def test_images_that_do_not_fit_are_refused_with_what_would(name: str, images: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"takes uint8 \(n, 1, 96, 64\)|takes 1 to 2"):
        open_graphs(name, max_batch=2).infer(images)


def test_a_closed_engine_says_so(name: str) -> None:
    engine = open_graphs(name)
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.infer(IMAGES)
