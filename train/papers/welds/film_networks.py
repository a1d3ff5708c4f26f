"""Networks, and the short median beside them, on the films of `real-values.xls`, where nothing is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from edge.system.progress import Reporter
from train.files import write_text
from train.networks import GATE_OFFSET_PX, GateAutoencoder, centre_crop
from train.papers.welds.bank import box_mean, detrended, over_noise
from train.papers.welds.benchmark import Benchmark
from train.papers.welds.curves import Candidate, WeldScores
from train.papers.welds.equal_refusal import compared
from train.papers.welds.evaluation import ACCEPTED, Detector, SetScores, TestedOf, split_by_weld
from train.papers.welds.films import Film, film_tables, read_films
from train.papers.welds.filter_scores import places_of
from train.papers.welds.filters import Grey, Map, halved
from train.papers.welds.images import Weld, read_welds
from train.papers.welds.plan import Request
from train.papers.welds.scores import STATISTICS, SURROUNDINGS_PX, as_images, residual_of
from train.papers.welds.task import load_network, load_scores, prepared
from train.papers.welds.variants import Variant

MAPPED: Final = ("detrended-bright5", "detrended-dark5", "median-bright5", "median-dark5")
"""Columns of a film's scores, for each variant; names from STATISTICS."""
_WINDOW_PX: Final = 5
TABLE_FILE: Final = "films.md"
_PAD_PX: Final = 20
"""At least the border that a network gives no answer for, and half a window; a multiple of 4."""

Networks = Mapping[Variant, Sequence[GateAutoencoder]]
"""Each variant's networks, whose mean residual counts: those of all folds, none of which has seen a film."""
Tested = Mapping[Variant, tuple[Sequence[SetScores], Sequence[TestedOf]]]
"""Scores of each variant's networks on their folds, and the welds that the tested patches are of."""


def try_films(request: Request, benchmark: Benchmark, reporter: Reporter) -> str:
    """Judge the listed films by the first run of the recipe's networks; writes `films.md`, returns it.

    Raises DataError for a list that cannot be read.
    """
    device = prepared("cpu")
    networks: dict[Variant, list[GateAutoencoder]] = {}
    tested: dict[Variant, tuple[list[SetScores], list[TestedOf]]] = {}
    for variant in request.recipe.variants:
        first = [task for task in benchmark.tasks if task.run == 1 and task.variant == variant]
        networks[variant] = [
            model for task in first if isinstance(model := load_network(task, device), GateAutoencoder)
        ]
        tested[variant] = [load_scores(task) for task in first], [fact["tested_of"] for fact in benchmark.folds]
    welds = read_welds(request.welds)
    films = network_films(request.welds, welds, request.seed, networks, reporter, bf16=request.training.bf16)
    shown = [detector for detector in request.recipe.detectors if set(detector.columns) <= set(MAPPED)]
    detectors = sorted(compared(shown), key=lambda detector: detector.name != request.recipe.beside)
    lines = network_film_tables(films, detectors, tested)
    text = "\n".join(["## Films with a list of flaws, by the mean residual of all folds' networks", "", *lines, ""])
    write_text(request.out / TABLE_FILE, text)
    return text


def network_films(
    folder: Path, welds: Sequence[Weld], seed: int, networks: Networks, reporter: Reporter, *, bf16: bool
) -> list[Film]:
    """The listed films with scores (n, len(MAPPED) x variants). Raises DataError for a list that cannot be read."""
    films = []
    read = list(read_films(folder, welds, seed))
    show = reporter.counter("films")
    for done, film in enumerate(read, 1):
        image = film.clean.image
        places = {name: [places_of(pose, image.shape) for pose in found] for name, found in film.poses.items()}
        maps = [m.ravel() for variant, models in networks.items() for m in film_maps(models, image, variant, bf16=bf16)]
        scores = {
            name: np.array(
                [[values[place].max(initial=-np.inf) for values in maps] for place in found], np.float32
            ).reshape(len(found), len(maps))  # a film may have no clean patch
            for name, found in {**places, **film.regions}.items()
        }
        films.append(Film(film.clean.name, film.flaws, scores))
        show(done, len(read))
    return films


@torch.inference_mode()
def film_maps(models: Sequence[GateAutoencoder], image: Grey, variant: Variant, *, bf16: bool = False) -> list[Map]:
    """What each of MAPPED is the greatest of, all over an image uint8 (h, w): float32 (h // 2, w // 2)."""
    height, width = image.shape
    pads = (_PAD_PX, _PAD_PX - width % -4, _PAD_PX, _PAD_PX - height % -4)
    images = F.pad(as_images(image[None], torch.device("cpu")), pads, mode="reflect")
    residual = residual_of(models, images, variant, bf16=bf16)
    first = _PAD_PX - GATE_OFFSET_PX - _WINDOW_PX // 2
    maps = []
    for values in (detrended(residual, SURROUNDINGS_PX), centre_crop(over_noise(images))):
        mean = box_mean(values, _WINDOW_PX)[0, 0, first : first + height, first : first + width].numpy()
        maps += [halved(mean), halved(-mean)]
    return maps


def network_film_tables(films: Sequence[Film], detectors: Sequence[Detector], tested: Tested) -> list[str]:
    """Markdown of `film_tables` for these detectors, the first that which others are compared with.

    Thresholds are those of all masked welds' accepted patches, each weld scored by the fold that has not seen it.
    """
    masked: dict[str, WeldScores] = {}
    for scores, tested_of in tested.values():
        for fold, of_sets in zip(scores, tested_of, strict=True):
            found = fold[ACCEPTED][:, [STATISTICS.index(name) for name in MAPPED]]
            for weld, part in split_by_weld(found, of_sets[ACCEPTED]).items():
                before = [masked[weld][ACCEPTED]] if weld in masked else []
                masked[weld] = {ACCEPTED: np.hstack([*before, part])}
    firsts = {variant.name: place * len(MAPPED) for place, variant in enumerate(tested)}
    rows = {
        d.name: Candidate(d.name, tuple(firsts[d.variant] + MAPPED.index(name) for name in d.columns))
        for d in detectors
    }
    return film_tables(films, masked, rows)
