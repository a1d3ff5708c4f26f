"""Folds over welds: no weld is in two of training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.errors import DataError
from train.papers.welds.images import Weld
from train.papers.welds.patches import clear_length_px

FOLDS = 3
"""Parts of the cross-validation; more of them leave more welds to train on, and cost as much more training."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Names of welds, in three sets without a common weld; together they are all masked welds."""

    name: str
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def weld_folds(welds: Sequence[Weld], seed: int, count: int = FOLDS) -> list[Fold]:
    """Folds over the masked welds: each is tested exactly once; validation welds are neither tested nor learnt from.

    The welds are sorted by the area of their defects and dealt to `count` test sets, `count` at a time in an order
    drawn from the seed, so that every test set gets welds with much and with little to find. The validation welds of a
    fold are half of the next fold's test set, at least one, those with the longest stretches free of defects: they set
    thresholds. All others are its training welds. Raises DataError for fewer masked welds than `count`, of which no
    fold could be trained and validated.
    """
    masked = [(int(weld.mask.sum()), weld.name) for weld in welds if weld.mask is not None]
    if count < 3 or len(masked) < count:
        raise DataError(
            f"{len(masked)} masked welds cannot be split into {count} folds",
            hint="3 folds and 3 masked welds are the least: one to train on, one to validate, one to test",
        )
    clear_px = {weld.name: clear_length_px(weld) for weld in welds if weld.mask is not None}
    rng = np.random.default_rng([seed, count])
    names = [name for _, name in sorted(masked, reverse=True)]
    tests: list[list[str]] = [[] for _ in range(count)]
    for start in range(0, len(names), count):
        dealt = names[start : start + count]
        for place, name in zip(rng.permutation(count), dealt, strict=False):
            tests[place].append(name)
    folds = []
    for number, test in enumerate(tests):
        following = tests[(number + 1) % count]
        longest = sorted(following, key=lambda name: (-clear_px[name], name))
        validation = longest[: max(1, len(following) // 2)]
        training = sorted(set(names) - set(test) - set(validation))
        folds.append(Fold(f"fold-{number + 1}", tuple(training), tuple(sorted(validation)), tuple(sorted(test))))
    return folds
