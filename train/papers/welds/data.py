"""Everything one fold of the weld benchmark trains, calibrates and tests on, made from welds and photographs (L 3.3).

The patches of a fold are drawn in pieces, each with a random stream of its own that depends on the seed and on what is
drawn: the same seed gives the same fold whatever the number of processes.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.gate.perturb import PATCH_PX, Patch, photo_texture
from train.papers.welds.folds import Fold
from train.papers.welds.images import Weld
from train.papers.welds.indications import (
    LEARNT,
    PRINTED_SIGMA_PX,
    SHARP_SIGMA_PX,
    TESTED,
    Anomaly,
    anomaly,
    natural_indications,
)
from train.papers.welds.patches import (
    AcceptedSampler,
    DefectSampler,
    Pose,
    accepted_patches,
    clear_length_px,
    defect_patches,
    shares,
)
from train.papers.welds.regions import CONTRASTS, Contrast, Region, find_regions, of_contrast
from train.runner import Here, Processes, Runner

SHARP = "-sharp"
"""Ends the name of a test set whose anomalies are blurred by 2 px, so that their shape stays, instead of by 9 px."""

_PIECE = 250
_REAL = ("accepted", *(f"defects-{contrast}" for contrast in CONTRASTS))

Images = npt.NDArray[np.float16]
Greys = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PatchCounts:
    """How many patches of each kind; `test_defects` is per contrast, `synthetic` and `test_synthetic` per anomaly."""

    accepted: int = 8000
    validation: int = 4000
    test_accepted: int = 3480
    test_defects: int = 600
    defects: int = 4000
    sni: int = 8000
    synthetic: int = 5000
    test_synthetic: int = 200


@dataclass(frozen=True, slots=True)
class FoldData:
    """The patches of one fold, 192 x 192 px each; no weld is in two of training, validation and test.

    Right angles and flips are already drawn at random, but accepted patches are few beside what training sees: it may
    turn and flip them again.
    """

    name: str
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    accepted: Greys
    """uint8 (n, 192, 192): accepted patches of training welds."""
    checked: Greys
    """uint8 (m, 192, 192): accepted patches of validation welds, for thresholds."""
    defective: Greys
    """uint8 (d, 192, 192): patches of training welds with a defect."""
    perturbations: dict[str, Images]
    """W * delta in [-1, 1], float16 (k, 192, 192): defects, sni, circular-indication, partial-circle."""
    tests: dict[str, Images]
    """Images in [0, 1], float16 (t, 192, 192), of test welds: accepted, defects-high, -mid, -low (no patch where the
    test welds have no such defect), and the five anomalies on accepted patches, as printed and ending in `-sharp`."""
    tested_of: dict[str, dict[str, int]]
    """Number of patches of each weld in each test set of real patches, in their order."""
    calibrated_of: dict[str, dict[str, int]]
    """Number of patches of each weld in `accepted` and in `checked`, in their order."""


def fold_data(
    welds: Sequence[Weld],
    photos: Sequence[Patch],
    fold: Fold,
    counts: PatchCounts,
    seed: int,
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FoldData:
    """Draw the patches of a fold in `jobs` processes; `progress` is called with (pieces done, pieces).

    Every column of a weld that is clear of defects is as likely as any other to be the middle of an accepted patch, and
    every defect to be the one a defective patch is drawn around. Raises DataError where training, validation or test
    welds have no place for an accepted patch, or the training welds none for a defective one.
    """
    of = {weld.name: weld for weld in welds}
    training, validation, test = ([of[name] for name in names] for names in (fold.training, fold.validation, fold.test))
    with Processes(jobs) if jobs > 1 else nullcontext(Here()) as runner:
        masked = [*training, *test]
        found = {masked[number].name: regions for number, regions in runner.map(find_regions, masked)}
        plan = _Plan(seed, fold, found)
        pieces = plan.accepted("accepted", training, counts.accepted)
        pieces += plan.accepted("checked", validation, counts.validation)
        pieces += plan.accepted("test-accepted", test, counts.test_accepted)
        pieces += plan.defects("defects", training, counts.defects, None)
        for contrast in CONTRASTS:
            pieces += plan.defects(f"defects-{contrast}", test, counts.test_defects, contrast)
        pieces += plan.natural(photos, counts.sni)
        for learnt in LEARNT:
            pieces += plan.anomalies(learnt, learnt, counts.synthetic, PRINTED_SIGMA_PX)
        for kind in TESTED:
            pieces += plan.anomalies(f"test-{kind}", kind, counts.test_synthetic, PRINTED_SIGMA_PX)
            pieces += plan.anomalies(f"test-{kind}{SHARP}", kind, counts.test_synthetic, SHARP_SIGMA_PX)
        drawn, drawn_of = _draw(pieces, runner, progress)
    defective, deltas = drawn["defects"]
    if len(defective) == 0:
        raise DataError(
            f"no place for a patch of {PATCH_PX} px with a defect in {', '.join(fold.training)}",
            hint="defects need to lie where a turned patch fits: look at `edge-train patches preview`",
        )
    accepted = _as_images(drawn["test-accepted"][0])
    tests = {"accepted": accepted}
    tests |= {f"defects-{contrast}": _as_images(drawn[f"defects-{contrast}"][0]) for contrast in CONTRASTS}
    for name in (f"{kind}{suffix}" for kind in TESTED for suffix in ("", SHARP)):
        tests[name] = _inserted(drawn[f"test-{name}"][1], accepted, np.random.default_rng(plan.stream(name, 0)))
    return FoldData(
        fold.name,
        fold.training,
        fold.validation,
        fold.test,
        accepted=drawn["accepted"][0],
        checked=drawn["checked"][0],
        defective=defective,
        perturbations={"defects": deltas, **{name: drawn[name][1] for name in ("sni", *LEARNT)}},
        tests=tests,
        tested_of={name: drawn_of[f"test-{name}" if name == "accepted" else name] for name in tests if name in _REAL},
        calibrated_of={name: drawn_of[name] for name in ("accepted", "checked")},
    )


def tested_poses(
    tested: Sequence[Weld], fold: Fold, counts: PatchCounts, seed: int
) -> dict[str, dict[str, list[Pose]]]:
    """Where the real test patches of `fold_data` lie, by set (accepted, defects-high, -mid, -low) and weld.

    `tested` are the fold's test welds. What judges a patch by the whole weld reads it here. Raises DataError as
    `fold_data` does.
    """
    plan = _Plan(seed, fold, {weld.name: find_regions(weld) for weld in tested})
    pieces = plan.accepted("test-accepted", tested, counts.test_accepted)
    for contrast in CONTRASTS:
        pieces += plan.defects(f"defects-{contrast}", tested, counts.test_defects, contrast)
    poses: dict[str, dict[str, list[Pose]]] = {name: {weld.name: [] for weld in tested} for name in _REAL}
    for piece in pieces:
        assert isinstance(piece, _OfWeld)
        rng = np.random.default_rng(piece.stream)
        drawn = poses[piece.what.removeprefix("test-")][piece.weld.name]
        if piece.regions:
            sampler = DefectSampler(piece.weld, piece.regions)
            found = [sampler.pose(rng, piece.contrast) for _ in range(piece.count)]
        else:
            clear = AcceptedSampler(piece.weld)
            found = [clear.pose(rng) for _ in range(piece.count)]
        drawn += [pose for pose in found if pose is not None]
    return poses


@dataclass(frozen=True, slots=True)
class _OfWeld:
    """Patches of one weld: accepted ones, or with `regions`, those with a defect, of one contrast if named."""

    what: str
    stream: tuple[int, ...]
    count: int
    weld: Weld
    regions: Sequence[Region] = ()
    contrast: Contrast | None = None


@dataclass(frozen=True, slots=True)
class _OfPhotos:
    """Natural indications, each out of its own piece of a photograph: uint8 (n, 192, 192)."""

    what: str
    stream: tuple[int, ...]
    textures: Greys


@dataclass(frozen=True, slots=True)
class _OfNothing:
    """Synthetic anomalies of one kind."""

    what: str
    stream: tuple[int, ...]
    count: int
    kind: Anomaly
    sigma_px: float


_Piece = _OfWeld | _OfPhotos | _OfNothing
_Pair = tuple[Greys, Images]


def _run(piece: _Piece) -> _Pair:
    """Patches uint8 and perturbations float16 of one piece; (0, 192, 192) of what it has none of."""
    rng = np.random.default_rng(piece.stream)
    no_greys, no_images = _nothing()
    if isinstance(piece, _OfWeld):
        if piece.regions:
            return defect_patches(piece.weld, piece.regions, piece.count, rng, piece.contrast)
        return accepted_patches(piece.weld, piece.count, rng), no_images
    if isinstance(piece, _OfPhotos):
        greys = (texture.astype(np.float32) / np.float32(255) for texture in piece.textures)
        return no_greys, np.stack([natural_indications(grey, rng).astype(np.float16) for grey in greys])
    drawn = [anomaly(piece.kind, rng, piece.sigma_px).astype(np.float16) for _ in range(piece.count)]
    return no_greys, np.stack(drawn)


def _draw(
    pieces: Sequence[_Piece], runner: Runner, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, _Pair], dict[str, dict[str, int]]]:
    """What the pieces of each name drew, together and in their order, and how much of it of which weld.

    Of other names, nothing.
    """
    results: dict[int, _Pair] = {}
    for number, result in runner.map(_run, pieces):
        results[number] = result
        if progress is not None:
            progress(len(results), len(pieces))
    pairs: defaultdict[str, list[_Pair]] = defaultdict(list)
    drawn_of: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for number, piece in enumerate(pieces):
        pairs[piece.what].append(results.pop(number))
        if isinstance(piece, _OfWeld):
            of_welds = drawn_of[piece.what]
            of_welds[piece.weld.name] = of_welds.get(piece.weld.name, 0) + len(pairs[piece.what][-1][0])
    together = defaultdict(
        _nothing,
        {
            what: (np.concatenate([greys for greys, _ in drawn]), np.concatenate([images for _, images in drawn]))
            for what, drawn in pairs.items()
        },
    )
    return together, drawn_of


def _nothing() -> _Pair:
    return np.zeros((0, PATCH_PX, PATCH_PX), np.uint8), np.zeros((0, PATCH_PX, PATCH_PX), np.float16)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which pieces a fold is drawn in."""

    seed: int
    fold: Fold
    regions: dict[str, list[Region]]

    def accepted(self, what: str, welds: Sequence[Weld], count: int) -> list[_Piece]:
        """Each weld gives as many as the length of its clear stretches allows. Raises DataError where none has any.

        As many of each would show one short stretch between two defects over and over.
        """
        clear_px = [clear_length_px(weld) for weld in welds]
        if not any(clear_px):
            raise DataError(
                f"no place for a patch of {PATCH_PX} px clear of all defects in {', '.join(w.name for w in welds)}",
                hint="a fold needs welds with such stretches in each of its three sets: add welds, or another --seed",
            )
        return [
            _OfWeld(what, self.stream(f"{what} {weld.name}", number), size, weld)
            for weld, share in zip(welds, shares(count, clear_px), strict=True)
            for number, size in _pieces_of(share)
        ]

    def defects(self, what: str, welds: Sequence[Weld], count: int, contrast: Contrast | None) -> list[_Piece]:
        """Each defect of a contrast, or of any, is as likely as any other to be the one a patch is drawn around."""
        weights = []
        for weld in welds:
            regions = self.regions[weld.name]
            # Among dense strong defects a weak one may never be the strongest of a patch: other welds give more then.
            room = len(defect_patches(weld, regions, 1, np.random.default_rng(0), contrast)[0])
            weights.append(room * len(of_contrast(regions, contrast)))
        return [
            _OfWeld(
                what,
                self.stream(f"{what} {weld.name}", number),
                size,
                weld,
                self.regions[weld.name],
                contrast,
            )
            for weld, share in zip(welds, shares(count, weights), strict=True)
            for number, size in _pieces_of(share)
        ]

    def natural(self, photos: Sequence[Patch], count: int) -> list[_Piece]:
        """Natural indications, each out of a photograph of its own."""
        rng = np.random.default_rng(self.stream("textures", 0))
        pieces = []
        for number, size in _pieces_of(count):
            textures = np.stack([np.rint(photo_texture(rng, photos) * 255) for _ in range(size)])
            pieces.append(_OfPhotos("sni", self.stream("sni", number), textures.astype(np.uint8)))
        return list(pieces)

    def anomalies(self, what: str, kind: Anomaly, count: int, sigma_px: float) -> list[_Piece]:
        """Synthetic anomalies of one kind."""
        return [_OfNothing(what, self.stream(what, number), size, kind, sigma_px) for number, size in _pieces_of(count)]

    def stream(self, what: str, number: int) -> tuple[int, ...]:
        """Seeds one piece's random numbers."""
        return self.seed, zlib.crc32(f"{self.fold.name} {what}".encode()), number


def _pieces_of(count: int) -> list[tuple[int, int]]:
    """(number, size) of the pieces of a count."""
    return [(number, min(_PIECE, count - number * _PIECE)) for number in range(-(-count // _PIECE))]


def _as_images(patches: Greys) -> Images:
    """Patches uint8 as images float16 in [0, 1]."""
    return (patches / np.float32(255)).astype(np.float16)


def _inserted(deltas: Images, accepted: Images, rng: np.random.Generator) -> Images:
    """Anomalies on accepted patches drawn from `accepted`, clipped to [0, 1] as an 8-bit image is."""
    ground = accepted[rng.integers(0, len(accepted), size=len(deltas))].astype(np.float32)
    return np.asarray(np.clip(ground + deltas, 0, 1), np.float16)
