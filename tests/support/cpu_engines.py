"""The engines of the CPU, for tests that hold for each of them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from edge.engines import Engine
from edge.engines.choose import CpuEngine, open_on_cpu
from edge.engines.cpu import PairOfNetworks
from tests.support.signed_models import SIZE, brightness_graph, spot_graph

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
CPU_ENGINES = ("onnxruntime", pytest.param("openvino", marks=needs_openvino))


def open_graphs(
    name: CpuEngine,
    classifier: bytes | None = None,
    gate: bytes | None = None,
    *,
    precision: str = "fp32",
    **options: Any,
) -> Engine:
    """An engine of that name on these graphs, by default on those that call bright images abnormal."""
    graphs = (classifier or brightness_graph(), gate or spot_graph())
    size, channels, has_reason = options.pop("size", SIZE), options.pop("channels", 1), options.pop("has_reason", False)
    networks = PairOfNetworks(*graphs, size, channels, precision, has_reason)
    return open_on_cpu(networks, name, **{"threads": 1, **options})
