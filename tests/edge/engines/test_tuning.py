"""The faster engine of the CPU, as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import edge.engines.tuning
from edge.engines import Engine
from edge.engines.tuning import ROUNDS, tune
from edge.errors import EngineError
from edge.model.signed_model import SignedModel
from tests.support.cpu_engines import needs_openvino
from tests.support.signed_models import verified_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SignedModel:
    return verified_model(tmp_path_factory.mktemp("tuning") / "model")


def clock_of(**seconds: float) -> Callable[[], float]:
    """Time that passes: `seconds` of each engine, in the order in which they are measured."""

    def ticks() -> Iterator[float]:
        now = 0.0
        for taken in seconds.values():
            for _ in range(ROUNDS):
                yield now
                now += taken
                yield now

    readings = ticks()
    return lambda: next(readings)


@needs_openvino
@pytest.mark.parametrize(("seconds", "faster"), [((2.0, 1.0), "openvino"), ((1.0, 2.0), "onnxruntime")])
def test_the_faster_engine_is_the_one_that_takes_less_time(
    model: SignedModel, seconds: tuple[float, float], faster: str
) -> None:
    times = dict(zip(("onnxruntime", "openvino"), seconds, strict=True))
    tuned = tune(model, threads=1, clock=clock_of(**times))
    assert tuned.faster == faster
    assert tuned.seconds == pytest.approx(times)
    assert not tuned.failures


def test_an_engine_that_cannot_judge_takes_no_part(model: SignedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = edge.engines.tuning.open_engine

    def only_onnxruntime(model: SignedModel, name: str, *, threads: int | None) -> Engine:
        if name == "openvino":
            raise EngineError("no such thing here", hint="none")
        return opened(model, name, threads=threads)

    monkeypatch.setattr(edge.engines.tuning, "open_engine", only_onnxruntime)
    tuned = tune(model, threads=1)
    assert tuned.faster == "onnxruntime"
    assert tuned.failures == {"openvino": "no such thing here"}


def test_where_no_engine_can_judge_the_reason_is_said(model: SignedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> Engine:
        raise EngineError("no such thing here", hint="none")

    monkeypatch.setattr(edge.engines.tuning, "open_engine", none)
    with pytest.raises(EngineError, match="no such thing"):
        tune(model, threads=1)
