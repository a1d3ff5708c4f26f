"""A model that decides otherwise than float32 is not written, by the command: here graphs are spoilt on purpose."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edge.engines import Engine
from edge.engines.cpu import PairOfNetworks
from edge.model.signed_model import read_model
from edge.records import Policy, Scores, Size
from export import decisions, parity, signed_model
from export.cli import main
from export.decisions import decision_lines
from export.keys import create_keys
from export.precision import to_float16
from tests.export.networks import model_command, write_checkpoints
from tests.support.cpu_engines import needs_openvino
from tests.support.fakes import write_scan
from tests.support.signed_models import float_constant

pytestmark = pytest.mark.timeout(600)  # torch exports two networks
SIZE = Size(96, 64)
OPEN_GATE = {"gate_mean_threshold": 100.0, "gate_std_threshold": 100.0}
EVERYTHING = {"review_low": 0.0, "review_high": 1.0}

Graphs = dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, scans, and checkpoints whose gate lets everything pass: with and without a calibrated review band."""
    place = tmp_path_factory.mktemp("changed")
    write_checkpoints(place / "plain", SIZE, gate_thresholds=OPEN_GATE)
    write_checkpoints(place / "calibrated", SIZE, gate_thresholds=OPEN_GATE, thresholds=EVERYTHING)
    create_keys(place / "keys")
    (place / "scans").mkdir()
    for number, level_counts in enumerate((1900, 2300, 2700)):
        write_scan(place / "scans" / f"{number}.tif", level_counts, number)
    return place


def is_classifier(model: onnx.ModelProto) -> bool:
    return "p_abnormal" in {output.name for output in model.graph.output}


def upside_down(model: onnx.ModelProto) -> onnx.ModelProto:
    """The classifier that says 1 - p where this one says p."""
    turned = copy.deepcopy(model)
    graph = turned.graph
    for node in graph.node:
        node.output[:] = ["p_right" if name == "p_abnormal" else name for name in node.output]
    graph.initializer.append(float_constant("all", 1.0))
    graph.node.append(helper.make_node("Sub", ["all", "p_right"], ["p_abnormal"], "turned"))
    return turned


@pytest.fixture
def spoilt_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(graph: onnx.ModelProto) -> onnx.ModelProto:
        converted = to_float16(graph)
        return upside_down(converted) if graph.graph.output[0].name == "p_abnormal" else converted

    monkeypatch.setattr(signed_model, "to_float16", spoil)


def export(place: Path, out: Path, run: str, *more: str) -> int:
    return main(model_command(place / run, place, out, *more))


@pytest.mark.usefixtures("spoilt_precision")
def test_a_precision_that_changes_decisions_is_refused_and_nothing_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(place, tmp_path / "out", "plain", "--precision", "fp16") == 70
    refusal = capsys.readouterr().err
    assert "fp16 on onnxruntime flips 3 of 3 decisions outside the review band" in refusal
    assert re.search(r"layers that differ most: classifier\.onnx \w+ \d+\.\d%, .*; gate\.onnx \w+ ", refusal)
    assert list(tmp_path.iterdir()) == []


@needs_openvino
def test_what_flips_on_openvino_alone_is_refused_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the engine that int8 is made for."""
    opened = decisions.open_on_cpu

    def spoilt(networks: PairOfNetworks, name: str) -> Engine:
        if name == "openvino":
            turned = upside_down(onnx.load_from_string(networks.classifier)).SerializeToString()
            networks = dataclasses.replace(networks, classifier=turned)
        return opened(networks, name)

    monkeypatch.setattr(decisions, "open_on_cpu", spoilt)
    assert export(place, tmp_path / "out", "plain", "--precision", "fp16") == 70
    assert "fp16 on openvino flips 3 of 3 decisions" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_the_export_says_that_it_was_not_asked(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "find_spec", lambda _: None)
    assert export(place, tmp_path / "out", "plain", "--precision", "fp16") == 0
    told = capsys.readouterr().err
    assert "OpenVINO is not installed here and was not asked" in told
    assert "fp16 on openvino" not in told


def test_weights_that_are_only_stored_in_fewer_bits_may_change_no_decision_either(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the golden scans say, which are only two."""
    monkeypatch.setattr(
        signed_model, "store_weights", lambda graph, _: upside_down(graph) if is_classifier(graph) else graph
    )
    monkeypatch.setattr(parity, "MAX_STORAGE_DRIFT", 2.0)
    assert export(place, tmp_path / "out", "plain") == 70
    refusal = capsys.readouterr().err
    assert "storing the weights as int8 on onnxruntime flips 3 of 3 decisions" in refusal
    assert "--weights-storage" in refusal
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("spoilt_precision")
def test_flips_inside_the_calibrated_band_are_what_it_is_for(place: Path, tmp_path: Path) -> None:
    """The band that `edge-train calibrate` left in the checkpoint is judged by, as it is what the model gets."""
    assert export(place, tmp_path / "out", "calibrated", "--precision", "fp16") == 0
    exported = read_model(tmp_path / "out", place / "keys" / "signing-key.pub.pem")
    assert exported.policy().review_band == (0.0, 1.0)


@pytest.mark.usefixtures("spoilt_precision")
def test_a_band_that_is_asked_for_replaces_the_calibrated_one(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(place, tmp_path / "out", "calibrated", "--precision", "fp16", "--review-band", "0", "0.001") == 70
    assert "outside the review band" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_the_line_would_decide_is_said_and_a_gate_that_refuses_most_is_warned_of() -> None:
    policy = Policy(threshold=0.5, gate_mean_threshold=0.2, gate_std_threshold=0.1)
    good, refused = Scores(0.1, 0.1, 0.05), Scores(0.1, 0.3, 0.05)
    (line,) = decision_lines([good, good, Scores(0.9, 0.1, 0.05), refused], policy)
    assert "2 normal" in line and "1 abnormal" in line and "1 review" in line and "the gate refuses 1" in line
    lines = decision_lines([good, refused, refused], policy)
    assert lines[1].startswith("warning: the gate refuses 2 of 3 golden scans")
