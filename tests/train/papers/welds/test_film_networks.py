"""Networks on whole films: maps that lie where the film does, and one set of columns for each variant."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.system.progress import Reporter
from tests.train.papers.welds.test_films import film
from train.networks import GateAutoencoder
from train.papers.welds.cells import Flaw
from train.papers.welds.evaluation import Detector
from train.papers.welds.film_networks import MAPPED, film_maps, network_film_tables, network_films
from train.papers.welds.films import CELL_SET, Film, Read
from train.papers.welds.images import Weld
from train.papers.welds.recipes import BEST_VARIANT
from train.papers.welds.scores import STATISTICS, autoencoder_scores

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(192, 192), (193, 206)])
def test_a_dark_spot_is_where_it_is_in_the_maps_of_a_film(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(120, 3, shape).round().astype(np.uint8)
    image[100:108, 60:68] -= 30
    maps = dict(zip(MAPPED, film_maps([GateAutoencoder().eval()], image, BEST_VARIANT), strict=True))
    assert {found.shape for found in maps.values()} == {(shape[0] // 2, shape[1] // 2)}
    for name in (name for name in MAPPED if "dark" in name):  # what has learnt nothing leaves the spot in its residual
        row, column = divmod(int(maps[name].argmax()), maps[name].shape[1])
        assert 50 <= row < 54 and 30 <= column < 34, name
    assert np.median(maps["median-dark5"]) < 1 < 6 < maps["median-dark5"].max()


def test_the_map_of_a_patch_has_the_patchs_scores() -> None:
    model = GateAutoencoder().eval()
    patch = np.random.default_rng(1).normal(120, 3, (192, 192)).round().astype(np.uint8)
    maps = film_maps([model], patch, replace(BEST_VARIANT, local=False))
    scores = autoencoder_scores(
        [model], patch[None], variant=replace(BEST_VARIANT, local=False), device=torch.device("cpu")
    )
    for name in ("median-dark5", "median-bright5"):
        inside = maps[MAPPED.index(name)][10:-10, 10:-10]
        assert scores[0, STATISTICS.index(name)] == pytest.approx(float(inside.max()), rel=0.15)


def test_a_film_that_is_flawed_all_along_has_cells_and_no_clean_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).normal(120, 3, (192, 200)).round().astype(np.uint8)
    read = Read(Weld("flawed", image, None), (), {"accepted": []}, {CELL_SET: [np.arange(9, dtype=np.int32)] * 20})
    monkeypatch.setattr("train.papers.welds.film_networks.read_films", lambda *_: [read])
    networks = {BEST_VARIANT: [GateAutoencoder().eval()]}
    (found,) = network_films(Path("welds"), [], 0, networks, Reporter(), bf16=False)
    assert {name: scores.shape for name, scores in found.scores.items()} == {
        "accepted": (0, len(MAPPED)),
        CELL_SET: (20, len(MAPPED)),
    }


def test_each_variant_has_columns_of_its_own_and_thresholds_from_patches_its_networks_had_not_seen() -> None:
    """The other variant shows the flaw; the first does not, at thresholds as far off as its accepted patches."""
    other = replace(BEST_VARIANT, name="other")
    width = len(MAPPED)

    def both(found: np.ndarray) -> np.ndarray:
        return np.hstack([np.full((len(found), width), 50, np.float32), np.repeat(found, width, axis=1)])

    shown = film("one", (Flaw("2011", 2, 1.0),), 9.0)
    wide = Film(shown.name, shown.flaws, {name: both(found) for name, found in shown.scores.items()})
    tested_of = [{"accepted": {"a": 300, "b": 200}}]
    rng = np.random.default_rng(0)
    quiet, loud = ({"accepted": rng.normal(level, 1, (500, len(STATISTICS))).astype(np.float32)} for level in (0, 100))
    detectors = [Detector(name, name, ("median-dark5",)) for name in (BEST_VARIANT.name, "other")]
    lines = network_film_tables([wide], detectors, {BEST_VARIANT: ([loud], tested_of), other: ([quiet], tested_of)})
    assert "| 2011 | gas pore | 1 | 1 | 0 | 1 |" in lines
