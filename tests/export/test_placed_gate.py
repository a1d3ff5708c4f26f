"""The gate with places, layouts and filter, exported: the graph says what the training says, in every precision."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edge.engines import GATE_OUTPUTS, IMAGE_INPUT
from edge.images.residual_boxes import MapGeometry, worst_windows
from edge.records import Size
from export.graphs import GateGraph, gate_onnx
from export.precision import to_float16, to_int8
from export.quick_pass import join
from tests.export.networks import lively_gate
from tests.support.cpu_engines import needs_openvino
from train.gate.calibration import score, scores_apart
from train.gate.filter import FilterStage, window_maps
from train.gate.layout import cell_side_px, fit_layout, grid
from train.gate.network import MAP_CELL_PX, Gate

pytestmark = pytest.mark.timeout(600)  # torch exports a network
SIZE = Size(204, 104)  # not a multiple of the layout's cells


def _images(count: int, seed: int) -> np.ndarray:
    """Sheets in bright air, the first one inverted, the second one noise: uint8 (count, 1, 204, 104)."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 1, *SIZE), 230.0)
    images[:, :, 10:190, 10:90] = rng.uniform(90, 140, (count, 1, 1, 1))
    images += rng.normal(0, 3, images.shape)
    images[0] = 255 - images[0]
    images[1] = rng.integers(0, 256, images[1].shape)
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=[1, 2], ids=["full", "half"])
def gate(request: pytest.FixtureRequest) -> Gate:
    """Both layouts decide some scores, windows and filter others."""
    cell_px = cell_side_px(SIZE)
    ordinary = torch.from_numpy(_images(42, 1)[2:]).float() / 255
    lots = [f"B{number // 4}" for number in range(40)]
    layouts = [fit_layout(grid(ordinary, cell_px, sight), lots) for sight in ("greys", "textures")]
    autoencoder = lively_gate().autoencoder
    plain = Gate(autoencoder, request.param)
    with torch.no_grad():
        maps = plain.windows(plain.residual(ordinary))
    torch.manual_seed(0)
    weights = [0.5 + torch.rand(values.shape[1:]) for values in maps]
    for layout, values in zip(layouts, maps, strict=True):
        layout.limits.fill_(2 / float(values.max()))
    seen = window_maps(plain.reduced(ordinary), plain.map_cell_px)
    stage = FilterStage(*(0.5 + torch.rand(values.shape[1:]) for values in seen), plain.map_cell_px)
    stage.limits.copy_(
        torch.tensor([float(by_filter.max() / by_net.max()) for by_filter, by_net in zip(seen, maps, strict=True)])
    )
    return Gate(autoencoder, request.param, *weights, *layouts, cell_px, stage).eval()


@pytest.fixture(scope="module")
def exported(gate: Gate) -> onnx.ModelProto:
    return gate_onnx(GateGraph(gate), 1, SIZE)


def _spotted(seed: int) -> tuple[np.ndarray, int]:
    """A sheet with one dark spot at the left rim, further out than the autoencoder sees, and its row."""
    image = _images(3, seed)[2:]
    image[0, 0, 100:112, :12] = 20
    return image, 106


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(GATE_OUTPUTS), {IMAGE_INPUT: images})


def test_the_graph_scores_what_the_training_scores(gate: Gate, exported: onnx.ModelProto) -> None:
    images = np.concatenate([_images(5, 2), _spotted(3)[0]])
    means, stds = score(gate, images)
    mean_max, std_max, residual_map = _outputs(exported, images)
    np.testing.assert_allclose(mean_max, means, rtol=1e-4)
    np.testing.assert_allclose(std_max, stds, rtol=1e-4)
    by_layout = mean_max > residual_map.max(axis=(1, 2)) * 1.001
    assert by_layout[0]
    assert not by_layout[2:5].any()
    by_network, by_filter = scores_apart(gate, images)
    assert (by_network > by_filter)[0].all()
    assert by_filter[3, 0] > by_network[3, 0]
    assert by_filter[5, 1] > by_network[5, 1]


@needs_openvino
def test_openvino_scores_what_the_training_scores(gate: Gate, exported: onnx.ModelProto) -> None:
    import openvino

    images = np.concatenate([_images(5, 2), _spotted(3)[0]])
    core = openvino.Core()
    network = core.read_model(exported.SerializeToString())
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([images])
    for name, expected in zip(GATE_OUTPUTS, score(gate, images), strict=False):
        np.testing.assert_allclose(found[name], expected, rtol=1e-4)


@needs_openvino
def test_openvino_rounds_no_averages_to_grey_levels_in_a_quick_pass_nor_in_what_it_calls(
    exported: onnx.ModelProto,
) -> None:
    """It took the 8 bits of the image for quantised values, and carried them on through the layouts' averages."""
    import openvino

    quick = to_int8(exported, list(_images(6, 4)[2:]))
    always = join(quick, exported, {"gate_mean_max": [(0.0, 1e9)]})
    images = _images(8, 2)
    core = openvino.Core()
    for graph, like, error in ((quick, quick, 0.02), (always, exported, 1e-4)):
        network = core.read_model(graph.SerializeToString())
        found = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([images])
        for name, expected in zip(GATE_OUTPUTS[:2], _outputs(like, images)[:2], strict=True):
            np.testing.assert_allclose(found[name], expected, rtol=error)


def test_the_map_shows_what_lies_at_the_rim(gate: Gate, exported: onnx.ModelProto) -> None:
    image, row_px = _spotted(3)
    residual_map = _outputs(exported, image)[2][0]
    geometry = MapGeometry(MAP_CELL_PX, gate.map_offset_px)
    threshold = float(_outputs(exported, _images(3, 3)[2:])[2].max())
    box = worst_windows(residual_map, geometry, SIZE, SIZE, threshold)[0]
    assert box.x_px == 0
    assert 0 < box.width_px <= MAP_CELL_PX
    assert box.y_px - 6 <= row_px <= box.y_px + box.height_px + 6


def test_half_precision_leaves_layouts_and_filter_as_they_are(gate: Gate, exported: onnx.ModelProto) -> None:
    images = np.concatenate([_images(5, 2), _spotted(3)[0]])
    half = _outputs(to_float16(exported), images)
    for one, other in zip(half[:2], _outputs(exported, images)[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    means, stds = score(gate, images)
    assert half[0][0] == pytest.approx(float(means[0]), rel=1e-5)  # by a layout
    assert half[0][3] == pytest.approx(float(means[3]), rel=1e-5)  # by the filter
    assert half[1][5] == pytest.approx(float(stds[5]), rel=1e-5)  # by the filter
