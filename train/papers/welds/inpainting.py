"""Backgrounds that do not see the place they are of, and oriented windows: docs/experiments/gate-inpainting.md.

    python -m train.papers.welds.inpainting WELDS OUT [--train CACHE FOLD | --networks]

Filters of whole welds, on the patches of `--recipe baselines --patch-share 0.25`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.papers.welds.bank import Bank, draw, noise_about, open_bank, perturbed
from train.papers.welds.benchmark import scaled
from train.papers.welds.curves import Candidate, Curve, WeldScores, added, choose, curve, curves_csv, rows_markdown
from train.papers.welds.data import PatchCounts, tested_poses
from train.papers.welds.equal_refusal import more_markdown
from train.papers.welds.evaluation import ACCEPTED
from train.papers.welds.films import Film, film_tables, read_films
from train.papers.welds.filter_scores import places_of
from train.papers.welds.filters import Grey, Map, as_map, local_noise, short_median_background, windowed
from train.papers.welds.fold_cache import mapped
from train.papers.welds.folds import Fold, weld_folds
from train.papers.welds.images import Weld, digest_of, read_welds
from train.recipe import cosine_rate

CELLS: Final = 10
"""Cells of 4 px to each side that a cell is predicted from."""
HIDDEN_CELLS: Final = (3, 5, 7)
_RIDGE: Final = 1e-3
_CLEAR_PX: Final = 16
_QUANTILE: Final = 0.999
LINES_PX: Final = (11, 21, 41)
COLUMNS: Final = (
    "short median",
    *(f"lines of {length} px" for length in LINES_PX),
    *(f"linear inpainting, {4 * side} px" for side in HIDDEN_CELLS),
    "inpainting network",
)
LINEAR: Final = tuple(COLUMNS.index(f"linear inpainting, {4 * side} px") for side in HIDDEN_CELLS)
NETWORK: Final = len(COLUMNS) - 1
HIDDEN_HALVES: Final = 10
STEPS: Final = 2000
BATCH: Final = 4
UNIT: Final = 0.1

Moments = npt.NDArray[np.float64]


# --- linear inpainting ---------------------------------------------------------------------------------------------


def cells_of(image: Map) -> Map:
    """Means of 4 x 4 px at every second pixel: the first is centred at 1.5 px."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    halves = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    wide = np.pad(halves, ((0, 1), (0, 1)), mode="edge")
    return as_map((wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:]) / 4)


@cache
def _parts(image: bytes, shape: tuple[int, int]) -> tuple[Map, Map, Map]:
    grey = np.frombuffer(image, np.uint8).reshape(shape)
    return (
        cells_of(grey.astype(np.float32)),
        cells_of(short_median_background(grey, 4, 7)),
        cells_of(local_noise(grey)),
    )


def parts(weld: Weld) -> tuple[Map, Map, Map]:
    """Cells of the image, of its short median and of its noise."""
    shape = (weld.image.shape[0], weld.image.shape[1])
    return _parts(weld.image.tobytes(), shape)


def clear_cells(weld: Weld) -> npt.NDArray[np.bool_]:
    """Which cells are 16 px clear of every mask, every second along both axes: those that are learnt from."""
    assert weld.mask is not None
    far = cv2.distanceTransform((~weld.mask).astype(np.uint8), cv2.DIST_L2, 5)
    clear = cells_of(as_map(far)) >= _CLEAR_PX
    clear[1::2] = False
    clear[:, 1::2] = False
    rim = 2 * CELLS
    clear[:rim] = clear[-rim:] = False
    clear[:, :rim] = clear[:, -rim:] = False
    return clear


def far_of(weld: Weld) -> Map:
    cells, median, noise = parts(weld)
    return as_map(np.abs(cells - median) / noise)


@cache
def _moments(name: str, clip_tenths: int) -> Moments:
    """Second moments of the folded surroundings of a weld's clear cells, over the noise."""
    weld = _WELDS[name]
    cells, median, noise = parts(weld)
    clip = clip_tenths / 10
    bounded = median + noise * np.clip((cells - median) / noise, -clip, clip)
    rows, columns = np.nonzero(clear_cells(weld))
    columns_of = []
    for down in range(CELLS + 1):
        for right in range(CELLS + 1):
            places = {(sign * down, turn * right) for sign in (1, -1) for turn in (1, -1)}
            columns_of.append(sum(bounded[rows + 2 * y, columns + 2 * x] for y, x in places))
    # levels do not count: a common one is taken off before the squares, for the sake of the figures' precision
    level = bounded[rows, columns]
    folded = np.stack([values - level * _counts()[k] for k, values in enumerate(columns_of)], 1)
    folded /= noise[rows, columns][:, None]
    return np.asarray(folded.T @ folded, np.float64)


@cache
def _counts() -> tuple[int, ...]:
    """How many cells are folded into each feature."""
    return tuple((1 + (y > 0)) * (1 + (x > 0)) for y in range(CELLS + 1) for x in range(CELLS + 1))


_WELDS: dict[str, Weld] = {}


@cache
def kernel_of(learnt: tuple[str, ...], side: int) -> tuple[Map, float]:
    """The kernel (2 CELLS + 1 squared) that predicts a cell from those about it, sum 1, and its clip."""
    far = np.concatenate([far_of(_WELDS[name])[clear_cells(_WELDS[name])] for name in learnt])
    tenths = round(10 * float(np.quantile(far, _QUANTILE)))
    moments = sum(_moments(name, tenths) for name in learnt)
    counts = np.array(_counts(), np.float64)
    grid = np.array([(y, x) for y in range(CELLS + 1) for x in range(CELLS + 1)])
    visible = np.flatnonzero(grid.max(axis=1) > side // 2)
    mean = np.zeros(len(counts))  # of all that is visible
    mean[visible] = 1 / counts[visible].sum()
    differences = -np.repeat(mean[None], len(visible), 0)
    differences[np.arange(len(visible)), visible] += 1 / counts[visible]
    target = -mean
    target[0] += 1
    gram = differences @ moments @ differences.T
    wanted = differences @ moments @ target
    ridge = _RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), wanted)
    folded = mean + weights @ differences  # weight of each cell of the folded features
    kernel = np.zeros((2 * CELLS + 1, 2 * CELLS + 1))
    for (y, x), weight in zip(grid, folded, strict=True):
        for place in {(CELLS + s * y, CELLS + t * x) for s in (1, -1) for t in (1, -1)}:
            kernel[place] = weight
    assert abs(kernel.sum() - 1) < 1e-6
    return as_map(kernel), tenths / 10


def linear_background(weld: Weld, learnt: tuple[str, ...], side: int) -> Map:
    """Background (h, w) of a weld by the kernel that these welds teach."""
    kernel, clip = kernel_of(learnt, side)
    cells, median, noise = parts(weld)
    bounded = median + noise * np.clip((cells - median) / noise, -clip, clip)
    spread = np.zeros((4 * CELLS + 1, 4 * CELLS + 1), np.float32)
    spread[::2, ::2] = kernel
    level = float(cells.mean())
    found = cv2.filter2D(as_map(bounded - level), -1, spread, borderType=cv2.BORDER_REFLECT_101) + level
    return at_full_size(as_map(found), weld.image.shape, 1.5)


def at_full_size(values: Map, shape: tuple[int, ...], first_px: float) -> Map:
    """Values at every second pixel, the first at `first_px`, bilinear between."""
    to = np.array([[0.5, 0, -first_px / 2], [0, 0.5, -first_px / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (shape[1], shape[0])
    return as_map(cv2.warpAffine(values, to, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


# --- inpainting network --------------------------------------------------------------------------------------------


class Inpainter(nn.Module):
    """Predicts hidden places: input (n, 2, h, w), answer (n, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 2
        for dilation in (1, 1, 2, 4, 8, 4, 2, 1):
            layers += [nn.Conv2d(before, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            before = 16
        last = nn.Conv2d(16, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def grid(shape: Sequence[int], down: int, right: int) -> Tensor:
    """Hidden places (1, 1, h, w), 1 there: squares of 10 in a grid of 20."""
    rows, columns = (
        (torch.arange(n) + shift) // HIDDEN_HALVES % 2 for n, shift in zip(tuple(shape), (down, right), strict=True)
    )
    return (rows[:, None] * columns[None, :]).float()[None, None]


def smooth(values: Tensor) -> Tensor:
    """Sum under a Gaussian of 6 (12 px)."""
    taps = torch.exp(-(torch.arange(-18, 19) / 6.0).square() / 2)
    taps = taps / taps.sum()
    wide = F.pad(values, (18, 18, 18, 18), mode="reflect")
    return F.conv2d(F.conv2d(wide, taps[None, None, :, None]), taps[None, None, None, :])


def seen_of(halves: Tensor, noise: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What the network sees of images at half size (n, 1, h, w), and the level that it is taken from."""
    visible = (1 - hidden).expand_as(halves)
    level = smooth(halves * visible) / smooth(visible)
    shown = UNIT * (halves - level) / noise * visible
    return torch.cat([shown, hidden.expand_as(halves)], 1), level


def train(folder: Path, out: Path, fold: str, seed: int = 0) -> None:
    """One network of a fold, as `best` is trained; leaves OUT/inpainter_FOLD.pt."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    bank = open_bank(mapped(folder, ["accepted", "perturbation-defects"]), ["defects"], defective=False, device=_CPU)
    network_seed = int(np.random.SeedSequence([seed, 1, *f"{fold}/inpainter".encode()]).generate_state(1)[0])
    torch.manual_seed(network_seed)
    generator = torch.Generator().manual_seed(network_seed)
    model = Inpainter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.99))
    started, cpu, losses = time.perf_counter(), time.process_time(), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(2e-3, step, STEPS, 200)
        loss = loss_of(model, bank, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            print(f"{fold} {step + 1}: {np.mean(losses[-100:]):.4f}, {time.process_time() - cpu:.0f} s", flush=True)
    torch.save(model.state_dict(), out / f"inpainter_{fold}.pt")
    facts = {
        "fold": fold,
        "seed": network_seed,
        "loss": float(np.mean(losses[-100:])),
        "wall_s": time.perf_counter() - started,
    }
    (out / f"inpainter_{fold}.json").write_text(json.dumps(facts | {"cpu_s": time.process_time() - cpu}))


def loss_of(model: Inpainter, bank: Bank, generator: torch.Generator) -> Tensor:
    """Huber's loss, in units of the noise, of what is hidden of the clean patches."""
    clean = draw(bank.accepted, BATCH, generator)
    images = torch.cat([clean, perturbed(clean, bank, generator, both_signs=False)])
    noise = F.avg_pool2d(noise_about(images), 2)
    halves, wanted = F.avg_pool2d(images, 2), F.avg_pool2d(clean, 2).repeat(2, 1, 1, 1)
    down, right = (int(shift) for shift in torch.randint(2 * HIDDEN_HALVES, (2,), generator=generator))
    hidden = grid(halves.shape[-2:], down, right)
    seen, level = seen_of(halves, noise, hidden)
    with torch.autocast("cpu", torch.bfloat16):
        answer = model(seen.contiguous(memory_format=torch.channels_last)).float()
    error = (answer / UNIT - (wanted - level) / noise) * hidden
    return F.huber_loss(error, torch.zeros_like(error), reduction="sum") / (hidden.sum() * len(error))


@torch.inference_mode()
def network_background(model: Inpainter, image: Grey) -> Map:
    """Background (h, w) in four passes, in which every place is hidden once; grey levels."""
    height, width = image.shape
    pads = (32, 32 - width % -2, 32, 32 - height % -2)
    images = F.pad(torch.from_numpy(np.array(image))[None, None].float() / 255, pads, mode="reflect")
    noise, halves = F.avg_pool2d(noise_about(images), 2), F.avg_pool2d(images, 2)
    found = torch.zeros_like(halves)
    for down in (0, HIDDEN_HALVES):
        for right in (0, HIDDEN_HALVES):
            hidden = grid(halves.shape[-2:], down, right)
            seen, level = seen_of(halves, noise, hidden)
            with torch.autocast("cpu", torch.bfloat16):
                answer = model(seen.contiguous(memory_format=torch.channels_last)).float()
            found += hidden * (level + answer / UNIT * noise)
    inner = 255 * found[0, 0, 16:, 16:].numpy()
    return at_full_size(as_map(inner), image.shape, 0.5)


_CPU: Final = torch.device("cpu")


def networks_of(out: Path, folds: Sequence[Fold]) -> list[Inpainter]:
    models = []
    for fold in folds:
        model = Inpainter()
        model.load_state_dict(torch.load(out / f"inpainter_{fold.name}.pt", weights_only=True))
        models.append(model.to(memory_format=torch.channels_last).eval())  # type: ignore[call-overload]
    return models


# --- reading -------------------------------------------------------------------------------------------------------


def dark_of(image: Grey, background: Map) -> Map:
    """Dark response in windows of 5 px (h // 2, w // 2)."""
    return windowed(as_map((image.astype(np.float32) - background) / local_noise(image)), "5")[1]


def lines_of(image: Grey, background: Map) -> list[Map]:
    """Dark response of lines of each length (h // 2, w // 2)."""
    residual = as_map((image.astype(np.float32) - background) / local_noise(image))
    height, width = image.shape[0] // 2, image.shape[1] // 2
    small = cv2.resize(residual, (width, height), interpolation=cv2.INTER_AREA)
    maps = []
    for length in LINES_PX:
        dark = np.zeros_like(small)
        for angle in (180 / 8 * step for step in range(8)):
            np.maximum(dark, -cv2.filter2D(small, -1, line(angle, length), borderType=cv2.BORDER_REFLECT_101), out=dark)
        maps.append(as_map(dark))
    return maps


def line(angle_deg: float, length_px: int, width_px: int = 3) -> Map:
    """A line through the middle of a square at half the scale, its sum 1."""
    reach = math.ceil(length_px / 4)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = math.radians(angle_deg)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = -columns * math.sin(angle) + rows * math.cos(angle)
    kernel = (np.abs(along) <= length_px / 4) * np.clip(width_px / 4 + 0.5 - np.abs(across), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def read(maps: Sequence[Map], places: dict[str, list[npt.NDArray[np.int32]]]) -> dict[str, npt.NDArray[np.float32]]:
    flat = [np.ascontiguousarray(values).ravel() for values in maps]
    return {
        name: np.array(
            [[values[place].max(initial=-np.inf) for values in flat] for place in found], np.float32
        ).reshape(len(found), len(flat))
        for name, found in places.items()
    }


def oriented() -> list[Candidate]:
    """Lines alone, and beside the window of 5 px."""
    return [
        *(Candidate(COLUMNS[1 + k], (1 + k,)) for k in range(len(LINES_PX))),
        *(Candidate(f"5 px or {COLUMNS[1 + k]}", (0, 1 + k)) for k in range(len(LINES_PX))),
    ]


def run(folder: Path, out: Path, *, with_networks: bool) -> str:
    """All rows; writes OUT/inpainting.md and OUT/inpainting.csv."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    welds = read_welds(folder)
    masked = [weld for weld in welds if weld.mask is not None]
    _WELDS.update({weld.name: weld for weld in masked})
    folds = weld_folds(masked, 0)
    counts = scaled(PatchCounts(), 0.25)
    models = networks_of(out, folds) if with_networks else []
    places, fixed = {}, {}
    for fold in folds:
        for set_, found in tested_poses([_WELDS[name] for name in fold.test], fold, counts, 0).items():
            for name, poses in found.items():
                places.setdefault(name, {})[set_] = [places_of(pose, _WELDS[name].image.shape) for pose in poses]
    for name, weld in _WELDS.items():
        short = short_median_background(weld.image, 4, 7)
        fixed[name] = [dark_of(weld.image, short), *lines_of(weld.image, short)]
    started = time.process_time()
    chosen: dict[str, dict[str, Candidate]] = {"linear inpainting": {}, "oriented windows": {}}
    parts_of: dict[str, list[Curve]] = {}
    masked_scores: dict[str, WeldScores] = {}
    notes, by_fold = [], []
    for number, fold in enumerate(folds):
        outside = tuple(sorted((*fold.training, *fold.validation)))
        scores = {}
        for name, weld in _WELDS.items():
            learnt = tuple(other for other in outside if other != name)
            maps = [dark_of(weld.image, linear_background(weld, learnt, side)) for side in HIDDEN_CELLS]
            net = [dark_of(weld.image, network_background(models[number], weld.image))] if models else []
            scores[name] = read([*fixed[name], *maps, *net], places[name])
        by_fold.append(scores)
        others = {name: list(outside) for name in fold.test}
        rows = {name: Candidate(name, (k,)) for k, name in enumerate(COLUMNS[: len(COLUMNS) - (not models)])}
        rows |= {c.name: c for c in oriented()}
        for kind, listed in (
            ("linear inpainting", [rows[COLUMNS[k]] for k in LINEAR]),
            ("oriented windows", oriented()),
        ):
            best, merit = choose(listed, scores, outside)
            rows[f"chosen: {kind}"] = best
            chosen[kind][fold.name] = best
            notes.append(f"{fold.name}, {kind}: {best.name}, {100 * merit:.1f} on {', '.join(outside)}")
            print(notes[-1], flush=True)
        for name, row in rows.items():
            parts_of.setdefault(name, []).append(curve(dict.fromkeys(others, row), scores, others))
        for name in fold.test:
            own = chosen["linear inpainting"][fold.name].columns[0]
            masked_scores[name] = {
                set_: np.column_stack([found[:, :4], found[:, own], *found[:, NETWORK:].T])
                for set_, found in scores[name].items()
            }
    curves = {name: added(found) for name, found in parts_of.items()}
    shown = [kernel_of(tuple(sorted((*fold.training, *fold.validation))), 5)[1] for fold in folds]
    lines = [
        "# Inpainting and oriented windows",
        "",
        *rows_markdown(curves, equal=False),
        "",
        *rows_markdown(curves, equal=True),
        "",
        *more_markdown(curves, "short median"),
        "",
        *(f"- {note}" for note in notes),
        f"- clip of the folds' fits: {shown} noises",
    ]
    all_of = {name: by_fold[0][name] for name in _WELDS}
    best_lines, _ = choose(oriented(), all_of, tuple(_WELDS))
    lines += [f"- films, oriented windows: {best_lines.name}, chosen on all seven welds", ""]
    films = []
    for film in read_films(folder, welds, 0):
        image = film.clean.image
        short = short_median_background(image, 4, 7)
        maps = [dark_of(image, short), *lines_of(image, short)]
        backs = [
            linear_background(
                film.clean,
                tuple(sorted((*fold.training, *fold.validation))),
                HIDDEN_CELLS[chosen["linear inpainting"][fold.name].columns[0] - LINEAR[0]],
            )
            for fold in folds
        ]
        maps.append(dark_of(image, as_map(np.mean(backs, axis=0))))
        if models:
            maps.append(dark_of(image, as_map(np.mean([network_background(m, image) for m in models], axis=0))))
        found = {ACCEPTED: [places_of(pose, image.shape) for pose in film.poses[ACCEPTED]], **film.regions}
        films.append(Film(film.clean.name, film.flaws, read(maps, found)))
        print(film.clean.name, flush=True)
    film_rows = {
        "short median": Candidate("short median", (0,)),
        "linear inpainting": Candidate("linear", (4,)),
        "oriented windows": best_lines,
        **({"inpainting network": Candidate("network", (5,))} if models else {}),
    }
    lines += [*film_tables(films, masked_scores, film_rows), ""]
    lines.append(f"Data {digest_of(welds)[:12]}, {time.process_time() - started:.0f} s of processor.")
    text = "\n".join(lines) + "\n"
    (out / "inpainting.md").write_text(text)
    (out / "inpainting.csv").write_text(curves_csv(curves))
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("welds", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", nargs=2, metavar=("CACHE", "FOLD"))
    parser.add_argument("--networks", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.train:
        train(Path(options.train[0]) / options.train[1], options.out, options.train[1])
    else:
        print(run(options.welds, options.out, with_networks=options.networks))
