"""What every engine promises, run on each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge.engines import Batch, Engine, EngineOutput
from edge.engines.choose import CpuEngine
from edge.errors import EngineError
from tests.support.cpu_engines import CPU_ENGINES, open_graphs
from tests.support.fakes import ScriptedEngine
from tests.support.signed_models import SIZE, explained_graph

MAX_BATCH = 4


@pytest.fixture(params=["scripted", *CPU_ENGINES])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    scripted = request.param == "scripted"
    opened = ScriptedEngine(max_batch=MAX_BATCH) if scripted else open_graphs(request.param, max_batch=MAX_BATCH)
    yield opened
    opened.close()


def images(engine: Engine, count: int, seed: int = 0) -> Batch:
    """Scans of different brightness, so that no two have the same scores."""
    levels = np.linspace(10, 200, count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(seed).integers(0, 40, (count, engine.spec.channels, *engine.spec.size), np.uint8)
    batch: Batch = levels + noise
    return batch


def scores(output: EngineOutput) -> list[np.ndarray]:
    return [output.p_abnormal, output.gate_mean_max, output.gate_std_max, output.residual_map]


def test_the_spec_says_what_enters(engine: Engine) -> None:
    assert engine.spec.name
    assert engine.spec.precision in ("fp32", "fp16", "int8")
    assert engine.spec.max_batch == MAX_BATCH
    assert engine.spec.degraded is None


@pytest.mark.parametrize("count", range(1, MAX_BATCH + 1))
def test_every_scan_gets_one_float32_of_each_score_and_a_map(engine: Engine, count: int) -> None:
    output = engine.infer(images(engine, count))
    assert all(score.dtype == np.float32 for score in scores(output))
    assert [score.shape for score in scores(output)[:3]] == [(count,)] * 3
    assert output.residual_map.shape[0] == count
    assert output.residual_map.ndim == 3


def test_a_scan_scores_the_same_alone_and_among_others(engine: Engine) -> None:
    batch = images(engine, MAX_BATCH)
    together = engine.infer(batch)
    for row in range(MAX_BATCH):
        alone = engine.infer(batch[row : row + 1])
        for one, many in zip(scores(alone), scores(together), strict=True):
            np.testing.assert_allclose(one[0], many[row], rtol=1e-5)


def test_scores_are_in_the_order_of_the_scans(engine: Engine) -> None:
    batch = images(engine, MAX_BATCH)
    upright, reversed_ = engine.infer(batch).p_abnormal, engine.infer(batch[::-1]).p_abnormal
    np.testing.assert_allclose(upright, reversed_[::-1], rtol=1e-5)
    assert len(set(upright.tolist())) == MAX_BATCH


def test_the_same_scan_scores_the_same_again(engine: Engine) -> None:
    batch = images(engine, 1)
    first, second = engine.infer(batch), engine.infer(batch)
    for one, other in zip(scores(first), scores(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_results_belong_to_the_caller(engine: Engine) -> None:
    first = engine.infer(images(engine, 2))
    kept = [score.copy() for score in scores(first)]
    engine.infer(images(engine, 2, seed=1))
    for score, copy in zip(scores(first), kept, strict=True):
        np.testing.assert_array_equal(score, copy)
        score[...] = 0  # writable


def test_images_that_are_not_contiguous_score_like_their_copies(engine: Engine) -> None:
    wide = np.repeat(images(engine, 2), 2, axis=3)
    view = wide[..., ::2]
    assert not view.flags.c_contiguous
    for one, other in zip(scores(engine.infer(view)), scores(engine.infer(view.copy())), strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_are_left_as_they_were(engine: Engine) -> None:
    batch = images(engine, 2)
    before = batch.copy()
    engine.infer(batch)
    np.testing.assert_array_equal(batch, before)


def test_more_scans_than_max_batch_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.infer(images(engine, MAX_BATCH + 1))


def test_scans_of_another_size_are_refused(engine: Engine) -> None:
    height_px, width_px = engine.spec.size
    with pytest.raises(EngineError):
        engine.infer(np.zeros((1, 1, height_px, width_px + 1), np.uint8))


def test_scans_with_other_channels_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.infer(np.zeros((1, 3, *engine.spec.size), np.uint8))


def test_closing_twice_is_harmless(engine: Engine) -> None:
    engine.close()
    engine.close()


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_classifier_that_explains_itself_gives_its_map_when_it_is_asked_to(name: CpuEngine) -> None:
    levels = np.array([60, 140], np.uint8).reshape(2, 1, 1, 1)
    batch = np.broadcast_to(levels, (2, 1, *SIZE)).copy()
    batch[:, 0, :16, 48:] += 100
    engine = open_graphs(name, explained_graph(), has_reason=True, max_batch=2)
    output = engine.infer(batch)
    engine.close()
    assert output.reason_map is not None
    assert output.reason_map.shape == (2, 6, 4)
    odds = output.p_abnormal / (1 - output.p_abnormal)
    np.testing.assert_allclose(output.reason_map.mean(axis=(1, 2)), np.log(odds), atol=1e-4)
    assert [int(cells.argmax()) for cells in output.reason_map] == [3, 3]
    plain = open_graphs(name, explained_graph(), max_batch=2)
    assert plain.infer(batch).reason_map is None
    plain.close()


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_graph_without_the_map_that_its_manifest_promises_is_refused(name: CpuEngine) -> None:
    with pytest.raises(EngineError, match="no output reason_map"):
        open_graphs(name, has_reason=True)
