"""The onnxruntime engine: what it refuses at opening, and what it makes of a graph that misbehaves."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import TrustedKey, verify_bundle
from edge.engines import open_engine
from edge.engines.ort import OrtEngine, session_options
from edge.errors import EngineError
from edge.golden import check_golden
from tests.bundles import KEY, SIZE, brightness_graph, float_constant, graph_bytes, make_bundle, spot_graph

IMAGES = np.full((1, 1, *SIZE), 51, np.uint8)


def opened(classifier: bytes | None = None, gate: bytes | None = None, **options: int) -> OrtEngine:
    return OrtEngine(
        classifier=classifier or brightness_graph(), gate=gate or spot_graph(), size=SIZE, channels=1, **options
    )


def refusal(classifier: bytes | None = None, gate: bytes | None = None) -> EngineError:
    with pytest.raises(EngineError) as caught:
        opened(classifier, gate)
    assert caught.value.hint
    return caught.value


def mean_then(*nodes: onnx.NodeProto, shape: list[str | int] | None = None, constants: tuple = ()) -> bytes:
    """A classifier whose `mean` (n,) is the mean grey level and whose further nodes make p_abnormal of it."""
    first = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    return graph_bytes([*first, *nodes], {"p_abnormal": shape or ["n"]}, constants=constants)


def test_a_bundle_repeats_its_golden_scores_on_onnxruntime(tmp_path: Path) -> None:
    bundle = verify_bundle(make_bundle(tmp_path / "bundle"), [TrustedKey("key", KEY.public_key())])
    for name in ("auto", "onnxruntime"):
        engine = open_engine(bundle, name, threads=1)
        assert engine.spec.name == "onnxruntime"
        check_golden(bundle, engine)
        engine.close()


@pytest.mark.parametrize(("name", "message"), [("tensorrt", "not part of it"), ("abacus", "no engine 'abacus'")])
def test_an_engine_that_does_not_exist_says_which_do(tmp_path: Path, name: str, message: str) -> None:
    bundle = verify_bundle(make_bundle(tmp_path / "bundle"), [TrustedKey("key", KEY.public_key())])
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(bundle, name)
    assert "onnxruntime" in caught.value.hint


def test_scores_are_those_of_the_graphs() -> None:
    output = opened().infer(IMAGES)
    assert output.p_abnormal == pytest.approx([0.2])
    assert output.gate_mean_max == pytest.approx([0.051])
    assert output.residual_map.shape == (1, SIZE.height_px // 16, SIZE.width_px // 16)


def test_the_default_batch_is_one() -> None:
    assert opened().spec.max_batch == 1
    assert opened(max_batch=3).spec.max_batch == 3


def test_bytes_that_are_no_graph_are_refused() -> None:
    assert "cannot load gate.onnx" in refusal(gate=b"no graph").message


@pytest.mark.parametrize(
    "image", [["n", 1, 32, 32], ["n", 3, *SIZE], [1, 1, *SIZE], ["n", 1, "h", "w"], ["n", 1, SIZE.height_px]]
)
def test_a_graph_for_other_images_than_the_manifest_says_is_refused(image: list[str | int]) -> None:
    node = helper.make_node("Shape", ["image"], ["shape"])
    cast = helper.make_node("Cast", ["shape"], ["p_abnormal"], to=TensorProto.FLOAT)
    assert "classifier.onnx takes" in refusal(graph_bytes([node, cast], {"p_abnormal": ["k"]}, image=image)).message


def test_a_graph_with_another_input_name_is_refused() -> None:
    node = helper.make_node("Cast", ["picture"], ["p_abnormal"], to=TensorProto.FLOAT)
    graph = graph_bytes([node], {"p_abnormal": ["n", 1, *SIZE]}, input_name="picture")
    assert "classifier.onnx takes" in refusal(graph).message


def test_a_graph_that_wants_floats_is_refused() -> None:
    node = helper.make_node("ReduceMean", ["image"], ["p_abnormal"], axes=[1, 2, 3], keepdims=0)
    assert "classifier.onnx takes" in refusal(graph_bytes([node], {"p_abnormal": ["n"]}, input_type=1)).message


def test_a_graph_without_the_promised_output_is_refused() -> None:
    assert "has no output gate_mean_max" in refusal(gate=brightness_graph()).message


def test_an_output_of_another_rank_is_refused() -> None:
    axes = numpy_helper.from_array(np.array([1], np.int64), "one")
    graph = mean_then(helper.make_node("Unsqueeze", ["mean", "one"], ["p_abnormal"]), shape=["n", 1], constants=(axes,))
    assert "has no output p_abnormal, float32 with 1 dimensions" in refusal(graph).message


def test_an_output_whose_batch_is_fixed_is_refused() -> None:
    """A graph exported for one scan at a time would fail on the second one."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "zero")
    node = helper.make_node("ReduceMean", ["mean"], ["p_abnormal"], axes=[0], keepdims=1)
    assert "expected a free batch" in refusal(mean_then(node, shape=[1], constants=(axes,))).message


def test_results_of_another_shape_than_promised_are_never_returned() -> None:
    graph = mean_then(helper.make_node("Concat", ["mean", "mean"], ["p_abnormal"], axis=0), shape=["k"])
    with pytest.raises(EngineError, match=r"returned p_abnormal as float32 \(2,\), expected float32 \(1,\)"):
        opened(graph).infer(IMAGES)


def test_a_score_that_is_not_a_number_is_handed_on() -> None:
    """The decision knows what to do with it: a person looks."""
    zero = float_constant("zero", 0.0)
    nodes = [helper.make_node("Mul", ["mean", "zero"], ["no"]), helper.make_node("Div", ["no", "zero"], ["p_abnormal"])]
    output = opened(mean_then(*nodes, constants=(zero,))).infer(IMAGES)
    assert np.isnan(output.p_abnormal).all()


def test_a_graph_that_fails_while_running_is_an_engine_error() -> None:
    table = float_constant("table", 0.0, 1.0)
    nodes = [
        helper.make_node("Cast", ["mean"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["p_abnormal"]),
    ]
    with pytest.raises(EngineError, match=r"classifier\.onnx failed on images of shape \(1, 1, 96, 64\)"):
        opened(mean_then(*nodes, constants=(table,))).infer(IMAGES)


def test_weights_outside_the_graph_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would not be covered by the signature."""
    model = onnx.load_from_string(brightness_graph())
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(4096, 255, np.float32), "white"))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "weights.bin").exists()
    assert "cannot load classifier.onnx" in refusal((tmp_path / "m.onnx").read_bytes()).message


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
def test_images_that_do_not_fit_are_refused_with_what_would(images: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"takes uint8 \(n, 1, 96, 64\)|takes 1 to 2"):
        opened(max_batch=2).infer(images)


def test_a_closed_engine_says_so() -> None:
    engine = opened()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.infer(IMAGES)


def test_another_provider_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(disable_fallback=lambda: None, get_providers=lambda: ["OtherExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    assert "on ['OtherExecutionProvider'], asked for ['CPUExecutionProvider']" in refusal().message


def test_threads_do_not_spin_and_number_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    create = onnxruntime.InferenceSession

    def recording(graph: bytes, options: onnxruntime.SessionOptions, providers: list[str]) -> object:
        seen.append(options)
        return create(graph, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})
    opened()
    opened(threads=1)
    assert [options.intra_op_num_threads for options in seen] == [3, 3, 1, 1]
    for options in seen:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(("precision", "disabled"), [("fp32", "1"), ("fp16", "1"), ("int8", "0")])
def test_only_an_int8_model_computes_in_int8(precision: str, disabled: str) -> None:
    options = session_options(precision, 1)
    assert options.get_session_config_entry("session.disable_quant_qdq") == disabled
