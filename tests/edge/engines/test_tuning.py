"""The faster engine of the CPU: measured once, believed only where nothing has changed since."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edge.engines.tuning
from edge.engines import Engine
from edge.engines.tuning import ROUNDS, TUNING_FILE, chosen_engine, tune
from edge.errors import EngineError
from edge.model.bundle import Bundle, TrustedKey, verify_bundle
from tests.support.bundles import KEY, make_bundle
from tests.support.cpu_engines import needs_openvino


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = make_bundle(tmp_path_factory.mktemp("tuning") / "bundle")
    return verify_bundle(folder, [TrustedKey("key", KEY.public_key())])


def clock_of(**seconds: float) -> Callable[[], float]:
    """Time that passes as told: `seconds` of each engine, in the order in which they are measured."""

    def ticks() -> Iterator[float]:
        now = 0.0
        for taken in seconds.values():
            for _ in range(ROUNDS):
                yield now
                now += taken
                yield now

    readings = ticks()
    return lambda: next(readings)


FASTER_OPENVINO = {"onnxruntime": 2.0, "openvino": 1.0}


@needs_openvino
@pytest.mark.parametrize(("seconds", "faster"), [((2.0, 1.0), "openvino"), ((1.0, 2.0), "onnxruntime")])
def test_the_faster_engine_is_kept_and_chosen(
    bundle: Bundle, tmp_path: Path, seconds: tuple[float, float], faster: str
) -> None:
    times = dict(zip(("onnxruntime", "openvino"), seconds, strict=True))
    tuned = tune(bundle, tmp_path / "state", threads=1, clock=clock_of(**times))
    assert tuned.choice.engine == faster
    assert tuned.choice.seconds == pytest.approx(times)
    assert not tuned.failures
    assert chosen_engine(bundle, tmp_path / "state", 1) == faster


def test_without_a_measurement_it_is_the_engine_of_the_base_installation(bundle: Bundle, tmp_path: Path) -> None:
    assert chosen_engine(bundle, tmp_path, 1) == "onnxruntime"


@needs_openvino
@pytest.mark.parametrize("changed", ["bundle", "version", "processor", "cores", "threads"])
def test_what_was_measured_under_other_conditions_counts_for_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    tune(bundle, tmp_path, threads=1, clock=clock_of(**FASTER_OPENVINO))
    assert chosen_engine(bundle, tmp_path, 1) == "openvino"
    if changed == "bundle":
        other = make_bundle(tmp_path / "other", edit=lambda manifest: manifest.update(model_id="another"))
        bundle = verify_bundle(other, [TrustedKey("key", KEY.public_key())])
    elif changed == "version":
        monkeypatch.setattr(edge.engines.tuning, "version", lambda _: "0.0.1")
    elif changed == "processor":
        (tmp_path / "modalias").write_text("cpu:type:x86,ven0000fam0001mod0001:feature:,0000\n")
        monkeypatch.setattr(edge.engines.tuning, "CPU_FACTS", tmp_path / "modalias")
    elif changed == "cores":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert chosen_engine(bundle, tmp_path, 2 if changed == "threads" else 1) == "onnxruntime"


OPENED = """
import sys
from edge.engines.tuning import _processor
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
print(_processor(), *opened, sep="\\n")
"""


def test_the_processor_is_told_by_nothing_that_the_service_cannot_see() -> None:
    """`model tune` runs outside of the unit, whose `ProcSubset=pid` hides /proc/cpuinfo: no answer would count."""
    done = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=True, timeout=60)
    processor, *opened = done.stdout.splitlines()
    assert processor
    assert [path for path in opened if path.startswith("/proc")] == []


def test_where_the_kernel_does_not_tell_the_processor_it_is_the_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(edge.engines.tuning, "CPU_FACTS", tmp_path / "nowhere")
    assert edge.engines.tuning._processor() == platform.machine()


@needs_openvino
@pytest.mark.parametrize("content", [b"", b"{", b'{"engine": "abacus"}', b"\xff\xfe"])
def test_an_answer_that_makes_no_sense_counts_for_nothing(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / TUNING_FILE).write_bytes(content)
    assert chosen_engine(bundle, tmp_path, 1) == "onnxruntime"


def test_an_engine_that_cannot_judge_takes_no_part(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = edge.engines.tuning.open_engine

    def only_onnxruntime(bundle: Bundle, name: str, *, threads: int | None) -> Engine:
        if name == "openvino":
            raise EngineError("no such thing here", hint="none")
        return opened(bundle, name, threads=threads)

    monkeypatch.setattr(edge.engines.tuning, "open_engine", only_onnxruntime)
    tuned = tune(bundle, tmp_path, threads=1)
    assert tuned.choice.engine == "onnxruntime"
    assert tuned.failures == {"openvino": "no such thing here"}


def test_where_no_engine_can_judge_nothing_is_kept(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> Engine:
        raise EngineError("no such thing here", hint="none")

    monkeypatch.setattr(edge.engines.tuning, "open_engine", none)
    with pytest.raises(EngineError, match="no such thing"):
        tune(bundle, tmp_path, threads=1)
    assert not list(tmp_path.iterdir())


@needs_openvino
def test_the_answer_can_be_read_by_people(bundle: Bundle, tmp_path: Path) -> None:
    tune(bundle, tmp_path, threads=None, clock=clock_of(**FASTER_OPENVINO))
    content = json.loads((tmp_path / TUNING_FILE).read_text())
    assert content["engine"] == "openvino"
    assert content["conditions"]["bundle_sha256"] == bundle.digest
    assert [path.name for path in tmp_path.iterdir()] == [TUNING_FILE]
