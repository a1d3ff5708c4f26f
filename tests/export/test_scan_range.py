"""Scan range: what either network has seen, and checkpoints that do not tell."""

from dataclasses import replace

import pytest

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.images.sharpness import Sharpness
from edge.records import Size
from export.errors import ExportError
from export.scan_range import clipping_warning, exposure_spec, scan_range
from tests.export.networks import exposure_around
from train.checkpoint import Checkpoint
from train.gate.findings import exposure_model

CLASSIFIER = Checkpoint(
    kind="classifier",
    state_dict={},
    method=Method.GLOBAL,
    bounds=Bounds(1700, 2800),
    size=Size(100, 60),
    seed=1,
    data_digest="a" * 64,
    scan_height_px=(90, 110),
    scan_width_px=(60, 80),
    exposures=tuple(exposure_around(2100 + 20 * step) for step in range(4)),
    sharpnesses=tuple(Sharpness(3.0 + step / 100, 3.2, 10.0, 1.0) for step in range(4)),
    exposure_lots=("B1", "B1", "B2", "B2"),
)
GATE = replace(
    CLASSIFIER, kind="gate", sharpnesses=tuple(Sharpness(3.0 + step / 100, 3.2, 20.0, 1.0) for step in range(4))
)


def test_the_sharpness_of_both_networks_scans_is_in_spec() -> None:
    spec = scan_range(CLASSIFIER, GATE).sharpness
    assert spec.noise_counts[0] < 10.0 and spec.noise_counts[1] > 20.0
    assert 3.75 <= spec.max_edge_px[0] < 4.5


def test_the_gates_report_refuses_by_the_exposure_limit_that_its_model_will_have() -> None:
    limit = exposure_model(GATE).spread.limit
    assert limit == exposure_spec(GATE).limit
    assert limit > exposure_model(replace(GATE, exposure_lots=())).spread.limit  # an earlier release did not say


def test_bounds_that_cut_half_of_a_scan_are_told() -> None:
    """The paper's bounds are rounded to the nearest hundred, which may lie above the sheets of a dark lot."""
    assert clipping_warning(CLASSIFIER, replace(GATE, max_clipped_fraction=0.05)) is None
    said = clipping_warning(replace(CLASSIFIER, max_clipped_fraction=0.66), GATE)
    assert said is not None and "66% of the pixels lie outside 1700 to 2800 counts" in said


@pytest.mark.parametrize(
    "networks",
    [
        (replace(CLASSIFIER, sharpnesses=()), GATE),
        (CLASSIFIER, replace(GATE, sharpnesses=GATE.sharpnesses[:1])),
        (replace(CLASSIFIER, exposures=(), sharpnesses=()), replace(GATE, exposures=(), sharpnesses=())),
    ],
    ids=["classifier of an earlier release", "gate that tells of some", "neither tells anything"],
)
def test_checkpoints_that_do_not_tell_are_to_be_trained_again(networks: tuple[Checkpoint, Checkpoint]) -> None:
    with pytest.raises(ExportError, match="says") as refused:
        scan_range(*networks)
    assert "train again" in refused.value.hint
