"""Probability of detection over the size of an anomaly: a50, a90 and a90/95, as MIL-HDBK-1823A (2009) has them.

Two models: hit/miss, a logit fitted by maximum likelihood (handbook G.4; ASTM E2862), and signal response, a straight
line of the score over size with normal scatter, where scores at an end of the scale are censored (handbook G.3; ASTM
E3023). Both run over the natural logarithm of size or over size itself: the handbook leaves the choice to the fit, and
a curve says so where the other scale fits clearly better.

a90 is the size found with probability 0.9. Its 95 % interval comes from the likelihood ratio: the sizes whose best fit
through (size, 0.9) loses at most t^2 in deviance, t being the 97.5 % point of Student's distribution with n - 2 degrees
of freedom. For a line without censoring that is the exact test (n log(1 + t^2 / (n - 2)) is within 1 % of t^2), for
hit/miss a small-sample allowance. a50 has its interval likewise. A curve whose slope may be none by the same measure
has neither a50 nor a90.

That leaves the lucky ones of small sets, whose interval would hold the true a90 less often than in 95 %. So of fewer
anomalies than the handbook asks for, 60 for hit/miss and 40 for signal response, both measures are stricter: they err
in 5 % n / 60 (or 40). `tests/bench/detection.py` simulates what that gives; docs/qualification.md has the figures.

a90/95 is what MIL-HDBK-1823A calls so, and lies below the upper end of that interval. Hit/miss: the size that loses
3.841, for the handbook's contour lies at a log likelihood ratio of 1.92. Signal response: Wald's limit of 95 % on one
side, by the delta method (G.3.4.3); in simulation without censoring it lay above the true a90 in 89 % of sets of 40,
91 % of 60 and 92 % of 100 (20,000 sets each). Claim `a90_high`.

All these take anomalies as independent. Where their lots are named, a second interval takes the lots as what was drawn:
the deviance is divided by the variance of a90 between lots (the sandwich of the lots' scores; Rao and Scott 1984) over
that of independent anomalies, which is at least 1 and at least what a correlation within lots of 0.1 makes of it, and t
has as many degrees of freedom as there are lots less one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np
import numpy.typing as npt

from edge.validation.distributions import (
    chi2_quantile,
    log_normal_cdf,
    log_normal_density,
    normal_cdf,
    normal_quantile,
    t_quantile,
)
from edge.validation.lots import most_scans

Floats = npt.NDArray[np.float64]
Likelihood = tuple[float, Floats, Floats]
"""Log likelihood, its gradient (k,) and its Hessian (k, k) in the k parameters."""

LEAST_TARGETS = 10
"""Anomalies below which no curve is fitted."""

HANDBOOK_HIT_MISS = 60
HANDBOOK_SIGNAL = 40
"""Anomalies the handbook asks for (MIL-HDBK-1823A), hit/miss and signal response."""

CURVE_POINTS = 101
_BAND_POINTS = 21
"""Points at which the lower curve of hit/miss is computed; between them it is straight in log-odds."""

CLEARLY_BETTER = 2.0
"""Log likelihood by which the other scale of size must fit better to be named: odds of seven to one."""

_ROOT_CHI2 = math.sqrt(chi2_quantile(0.95))
_LOGIT_90 = math.log(9.0)
_Z_95_ONE_SIDED = normal_quantile(0.95)
_NEWTON_STEPS = 100
_LN_LARGEST = math.log(sys.float_info.max)
_LEAST_SCATTER = 1e4
"""Spread of the scores over their scatter about the line from which on there is no scatter but rounding."""
_FARTHEST = 50.0
"""Standard deviations of the sizes beyond the data at which a limit counts as infinite."""


class SizeScale(StrEnum):
    """What a curve runs over."""

    LOG = "log"
    LINEAR = "linear"

    def of(self, sizes: Floats) -> Floats:
        """Sizes as the curve takes them."""
        return np.log(sizes) if self is SizeScale.LOG else sizes

    def size(self, value: float) -> float:
        """The size of what the curve takes; infinite beyond all numbers, as where a line hardly rises."""
        if self is SizeScale.LINEAR:
            return float(value)
        return math.exp(value) if value < _LN_LARGEST else math.inf

    @property
    def other(self) -> SizeScale:
        return SizeScale.LINEAR if self is SizeScale.LOG else SizeScale.LOG


@dataclass(frozen=True, slots=True)
class PodCurve:
    """A fitted curve. Sizes are in the unit that came in; a limit is None where the data hold none."""

    targets: int
    hits: int | None
    """Anomalies found; None for signal response, which fits scores."""

    intercept: float
    slope: float
    """Slope of the linear predictor over ln(size) or size: log-odds for hit/miss, standard deviations for the other."""

    a50: float | None
    """None, as all below, where a line of no slope fits as well: they would lie anywhere, mostly beyond all sizes."""
    a50_low: float | None
    a50_high: float | None
    """Ends of the 95 % likelihood-ratio interval of a50, as below of a90."""
    a90: float | None
    a90_low: float | None
    a90_high: float | None

    a90_95: float | None
    """The handbook's a90/95, below `a90_high`: see the head of this module."""

    lots: int
    """Lots of the anomalies; 0 where they were not named."""

    a50_lots_low: float | None
    a50_lots_high: float | None
    a90_lots_low: float | None
    a90_lots_high: float | None
    """Ends of the intervals over lots; None, too, of fewer than two lots."""

    sizes: Floats
    pod: Floats
    pod_low: Floats
    """Curve and its lower limit at `sizes`, shape (CURVE_POINTS,), from the smallest to the largest; it reaches 0.9
    at `a90_high`."""

    scale: SizeScale

    notes: tuple[str, ...]
    """What limits the use of the curve, as sentences."""


@dataclass(frozen=True, slots=True)
class NoCurve:
    """Why the data carry no curve, as a sentence."""

    targets: int
    reason: str


def hit_miss(
    sizes: npt.NDArray[np.floating],
    found: npt.NDArray[np.bool_],
    scale: SizeScale = SizeScale.LOG,
    lots: Sequence[str] = (),
) -> PodCurve | NoCurve:
    """Curve of found and missed anomalies, both shape (n,), each of the lot named beside it, if any.

    Raises ValueError for sizes that are not above 0.
    """
    values, hit = _sizes(sizes), np.asarray(found, bool)
    x = scale.of(values)
    if hit.shape != x.shape:
        raise ValueError(f"sizes {x.shape} and found {hit.shape}: expected the same length")
    if (reason := _unfit(values) or _no_transition(values, hit)) is not None:
        return NoCurve(x.size, reason)
    sign = np.where(hit, 1.0, -1.0)
    centre, spread = float(x.mean()), float(x.std())
    z = (x - centre) / spread

    def fit(over: Floats) -> tuple[Floats, float]:
        design = np.column_stack([np.ones_like(over), _standardise(over)])
        return _maximise(lambda t: _logit_likelihood(t, design, np.zeros_like(over), sign), np.zeros(2))

    theta, best = fit(x)
    if theta[1] <= 0:
        return NoCurve(x.size, "Larger anomalies are not found more often than small ones: no curve rises with size.")
    share = float(hit.mean())
    flat = x.size * (share * math.log(share) + (1 - share) * math.log1p(-share))

    def deviance(at: float, level: float) -> float:
        """Twice the log likelihood lost when the curve must pass through (at, level), in log-odds."""
        column = (z - at)[:, None]
        offset = np.full_like(z, level)
        # From no slope: a steep one may leave the likelihood flat there, and Newton's method without a step.
        _, constrained = _maximise(lambda t: _logit_likelihood(t, column, offset, sign), np.zeros(1))
        return 2 * (best - constrained)

    design = np.column_stack([np.ones_like(z), z])
    miss = np.exp(-np.logaddexp(0.0, sign * (design @ theta)))  # 1 - probability of what was seen
    return _Line(
        sizes=values,
        scale=scale,
        intercept=float(theta[0]),
        slope=float(theta[1]),
        fits=(best, flat, fit(scale.other.of(values))[1]),
        deviance=deviance,
        gradients=np.asarray(design * (sign * miss)[:, None], np.float64),
        covariance=np.asarray(np.linalg.inv((design.T * (miss * (1 - miss))) @ design), np.float64),
        lots=lots,
    ).curve(_LOGIT_90, _expit, HANDBOOK_HIT_MISS, hits=int(hit.sum()))


def signal_response(
    sizes: npt.NDArray[np.floating],
    response: npt.NDArray[np.floating],
    decision: float,
    floor: float = -math.inf,
    ceiling: float = math.inf,
    scale: SizeScale = SizeScale.LOG,
    lots: Sequence[str] = (),
) -> PodCurve | NoCurve:
    """Curve from scores, both shape (n,): found where the score reaches `decision`; `lots` as in `hit_miss`.

    Scores at or below `floor`, or at or above `ceiling`, say only that the true one lies beyond (censored). Fitted in
    Olsen's parameters (1978), slope and intercept over sigma and 1 / sigma, in which the likelihood has one maximum.
    Raises ValueError for sizes that are not above 0 and for scores that are not finite.
    """
    values, y = _sizes(sizes), np.asarray(response, np.float64)
    x = scale.of(values)
    if y.shape != x.shape or not np.isfinite(y).all():
        raise ValueError(f"sizes {x.shape} and scores {y.shape}: expected the same length and finite scores")
    below, above = y <= floor, y >= ceiling
    inside = ~below & ~above
    if (reason := _unfit(values)) is not None:
        return NoCurve(x.size, reason)
    if inside.sum() < LEAST_TARGETS or np.ptp(x[inside]) == 0 or np.ptp(y[inside]) == 0:
        return NoCurve(
            x.size,
            f"{inside.sum()} of {x.size} scores lie within the scale; the line of score over size needs "
            f"{LEAST_TARGETS} that differ.",
        )
    x_centre, x_spread = float(x.mean()), float(x.std())
    y_spread = float(y[inside].std())
    z = (x - x_centre) / x_spread
    # The decision is at 0: a score found is a score above 0.
    seen = _Censored((np.clip(y, floor, ceiling) - decision) / y_spread, below, above)

    def design_over(place: Floats) -> Floats:
        return np.column_stack([-np.ones_like(place), -_standardise(place), seen.scores])

    def fit(over: Floats) -> tuple[Floats, float]:
        design = design_over(over)
        return _maximise(lambda t: seen.likelihood(t, design), np.array([0.0, 0.0, 1.0]))

    theta, best = fit(x)
    slope = float(theta[1])
    if slope <= 0:
        return NoCurve(x.size, "The score does not rise with size: no curve can be drawn over it.")
    if theta[2] > _LEAST_SCATTER:
        return NoCurve(x.size, "The score follows size without scatter: it cannot say how often it would not.")
    alone = np.column_stack([-np.ones_like(z), seen.scores])
    _, flat = _maximise(lambda t: seen.likelihood(t, alone), np.array([0.0, 1.0]))

    def deviance(at: float, level: float) -> float:
        """Twice the log likelihood lost when the line must reach `level` standard deviations at `at`."""
        design = np.column_stack([-(z - at), seen.scores])
        _, constrained = _maximise(lambda t: seen.likelihood(t, design, -level), np.array([max(slope, 0.1), theta[2]]))
        return 2 * (best - constrained)

    beyond = [] if inside.all() else [f"{(~inside).sum()} of {x.size} scores are at an end of the scale (censored)."]
    try:
        line = _Line(
            sizes=values,
            scale=scale,
            intercept=float(theta[0]),
            slope=slope,
            fits=(best, flat, fit(scale.other.of(values))[1]),
            deviance=deviance,
            gradients=seen.by_anomaly(theta, design_over(x)),
            covariance=np.asarray(np.linalg.inv(-seen.likelihood(theta, design_over(x))[2]), np.float64),
            lots=lots,
        )
        return line.curve(normal_quantile(0.9), normal_cdf, HANDBOOK_SIGNAL, notes=beyond)
    except np.linalg.LinAlgError:
        return NoCurve(x.size, "The scores differ too little, for how far they are from the decision, to fit a line.")


@dataclass(frozen=True, slots=True)
class _Line:
    """A fitted line over standardised size, in log-odds or standard deviations, and what its limits need."""

    sizes: Floats
    scale: SizeScale
    intercept: float
    slope: float
    fits: tuple[float, float, float]
    """Log likelihoods: of the line, of one without a slope, of one over the other scale."""
    deviance: Callable[[float, float], float]
    """Twice the log likelihood lost when the line must pass through a place and a level."""
    gradients: Floats
    """What each anomaly adds to the gradient of the likelihood, (n, k); the first two are intercept and slope."""
    covariance: Floats
    """Covariance of the parameters, (k, k), of independent anomalies."""
    lots: Sequence[str]

    def curve(
        self,
        level_90: float,
        probability: Callable[[float], float],
        wanted: int,
        *,
        hits: int | None = None,
        notes: Sequence[str] = (),
    ) -> PodCurve:
        """The curve with its limits.

        `level_90`: where the line has `probability` 0.9; `wanted`: anomalies that the handbook asks for; `hits`: None
        of a signal response, whose a90/95 is Wald's.
        """
        targets = self.sizes.size
        x = self.scale.of(self.sizes)
        centre, spread = float(x.mean()), float(x.std())
        critical = _root_critical(targets, targets - 2, wanted)

        def size(at: float | None) -> float | None:
            value = math.inf if at is None else self.scale.size(centre + spread * at)
            return value if math.isfinite(value) else None

        z50, z90 = -self.intercept / self.slope, (level_90 - self.intercept) / self.slope
        (low_50, high_50), (low, high) = self._interval(0.0, z50, critical), self._interval(level_90, z90, critical)
        over_lots_50, over_lots = self._over_lots(0.0, z50, wanted), self._over_lots(level_90, z90, wanted)
        if hits is not None:
            handbook = _crossing(lambda at: self.deviance(at, level_90), z90, 1.0, _ROOT_CHI2)
        else:  # a slope so uncertain that `high` is None has no place at which the level is reached for certain
            handbook = None if high is None else z90 + _Z_95_ONE_SIDED * math.sqrt(self._variance(z90))
        place = (x - centre) / spread
        grid = np.linspace(place.min(), place.max(), CURVE_POINTS)
        lower = _lower_curve(self.deviance, self._eta, grid, critical)
        best, flat, other = self.fits
        curve = PodCurve(
            targets=targets,
            hits=hits,
            intercept=self.intercept - self.slope * centre / spread,
            slope=self.slope / spread,
            a50=size(z50),
            a50_low=size(low_50),
            a50_high=size(high_50),
            a90=size(z90),
            a90_low=size(low),
            a90_high=size(high),
            a90_95=size(handbook),
            lots=len(set(self.lots)),
            a50_lots_low=size(over_lots_50[0]),
            a50_lots_high=size(over_lots_50[1]),
            a90_lots_low=size(over_lots[0]),
            a90_lots_high=size(over_lots[1]),
            sizes=np.array([size(at) for at in grid]),
            pod=np.array([probability(self._eta(at)) for at in grid]),
            pod_low=np.array([probability(level) for level in lower]),
            scale=self.scale,
            notes=(
                *_notes(self.sizes, self.scale.size(centre + spread * z90), size(high), wanted),
                *_other_scale(self.scale, best, other),
                *notes,
            ),
        )
        return curve if _rises(best, flat, critical) else _without_sizes(curve)

    def _eta(self, at: float) -> float:
        return self.intercept + self.slope * at

    def _interval(self, level: float, middle: float, critical: float) -> tuple[float | None, float | None]:
        """Ends of the interval of where the line reaches a level, at `middle`; None where the deviance stays below."""

        def lost(at: float) -> float:
            return self.deviance(at, level)

        return _crossing(lost, middle, -1.0, critical), _crossing(lost, middle, 1.0, critical)

    def _over_lots(self, level: float, middle: float, wanted: int) -> tuple[float | None, float | None]:
        """Ends of that interval over lots: see the head of this module."""
        names, place = np.unique(np.asarray(self.lots), return_inverse=True)
        if names.size < 2:
            return None, None
        pull = self.gradients @ (self.covariance @ self._moves(middle))  # how far each anomaly pulls the place
        by_lot = np.bincount(place, weights=pull)
        between = names.size / (names.size - 1) * float(by_lot @ by_lot)
        sizes = np.bincount(place).astype(np.float64)
        worth = max(1.0, sizes.sum() / most_scans(sizes), between / self._variance(middle))
        critical = _root_critical(len(self.gradients), names.size - 1, wanted) * math.sqrt(worth)
        return self._interval(level, middle, critical)

    def _variance(self, middle: float) -> float:
        """Variance of a place that the line reaches a level at, by the delta method, of independent anomalies."""
        moves = self._moves(middle)
        return float(moves @ self.covariance @ moves)

    def _moves(self, middle: float) -> Floats:
        """How far that place moves with each parameter, (k,)."""
        moves = np.zeros(len(self.covariance))
        moves[:2] = np.array([1.0, middle]) / self.slope
        return moves


def _logit_likelihood(theta: Floats, design: Floats, offset: Floats, sign: Floats) -> Likelihood:
    """Log likelihood of hits (sign 1) and misses (-1), shape (n,), whose log-odds are design @ theta + offset."""
    margin = sign * (design @ theta + offset)
    value = -float(np.sum(np.logaddexp(0.0, -margin)))
    miss = np.exp(-np.logaddexp(0.0, margin))  # 1 - probability of what was seen
    gradient = design.T @ (sign * miss)
    return value, gradient, -(design.T * (miss * (1 - miss))) @ design


@dataclass(frozen=True, slots=True)
class _Censored:
    """Scores, shape (n,), of which some say only that the true one lies below or above."""

    scores: Floats
    below: npt.NDArray[np.bool_]
    above: npt.NDArray[np.bool_]

    def likelihood(self, theta: Floats, design: Floats, offset: float = 0.0) -> Likelihood:
        """Parameters end with h = 1 / sigma; u = h score - line, in standard deviations."""
        if theta[-1] <= 0:
            return -math.inf, theta, np.eye(theta.size)
        inside = ~self.below & ~self.above
        value, first, second = self._terms(theta, design, offset)
        gradient = design.T @ first
        hessian = (design.T * second) @ design
        gradient[-1] += inside.sum() / theta[-1]
        hessian[-1, -1] -= inside.sum() / theta[-1] ** 2
        return float(value.sum()), gradient, hessian

    def by_anomaly(self, theta: Floats, design: Floats) -> Floats:
        """What each anomaly adds to the gradient, shape (n, k)."""
        _, first, _ = self._terms(theta, design, 0.0)
        gradients = design * first[:, None]
        gradients[~self.below & ~self.above, -1] += 1 / theta[-1]
        return gradients

    def _terms(self, theta: Floats, design: Floats, offset: float) -> tuple[Floats, Floats, Floats]:
        """Log likelihood of each anomaly with its first and second derivative by u."""
        inside = ~self.below & ~self.above
        u = design @ theta + offset
        value, first, second = np.empty_like(u), np.empty_like(u), np.empty_like(u)
        value[inside] = log_normal_density(u[inside]) + math.log(theta[-1])
        first[inside], second[inside] = -u[inside], -1.0
        for side, mask in ((1.0, self.below), (-1.0, self.above)):
            tail = log_normal_cdf(side * u[mask])
            mills = np.exp(log_normal_density(u[mask]) - tail)
            value[mask], first[mask] = tail, side * mills
            second[mask] = -mills * (mills + side * u[mask])
        return value, first, second


def _sizes(sizes: npt.NDArray[np.floating]) -> Floats:
    values = np.asarray(sizes, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or not (values > 0).all():
        raise ValueError("sizes of anomalies are finite and above 0")
    return values


def _standardise(x: Floats) -> Floats:
    return np.asarray((x - x.mean()) / x.std())


def _other_scale(scale: SizeScale, best: float, other: float) -> list[str]:
    """What to say where the scale that was not chosen fits clearly better."""
    if other - best < CLEARLY_BETTER:
        return []
    return [f"A {scale.other} scale of size fits better: log likelihood {other:.1f}, here {best:.1f}."]


def _unfit(x: Floats) -> str | None:
    if x.size < LEAST_TARGETS:
        return f"{x.size} anomalies with a size are too few for a curve: {LEAST_TARGETS} are needed."
    if np.unique(x).size < 3:
        return "A curve over size needs at least three different sizes."
    return None


def _no_transition(x: Floats, hit: npt.NDArray[np.bool_]) -> str | None:
    if hit.all():
        return f"All {x.size} anomalies were found: a curve needs some small enough to be missed."
    if not hit.any():
        return f"None of {x.size} anomalies was found: a curve needs some large enough to be found."
    largest_miss, smallest_hit = x[~hit].max(), x[hit].min()
    if largest_miss <= smallest_hit:
        return (
            f"Found and missed do not overlap: all up to {largest_miss:.3g} were missed, all from {smallest_hit:.3g} "
            "found. The steepness has no estimate; add sizes around that gap."
        )
    if x[hit].max() <= x[~hit].min():
        return "Only the smallest anomalies were found: no curve rises with size."
    return None


def _rises(best: float, flat: float, critical: float) -> bool:
    """Whether the curve fits better than one without a slope, by their log likelihoods."""
    return math.sqrt(max(2 * (best - flat), 0.0)) > critical


def _without_sizes(curve: PodCurve) -> PodCurve:
    """The curve as it can be drawn, without the sizes that it does not show."""
    note = (
        f"These {curve.targets} anomalies do not show that larger ones are found more often: there is no a50, no a90."
    )
    return replace(
        curve,
        a50=None,
        a50_low=None,
        a50_high=None,
        a90=None,
        a90_low=None,
        a90_high=None,
        a90_95=None,
        a50_lots_low=None,
        a50_lots_high=None,
        a90_lots_low=None,
        a90_lots_high=None,
        notes=(note,),
    )


def _notes(x: Floats, a90: float, a90_high: float | None, wanted: int) -> tuple[str, ...]:
    notes = []
    largest = x.max()
    if x.size < wanted:
        notes.append(f"{x.size} anomalies; the handbook asks for {wanted}: the limits are the wider for it.")
    if a90_high is None:
        notes.append("The upper limit of a90 has no finite value: the data do not show that detection rises with size.")
    elif a90_high > largest:
        notes.append(f"The upper limit of a90 lies beyond the largest anomaly ({largest:.3g}): it is extrapolated.")
    if a90 < x.min():
        notes.append("a90 lies below the smallest anomaly: it is extrapolated.")
    return tuple(notes)


def _maximise(likelihood: Callable[[Floats], Likelihood], start: Floats) -> tuple[Floats, float]:
    """Newton's method with halved steps on a concave function; returns the point and the value there."""
    theta, (value, gradient, hessian) = start, likelihood(start)
    for _ in range(_NEWTON_STEPS):
        step = np.linalg.solve(hessian - 1e-12 * np.eye(theta.size), -gradient)
        if float(gradient @ step) < 1e-12:
            break
        share = 1.0
        while share > 1e-16:
            ahead, gradient_ahead, hessian_ahead = likelihood(theta + share * step)
            if ahead >= value:
                break
            share /= 2
        else:
            break
        theta, value, gradient, hessian = theta + share * step, ahead, gradient_ahead, hessian_ahead
    return theta, value


def _root_critical(targets: int, degrees: int, wanted: int) -> float:
    """Root of the deviance at which an interval ends; of fewer anomalies than the `wanted` of the handbook, farther."""
    return t_quantile(1 - 0.025 * min(1.0, targets / wanted), degrees)


def _lower_curve(
    deviance: Callable[[float, float], float], eta: Callable[[float], float], grid: Floats, critical: float
) -> Floats:
    """Lower 95 % limit of the linear predictor `eta` at `grid`; computed at a few points, straight between them."""
    knots = np.linspace(grid[0], grid[-1], _BAND_POINTS)
    levels = []
    for at in knots:
        level = _crossing(partial(deviance, float(at)), eta(float(at)), -1.0, critical)
        levels.append(-_FARTHEST if level is None else level)
    return np.interp(grid, knots, levels)


def _crossing(deviance: Callable[[float], float], middle: float, direction: float, critical: float) -> float | None:
    """Where the root of the deviance first reaches `critical`, by regula falsi (Illinois): it is near to a line."""

    def excess(distance: float) -> float:
        return math.sqrt(max(deviance(middle + direction * distance), 0.0)) - critical

    near, far = (0.0, -critical), (0.5, excess(0.5))
    while far[1] < 0:
        if far[0] >= _FARTHEST:
            return None
        near, far = far, (far[0] * 2, excess(far[0] * 2))
    lower, upper = near[1], far[1]
    for _ in range(60):
        guess = near[0] - lower * (far[0] - near[0]) / (upper - lower)
        value = excess(guess)
        if abs(value) < 1e-5:
            break
        if value < 0:
            near, lower, upper = (guess, value), value, upper / 2
        else:
            far, upper, lower = (guess, value), value, lower / 2
    return middle + direction * guess


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
