"""Which way a scan takes into the engine."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from edge.engines import EngineOutput
from edge.engines.preprocessor import Preprocessor
from edge.engines.tensorrt.kernel_args import METHODS, RawScan
from edge.images.method import Method
from tests.support.fakes import INPUT_SPEC, ScriptedEngine, brightness

COUNTS = np.random.default_rng(3).integers(1700, 2800, (100, 80)).astype(np.uint16)


class ConvertingEngine(ScriptedEngine):
    """Converts on its device, like one on a GPU."""

    def infer_raw(self, scans: Sequence[RawScan]) -> EngineOutput:
        return brightness(np.stack([scan.image() for scan in scans]))


@pytest.mark.parametrize("method", Method)
def test_what_the_device_cannot_convert_is_converted_on_the_host(method: Method) -> None:
    pixels = Preprocessor(ConvertingEngine(), replace(INPUT_SPEC, method=method)).prepare(COUNTS)
    assert isinstance(pixels, RawScan) == (method in METHODS)


def test_both_ways_lead_to_the_same_scores() -> None:
    answers = []
    for engine in (ScriptedEngine(), ConvertingEngine()):
        preprocessor = Preprocessor(engine, INPUT_SPEC)
        scans = [preprocessor.prepare(counts) for counts in (COUNTS, COUNTS[::-1].copy())]
        answers.append(preprocessor.infer(scans).p_abnormal)
    np.testing.assert_allclose(*answers, atol=1 / 255)
