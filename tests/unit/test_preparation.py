"""Which scans the networks are asked about at all: those of the size, clipping and exposure the model was made for."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile

from edge.exposure import Exposure, ExposureRange
from edge.preparation import Arrival, Prepared, prepare_scan
from edge.records import Counts, Outcome
from edge.scan import Limits
from tests.fakes import INPUT_SPEC
from tests.station import stamp_of

SHAPE = (100, 80)
SPEC = replace(
    INPUT_SPEC,
    scan_spec=replace(
        INPUT_SPEC.scan_spec,
        exposure=ExposureRange(Exposure(2000, 0, 0, 0, 200), Exposure(2200, 60, 40, 40, 500)),
    ),
)


def sheet(rng: np.random.Generator) -> Counts:
    """Even grey with air around it, as an electrode lies in its scan."""
    counts = rng.normal(2100, 20, SHAPE)
    counts[:, -8:] = 2550
    return counts.astype(np.uint16)


def prepared(folder: Path, counts: Counts) -> Prepared:
    path = folder / "scan.tif"
    tifffile.imwrite(path, counts)
    arrival = Arrival(stamp_of(path, folder), datetime(2026, 5, 4, tzinfo=UTC), is_final=True)
    return prepare_scan(path, arrival, SPEC, Limits())


def test_a_sheet_with_air_around_it_goes_to_the_networks(tmp_path: Path) -> None:
    ready = prepared(tmp_path, sheet(np.random.default_rng(1)))
    assert ready.image is not None and ready.decision is None


@pytest.mark.parametrize(
    ("drawn", "complaint"),
    [
        (lambda rng: rng.integers(1700, 2800, SHAPE), "the median is"),
        (lambda rng: rng.normal(2100, 120, SHAPE), "the step p5 to p25 is"),
        (lambda rng: 4500 - sheet(rng), "the median is"),
        (lambda rng: np.linspace(1800, 2700, SHAPE[0])[:, None].repeat(SHAPE[1], 1), "the median is"),
        (lambda rng: np.full(SHAPE, 2100), "the step p75 to p95 is 0 counts, the model takes 200 to 500"),
        (lambda rng: sheet(rng) + 250, "the median is"),
    ],
    ids=["uniform noise", "noise of a sheet's grey", "inverted", "a slope", "no air", "another exposure"],
)
def test_what_is_exposed_otherwise_is_for_a_person(
    tmp_path: Path, drawn: Callable[[np.random.Generator], np.ndarray], complaint: str
) -> None:
    ready = prepared(tmp_path, drawn(np.random.default_rng(2)).astype(np.uint16))
    assert ready.image is None
    assert ready.decision is not None
    assert (ready.decision.outcome, ready.decision.reasons) == (Outcome.REVIEW, ("out-of-spec",))
    assert ready.detail is not None and complaint in ready.detail
