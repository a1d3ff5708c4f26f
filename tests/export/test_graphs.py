"""The exported graphs say what the networks say."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge.engines import Engine
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry, worst_windows
from edge.records import Size
from export import graphs
from export.arithmetic import computes_in, element_types
from export.errors import ExportError, ParityError
from export.graphs import (
    IR_VERSION,
    OPSET,
    ClassifierGraph,
    GateGraph,
    classifier_onnx,
    gate_onnx,
)
from export.parity import check_parity, check_reason, engine_scores, noise_image, torch_scores
from export.precision import Precision, to_float16
from export.storage import store_weights
from tests.export.conftest import Export
from tests.export.networks import lively_classifier, lively_gate
from tests.support.cpu_engines import CPU_ENGINES, open_graphs
from train.classifier.experiment import Features
from train.classifier.models import PooledClassifier
from train.classifier.neighbours import Neighbours
from train.classifier.pooling import feature_maps, pool
from train.classifier.selection import Selection
from train.gate.calibration import gate_images
from train.gate.calibration import score as gate_score
from train.gate.network import MAP_CELL_PX, Gate
from train.networks import ElectrodeClassifier, GateAutoencoder, p_abnormal_of

pytestmark = pytest.mark.timeout(600)  # torch exports two networks
SIZE = Size(96, 70)  # neither a multiple of 4 nor of the map's cells
METHODS = {1: Method.GLOBAL, 3: Method.MIXED}


def images(channels: int, count: int = 2, size: Size = SIZE) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).integers(0, 256, (count, channels, *size), dtype=np.uint8))


@pytest.fixture(scope="module", params=[1, 3], ids=["1 channel", "3 channels"])
def classifier(request: pytest.FixtureRequest) -> ElectrodeClassifier:
    return lively_classifier(request.param)


@pytest.fixture(scope="module")
def exported(classifier: ElectrodeClassifier) -> dict[str, onnx.ModelProto]:
    channels = classifier.channels
    return {
        "classifier": classifier_onnx(ClassifierGraph(classifier), channels, SIZE),
        "gate": gate_onnx(GateGraph(lively_gate()), channels, SIZE),
    }


def engine_of(
    exported: dict[str, onnx.ModelProto], channels: int, max_batch: int = 3, name: str = "onnxruntime"
) -> Engine:
    classifier, gate = (exported[part].SerializeToString() for part in ("classifier", "gate"))
    has_reason = len(exported["classifier"].graph.output) == 2
    options = {"size": SIZE, "channels": channels, "max_batch": max_batch, "has_reason": has_reason}
    return open_graphs(name, classifier, gate, **options)


@torch.inference_mode()
def test_the_folded_first_convolution_equals_normalising_first_also_at_the_borders(
    classifier: ElectrodeClassifier,
) -> None:
    image = images(classifier.channels)
    plain = classifier.backbone.bn1(classifier.backbone.conv1(classifier.normalise(image)))
    folded = ClassifierGraph(classifier)
    x = image.float()
    observed = folded.network.backbone.bn1(
        folded.network.backbone.conv1(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
    )
    assert plain.abs().max() > 1
    torch.testing.assert_close(observed, plain, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_folding_does_not_change_the_probability(classifier: ElectrodeClassifier) -> None:
    image = images(classifier.channels, 3)
    expected = torch.softmax(classifier(classifier.normalise(image)), dim=1)[:, 1]
    observed, _ = ClassifierGraph(classifier)(image)
    assert len(set(expected.tolist())) == 3
    assert 0.01 < expected.min() < expected.max() < 0.99
    torch.testing.assert_close(observed, expected, rtol=0, atol=1e-5)


def test_folding_leaves_the_network_as_it_was(classifier: ElectrodeClassifier) -> None:
    before = copy.deepcopy(classifier.state_dict())
    ClassifierGraph(classifier)
    assert classifier.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_no_batch_norm_is_left_in_the_graph(exported: dict[str, onnx.ModelProto]) -> None:
    assert "BatchNormalization" not in {node.op_type for node in exported["classifier"].graph.node}


@pytest.mark.parametrize("size", [Size(96, 70), Size(97, 64), Size(66, 83)], ids=lambda size: f"{size[0]}x{size[1]}")
@torch.inference_mode()
def test_the_gate_graph_scores_what_the_training_scores(size: Size) -> None:
    network = lively_gate()
    image = images(1, 2, size)
    means, stds = gate_score(network, gate_images(image.numpy(), Method.GLOBAL))
    mean_max, std_max, residual_map = GateGraph(network)(image)
    np.testing.assert_allclose(mean_max.numpy(), means, rtol=1e-6)
    np.testing.assert_allclose(std_max.numpy(), stds, rtol=1e-6)
    np.testing.assert_array_equal(residual_map.amax(dim=(1, 2)).numpy(), mean_max.numpy())


def test_the_gate_sees_the_globally_converted_channel_of_a_mixed_scan() -> None:
    graph, image = GateGraph(lively_gate()), images(3)
    with torch.inference_mode():
        for one, three in zip(graph(image[:, 1:2]), graph(image), strict=True):
            torch.testing.assert_close(one, three)


@pytest.mark.parametrize(("y_px", "x_px"), [(60, 60), (22, 22), (37, 53), (38, 54), (40, 170), (170, 30)])
def test_the_hottest_cell_of_the_map_lies_over_the_spot_that_made_it(y_px: int, x_px: int) -> None:
    """A gate that reconstructs nothing leaves the image itself as residual."""
    network = GateAutoencoder()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    size = Size(203, 205)
    image = torch.zeros(1, 1, *size, dtype=torch.uint8)
    image[0, 0, y_px - 4 : y_px + 5, x_px - 4 : x_px + 5] = 255  # one window's worth, centred on the spot
    gate = Gate(network)
    _, _, residual_map = GateGraph(gate)(image)
    geometry = MapGeometry(cell_px=MAP_CELL_PX, offset_px=gate.map_offset_px)
    box = worst_windows(residual_map[0].numpy(), geometry, size, size, 0.5)[0]
    assert box.y_px <= y_px < box.y_px + box.height_px
    assert box.x_px <= x_px < box.x_px + box.width_px


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_engines_say_what_torch_says(
    classifier: ElectrodeClassifier, exported: dict[str, onnx.ModelProto], name: str
) -> None:
    channels = classifier.channels
    pictures = [*images(channels, 3).numpy(), noise_image(channels, *SIZE)]
    expected = torch_scores(classifier, lively_gate(), METHODS[channels], pictures)
    found = check_parity(engine_scores(engine_of(exported, channels, name=name), pictures), expected)
    assert found.worst < 1e-5


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_batch_is_free(classifier: ElectrodeClassifier, exported: dict[str, onnx.ModelProto], name: str) -> None:
    engine = engine_of(exported, classifier.channels, name=name)
    batch = images(classifier.channels, 3).numpy()
    together = engine.infer(batch)
    for row in range(3):
        alone = engine.infer(batch[row : row + 1])
        np.testing.assert_allclose(alone.p_abnormal[0], together.p_abnormal[row], atol=1e-6)
        np.testing.assert_allclose(alone.residual_map[0], together.residual_map[row], atol=1e-6)
        assert alone.reason_map is not None
        assert together.reason_map is not None
        np.testing.assert_allclose(alone.reason_map[0], together.reason_map[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_engines_say_where_the_answer_comes_from_as_torch_does(
    classifier: ElectrodeClassifier, exported: dict[str, onnx.ModelProto], name: str
) -> None:
    engine = engine_of(exported, classifier.channels, name=name)
    pictures = images(classifier.channels, 2).numpy()
    check_reason(engine, classifier, pictures)
    other = lively_classifier(classifier.channels)
    nn.init.normal_(other.head[-1].weight, 1, 3)
    with pytest.raises(ParityError, match="reason map differs from torch"):
        check_reason(engine, other, pictures)


@pytest.mark.parametrize("name", ["classifier", "gate"])
def test_the_file_is_of_the_pinned_kind_and_holds_everything(exported: dict[str, onnx.ModelProto], name: str) -> None:
    model = exported[name]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert not model.functions
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not any(node.domain for node in model.graph.node)


@pytest.mark.parametrize("name", ["classifier", "gate"])
def test_the_image_is_cast_before_anything_else(exported: dict[str, onnx.ModelProto], name: str) -> None:
    """TensorRT takes an input of uint8 for that alone."""
    users = [node.op_type for node in exported[name].graph.node if "image" in node.input]
    assert users == ["Cast"]


@pytest.mark.parametrize("name", ["classifier", "gate"])
def test_the_file_says_nothing_about_the_machine_that_wrote_it(exported: dict[str, onnx.ModelProto], name: str) -> None:
    data = exported[name].SerializeToString()
    for trace in (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "stack_trace", ".py"):
        assert trace.encode() not in data


def test_the_same_network_gives_the_same_file(
    classifier: ElectrodeClassifier,
    exported: dict[str, onnx.ModelProto],
    torchs_export: Export,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "_export", torchs_export)
    again = gate_onnx(GateGraph(lively_gate()), classifier.channels, SIZE)
    assert again.SerializeToString() == exported["gate"].SerializeToString()


def test_a_network_that_diverged_is_not_exported() -> None:
    network = lively_gate()
    with torch.no_grad():
        network.autoencoder.decoder[-1].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="is not finite"):
        gate_onnx(GateGraph(network), 1, SIZE)


def with_weights(model: onnx.ModelProto, **changed: np.ndarray) -> onnx.ModelProto:
    """A copy whose tensors of these names (dots as two underscores) have other values."""
    changed_model = copy.deepcopy(model)
    tensors = {tensor.name: tensor for tensor in changed_model.graph.initializer}
    for name, values in changed.items():
        tensor = tensors[name.replace("__", ".")]
        assert list(tensor.dims) == list(values.shape)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return changed_model


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_residual_that_is_not_a_number_makes_both_scores_so(
    classifier: ElectrodeClassifier, exported: dict[str, onnx.ModelProto], name: str
) -> None:
    """The runtime's maximum skips NaN and would answer -3.4e38, which is below every threshold."""
    signs = np.where(np.arange(18) % 2, 1, -1).reshape(1, 18, 1, 1)
    gate = with_weights(
        exported["gate"],
        gate__autoencoder__decoder__12__bias=np.full(18, 1e9),
        gate__autoencoder__decoder__14__weight=np.full((1, 18, 3, 3), 3e38) * signs,  # infinity minus infinity
    )
    engine = engine_of({**exported, "gate": gate}, classifier.channels, name=name)
    output = engine.infer(images(classifier.channels, 1).numpy())
    assert np.isnan(output.gate_mean_max).all()
    assert np.isnan(output.gate_std_max).all()


def test_scores_that_differ_from_torch_stop_the_export(
    classifier: ElectrodeClassifier, exported: dict[str, onnx.ModelProto]
) -> None:
    """As a broken exporter would: here one bias of the last layer is off by a thousandth."""
    bias = classifier.head[-1].bias.detach().numpy() + np.array([0, 2e-3])
    broken = with_weights(exported["classifier"], network__head__5__bias=bias)
    pictures = list(images(classifier.channels).numpy())
    engine = engine_of({**exported, "classifier": broken}, classifier.channels)
    expected = torch_scores(classifier, lively_gate(), METHODS[classifier.channels], pictures)
    with pytest.raises(ParityError, match="differ from torch"):
        check_parity(engine_scores(engine, pictures), expected)


@pytest.mark.parametrize(("channels", "features", "classes"), [(1, "tiles", 2), (3, "sheet", 3)])
def test_a_classifier_on_tiles_says_the_same_once_exported(channels: int, features: Features, classes: int) -> None:
    torch.manual_seed(5)
    selection = Selection(features, standardise=True)
    network = PooledClassifier(channels, selection, nn.Sequential(nn.Linear(selection.width, classes))).eval()
    network.backbone.load_state_dict(
        {k: v for k, v in lively_classifier(channels).backbone.state_dict().items() if not k.startswith("fc.")}
    )
    image = images(channels, 3)
    with torch.inference_mode():
        pooled = pool(feature_maps(network.backbone, network.normalise(images(channels, 8))))
        selection.fit(pooled, torch.ones(8, dtype=torch.bool))
        expected = p_abnormal_of(network(network.normalise(image)))
    graph = ClassifierGraph(network)
    exported = {
        "classifier": classifier_onnx(graph, channels, SIZE),
        "gate": gate_onnx(GateGraph(lively_gate()), channels, SIZE),
    }
    engine = engine_of(exported, channels)
    observed = engine.infer(image.numpy()).p_abnormal
    if classes == 2:
        check_reason(engine, network, image.numpy())
    engine.close()
    assert len(set(expected.tolist())) == 3
    np.testing.assert_allclose(observed, expected.numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def nearest() -> PooledClassifier:
    """Knows eight scans of noise, on darker ones of which the limit is set."""
    torch.manual_seed(5)
    neighbours = Neighbours(0)
    network = PooledClassifier(1, neighbours, nn.Sequential()).eval()
    state = lively_classifier().backbone.state_dict()
    network.backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    with torch.no_grad():
        known, others = (
            pool(feature_maps(network.backbone, network.normalise(shown))).tiles
            for shown in (images(1, 8), images(1, 11)[8:] // 2)
        )
        neighbours.fit(known.half(), ["B1"] * 8)
        neighbours.limit.copy_(neighbours.distances(others).amax(dim=1).median())
    return network


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_nearest_normal_scan_is_found_by_every_engine(
    nearest: PooledClassifier, name: str, precision: Precision
) -> None:
    plain = {
        "classifier": classifier_onnx(ClassifierGraph(nearest), 1, SIZE),
        "gate": gate_onnx(GateGraph(lively_gate()), 1, SIZE),
    }
    shown = torch.cat([images(1, 2), images(1, 11)[8:] // 2])
    with torch.inference_mode():
        expected = p_abnormal_of(nearest(nearest.normalise(shown))).numpy()
    computing = {part: to_float16(graph) for part, graph in plain.items()} if precision == "fp16" else plain
    engine = engine_of(computing, 1, name=name)
    observed = np.concatenate([engine.infer(one[None].numpy()).p_abnormal for one in shown])
    assert (expected[:2] < 0.01).all() and np.ptp(expected[2:]) > 0.01 and (expected[2:] >= 0.5).any()
    np.testing.assert_allclose(observed, expected, atol=1e-4 if precision == "fp32" else 1e-2)
    if precision == "fp32":
        check_reason(engine, nearest, shown[2:].numpy())
    engine.close()


def test_tiles_are_compared_in_float32_in_a_graph_of_fp16_too(nearest: PooledClassifier) -> None:
    """Deviations of all but silent channels are too small for float16; OpenVINO called every scan abnormal by them."""
    half = to_float16(classifier_onnx(ClassifierGraph(nearest), 1, SIZE))
    types = element_types(half)
    (product,) = (node for node in half.graph.node if node.op_type == "MatMul")
    assert {types[name] for name in product.input} == {onnx.TensorProto.FLOAT}
    divided = {types[node.output[0]] for node in half.graph.node if node.op_type == "Div"}
    assert divided == {onnx.TensorProto.FLOAT}
    assert computes_in(half) == "fp16"


def test_the_known_scans_lie_in_the_file_as_halves_however_weights_are_stored(nearest: PooledClassifier) -> None:
    """Eight bits would round what is compared with what is not rounded."""
    graph = classifier_onnx(ClassifierGraph(nearest), 1, SIZE)
    stored = store_weights(graph, "int8")
    (known,) = (one for one in stored.graph.initializer if list(one.dims) == list(nearest.selection.known.shape))
    assert known.data_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_tile_that_is_not_a_number_makes_the_answer_so(nearest: PooledClassifier, name: str) -> None:
    """A maximum that skips it would call the scan as normal as its other tiles are."""
    graph = classifier_onnx(ClassifierGraph(nearest), 1, SIZE)
    known = nearest.selection.known.numpy().copy()
    known[7] = np.nan
    (tensor,) = (one for one in graph.graph.initializer if list(one.dims) == list(known.shape))
    tensor.CopyFrom(onnx.numpy_helper.from_array(known, tensor.name))
    engine = engine_of({"classifier": graph, "gate": gate_onnx(GateGraph(lively_gate()), 1, SIZE)}, 1, name=name)
    assert np.isnan(engine.infer(images(1, 1).numpy()).p_abnormal).all()
