"""The engine contract on a real GPU: with TensorRT, and with its place taken by onnxruntime within the real streams.

The second needs no TensorRT. Everything else is what the line runs: pycuda, context, pinned buffers, streams, events,
the compiled kernels, the sealed plan cache and the build in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge.engines import Engine, PlanSettings, RawEngine
from edge.engines.choose import GPU_NODES, open_engine
from edge.engines.tensorrt.kernel_args import raw_scan
from edge.engines.tensorrt.open import open_tensorrt
from edge.images.method import Method
from tests.edge.engines.tensorrt.test_trt_contract import *  # noqa: F403 - the suite, on what is opened below
from tests.edge.engines.tensorrt.test_trt_contract import MAX_BATCH, assert_same_scores, scores
from tests.support import scripted_gpu
from tests.support.signed_models import BOUNDS, SIZE, nan_graph, verified_model

HAS_GPU = any(Path(node).exists() for node in GPU_NODES)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_GPU, reason="this machine has no NVIDIA GPU"),
    pytest.mark.skipif(find_spec("pycuda") is None, reason="not installed: pycuda"),
]


@pytest.fixture(scope="module", params=["tensorrt", "stand-in"])  # type: ignore[no-redef]  # in place of the suite's own
def open_again(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Engine]]:
    if request.param == "tensorrt" and find_spec("tensorrt") is None:
        pytest.skip("not installed: tensorrt")
    root = tmp_path_factory.mktemp("trt")
    model = verified_model(root / "model")
    settings = PlanSettings(root / "plans", root / "device.key", 1 << 30, 250.0)
    with nullcontext() if request.param == "tensorrt" else scripted_gpu.installed(gpu="real"):
        yield lambda: open_engine(model, "tensorrt", max_batch=MAX_BATCH, plans=settings)


def test_the_kernels_convert_the_scans_on_this_gpu(engine: Engine) -> None:
    """Not the CPU in their place, which would pass every other test here."""
    assert isinstance(engine, RawEngine)
    assert engine.spec.name == "tensorrt"


def test_a_thousand_batches_of_every_size_score_as_the_first_time(engine: Engine) -> None:
    """Rings of buffers, two streams and their events: one that is used too early would show as another score."""
    assert isinstance(engine, RawEngine)
    rng = np.random.default_rng(5)
    shapes = [(90 + 7 * number, 70 + 5 * number) for number in range(16)]
    counts = [rng.integers(1700, 1800 + 60 * number, shape).astype(np.uint16) for number, shape in enumerate(shapes)]
    scans = [raw_scan(one, Method.GLOBAL, BOUNDS, SIZE) for one in counts]
    alone = [scores(engine.infer_raw([scan])) for scan in scans]
    for _ in range(1000):
        chosen = rng.integers(len(scans), size=int(rng.integers(1, MAX_BATCH + 1)))
        for name, values in enumerate(scores(engine.infer_raw([scans[number] for number in chosen]))):
            assert_same_scores(values, np.concatenate([alone[number][name] for number in chosen]))


@pytest.mark.usefixtures("open_again")  # that which is installed within it is what this one builds with
def test_a_residual_that_is_not_finite_never_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one weight of the gate no number: TensorRT must not take `residual * 0.0` for 0."""
    monkeypatch.setattr("edge.engines.tensorrt.open.check_golden", lambda *_: None)
    monkeypatch.setattr("edge.engines.tensorrt.open.check_full_batch", lambda *_: None)
    model = verified_model(tmp_path / "model", files={"gate.onnx": nan_graph()})
    settings = PlanSettings(tmp_path / "plans", tmp_path / "device.key", 1 << 30, 250.0)
    engine = open_tensorrt(model, settings, max_batch=MAX_BATCH)
    output = engine.infer(np.full((MAX_BATCH, 1, *SIZE), 51, np.uint8))
    engine.close()
    assert np.isnan(output.gate_mean_max).all() and np.isnan(output.gate_std_max).all()
