"""The onnxruntime engine: what is its own; what all CPU engines share is in test_engine_contract.py and test_cpu.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge.engines.choose import open_engine
from edge.engines.ort import NAME, session_options
from edge.errors import EngineError
from tests.support.cpu_engines import open_graphs
from tests.support.signed_models import SIZE, float_constant, graph_bytes, verified_model


@pytest.mark.parametrize(
    ("name", "message"), [("tensorrt", "no folder for built engines"), ("abacus", "no engine 'abacus'")]
)
def test_an_engine_that_does_not_exist_says_which_do(tmp_path: Path, name: str, message: str) -> None:
    model = verified_model(tmp_path / "model")
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(model, name)
    assert "onnxruntime" in caught.value.hint


def test_a_graph_that_fails_while_running_is_an_engine_error() -> None:
    table = float_constant("table", 0.0, 1.0)
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["mean"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["p_abnormal"]),
    ]
    with pytest.raises(EngineError, match=r"classifier\.onnx failed on an image of shape \(1, 1, 96, 64\)"):
        open_graphs(NAME, graph_bytes(nodes, {"p_abnormal": ["n"]}, constants=(table,))).infer(
            np.full((1, 1, *SIZE), 51, np.uint8)
        )


def test_another_provider_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(disable_fallback=lambda: None, get_providers=lambda: ["OtherExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(EngineError, match=r"on \['OtherExecutionProvider'\], asked for \['CPUExecutionProvider'\]"):
        open_graphs(NAME)


def test_threads_do_not_spin_and_number_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    create = onnxruntime.InferenceSession

    def recording(graph: bytes, options: onnxruntime.SessionOptions, providers: list[str]) -> object:
        seen.append(options)
        return create(graph, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})
    open_graphs(NAME, threads=None)
    open_graphs(NAME, threads=1)
    assert [options.intra_op_num_threads for options in seen] == [3, 3, 1, 1]
    for options in seen:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(("precision", "disabled"), [("fp32", "1"), ("fp16", "1"), ("int8", "0")])
def test_only_an_int8_model_computes_in_int8(precision: str, disabled: str) -> None:
    options = session_options(precision, 1)
    assert options.get_session_config_entry("session.disable_quant_qdq") == disabled


def test_both_networks_work_in_the_same_memory() -> None:
    """Each needs 256 MB while it runs: 128 planes of 500,000 float32. In a process of its own, whose peak it is."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["x"] * 128, ["planes"], axis=1),
        helper.make_node("ReduceMax", ["planes"], ["score"], axes=[1, 2, 3], keepdims=0),
    ]
    graph = graph_bytes(nodes, {"score": ["n"]}, image=["n", 1, 1000, 500]).hex()
    program = """
import resource, sys
import numpy as np
from edge.engines.ort import Graph
graph = bytes.fromhex(sys.stdin.read())
first, second = (Graph(name, graph, (1, 1000, 500), {"score": 1}, "fp32", 1) for name in ("a", "b"))
image = np.ones((1, 1, 1000, 500), np.uint8)
peaks = []
for one in (first, second):
    one.run(image)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", program], input=graph, capture_output=True, text=True, check=True)
    grown_mb = int(done.stdout)
    assert grown_mb < 100
