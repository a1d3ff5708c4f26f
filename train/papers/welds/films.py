"""Filters on the films that `real-values.xls` describes: refused clean metal, and flaws found by ISO 6520 type.

No choice is made on these films. A cell is found where its weld, read without wires and letters, exceeds the threshold
that the masked welds' accepted patches set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.system.progress import Reporter
from edge.validation.lots import WorstLot, auroc_over_lots, half_width, share_over_lots, worst_lot
from edge.validation.statistics import auroc
from train.papers.welds.cells import (
    CELL_PX,
    CELLS,
    ISO_6520,
    Flaw,
    cell_places,
    clean_cells,
    clean_weld,
    flawed_cells,
    read_truth,
    readable,
)
from train.papers.welds.curves import Candidate, WeldScores
from train.papers.welds.evaluation import ACCEPTED
from train.papers.welds.filter_scores import ScoreTask, score_all, scores_digest
from train.papers.welds.frozen_neighbours import Bank
from train.papers.welds.images import Weld
from train.papers.welds.patches import AcceptedSampler, Pose
from train.report import table
from train.runner import Runner

CELL_SET = "cells"
MIRRORED_SET = "cells-mirrored"
BACKGROUNDS = ("median31", "short28", "top-hat31", "plane8")
_PATCHES_A_CELL = 20
_STREAM = 0xCE11


@dataclass(frozen=True, slots=True)
class Film:
    """A listed film: its image, its flaws, and its scores."""

    name: str
    flaws: tuple[Flaw, ...]
    scores: WeldScores
    """accepted (n, k) in clean cells; cells and cells-mirrored (20, k)."""


@dataclass(frozen=True, slots=True)
class Read:
    """Where a listed film is read."""

    clean: Weld
    flaws: tuple[Flaw, ...]
    poses: dict[str, list[Pose]]
    """Accepted patches in clean cells."""
    regions: dict[str, list[npt.NDArray[np.int32]]]
    """By set of cells, flat indices in a map of half the scale of `clean`."""


def read_films(folder: Path, welds: Sequence[Weld], seed: int) -> Iterator[Read]:
    """The films of a folder like WELDS that its list describes, with 20 accepted patches for each clean cell."""
    truth = read_truth(folder)
    for number, weld in enumerate(weld for weld in welds if weld.name in truth):
        clean = clean_weld(weld.name, weld.image, truth[weld.name])
        sampler = AcceptedSampler(clean)
        rng = np.random.default_rng((seed, _STREAM, number))
        drawn: list[Pose] = []
        wanted = _PATCHES_A_CELL * len(clean_cells(truth[weld.name]))
        while len(drawn) < wanted and (pose := sampler.pose(rng)) is not None:
            drawn.append(pose)
        top = _row_of(weld.image, clean.image)
        half = readable(weld.image)[top : top + clean.image.shape[0]][1::2, 1::2]
        half = half[: clean.image.shape[0] // 2, : clean.image.shape[1] // 2]
        regions = {
            CELL_SET: cell_places(half, CELL_PX / 2),
            MIRRORED_SET: cell_places(half, CELL_PX / 2, mirrored=True),
        }
        yield Read(clean, truth[weld.name], {ACCEPTED: drawn}, regions)


def score_films(
    folder: Path,
    welds: Sequence[Weld],
    seed: int,
    out: Path,
    runner: Runner,
    reporter: Reporter,
    bank: Bank | None = None,
) -> list[Film]:
    """Score the listed films by filters, those with the backgrounds that `film_tables` reads, and by a bank."""
    films = list(read_films(folder, welds, seed))
    tasks = []
    for film in films:
        digest = scores_digest(film.clean, film.poses, BACKGROUNDS, bank)
        path = out / f"scores_{film.clean.name}.npz"
        tasks.append(ScoreTask(film.clean, film.poses, path, digest, film.regions, BACKGROUNDS, bank))
    found = score_all(tasks, runner, reporter)
    return [Film(film.clean.name, film.flaws, found[film.clean.name]) for film in films]


def _row_of(image: npt.NDArray[np.uint8], part: npt.NDArray[np.uint8]) -> int:
    """The row of the image in which a part of it, a view of whole rows, begins."""
    offset = part.__array_interface__["data"][0] - image.__array_interface__["data"][0]
    return int(offset // image.strides[0])


def film_tables(films: Sequence[Film], masked: Mapping[str, WeldScores], rows: Mapping[str, Candidate]) -> list[str]:
    """Markdown: alignment film by film; by row, clean metal refused and cells found; cells found by type."""
    first = next(iter(rows.values()))
    calibrating = np.concatenate([found[ACCEPTED] for found in masked.values()])
    limits = {name: _limits(candidate, calibrating) for name, candidate in rows.items()}

    def beyond(name: str, film: Film, places: npt.NDArray[np.bool_] | list[int]) -> int:
        """How many of these cells are above the threshold for 1 %."""
        return int((_cells(film, rows[name], calibrating)[places] > limits[name][1]).sum())

    aligned: list[list[object]] = []
    for film in films:
        areas = [_area(film, first, calibrating, name) for name in (CELL_SET, MIRRORED_SET)]
        cells = ["-" if np.isnan(area) else f"{area:.2f}" for area in areas]
        aligned.append([film.name, len(flawed_cells(film.flaws)), len(clean_cells(film.flaws)), *cells])
    filters: list[list[object]] = []
    for name, candidate in rows.items():
        clean = [candidate.read(film.scores[ACCEPTED], calibrating) for film in films]
        names = [film.name for film in films]
        refused = []
        for limit in limits[name]:
            counts = [(int((part > limit).sum()), len(part)) for part in clean]
            most = worst_lot(names, [hits for hits, _ in counts], [parts for _, parts in counts])
            refused.append(_over_films(counts, most))
        found = [(beyond(name, film, _flawed(film)), int(_flawed(film).sum())) for film in films]
        area, more = _pooled_area(films, candidate, calibrating), _area_more(films, candidate, first, calibrating)
        missed = worst_lot(names, [cells - hits for hits, cells in found], [cells for _, cells in found])
        filters.append([name, area, more if candidate is not first else "", *refused, _over_films(found, missed)])
    flaws: list[list[object]] = []
    types = sorted({iso for film in films for flaw in film.flaws for iso in (flaw.iso,)})
    for iso in types:
        places = {
            film.name: [cell - 1 for cell, isos in flawed_cells(film.flaws).items() if iso in isos] for film in films
        }
        hits = [sum(beyond(name, film, places[film.name]) for film in films) for name in rows]
        count = sum(len(found) for found in places.values())
        shown = sum(bool(found) for found in places.values())
        flaws.append([iso, ISO_6520.get(iso, ""), shown, count, *hits])
    refused_cells = [sum(beyond(name, film, _clean(film)) for film in films) for name in rows]
    total = sum(int(_clean(film).sum()) for film in films)
    flaws.append(["", "*clean cells, refused*", "", total, *refused_cells])
    return [
        *table(["film", "flawed cells", "clean cells", "AUROC of flawed cells", "the same, film mirrored"], aligned),
        "",
        *table(
            [
                "filter",
                "AUROC of cells",
                "more than the first",
                "patches refused at nominal 0.3 %",
                "1 %",
                "flawed cells found at 1 %",
            ],
            filters,
        ),
        "",
        *table(["ISO 6520", "flaw", "films", "cells", *rows], flaws),
    ]


def _limits(candidate: Candidate, calibrating: npt.NDArray[np.float32]) -> list[np.float64]:
    """Thresholds that a share of 0.003 and of 0.01 of the calibrating patches exceeds."""
    known = np.sort(candidate.read(calibrating, calibrating))
    return [known[len(known) - 1 - int(rate * len(known))] for rate in (0.003, 0.01)]


def _cells(
    film: Film, candidate: Candidate, calibrating: npt.NDArray[np.float32], name: str = CELL_SET
) -> npt.NDArray[np.float64]:
    return candidate.read(film.scores[name], calibrating)


def _flawed(film: Film) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(1, CELLS + 1), list(flawed_cells(film.flaws)))


def _clean(film: Film) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(1, CELLS + 1), clean_cells(film.flaws))


def _area(film: Film, candidate: Candidate, calibrating: npt.NDArray[np.float32], name: str) -> float:
    """AUROC of a film's flawed cells against all its others; NaN without both."""
    flawed = _flawed(film)
    if flawed.all() or not flawed.any():
        return float("nan")
    return auroc(_cells(film, candidate, calibrating, name), flawed.astype(int))


_Halves = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
"""Values of the flawed and of the clean cells, a pair a film."""


def _pooled_area(films: Sequence[Film], candidate: Candidate, calibrating: npt.NDArray[np.float32]) -> str:
    """AUROC of flawed against clean cells of all films, and its 95 % interval over films."""
    parts = _halves(films, candidate, calibrating)
    scores = np.concatenate([half for halves in parts for half in halves])
    labels = np.concatenate([np.repeat([1, 0], [len(flawed), len(clean)]) for flawed, clean in parts])
    names = np.repeat([str(place) for place in range(len(parts))], [sum(map(len, halves)) for halves in parts])
    over = auroc_over_lots(scores, labels, names.tolist())
    if over is None or over.lots < 2:
        return f"{_area_of(parts):.3f} (no interval: {len(parts)} film)"
    return f"{over.share:.3f} ({over.low:.2f} to {over.high:.2f}, {over.lots} films)"


def _area_more(
    films: Sequence[Film], candidate: Candidate, first: Candidate, calibrating: npt.NDArray[np.float32]
) -> str:
    """By how much its AUROC is above another's, with its 95 % interval over films: Student's t, by the jackknife."""
    parts, others = (_halves(films, read, calibrating) for read in (candidate, first))
    more = _area_of(parts) - _area_of(others)
    count = len(parts)
    if count < 2:
        return f"{more:+.3f}"
    without = np.array(
        [_area_of(parts[:at] + parts[at + 1 :]) - _area_of(others[:at] + others[at + 1 :]) for at in range(count)]
    )
    half = half_width((count - 1) / count * (without.mean() - without))  # jackknife over films
    return f"{more:+.3f} ({more - half:+.3f} to {more + half:+.3f})"


def _halves(films: Sequence[Film], candidate: Candidate, calibrating: npt.NDArray[np.float32]) -> _Halves:
    values = [_cells(film, candidate, calibrating) for film in films]
    return [(found[_flawed(film)], found[_clean(film)]) for film, found in zip(films, values, strict=True)]


def _area_of(parts: _Halves) -> float:
    flawed, clean = (np.concatenate([halves[half] for halves in parts]) for half in (0, 1))
    if not (len(flawed) and len(clean)):
        return float("nan")
    return auroc(np.concatenate([flawed, clean]), np.repeat([1, 0], [len(flawed), len(clean)]))


def _over_films(counts: Sequence[tuple[int, int]], worst: WorstLot | None) -> str:
    """Share in % and its interval over films, with the number of those that have such a part, and the worst of them."""
    over = share_over_lots([hits for hits, _ in counts], [parts for _, parts in counts])
    if over is None or over.lots < 2:
        return f"{100 * sum(hits for hits, _ in counts) / sum(parts for _, parts in counts):.1f} (no interval: 1 film)"
    named = "" if worst is None else f"; worst {worst.lot}"
    return f"{100 * over.share:.1f} ({100 * over.low:.0f} to {100 * over.high:.0f}, {over.lots} films{named})"
