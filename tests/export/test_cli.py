"""`edge-export verify` and `parity` on the engines they name, with small models: no torch, and a scripted GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.engines import Engine, PlanSettings
from edge.engines.tensorrt import plans
from edge.engines.tensorrt.open import build
from edge.errors import EngineError, ModelError
from edge.model.manifest import QuickPass
from edge.model.signed_model import SignedModel, read_model
from export import cli, parity_table
from export.arithmetic import doubts_of
from export.cli import main
from export.quick_pass import join
from export.signed_model import write_model
from tests.gpu import host_kernels
from tests.support import scripted_gpu
from tests.support.fakes import write_scan
from tests.support.signed_models import (
    KEY,
    Content,
    brightness_graph,
    float_constant,
    graph_bytes,
    make_signed_model,
    spot_graph,
    write_public_key,
)

needs_compiler = pytest.mark.skipif(host_kernels.COMPILER is None, reason="no C++ compiler stands in for the GPU's")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_public_key(tmp_path / "key.pub.pem")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """One of each label, on its side of the threshold."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for label, level_counts in (("normal", 1900), ("abnormal", 2700)):
        write_scan(folder / f"{label}.tif", level_counts)
    (folder / "labels.csv").write_text("file,bundle,label\nnormal.tif,b1,normal\nabnormal.tif,b1,abnormal\n")
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with a GPU; the folder where its temporary files are made."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with scripted_gpu.installed():
        monkeypatch.setattr(plans, "compile_kernels", lambda _: b"cubin")
        yield temporary


@needs_compiler
def test_verify_builds_for_the_gpu_and_leaves_nothing_behind(
    gpu: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_signed_model(tmp_path / "model")
    assert main(["verify", str(model), "--key", str(key), "--engine", "tensorrt"]) == 0
    assert "golden scores on tensorrt" in capsys.readouterr().out
    assert list(gpu.glob("edge-export-*")) == []


@needs_compiler
def test_verify_takes_the_engine_that_the_line_has(
    gpu: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, device_key = make_signed_model(tmp_path / "model"), tmp_path / "state" / "device.key"
    build(read_model(model, key), PlanSettings(tmp_path / "plans", device_key, 4096 << 20, 1800.0))
    options = [str(model), "--key", str(key), "--plans", str(tmp_path / "plans"), "--device-key", str(device_key)]
    monkeypatch.setattr(plans.subprocess, "run", lambda *_, **__: pytest.fail("nothing was to be built"))
    for engine in ("tensorrt", "auto"):
        assert main(["verify", *options, "--engine", engine]) == 0


@needs_compiler
def test_parity_runs_on_the_gpu(
    gpu: Path, key: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["parity", str(make_signed_model(tmp_path / "model")), "--key", str(key), "--scans", str(scans)]
    assert main([*command, "--engines", "onnxruntime", "tensorrt"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "differences from bright-is-abnormal fp32 on onnxruntime" in printed
    assert "tensorrt" in printed
    assert "on tensorrt:" not in printed, "it opened"
    assert list(gpu.glob("edge-export-*")) == []


def everything_to_a_person(content: Content) -> None:
    """No decision can flip: only the classifier's own accuracy is left."""
    content["policy"]["review_band"] = [0.0, 1.0]


def test_parity_fails_where_balanced_accuracy_is_lost(
    key: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["x"], ["least"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["least", "nothing"], ["p_abnormal"]),
    ]
    blind = graph_bytes(nodes, {"p_abnormal": ["n"]}, constants=(float_constant("nothing", 0.0),))
    good = make_signed_model(tmp_path / "good", edit=everything_to_a_person)
    worse = make_signed_model(tmp_path / "worse", edit=everything_to_a_person, files={"classifier.onnx": blind})
    options = ["--key", str(key), "--scans", str(scans), "--engines", "onnxruntime"]
    assert main(["parity", str(good), str(good), *options]) == 0
    capsys.readouterr()
    assert main(["parity", str(good), str(worse), *options]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "fp32 #2 on onnxruntime: loses 50.00 points, allowed are 0.2" in printed
    assert "fp32 #1" in printed, "models of one name are told apart"


def test_parity_fails_where_an_engine_does_not_open(
    key: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was named or is installed: it would have been compared."""
    opened = parity_table.open_engine

    def without_openvino(model: SignedModel, name: str, **more: Any) -> Engine:
        if name == "openvino":
            raise EngineError("does not load", hint="none")
        return opened(model, name, **more)

    monkeypatch.setattr(parity_table, "open_engine", without_openvino)
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "tensorrt" else object())
    model = str(make_signed_model(tmp_path / "model"))
    command = ["parity", model, model, "--key", str(key), "--scans", str(scans)]
    assert main([*command, "--engines", "onnxruntime"]) == 0
    assert main([*command, "--engines", "onnxruntime", "openvino"]) == 1
    capsys.readouterr()
    assert main(command) == 1
    assert "#2 on openvino: does not load" in capsys.readouterr().out


def test_parity_with_nothing_to_compare_is_no_success(
    key: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(make_signed_model(tmp_path / "model"))
    assert main(["parity", model, "--key", str(key), "--scans", str(scans), "--engines", "onnxruntime"]) == 1
    assert "nothing to compare bright-is-abnormal fp32 on onnxruntime with" in capsys.readouterr().err


def rounded(graph: bytes) -> bytes:
    """The graph, its grey levels rounded to what they are: int8 arithmetic with the scores of float32."""
    model = onnx.load_from_string(graph)
    nodes = model.graph.node
    nodes[0].output[0] = "levels"
    nodes.insert(1, helper.make_node("QuantizeLinear", ["levels", "step", "zero"], ["q"]))
    nodes.insert(2, helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["x"]))
    for value, name in ((np.float32(1.0), "step"), (np.uint8(0), "zero")):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    data: bytes = model.SerializeToString()
    return data


QUICK_PASS = {"p_abnormal": [[0.3, 0.7]], "gate_mean_from": 0.28, "gate_std_from": 0.18}


def quick_graphs() -> dict[str, bytes]:
    """Both graphs behind the quick pass of `QUICK_PASS`."""
    where = QuickPass.model_validate_json(json.dumps(QUICK_PASS))
    return {
        name: join(*map(onnx.load_from_string, (rounded(graph), graph)), doubts_of(where)[name]).SerializeToString()
        for name, graph in (("classifier.onnx", brightness_graph()), ("gate.onnx", spot_graph()))
    }


def doubts_rounded_again() -> dict[str, bytes]:
    """As `quick_graphs`, with the quick pass in the place of the precise one, too."""
    where, graph = QuickPass.model_validate_json(json.dumps(QUICK_PASS)), rounded(brightness_graph())
    both = onnx.load_from_string(graph), onnx.load_from_string(graph)
    return quick_graphs() | {
        "classifier.onnx": join(*both, doubts_of(where)["classifier.onnx"]).SerializeToString(),
    }


def called_int8(content: Content) -> None:
    content.update(precision="int8", quick_pass=QUICK_PASS)


LIES: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Content], None] | None, str]] = {
    "int8 called fp32": (
        lambda: {"classifier.onnx": rounded(brightness_graph())},
        None,
        "classifier.onnx of bright-is-abnormal computes in int8, its manifest says precision fp32",
    ),
    "doubtful scans in int8 once more": (
        doubts_rounded_again,
        called_int8,
        "classifier.onnx of bright-is-abnormal computes doubtful scans in int8, expected fp32",
    ),
    "fp32 called int8": (
        dict,
        called_int8,
        "classifier.onnx of bright-is-abnormal computes in fp32, its manifest says precision int8",
    ),
    "one of two in int8": (
        lambda: quick_graphs() | {"gate.onnx": spot_graph()},
        called_int8,
        "gate.onnx of bright-is-abnormal computes in fp32, its manifest says precision int8",
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_verify_refuses_graphs_that_compute_in_something_else_than_the_manifest_says(
    case: str, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs, edit, message = LIES[case]
    model = make_signed_model(tmp_path / "model", files=graphs(), edit=edit)
    assert main(["verify", str(model), "--key", str(key)]) == 78
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("quick_pass", "file"),
    [
        (QUICK_PASS, None),
        (QUICK_PASS | {"p_abnormal": [[0.3, 0.8]]}, "classifier.onnx"),
        (QUICK_PASS | {"gate_mean_from": 0.25}, "gate.onnx"),
    ],
)
def test_verify_refuses_a_quick_pass_that_doubts_other_scores_than_the_manifest_says(
    quick_pass: object, file: str | None, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signed anew with another policy and limits to fit, it would decide at a limit by eight bits."""

    def edit(content: Content) -> None:
        content.update(precision="int8", quick_pass=quick_pass)

    model = make_signed_model(tmp_path / "model", files=quick_graphs(), edit=edit)
    assert main(["verify", str(model), "--key", str(key)]) == (78 if file else 0)
    assert (f"{file} of bright-is-abnormal computes scans again by the limits" in capsys.readouterr().err) == bool(file)


def test_a_model_that_does_not_say_what_it_computes_in_is_not_written(key: Path, tmp_path: Path) -> None:
    source = read_model(
        make_signed_model(tmp_path / "model", files={"classifier.onnx": rounded(brightness_graph())}), key
    )
    with pytest.raises(ModelError, match="computes in int8"):
        write_model(tmp_path / "out", source.manifest, source.contents, KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pub.pem", "model"]
