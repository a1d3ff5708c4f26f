"""Which scans the networks are asked about: those of a size, clipping, exposure and sharpness the model knows."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from edge.engines.preprocessor import Preprocessor
from edge.images.conversion import histogram
from edge.images.exposure import exposure, fit
from edge.images.sharpness import SharpnessModel
from edge.images.spec import InputSpec
from edge.pipeline.prepare import Prepared, prepare_scan
from edge.records import Arrival, Counts, Outcome
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from tests.support.fakes import INPUT_SPEC, ScriptedEngine
from tests.support.station import stamp_of

SHAPE = (100, 80)


def sheet(rng: np.random.Generator) -> Counts:
    """Even grey with air around it, as an electrode lies in its scan."""
    counts = rng.normal(rng.uniform(2050, 2150), rng.uniform(15, 25), SHAPE)
    counts[:, -8:] = rng.normal(2550, 15, (SHAPE[0], 8))
    return counts.astype(np.uint16)


SPEC = replace(
    INPUT_SPEC,
    scan_spec=replace(
        INPUT_SPEC.scan_spec,
        exposure=fit([exposure(histogram(sheet(np.random.default_rng(seed)))) for seed in range(50)], 0.99, 1.05),
    ),
)


def prepared(folder: Path, counts: Counts, spec: InputSpec = SPEC) -> Prepared:
    path = folder / "scan.tif"
    tifffile.imwrite(path, counts)
    arrival = Arrival(stamp_of(path, folder), datetime(2026, 5, 4, tzinfo=UTC), is_final=True)
    return prepare_scan(path, arrival, Preprocessor(ScriptedEngine(), spec), Limits(), decode)


def test_a_sheet_with_air_around_it_goes_to_the_networks(tmp_path: Path) -> None:
    ready = prepared(tmp_path, sheet(np.random.default_rng(1)))
    assert ready.pixels is not None and ready.decision is None


@pytest.mark.parametrize(
    "drawn",
    [
        lambda rng: rng.integers(1700, 2800, SHAPE),
        lambda rng: rng.normal(2100, 120, SHAPE),
        lambda rng: 4500 - sheet(rng),
        lambda rng: np.linspace(1800, 2700, SHAPE[0])[:, None].repeat(SHAPE[1], 1),
        lambda rng: np.full(SHAPE, 2100),
        lambda rng: sheet(rng) * 1.2,
    ],
    ids=["uniform noise", "noise of a sheet's grey", "inverted", "a slope", "no air", "another exposure"],
)
def test_what_is_exposed_otherwise_is_for_a_person(
    tmp_path: Path, drawn: Callable[[np.random.Generator], np.ndarray]
) -> None:
    ready = prepared(tmp_path, drawn(np.random.default_rng(2)).astype(np.uint16))
    assert ready.pixels is None
    assert ready.decision is not None
    assert (ready.decision.outcome, ready.decision.reasons) == (Outcome.REVIEW, ("out-of-spec",))
    assert ready.detail is not None and "greys are spread as in no training scan" in ready.detail


def blurred(counts: Counts) -> Counts:
    """As a filter in the station, or a focus far out, would leave it."""
    return np.asarray(cv2.GaussianBlur(counts, (0, 0), 3), np.uint16)


def test_a_blurred_scan_is_for_a_person_who_reads_why(tmp_path: Path) -> None:
    focus = SharpnessModel(max_edge_px=(4.0, 15.0), noise_counts=(10.0, 40.0), fineness=(0.7, 1.3))
    spec = replace(INPUT_SPEC, scan_spec=replace(INPUT_SPEC.scan_spec, sharpness=focus))
    sharp = sheet(np.random.default_rng(1))
    assert prepared(tmp_path, sharp, spec).decision is None
    ready = prepared(tmp_path, blurred(sharp), spec)
    assert ready.pixels is None and ready.counts is not None
    assert ready.decision is not None
    assert (ready.decision.outcome, ready.decision.reasons) == (Outcome.REVIEW, ("out-of-spec",))
    assert ready.detail is not None and ready.detail.startswith("blurred: edges along x are ")
    assert ready.detail.endswith(" px wide, the model takes at most 4.0 px; look at focus, detector and motion")


def test_a_scan_that_is_strange_in_both_ways_is_told_both(tmp_path: Path) -> None:
    focus = SharpnessModel(max_edge_px=(4.0, 15.0), noise_counts=(10.0, 40.0), fineness=(0.7, 1.3))
    spec = replace(SPEC, scan_spec=replace(SPEC.scan_spec, sharpness=focus))
    detail = prepared(tmp_path, blurred((sheet(np.random.default_rng(1)) * 1.2).astype(np.uint16)), spec).detail
    assert detail is not None and "greys are spread as in no training scan" in detail and "; blurred: " in detail
