"""The engine contract on the TensorRT engine, with a scripted GPU: tests/gpu/ runs the same on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge.engines import Engine, PlanSettings, RawEngine
from edge.engines.choose import open_engine
from edge.engines.tensorrt import plans
from edge.engines.tensorrt.kernel_args import raw_scan
from edge.errors import EngineError
from edge.images.conversion import prepare
from edge.images.method import Method
from tests.edge.engines.test_engine_contract import *  # noqa: F403 - the suite, on the fixture below
from tests.edge.engines.test_engine_contract import MAX_BATCH, scores
from tests.gpu import host_kernels
from tests.support import scripted_gpu
from tests.support.signed_models import BOUNDS, SIZE, verified_model


def assert_same_scores(one: np.ndarray, other: np.ndarray) -> None:
    """Bit for bit where onnxruntime computes; TensorRT may add up in another order in another batch."""
    import tensorrt

    is_scripted = str(tensorrt.__file__).startswith(str(scripted_gpu.TRT_ROOM))
    np.testing.assert_allclose(one, other, rtol=0 if is_scripted else 1e-5)


@pytest.fixture(scope="module")
def open_again(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Engine]]:
    """Opens the engine; its plans are built the first time."""
    if host_kernels.COMPILER is None:
        pytest.skip("no C++ compiler is installed, which stands in for the GPU's")
    root = tmp_path_factory.mktemp("trt")
    model = verified_model(root / "model")
    settings = PlanSettings(root / "plans", root / "device.key", 1 << 30, 100.0)
    with scripted_gpu.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "compile_kernels", lambda _: b"cubin")
        yield lambda: open_engine(model, "tensorrt", max_batch=MAX_BATCH, plans=settings)


@pytest.fixture  # type: ignore[no-redef]  # in the place of the suite's own
def engine(open_again: Callable[[], Engine]) -> Iterator[Engine]:
    engine = open_again()
    yield engine
    engine.close()


@pytest.mark.parametrize("count", range(1, MAX_BATCH + 1))
def test_raw_scans_score_as_their_images_do(engine: Engine, count: int) -> None:
    """Sizes and brightness differ, so that a mistake in the ring of buffers would mix them up."""
    assert isinstance(engine, RawEngine)
    rng = np.random.default_rng(count)
    shapes = [(96, 64), (131, 77), (500, 400), (40, 33)]
    scans = [
        raw_scan(rng.integers(1700, 1900 + 300 * place, shapes[place]).astype(np.uint16), Method.GLOBAL, BOUNDS, SIZE)
        for place in range(count)
    ]
    by_image = engine.infer(np.stack([prepare(scan.counts, Method.GLOBAL, BOUNDS, SIZE) for scan in scans]))
    for raw, image in zip(scores(engine.infer_raw(scans)), scores(by_image), strict=True):
        np.testing.assert_allclose(raw, image, atol=2 / 255)
    for place, scan in enumerate(scans):
        alone = engine.infer_raw([scan])
        for one, many in zip(scores(alone), scores(engine.infer_raw(scans)), strict=True):
            assert_same_scores(one[0], many[place])


def test_raw_scans_that_do_not_fit_are_refused(engine: Engine) -> None:
    assert isinstance(engine, RawEngine)
    scan = raw_scan(np.zeros((600, 600), np.uint16), Method.GLOBAL, BOUNDS, SIZE)
    with pytest.raises(EngineError, match="takes uint16 of up to 262144 px for 1 x"):
        engine.infer_raw([scan])
    fitting = raw_scan(np.zeros((60, 60), np.uint16), Method.GLOBAL, BOUNDS, SIZE)
    with pytest.raises(EngineError, match="takes 1 to 4"):
        engine.infer_raw([fitting] * 5)
    with pytest.raises(EngineError, match="takes 1 to 4"):
        engine.infer_raw([])
