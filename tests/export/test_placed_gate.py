"""The gate with places and layouts, exported: the graph says what the training says, in every precision."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edge.engines import GATE_OUTPUTS, IMAGE_INPUT
from edge.records import Size
from export.graphs import GateGraph, gate_onnx
from export.precision import to_float16
from tests.export.networks import lively_gate
from train.gate.calibration import score
from train.gate.layout import cell_side_px, fit_layout, grid
from train.gate.network import Gate

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
    """Both layouts decide some scores, the windows others."""
    cell_px = cell_side_px(SIZE)
    ordinary = torch.from_numpy(_images(42, 1)[2:]).float() / 255
    bundles = [f"B{number // 4}" for number in range(40)]
    layouts = [fit_layout(grid(ordinary, cell_px, sight), bundles) for sight in ("greys", "textures")]
    autoencoder = lively_gate().autoencoder
    plain = Gate(autoencoder, request.param)
    with torch.no_grad():
        maps = plain.windows(plain.residual(ordinary))
    torch.manual_seed(0)
    weights = [0.5 + torch.rand(values.shape[1:]) for values in maps]
    for layout, values in zip(layouts, maps, strict=True):
        layout.limits.fill_(2 / float(values.max()))
    return Gate(autoencoder, request.param, *weights, *layouts, cell_px).eval()


@pytest.fixture(scope="module")
def exported(gate: Gate) -> onnx.ModelProto:
    return gate_onnx(GateGraph(gate), 1, SIZE)


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(GATE_OUTPUTS), {IMAGE_INPUT: images})


def test_the_graph_scores_what_the_training_scores(gate: Gate, exported: onnx.ModelProto) -> None:
    images = _images(5, 2)
    means, stds = score(gate, images)
    mean_max, std_max, residual_map = _outputs(exported, images)
    np.testing.assert_allclose(mean_max, means, rtol=1e-4)
    np.testing.assert_allclose(std_max, stds, rtol=1e-4)
    by_layout = mean_max > residual_map.max(axis=(1, 2)) * 1.001
    assert by_layout[0]
    assert not by_layout[2:].any()


def test_half_precision_leaves_the_layouts_as_they_are(gate: Gate, exported: onnx.ModelProto) -> None:
    images = _images(5, 2)
    half = _outputs(to_float16(exported), images)
    for one, other in zip(half[:2], _outputs(exported, images)[:2], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert half[0][0] == pytest.approx(float(score(gate, images[:1])[0][0]), rel=1e-5)
