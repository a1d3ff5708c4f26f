"""Everything one fold of the weld benchmark trains, calibrates and tests on, made from welds and photographs (L 3.3).

The patches of a fold are drawn in pieces, each with a random stream of its own that depends on the seed and on what is
drawn: the same seed gives the same fold whatever the number of processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.errors import DataError
from train.indications import PRINTED_SIGMA_PX, SHARP_SIGMA_PX, TESTED, Anomaly, anomaly, natural_indications
from train.perturb import PATCH_PX, Patch, photo_texture
from train.runner import Here, Processes
from train.weld_patches import accepted_patches, defect_patches, shares
from train.weld_regions import CONTRASTS, Contrast, find_regions
from train.welds import Fold, Weld

SHARP = "-sharp"
"""Ends the name of a test set whose anomalies are blurred by 2 px, so that their shape stays, instead of by 9 px."""

_PIECE = 250

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
    """Draw the patches of a fold in `jobs` processes; `progress` is told (pieces done, pieces).

    Each weld gives as many accepted patches as any other of its set, and each defect is as likely as any other. Raises
    DataError where training, validation or test welds have no place for an accepted patch, or the training welds none
    for a defective one.
    """
    of = {weld.name: weld for weld in welds}
    pieces = [
        *_accepted_pieces("accepted", [of[name] for name in fold.training], counts.accepted, seed, fold),
        *_accepted_pieces("checked", [of[name] for name in fold.validation], counts.validation, seed, fold),
        *_accepted_pieces("test-accepted", [of[name] for name in fold.test], counts.test_accepted, seed, fold),
        *_defect_pieces("defects", [of[name] for name in fold.training], counts.defects, seed, fold, None),
        *_sni_pieces(photos, counts.sni, seed, fold),
        *_anomaly_pieces("circular-indication", "circular-indication", counts.synthetic, PRINTED_SIGMA_PX, seed, fold),
        *_anomaly_pieces("partial-circle", "partial-circle", counts.synthetic, PRINTED_SIGMA_PX, seed, fold),
    ]
    for contrast in CONTRASTS:
        test = [of[name] for name in fold.test]
        pieces += _defect_pieces(f"defects-{contrast}", test, counts.test_defects, seed, fold, contrast)
    for kind in TESTED:
        for suffix, sigma_px in ("", PRINTED_SIGMA_PX), (SHARP, SHARP_SIGMA_PX):
            pieces += _anomaly_pieces(f"test-{kind}{suffix}", kind, counts.test_synthetic, sigma_px, seed, fold)
    drawn = _draw(pieces, jobs, progress)
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
        tests[name] = _inserted(drawn[f"test-{name}"][1], accepted, np.random.default_rng(_stream(seed, fold, name, 0)))
    return FoldData(
        fold.name,
        fold.training,
        fold.validation,
        fold.test,
        accepted=drawn["accepted"][0],
        checked=drawn["checked"][0],
        defective=defective,
        perturbations={
            "defects": deltas,
            **{name: drawn[name][1] for name in ("sni", "circular-indication", "partial-circle")},
        },
        tests=tests,
    )


@dataclass(frozen=True, slots=True)
class _OfWeld:
    """Patches of one weld: accepted ones, or with `defect`, those with a defect, of one contrast if named."""

    what: str
    stream: tuple[int, ...]
    count: int
    weld: Weld
    defect: bool
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
    none = np.zeros((0, PATCH_PX, PATCH_PX), np.uint8)
    if isinstance(piece, _OfWeld):
        if piece.defect:
            return defect_patches(piece.weld, piece.count, rng, piece.contrast)
        return accepted_patches(piece.weld, piece.count, rng), none.astype(np.float16)
    if isinstance(piece, _OfPhotos):
        greys = (texture.astype(np.float32) / np.float32(255) for texture in piece.textures)
        return none, np.stack([natural_indications(grey, rng).astype(np.float16) for grey in greys])
    drawn = [anomaly(piece.kind, rng, piece.sigma_px).astype(np.float16) for _ in range(piece.count)]
    return none, np.stack(drawn)


def _draw(pieces: Sequence[_Piece], jobs: int, progress: Callable[[int, int], None] | None) -> dict[str, _Pair]:
    """What the pieces of each name drew, together and in their order."""
    results: dict[int, _Pair] = {}
    with Processes(jobs) if jobs > 1 else nullcontext(Here()) as runner:
        for number, result in runner.map(_run, pieces):
            results[number] = result
            if progress is not None:
                progress(len(results), len(pieces))
    parts: dict[str, list[_Pair]] = {}
    for number, piece in enumerate(pieces):
        parts.setdefault(piece.what, []).append(results.pop(number))
    return {
        what: (np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))
        for what, pairs in parts.items()
    }


def _accepted_pieces(what: str, welds: Sequence[Weld], count: int, seed: int, fold: Fold) -> list[_Piece]:
    """Each weld that has a place for an accepted patch gives as many. Raises DataError where none has."""
    room = [len(accepted_patches(weld, 1, np.random.default_rng(0))) for weld in welds]
    if not any(room):
        names = ", ".join(weld.name for weld in welds)
        raise DataError(
            f"no place for a patch of {PATCH_PX} px clear of all defects in {names}",
            hint="the fold's welds need such stretches: look at `edge-train patches preview`",
        )
    return _split(
        shares(count, room),
        lambda weld, number, size: _OfWeld(
            what, _stream(seed, fold, f"{what} {welds[weld].name}", number), size, welds[weld], defect=False
        ),
    )


def _defect_pieces(
    what: str, welds: Sequence[Weld], count: int, seed: int, fold: Fold, contrast: Contrast | None
) -> list[_Piece]:
    """Each defect of a contrast, or of any, is as likely as any other to be the middle of a patch."""
    weights = [sum(contrast in (None, region.contrast) for region in find_regions(weld)[0]) for weld in welds]
    pieces = _split(
        shares(count, weights),
        lambda weld, number, size: _OfWeld(
            what, _stream(seed, fold, f"{what} {welds[weld].name}", number), size, welds[weld], True, contrast
        ),
    )
    # A name without pieces would be missing from what was drawn.
    return pieces or [_OfWeld(what, (seed,), 0, welds[0], True, contrast)]


def _sni_pieces(photos: Sequence[Patch], count: int, seed: int, fold: Fold) -> list[_Piece]:
    rng = np.random.default_rng(_stream(seed, fold, "textures", 0))

    def piece(_: int, number: int, size: int) -> _Piece:
        textures = [np.rint(photo_texture(rng, photos) * 255).astype(np.uint8) for _ in range(size)]
        return _OfPhotos("sni", _stream(seed, fold, "sni", number), np.stack(textures))

    return _split([count], piece)


def _anomaly_pieces(what: str, kind: Anomaly, count: int, sigma_px: float, seed: int, fold: Fold) -> list[_Piece]:
    return _split(
        [count], lambda _, number, size: _OfNothing(what, _stream(seed, fold, what, number), size, kind, sigma_px)
    )


def _split(counts: Sequence[int], piece: Callable[[int, int, int], _Piece]) -> list[_Piece]:
    """`piece(place in counts, number of the piece, its size)` for every piece of every count."""
    return [
        piece(place, number, min(_PIECE, count - number * _PIECE))
        for place, count in enumerate(counts)
        for number in range(-(-count // _PIECE))
    ]


def _stream(seed: int, fold: Fold, what: str, number: int) -> tuple[int, ...]:
    """Seeds one piece's random numbers."""
    return seed, zlib.crc32(f"{fold.name} {what}".encode()), number


def _as_images(patches: Greys) -> Images:
    """Patches uint8 as images float16 in [0, 1]."""
    return (patches / np.float32(255)).astype(np.float16)


def _inserted(deltas: Images, accepted: Images, rng: np.random.Generator) -> Images:
    """Anomalies on accepted patches drawn from `accepted`, clipped to [0, 1] as an 8-bit image is."""
    ground = accepted[rng.integers(0, len(accepted), size=len(deltas))].astype(np.float32)
    return np.clip(ground + deltas, 0, 1).astype(np.float16)
