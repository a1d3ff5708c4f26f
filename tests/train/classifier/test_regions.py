"""Where anomalies lie, and the second task that learns it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train.classifier.region_task import RegionTask
from train.classifier.regions import MILD, NONE, SEVERE, SHAPE, read_regions, simulated_regions, write_simulated_regions
from train.classifier.training import build_classifier
from train.dataset import Row, read_labels
from train.errors import DataError
from train.recipe import ClassifierRecipe
from train.simulator.simulate import ABNORMAL_FROM, simulate_scan, write_lots

torch.set_num_threads(1)


def test_severe_regions_are_found_in_abnormal_scans_only() -> None:
    for index in range(1, 5):
        assert (simulated_regions(3, 1, index, abnormal=True) == SEVERE).any()
        assert not (simulated_regions(3, 1, index, abnormal=False) == SEVERE).any()


def test_regions_lie_where_the_scan_differs_from_its_mild_self() -> None:
    """The scan of full format, painted with and without the severe anomalies, against the regions drawn small."""
    from train.simulator.simulate import render_scan

    anomalies = simulate_scan(3, 1, 2, abnormal=True, scale=0.5).anomalies
    mild = [a for a in anomalies if a.severity < ABNORMAL_FROM]
    whole, without = (render_scan(3, 1, 2, part, scale=0.5).astype(float) for part in (anomalies, mild))
    change = cv2.resize(np.abs(whole - without), SHAPE[::-1], interpolation=cv2.INTER_AREA)
    severe = simulated_regions(3, 1, 2, abnormal=True) == SEVERE
    assert change[severe].mean() > 10 * change[~severe].mean()


def test_regions_of_a_lot_are_written_beside_it_and_read_back(tmp_path: Path) -> None:
    write_lots(tmp_path, seed=3, lots=1, scans_per_lot=2, abnormal_fraction=0.5, scale=0.05)
    rows = read_labels(tmp_path)
    write_simulated_regions(tmp_path, rows, 3)
    regions = read_regions(rows)
    assert regions.shape == (2, *SHAPE)
    assert set(np.unique(regions)) <= {NONE, MILD, SEVERE}
    assert [bool((image == SEVERE).any()) for image in regions] == [row.label == 1 for row in rows]


def test_a_scan_without_regions_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif: no regions in"):
        read_regions([Row(tmp_path / "a.tif", "a.tif", "B1", 0)])


def test_a_lot_with_other_names_has_no_simulated_regions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not named like a simulated scan"):
        write_simulated_regions(tmp_path, [Row(tmp_path / "a.tif", "a.tif", "B1", 0)], 1)


def test_the_task_follows_the_flips_of_the_images() -> None:
    """An anomaly in one corner, features that point at the opposite one: right only if both axes are flipped."""
    model = build_classifier(ClassifierRecipe(weights="none", fine_tune="all"))
    regions = np.zeros((1, 4, 4), np.uint8)
    regions[0, 0, 0] = SEVERE
    task = RegionTask(model, regions)
    features = torch.zeros(1, 512, 2, 2)
    features[0, 0, 1, 1] = 1.0
    with torch.no_grad():
        task.layer.weight[1, 0] = 20.0
        task.layer.bias.fill_(-10.0)
    losses = {}
    for flips in ((False, False), (True, True)):
        task._keep(model, None, features)
        both = (torch.tensor([flips[0]]), torch.tensor([flips[1]]))
        losses[flips] = float(task.loss(torch.tensor([0]), both).detach())
    assert losses[True, True] < 0.01 < losses[False, False]
