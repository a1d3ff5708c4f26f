"""The engine contract on the real TensorRT and a real GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from edge.bundle import TrustedKey, verify_bundle
from edge.engines import Engine, PlanSettings
from edge.engines.opening import GPU_NODES, open_engine
from tests.bundles import KEY, make_bundle
from tests.contract.test_engine_contract import *  # noqa: F403 - the suite, on the fixture below
from tests.contract.test_engine_contract import MAX_BATCH
from tests.contract.test_trt_contract import (
    test_raw_scans_score_as_their_images_do,  # noqa: F401
    test_raw_scans_that_do_not_fit_are_refused,  # noqa: F401
)

MISSING = [name for name in ("tensorrt", "pycuda") if find_spec(name) is None]
HAS_GPU = any(Path(node).exists() for node in GPU_NODES)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_GPU, reason="this machine has no NVIDIA GPU"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def open_again(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    root = tmp_path_factory.mktemp("trt")
    bundle = verify_bundle(make_bundle(root / "bundle"), [TrustedKey("key", KEY.public_key())])
    settings = PlanSettings(root / "plans", root / "device.key", 1 << 30, 250.0)
    return lambda: open_engine(bundle, "tensorrt", max_batch=MAX_BATCH, plans=settings)


@pytest.fixture
def engine(open_again: Callable[[], Engine]) -> Iterator[Engine]:
    engine = open_again()
    yield engine
    engine.close()
