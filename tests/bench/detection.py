"""How often the limits of a90 hold, by simulation: the figures of docs/qualification.md.

    python tests/bench/detection.py      # about six minutes of processor

Sizes are drawn evenly over ln(size), the true a50 is 1. Columns: the setting, with the true probability of detection
at both ends of the sizes; sets that have an a90; of these, how often its interval holds the true one, and how often the
upper end lies above it; of all sets, how often an upper end lies below the true a90: what a claim of it gets wrong.

A set's interval holds the true a90 where the deviance there is at most the critical one: no end has to be sought, and
thousands of sets are fitted at once. On the first sets of each setting that is held against the intervals of
`edge.validation.detection`.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.validation import detection
from edge.validation.detection import HANDBOOK_HIT_MISS, HANDBOOK_SIGNAL, PodCurve, hit_miss, signal_response
from edge.validation.distributions import normal_cdf, normal_quantile

Floats = npt.NDArray[np.float64]

TARGETS = (15, 20, 30, 60)
HIT_MISS = ((2, 0.67, 1.5), (3, 0.67, 1.5), (2, 0.5, 2), (2, 0.5, 3), (2, 0.7, 6), (5, 0.3, 1.5), (3, 0.25, 4))
"""Slope in log-odds over ln(size), smallest and largest size."""
SIGNAL = ((1, 0.5, 3), (1, 0.25, 4), (2, 0.67, 1.5), (2, 0.5, 3), (4, 0.5, 3))
"""Slope in standard deviations over ln(size), smallest and largest size."""
CHECKED = 10
"""Sets of each setting that are fitted by the program itself, too."""


@dataclass(frozen=True)
class Setting:
    """What sets are drawn from."""

    model: str
    targets: int
    slope: float
    smallest: float
    largest: float

    def __str__(self) -> str:
        ends = " to ".join(f"{self.pod(size):.0%}" for size in (self.smallest, self.largest))
        sizes = f"{self.smallest} to {self.largest}"
        return f"{self.model:8} {self.targets:3} of slope {self.slope}, sizes {sizes:11}, found {ends}"

    @property
    def is_hit_miss(self) -> bool:
        return self.model == "hit/miss"

    def pod(self, size: float) -> float:
        """True probability of detection."""
        place = self.slope * math.log(size)
        return 1 / (1 + math.exp(-place)) if self.is_hit_miss else normal_cdf(place)

    @property
    def level(self) -> float:
        """Where the line stands at a90: log-odds, or standard deviations."""
        return math.log(9) if self.is_hit_miss else normal_quantile(0.9)


@dataclass(frozen=True)
class Sets:
    """What became of each set, shape (sets,)."""

    has_a90: npt.NDArray[np.bool_]
    holds: npt.NDArray[np.bool_]
    is_below: npt.NDArray[np.bool_]
    """Whether the estimate lies below the true a90: then an interval that does not hold it ends below it."""


def measure(setting: Setting, sets: int, seed: int) -> Sets:
    """Draw and judge sets. Raises AssertionError where the program judges one otherwise."""
    key = [seed, setting.is_hit_miss, setting.targets, *(int(100 * x) for x in (setting.slope, setting.largest))]
    rng = np.random.default_rng(key)
    x = rng.uniform(math.log(setting.smallest), math.log(setting.largest), (sets, setting.targets))
    if setting.is_hit_miss:
        y = np.where(rng.random(x.shape) < 1 / (1 + np.exp(-setting.slope * x)), 1.0, -1.0)
        found = of_hits(x, y, setting)
    else:
        y = setting.slope * x + rng.normal(size=x.shape)
        found = of_scores(x, y, setting)
    detection._BAND_POINTS = 2  # the curve around the limits is not asked for
    for place in range(CHECKED):
        sizes = np.exp(x[place])
        curve = hit_miss(sizes, y[place] > 0) if setting.is_hit_miss else signal_response(sizes, y[place], 0.0)
        has_a90 = isinstance(curve, PodCurve) and curve.a90 is not None
        assert has_a90 == found.has_a90[place], f"{setting}, set {place}"
        if isinstance(curve, PodCurve) and has_a90:
            truth = math.exp(setting.level / setting.slope)
            holds = (curve.a90_low or 0.0) <= truth <= (math.inf if curve.a90_high is None else curve.a90_high)
            assert holds == found.holds[place], f"{setting}, set {place}"
    return found


def of_hits(x: Floats, sign: Floats, setting: Setting) -> Sets:
    """Sets of hits (sign 1) and misses (-1), both shape (sets, n)."""
    hits = (sign > 0).sum(axis=1)
    overlap = np.where(sign < 0, x, -np.inf).max(axis=1) > np.where(sign > 0, x, np.inf).min(axis=1)
    share = np.clip(hits / setting.targets, 1e-9, 1 - 1e-9)
    flat = setting.targets * (share * np.log(share) + (1 - share) * np.log1p(-share))
    place = setting.level / setting.slope
    line, best = logit(x - x.mean(axis=1, keepdims=True), sign, 0.0, np.ones_like(x))
    _, through = logit(x - place, sign, setting.level, np.zeros_like(x))
    at_truth = line[:, 0] + line[:, 1] * (place - x.mean(axis=1))
    return judged(
        (hits > 0) & (hits < setting.targets) & overlap & (line[:, 1] > 0),
        2 * (best - flat),
        2 * (best - through),
        at_truth > setting.level,
        setting.targets,
        HANDBOOK_HIT_MISS,
    )


def logit(x: Floats, sign: Floats, offset: float, ones: Floats) -> tuple[Floats, Floats]:
    """Newton's method on the logit of every set: intercept and slope (sets, 2), and the log likelihoods.

    Without intercept where `ones` is 0.
    """
    theta = np.zeros((len(x), 2))

    def likelihood(at: Floats) -> Floats:
        return -np.asarray(np.logaddexp(0, -sign * (at[:, :1] * ones + at[:, 1:] * x + offset)).sum(axis=1))

    value = likelihood(theta)
    for _ in range(60):
        margin = sign * (theta[:, :1] * ones + theta[:, 1:] * x + offset)
        miss = np.exp(-np.logaddexp(0, margin))
        weight = miss * (1 - miss)
        gradient = np.stack([(sign * miss * ones).sum(axis=1), (sign * miss * x).sum(axis=1)], axis=1)
        a, b, c = ((weight * each).sum(axis=1) for each in (ones, x * ones, x * x))
        a, c = a + 1e-9 + (ones[:, 0] == 0), c + 1e-9
        step = np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1)
        step /= (a * c - b * b)[:, None]
        share = np.ones(len(x))
        for _ in range(30):
            ahead = likelihood(theta + share[:, None] * step)
            if not (worse := ahead < value).any():
                break
            share[worse] /= 2
        better = ahead >= value
        theta = np.where(better[:, None], theta + share[:, None] * step, theta)
        value = np.maximum(ahead, value)
    return theta, value


def of_scores(x: Floats, y: Floats, setting: Setting) -> Sets:
    """Sets of scores without censoring, decision at 0, both shape (sets, n): all has a closed form."""
    n, place = setting.targets, setting.level / setting.slope

    def best(squares: Floats) -> Floats:
        return -n / 2 * (np.log(squares / n) + 1)

    z, centred = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    slope = (z * y).sum(axis=1) / (z * z).sum(axis=1)
    left = ((centred - slope[:, None] * z) ** 2).sum(axis=1)
    # Through (place, level) with h = 1 / sigma: h y - level less its regression on x - place.
    at = x - place
    residual_y, residual_1 = (
        each - (at * each).sum(axis=1, keepdims=True) / (at * at).sum(axis=1, keepdims=True) * at
        for each in (y, np.ones_like(y))
    )
    a, b, c = (
        (one * other).sum(axis=1)
        for one, other in ((residual_y, residual_y), (residual_y, residual_1), (residual_1, residual_1))
    )
    h = (setting.level * b + np.sqrt((setting.level * b) ** 2 + 4 * n * a)) / (2 * a)
    through = n * np.log(h) - (h * h * a - 2 * h * setting.level * b + setting.level**2 * c) / 2
    at_truth = (y.mean(axis=1) + slope * (place - x.mean(axis=1))) / np.sqrt(left / n)
    return judged(
        slope > 0,
        2 * (best(left) - best((centred**2).sum(axis=1))),
        2 * (best(left) - through),
        at_truth > setting.level,
        n,
        HANDBOOK_SIGNAL,
    )


def judged(
    is_fitted: npt.NDArray[np.bool_],
    over_flat: Floats,
    at_truth: Floats,
    is_below: npt.NDArray[np.bool_],
    targets: int,
    wanted: int,
) -> Sets:
    """Sets by their deviances from a flat line, and from the true a90."""
    critical = detection._root_critical(targets, targets - 2, wanted) ** 2
    return Sets(is_fitted & (over_flat > critical), at_truth <= critical, is_below)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=5000, help="sets drawn in each setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS, help="anomalies of a set")
    options = parser.parse_args()
    for model, drawn in (("hit/miss", HIT_MISS), ("signal", SIGNAL)):
        for targets, of in product(options.targets, drawn):
            setting = Setting(model, targets, *of)
            found = measure(setting, options.sets, options.seed)
            count = int(found.has_a90.sum())
            wrong = int((found.has_a90 & ~found.holds & found.is_below).sum())
            held = float(found.holds[found.has_a90].mean()) if count else math.nan
            print(
                f"{setting!s:66} a90 in {count / options.sets:6.1%}, held {held:6.1%}, upper end above "
                f"{1 - wrong / max(count, 1):6.1%}; wrong limit {wrong / options.sets:.1%} of all",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
