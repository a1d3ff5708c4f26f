"""A quick pass in 8 bits before the graphs in float32: it decides alone where it is sure, and nowhere else."""

from __future__ import annotations

import math
from collections import Counter
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.engines import Engine
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE, QuickPass
from edge.records import Policy, Scores, Size
from export.errors import ExportError
from export.graphs import ClassifierGraph, GateGraph, classifier_onnx, gate_onnx
from export.precision import to_int8
from export.quick_pass import (
    LEAST_MARGIN,
    LEAST_WIDTH,
    SAFETY,
    Drift,
    join,
    quick_pass_of,
    with_quick_pass,
)
from tests.export.networks import lively_classifier, lively_gate
from tests.support.cpu_engines import CPU_ENGINES, needs_openvino, open_graphs
from tests.support.signed_models import explained_graph, spot_graph

SIZE = Size(96, 70)
IMAGES = list(np.random.default_rng(7).integers(0, 256, (4, 1, *SIZE), dtype=np.uint8))
POLICY = Policy(threshold=0.5, gate_mean_threshold=0.3, gate_std_threshold=0.2, review_band=None)
STILL = Drift(0.0, 0.0, 0.0)


def grey(*levels: int) -> np.ndarray:
    """Images of one level each, that the small graphs call abnormal by level / 255."""
    return np.stack([np.full((1, 96, 64), level, np.uint8) for level in levels])


def shifted(model: bytes, by: float) -> onnx.ModelProto:
    """A graph whose scores are greater by that: a pass with an error."""
    moved = onnx.load_from_string(model)
    graph = moved.graph
    graph.initializer.append(numpy_helper.from_array(np.array([by], np.float32), "by"))
    for output in graph.output:
        if len(output.type.tensor_type.shape.dim) == 1:
            for node in graph.node:
                for part in (node.input, node.output):
                    part[:] = [f"{name}_right" if name == output.name else name for name in part]
            graph.node.append(helper.make_node("Add", [f"{output.name}_right", "by"], [output.name]))
    return moved


def opened(name: str, doubts: dict[str, list[tuple[float, float]]], max_batch: int = 3) -> Engine:
    """Small graphs whose quick scores are 0.01 too great: p doubtful as `doubts` say, the gate from 0.1 on."""
    classifier = join(shifted(explained_graph(), 0.01), onnx.load_from_string(explained_graph()), doubts)
    limits = {"gate_mean_max": [(0.1, math.inf)], "gate_std_max": [(0.15, math.inf)]}
    gate = join(shifted(spot_graph(), 0.01), onnx.load_from_string(spot_graph()), limits)
    graphs = (classifier.SerializeToString(), gate.SerializeToString())
    return open_graphs(name, *graphs, max_batch=max_batch, has_reason=True)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_a_sure_scan_has_the_scores_of_the_quick_pass_and_a_doubtful_one_those_of_the_precise(engine: str) -> None:
    open_engine = opened(engine, {"p_abnormal": [(0.3, 0.4), (0.6, 0.7)]})
    for level, is_precise in ((51, False), (84, True), (128, False), (166, True), (204, False)):
        output = open_engine.infer(grey(level))
        assert output.p_abnormal[0] == pytest.approx(level / 255 + (0 if is_precise else 0.01), abs=1e-5)
        assert output.reason_map is not None and output.reason_map.shape == (1, 6, 4)
    for level, is_precise in ((51, False), (88, False), (92, True), (204, True)):
        output = open_engine.infer(grey(level))
        assert output.gate_mean_max[0] == pytest.approx(level / 1000 + (0 if is_precise else 0.01), abs=1e-5)
        assert output.residual_map.shape == (1, 6, 4)
    open_engine.close()


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_a_doubtful_scan_leaves_the_scores_of_its_batch_as_they_are(engine: str) -> None:
    open_engine = opened(engine, {"p_abnormal": [(0.3, 0.4)]})
    assert open_engine.infer(grey(51, 204)).p_abnormal == pytest.approx([0.21, 0.81], abs=1e-5)
    assert open_engine.infer(grey(51, 84, 204)).p_abnormal == pytest.approx([0.21, 84 / 255, 0.81], abs=1e-5)
    open_engine.close()


def test_scans_are_doubtful_around_every_limit_by_four_times_what_the_passes_differ() -> None:
    drift = Drift(logit=0.5, gate_mean_max=0.01, gate_std_max=0.0)
    where = quick_pass_of(drift, POLICY)
    (low, high) = where.p_abnormal[0]
    assert math.log(high / (1 - high)) == pytest.approx(SAFETY * drift.logit)
    assert low == pytest.approx(1 - high)
    assert where.gate_mean_from == pytest.approx(0.3 - SAFETY * 0.01)
    assert where.gate_std_from == pytest.approx(0.2 * (1 - LEAST_MARGIN))


def test_passes_that_hardly_differ_leave_the_least_width() -> None:
    _low, high = quick_pass_of(STILL, POLICY).p_abnormal[0]
    assert math.log(high / (1 - high)) == pytest.approx(LEAST_WIDTH)


def test_both_ends_of_the_review_band_are_limits_and_intervals_that_meet_are_one() -> None:
    far = Policy(threshold=0.5, gate_mean_threshold=0.3, gate_std_threshold=0.2, review_band=(0.02, 0.98))
    near = Policy(threshold=0.5, gate_mean_threshold=0.3, gate_std_threshold=0.2, review_band=(0.4, 0.6))
    assert len(quick_pass_of(STILL, far).p_abnormal) == 3
    ((low, high),) = quick_pass_of(STILL, near).p_abnormal
    assert low < 0.4 / (0.4 + 0.6 * 2.7) and high > 0.6 * 2.7 / (0.6 * 2.7 + 0.4)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_threshold_at_the_end_of_the_scale_has_a_width_too(threshold: float) -> None:
    policy = Policy(threshold=threshold, gate_mean_threshold=0.3, gate_std_threshold=0.2, review_band=None)
    ((low, high),) = quick_pass_of(STILL, policy).p_abnormal
    assert 0 <= low <= threshold <= high <= 1
    assert 1e-7 < high - low < 1e-5


def test_the_count_of_doubtful_scans_goes_by_all_scores() -> None:
    where = QuickPass(p_abnormal=((0.3, 0.4),), gate_mean_from=0.25, gate_std_from=0.15)
    doubtful = [Scores(0.3, 0, 0), Scores(0.1, 0.25, 0), Scores(0.1, 0, 0.15)]
    assert [where.doubts(scores) for scores in doubtful] == [True] * 3
    assert not where.doubts(Scores(0.41, 0.24, 0.14))


@pytest.fixture(scope="module")
def plain() -> dict[str, onnx.ModelProto]:
    return {
        CLASSIFIER_FILE: classifier_onnx(ClassifierGraph(lively_classifier()), 1, SIZE),
        GATE_FILE: gate_onnx(GateGraph(lively_gate()), 1, SIZE),
    }


def scores(graphs: dict[str, onnx.ModelProto], engine: str, precision: str = "int8") -> list[Scores]:
    classifier, gate = (graphs[name].SerializeToString() for name in (CLASSIFIER_FILE, GATE_FILE))
    open_engine = open_graphs(engine, classifier, gate, size=SIZE, precision=precision, threads=2)
    found = [open_engine.infer(image[np.newaxis]).scores()[0] for image in IMAGES]
    open_engine.close()
    return found


@pytest.mark.timeout(600)
def test_a_doubtful_scan_has_the_scores_of_float32_on_every_engine(plain: dict[str, onnx.ModelProto]) -> None:
    expected = scores(plain, "onnxruntime", "fp32")
    policy = Policy(expected[0].p_abnormal, gate_mean_threshold=1e-4, gate_std_threshold=1e-4, review_band=None)
    said: list[str] = []
    joined, where = with_quick_pass(plain, IMAGES, policy, said.append)
    assert where.gate_mean_from < 1e-4 and "4 of them are doubtful" in said[0]
    assert "warning: most scans would be computed twice" in said[1]
    for engine in ("onnxruntime", "openvino") if find_spec("openvino") else ("onnxruntime",):
        observed = scores(joined, engine)
        assert observed[0].p_abnormal == pytest.approx(expected[0].p_abnormal, abs=1e-3)  # weights in float16
        for one, other in zip(observed, expected, strict=True):
            found, wanted = ((of.gate_mean_max, of.gate_std_max) for of in (one, other))
            assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("in_precision", ["fp32", "int8"])
def test_no_limits_come_of_calibration_scans_whose_scores_are_not_finite(
    monkeypatch: pytest.MonkeyPatch, plain: dict[str, onnx.ModelProto], in_precision: str
) -> None:
    """A NaN is greater than no width: the least one would have been taken."""

    def scored(_graphs: object, images: list[np.ndarray], precision: str) -> list[Scores]:
        first = math.nan if precision == in_precision else 0.5
        return [Scores(first, 0.1, 0.1), *[Scores(0.5, 0.1, 0.1)] * (len(images) - 1)]

    monkeypatch.setattr("export.quick_pass.to_int8", lambda graph, *_: graph)
    monkeypatch.setattr("export.quick_pass._scores", scored)
    with pytest.raises(ExportError, match="not finite in the quick pass or in float32"):
        with_quick_pass(plain, IMAGES, POLICY, lambda _: None)


@needs_openvino
@pytest.mark.timeout(600)
def test_openvino_computes_the_quick_pass_in_int8(plain: dict[str, onnx.ModelProto]) -> None:
    quick = {name: to_int8(graph, IMAGES) for name, graph in plain.items()}
    engine = open_graphs("openvino", *(quick[name].SerializeToString() for name in quick), size=SIZE)
    for graph, in_float in ((engine._classifier, 4), (engine._gate, 1)):
        kinds: Counter[tuple[str, bool]] = Counter()
        for node in graph.compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            kinds[facts["layerType"].astype(str), facts["runtimePrecision"].astype(str) in ("u8", "i8")] += 1
        assert kinds["Convolution", False] == in_float
    engine.close()
    for one, other in zip(scores(quick, "openvino"), scores(quick, "onnxruntime"), strict=True):
        assert one.gate_mean_max == pytest.approx(other.gate_mean_max, abs=5e-3)
        assert one.gate_std_max == pytest.approx(other.gate_std_max, abs=5e-3)
