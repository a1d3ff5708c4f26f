"""The OpenVINO engine: what is its own; what all CPU engines share is in test_engine_contract.py and test_cpu.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge.engines.choose import open_engine
from edge.errors import EngineError
from tests.support.cpu_engines import needs_openvino, open_graphs
from tests.support.signed_models import SIZE, verified_model

ROOT = Path(__file__).parents[3]


def test_without_openvino_the_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = verified_model(tmp_path / "model")
    monkeypatch.delitem(sys.modules, "edge.engines.ov", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match="is not installed") as caught:
        open_engine(model, "openvino")
    assert "electrode-line[openvino]" in caught.value.hint


@needs_openvino
def test_opening_it_loads_no_code_that_reports_to_anybody() -> None:
    program = """
import sys
import edge.engines.ov
loaded = [name for name, module in sys.modules.items() if module and name.split(".")[0] == "openvino_telemetry"]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_threads_number_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.engines import ov

    def threads_of(threads: int | None) -> int:
        compiled = open_graphs("openvino", threads=threads)._gate.compiled
        return int(compiled.get_property("INFERENCE_NUM_THREADS"))

    assert threads_of(None) == len(os.sched_getaffinity(0))
    assert threads_of(1) == 1
    asked: list[int] = []
    options = ov.compile_options(1)
    monkeypatch.setattr(ov, "compile_options", lambda threads: asked.append(threads) or options)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})  # OpenVINO itself takes no more than there are
    threads_of(None)
    assert asked == [3]


@needs_openvino
def test_arithmetic_is_float32_even_where_the_processor_has_bfloat16() -> None:
    engine = open_graphs("openvino")
    assert engine._gate.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@needs_openvino
def test_a_graph_that_fails_while_running_is_an_engine_error() -> None:
    """Small graphs do not fail on their own: OpenVINO reads past the end of a table without a word."""

    class FailingRequest:
        def infer(self, inputs: object, share_inputs: bool) -> None:
            raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:245:\nno memory for it\n\n")

    engine = open_graphs("openvino")
    engine._classifier._request = FailingRequest()
    with pytest.raises(EngineError, match=r"^classifier\.onnx failed on an image of shape \(1, 1, 96, 64\): no memory"):
        engine.infer(np.full((1, 1, *SIZE), 51, np.uint8))


@needs_openvino
def test_between_scans_it_uses_no_cpu() -> None:
    """Spinning threads would take whole cores from reading and converting the next scans."""
    engine = open_graphs("openvino", threads=2)
    engine.infer(np.full((1, 1, *SIZE), 51, np.uint8))
    busy_s, started_s = time.process_time(), time.monotonic()
    threading.Event().wait(0.5)
    share = (time.process_time() - busy_s) / (time.monotonic() - started_s)
    assert share < 0.2
    engine.close()


FORBID_EXECUTABLE_MEMORY = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE: what MemoryDenyWriteExecute=yes asks for
    sys.exit(77)
"""


def run_sandboxed(program: str) -> subprocess.CompletedProcess[str]:
    """Run Python that may make no memory executable; skips where the kernel is too old to forbid it."""
    program = FORBID_EXECUTABLE_MEMORY + program
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    if done.returncode == 77:
        pytest.skip("this kernel knows no PR_SET_MDWE")
    return done


@needs_openvino
def test_a_service_that_may_make_no_kernels_is_told_what_to_change() -> None:
    done = run_sandboxed("""
from edge.errors import EngineError
from tests.support.cpu_engines import open_graphs
try:
    open_graphs("openvino")
except EngineError as error:
    print(error.hint)
""")
    assert "MemoryDenyWriteExecute=no" in done.stdout, done.stderr
