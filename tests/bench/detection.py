"""How often the limits of a90 hold, by simulation: the figures of docs/qualification.md.

    python tests/bench/detection.py --sets 1000      # about half an hour of processor

Sizes are drawn evenly over ln(size), the true a50 is 1. Columns: the setting, with the true probability of detection
at both ends of the sizes; sets that have an a90; of these, how often the interval holds the true one, and how often its
upper end lies above it; of all sets, how often an upper end lies below the true a90: what a claim of it gets wrong.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge.validation import detection
from edge.validation.detection import PodCurve, hit_miss, signal_response
from edge.validation.distributions import normal_cdf, normal_quantile

TARGETS = (15, 20, 30, 60)
HIT_MISS = ((2, 0.67, 1.5), (3, 0.67, 1.5), (2, 0.5, 2), (2, 0.5, 3), (2, 0.7, 6), (3, 0.25, 4))
"""Slope in log-odds over ln(size), smallest and largest size."""
SIGNAL = ((1, 0.5, 3), (2, 0.67, 1.5), (2, 0.5, 3))
"""Slope in standard deviations over ln(size), smallest and largest size."""


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

    def pod(self, size: float) -> float:
        """True probability of detection."""
        place = self.slope * math.log(size)
        return 1 / (1 + math.exp(-place)) if self.model == "hit/miss" else normal_cdf(place)

    @property
    def a90(self) -> float:
        """The true one."""
        return math.exp((math.log(9) if self.model == "hit/miss" else normal_quantile(0.9)) / self.slope)


def measure(task: tuple[Setting, int, int]) -> tuple[Setting, int, list[tuple[float, float]]]:
    """The setting, how many sets, and the interval of a90 of those sets that have one."""
    setting, sets, seed = task
    detection._BAND_POINTS = 2  # the curve around the limits is not asked for
    rng = np.random.default_rng([seed, setting.targets, int(100 * setting.slope), int(100 * setting.largest)])
    ends = []
    for _ in range(sets):
        x = rng.uniform(math.log(setting.smallest), math.log(setting.largest), setting.targets)
        if setting.model == "hit/miss":
            curve = hit_miss(np.exp(x), rng.random(x.size) < 1 / (1 + np.exp(-setting.slope * x)))
        else:
            curve = signal_response(np.exp(x), setting.slope * x + rng.normal(size=x.size), 0.0)
        if isinstance(curve, PodCurve) and curve.a90 is not None:
            low, high = curve.a90_low, curve.a90_high
            ends.append((0.0 if low is None else low, math.inf if high is None else high))
    return setting, sets, ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200, help="sets drawn in each setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS, help="anomalies of a set")
    options = parser.parse_args()
    settings = [
        Setting(model, targets, *of)
        for model, drawn in (("hit/miss", HIT_MISS), ("signal", SIGNAL))
        for targets, of in product(options.targets, drawn)
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        tasks = [(setting, options.sets, options.seed) for setting in settings]
        for setting, sets, ends in pool.map(measure, tasks):
            held = sum(low <= setting.a90 <= high for low, high in ends)
            above = sum(setting.a90 <= high for _, high in ends)
            shares = f"{held / len(ends):6.1%}, upper end above {above / len(ends):6.1%}" if ends else "     -"
            print(
                f"{setting!s:66} a90 in {len(ends) / sets:4.0%}, held {shares}; "
                f"wrong limit {(len(ends) - above) / sets:.1%} of all",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
