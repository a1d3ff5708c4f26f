"""Curves of detection over size against published fits, statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats

from edge.validation import detection
from edge.validation.detection import NoCurve, PodCurve, SizeScale, hit_miss, signal_response
from edge.validation.reliability import CURVE_POINTS
from tests.edge.validation.handbook import example_1, example_3, example_6

# Bliss 1935, flour beetles: log10 dose of carbon disulphide, insects, killed. Dobson and Barnett, An Introduction to
# Generalized Linear Models, table 7.2.
BEETLES = (
    (1.6907, 59, 6), (1.7242, 60, 13), (1.7552, 62, 18), (1.7842, 56, 28),
    (1.8113, 63, 52), (1.8369, 59, 53), (1.8610, 62, 61), (1.8839, 60, 60),
)  # fmt: skip


def beetles() -> tuple[np.ndarray, np.ndarray]:
    sizes = np.concatenate([np.full(n, 10**dose) for dose, n, _ in BEETLES])
    found = np.concatenate([np.arange(n) < killed for _, n, killed in BEETLES])
    return sizes, found


# Collett 1991, Modelling Binary Data, example 3.7, tobacco budworm: dose in micrograms, killed of 20 females. Also the
# data set `budworm` of the R package pbkrtest.
BUDWORM = ((1, 0), (2, 2), (4, 6), (8, 10), (16, 12), (32, 16))

# Launches of the space shuttle before Challenger: temperature in degrees F, whether an O-ring was in distress. Also the
# data set `Challeng` of the R package alr4 (Dalal, Fowlkes and Hoadley 1989).
O_RINGS = (
    (66, 0), (70, 1), (69, 0), (68, 0), (67, 0), (72, 0), (73, 0), (70, 0), (57, 1), (63, 1), (70, 1), (78, 0),
    (67, 0), (53, 1), (67, 0), (75, 0), (70, 0), (81, 0), (76, 0), (79, 0), (75, 1), (76, 0), (58, 1),
)  # fmt: skip


SETS = 200
"""Sets of anomalies in a simulation."""
LEAST_COVERAGE = 0.93 - 2 * math.sqrt(0.93 * 0.07 / SETS)
"""93 %, less two standard errors of the simulation."""


def drawn(n: int, rng: np.random.Generator, a50: float = 1.0, slope: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.exp(rng.uniform(math.log(0.3), math.log(4.0), n)) * a50
    return sizes, rng.random(n) < 1 / (1 + np.exp(-slope * np.log(sizes / a50)))


@pytest.mark.parametrize(
    ("scale", "a90_95"),
    [(SizeScale.LINEAR, 0.1974), (SizeScale.LOG, 0.2106)],
)
def test_the_handbooks_hit_miss_example_has_its_a90_95_on_both_scales(scale: SizeScale, a90_95: float) -> None:
    """MIL-HDBK-1823A G.4.2.4, page 135; the last digit of the log scale is printed rounded up from 0.21059."""
    curve = hit_miss(*example_3(), scale)

    assert isinstance(curve, PodCurve)
    assert (curve.hits, curve.targets) == (92, 134)
    assert curve.a90_95 == pytest.approx(a90_95, abs=5.1e-5)


def test_the_handbooks_hit_miss_example_has_its_a50_a90_and_steepness() -> None:
    """MIL-HDBK-1823A, figure G-43, page 132."""
    curve = hit_miss(*example_3(), SizeScale.LINEAR)

    assert isinstance(curve, PodCurve)
    assert curve.a50 == pytest.approx(0.1156, abs=5e-5)
    assert curve.a90 == pytest.approx(0.1709, abs=5e-5)
    assert 1 / curve.slope == pytest.approx(0.025147, abs=5e-7)


def test_the_handbooks_example_of_four_disks_has_its_logit_and_a90_95() -> None:
    """MIL-HDBK-1823A, figure G-47, page 140; its a90/95, 132.4, is read off a grid of 101 sizes."""
    curve = hit_miss(*example_6())

    assert isinstance(curve, PodCurve)
    assert (curve.intercept, curve.slope) == pytest.approx((-3.9546, 1.5007), abs=5e-5)
    assert (curve.a50, curve.a90) == pytest.approx((13.95, 60.3), abs=0.0055)
    assert curve.a90_95 == pytest.approx(132.4, rel=0.002)


def test_the_handbooks_signal_example_has_its_a50_a90_and_a90_95() -> None:
    """MIL-HDBK-1823A, figure G-6, page 92: the smallest and the largest signals count as censored (page 87)."""
    curve = signal_response(*example_1(), decision=200.0, floor=50.0, ceiling=1375.0)

    assert isinstance(curve, PodCurve) and curve.a90_high is not None
    assert (curve.a50, curve.a90, curve.a90_95) == pytest.approx((8.8, 12.69, 13.68), abs=0.0055)
    assert (math.log(curve.a50), 1 / curve.slope) == pytest.approx((2.175, 0.28542), abs=5e-4)
    assert curve.a90_95 < curve.a90_high


def test_the_logit_of_bliss_beetles_is_the_published_one() -> None:
    """Dobson and Barnett, An Introduction to Generalized Linear Models: -60.72 and 34.27 per log10 dose."""
    curve = hit_miss(*beetles())

    assert isinstance(curve, PodCurve)
    assert curve.intercept == pytest.approx(-60.72, abs=0.005)
    assert curve.slope * math.log(10) == pytest.approx(34.27, abs=0.005)
    assert math.log10(curve.a50) == pytest.approx(60.72 / 34.27, abs=0.001)


def test_the_logit_of_budworms_is_the_published_one() -> None:
    """Venables and Ripley, Modern Applied Statistics with S, 7.2: females -2.9935 and 0.90604 per doubling of dose."""
    sizes = np.repeat([float(dose) for dose, _ in BUDWORM], 20)
    killed = np.concatenate([np.arange(20) < dead for _, dead in BUDWORM])
    curve = hit_miss(sizes, killed)

    assert isinstance(curve, PodCurve)
    assert curve.intercept == pytest.approx(-2.9935, abs=5e-5)
    assert curve.slope * math.log(2) == pytest.approx(0.90604, abs=5e-6)
    assert math.log2(curve.a50) == pytest.approx(2.9935 / 0.90604, abs=1e-3)


def test_the_logit_of_the_o_rings_over_plain_temperature_is_the_published_one() -> None:
    """Agresti, Categorical Data Analysis: 15.043 - 0.2322 t; here over the degrees below 100, so that it rises."""
    sizes = np.array([100.0 - degrees for degrees, _ in O_RINGS])
    curve = hit_miss(sizes, np.array([distress for _, distress in O_RINGS], bool), SizeScale.LINEAR)

    assert isinstance(curve, PodCurve)
    assert curve.slope == pytest.approx(0.2322, abs=5e-5)
    assert curve.intercept + 100 * curve.slope == pytest.approx(15.043, abs=5e-4)
    assert 100 - curve.a50 == pytest.approx(15.043 / 0.2322, abs=0.02)
    assert curve.scale == "linear" and curve.sizes[[0, -1]] == pytest.approx((19.0, 47.0))
    deltas = np.diff(curve.sizes)
    assert deltas == pytest.approx(np.full_like(deltas, deltas[0]))


def test_the_limits_on_a_plain_scale_lose_the_critical_likelihood_too() -> None:
    sizes, found = drawn(70, np.random.default_rng(9))
    curve = hit_miss(sizes, found, SizeScale.LINEAR)
    assert isinstance(curve, PodCurve) and curve.a90_95 is not None
    best = sm.Logit(found.astype(float), sm.add_constant(sizes)).fit(disp=False)
    through = sm.GLM(
        found.astype(float),
        (sizes - curve.a90_95)[:, None],
        family=sm.families.Binomial(),
        offset=np.full(sizes.size, math.log(9)),
    ).fit()

    assert (curve.intercept, curve.slope) == pytest.approx(tuple(best.params), rel=1e-6)
    assert 2 * (best.llf - through.llf) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-4)


def test_a_scale_that_fits_worse_than_the_other_says_so() -> None:
    rng = np.random.default_rng(21)
    sizes = np.exp(rng.uniform(math.log(0.05), math.log(20.0), 400))
    response = np.log(sizes) + rng.normal(0, 0.4, 400)
    log, linear = (signal_response(sizes, response, 0.0, scale=scale) for scale in SizeScale)

    assert isinstance(log, PodCurve) and isinstance(linear, PodCurve)
    assert not any("fits better" in note for note in log.notes)
    assert any(note.startswith("A log scale of size fits better: log likelihood ") for note in linear.notes)
    assert log.a50 == pytest.approx(1.0, abs=0.1) and abs(linear.a50 - 1) > 0.3


def test_a_hit_miss_fit_is_that_of_statsmodels() -> None:
    sizes, found = drawn(90, np.random.default_rng(4))
    curve = hit_miss(sizes, found)
    fit = sm.Logit(found.astype(float), sm.add_constant(np.log(sizes))).fit(disp=False)

    assert isinstance(curve, PodCurve)
    assert (curve.intercept, curve.slope) == pytest.approx(tuple(fit.params), rel=1e-6)
    assert curve.a90 == pytest.approx(math.exp((math.log(9) - fit.params[0]) / fit.params[1]), rel=1e-6)


# A step so steep that Newton's method stood still beside it: the upper limit of a90 came out at 0.91.
STEEP = (
    (0.333, 0.341, 0.396, 0.437, 0.467, 0.499, 0.522, 0.722, 0.739, 0.743, 0.796, 0.804, 0.8055, 1.191, 1.286),
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1),
)


@pytest.mark.parametrize(
    ("sizes", "found", "level"),
    [
        (*drawn(70, np.random.default_rng(9)), 0.95),
        (*drawn(45, np.random.default_rng(9)), 0.9625),
        (np.array(STEEP[0]), np.array(STEEP[1], bool), 0.9875),
    ],
    ids=["many", "few", "steep"],
)
def test_the_limits_of_a50_and_a90_lose_the_critical_likelihood_as_statsmodels_counts_it(
    sizes: np.ndarray, found: np.ndarray, level: float
) -> None:
    """Below the 60 anomalies of the handbook the level is higher, so that what has an a90 holds it."""
    curve = hit_miss(sizes, found)
    assert isinstance(curve, PodCurve) and curve.a90_95 and curve.a90_low and curve.a90_high
    assert curve.a50 and curve.a50_low and curve.a50_high
    logit = sm.GLM(found.astype(float), sm.add_constant(np.log(sizes)), family=sm.families.Binomial())
    best = logit.fit(start_params=[curve.intercept, curve.slope]).llf
    student = stats.t.ppf((1 + level) / 2, sizes.size - 2) ** 2

    for limit, odds, lost in (
        (curve.a50_low, 1, student),
        (curve.a50_high, 1, student),
        (curve.a90_low, 9, student),
        (curve.a90_high, 9, student),
        (curve.a90_95, 9, stats.chi2.ppf(0.95, 1)),
    ):
        through = sm.GLM(
            found.astype(float),
            (np.log(sizes) - math.log(limit))[:, None],
            family=sm.families.Binomial(),
            offset=np.full(sizes.size, math.log(odds)),
        ).fit()
        assert 2 * (best - through.llf) == pytest.approx(lost, abs=1e-4)
    assert curve.a50_low < curve.a50 < curve.a50_high
    assert curve.a90_low < curve.a90 < curve.a90_95 < curve.a90_high


def covered(curves: list[PodCurve | NoCurve], truth: float, point: str = "a90") -> tuple[float, float]:
    """Shares of the curves whose interval of a90 holds the true one, and whose upper end lies above it."""
    ends = [
        (getattr(curve, f"{point}_low") or 0.0, getattr(curve, f"{point}_high") or math.inf)
        for curve in curves
        if isinstance(curve, PodCurve)
    ]
    low, high = np.array(ends).T
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(truth <= high))


@pytest.fixture
def limits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation asks for the limits of a90: the curve around them is left out."""
    monkeypatch.setattr(detection, "_BAND_POINTS", 2)


@pytest.mark.usefixtures("limits_alone")
@pytest.mark.parametrize(("targets", "fitted"), [(30, 0.95), (60, 0.98)])
def test_the_intervals_of_hit_miss_hold_the_true_a50_and_a90_and_that_ends_above(targets: int, fitted: float) -> None:
    """Sets that carry no curve are answered with a sentence; they count in no coverage."""
    rng = np.random.default_rng(2)
    curves = [hit_miss(*drawn(targets, rng)) for _ in range(SETS)]
    both, above = covered(curves, math.exp(math.log(9) / 3.0))

    assert sum(isinstance(curve, PodCurve) for curve in curves) >= fitted * SETS
    assert both >= LEAST_COVERAGE
    assert above >= 0.95
    assert covered(curves, 1.0, "a50")[0] >= LEAST_COVERAGE


def test_the_lower_curve_meets_90_percent_at_the_upper_limit_of_a90() -> None:
    curve = hit_miss(*drawn(120, np.random.default_rng(11)))

    assert isinstance(curve, PodCurve) and curve.a90_high is not None
    assert np.interp(math.log(curve.a90_high), np.log(curve.sizes), curve.pod_low) == pytest.approx(0.9, abs=0.01)
    assert np.all(curve.pod_low <= curve.pod)


@pytest.mark.parametrize(
    ("sizes", "found", "says"),
    [
        (np.arange(1, 8), np.arange(1, 8) > 3, "too few"),
        (np.arange(1, 41), np.ones(40, bool), "All 40 anomalies were found"),
        (np.arange(1, 41), np.zeros(40, bool), "None of 40"),
        (np.arange(1, 41), np.arange(1, 41) > 20, "do not overlap: all up to 20 were missed, all from 21 found"),
        (np.arange(1, 41), np.arange(1, 41) < 20, "Only the smallest"),
        (np.tile([1.0, 2.0], 20), np.arange(40) % 3 > 0, "three different sizes"),
        (np.arange(1, 41), np.arange(40) < np.where(np.arange(40) % 4 == 0, 99, 18), "not found more often"),
    ],
)
def test_data_that_carry_no_curve_are_answered_with_a_sentence(sizes: np.ndarray, found: np.ndarray, says: str) -> None:
    curve = hit_miss(sizes, found)

    assert isinstance(curve, NoCurve)
    assert says in curve.reason


def test_sizes_without_effect_have_a_curve_to_look_at_and_no_a90() -> None:
    """23 of 24 found, the missed one small, had an a50 of a ten-thousandth and a limit of 10^12."""
    sizes = np.geomspace(8.0, 140.0, 24)
    found = hit_miss(sizes, np.arange(24) != 2)
    scattered = signal_response(sizes, np.tile([0.1, -0.1, 0.2, -0.2], 6) + 0.005 * np.arange(24), decision=0.5)

    for curve in (found, scattered):
        assert isinstance(curve, PodCurve)
        assert {getattr(curve, point) for point in CURVE_POINTS} == {None}
        assert len(curve.notes) == 1 and "do not show that larger ones are found more often" in curve.notes[0]


@pytest.mark.parametrize("spread", [1.0, 1e-9], ids=["far beyond the sizes", "by less than rounding"])
def test_a_score_that_hardly_rises_with_size_ends_no_replay(spread: float) -> None:
    """The gate's score is often far below its threshold whatever the size: a90 lies beyond all numbers, or is flat."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        sizes = rng.lognormal(1.0, 1.0, 40)
        curve = signal_response(sizes, spread * (1e-3 * np.log(sizes) + rng.normal(0, 0.01, 40)), decision=3.0)
        assert isinstance(curve, NoCurve) or curve.a90 is None or math.isfinite(curve.a90)


def test_few_anomalies_and_a_limit_beyond_them_are_noted() -> None:
    curve = hit_miss(*drawn(30, np.random.default_rng(7)))

    assert isinstance(curve, PodCurve)
    assert any("the handbook asks for 60" in note for note in curve.notes)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        hit_miss(np.array([0.0, 1.0]), np.array([False, True]))


def censored(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.exp(rng.uniform(-1.5, 1.5, n))
    return sizes, np.clip(0.5 + 2.0 * np.log(sizes) + rng.normal(0, 0.8, n), -1.5, 3.0)


def test_a_line_without_censoring_is_least_squares() -> None:
    rng = np.random.default_rng(5)
    sizes = np.exp(rng.uniform(-1, 1, 60))
    response = 1.0 + 2.0 * np.log(sizes) + rng.normal(0, 0.5, 60)
    curve = signal_response(sizes, response, decision=0.7)
    fit = sm.OLS(response, sm.add_constant(np.log(sizes))).fit()
    sigma = math.sqrt(fit.ssr / 60)

    assert isinstance(curve, PodCurve)
    assert curve.a50 == pytest.approx(math.exp((0.7 - fit.params[0]) / fit.params[1]), rel=1e-6)
    assert curve.slope == pytest.approx(fit.params[1] / sigma, rel=1e-6)


def test_a_censored_line_is_the_maximum_of_the_written_out_likelihood() -> None:
    sizes, response = censored(80, np.random.default_rng(6))
    curve = signal_response(sizes, response, decision=0.5, floor=-1.5, ceiling=3.0)

    def lost(parameters: np.ndarray) -> float:
        a, b, log_sigma = parameters
        u = (response - a - b * np.log(sizes)) / math.exp(log_sigma)
        terms = np.where(response <= -1.5, stats.norm.logcdf(u), stats.norm.logpdf(u) - log_sigma)
        return -float(np.sum(np.where(response >= 3.0, stats.norm.logsf(u), terms)))

    a, b, log_sigma = optimize.minimize(
        lost, [0, 1, 0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}
    ).x
    assert isinstance(curve, PodCurve)
    assert curve.a50 == pytest.approx(math.exp((0.5 - a) / b), rel=1e-4)
    assert curve.a90 == pytest.approx(math.exp((0.5 - a + stats.norm.ppf(0.9) * math.exp(log_sigma)) / b), rel=1e-4)
    assert any("censored" in note for note in curve.notes)


@pytest.mark.usefixtures("limits_alone")
def test_the_interval_of_signal_response_holds_the_true_a90() -> None:
    rng = np.random.default_rng(8)
    curves = [signal_response(*censored(40, rng), decision=0.5, floor=-1.5, ceiling=3.0) for _ in range(SETS)]
    both, above = covered(curves, math.exp(stats.norm.ppf(0.9) * 0.8 / 2.0))

    assert len(curves) == SETS
    assert both >= LEAST_COVERAGE
    assert above >= LEAST_COVERAGE


def test_the_lower_curve_of_signal_response_meets_90_percent_at_the_upper_limit_of_a90() -> None:
    curve = signal_response(*censored(60, np.random.default_rng(12)), decision=0.5, floor=-1.5, ceiling=3.0)

    assert isinstance(curve, PodCurve) and curve.a90_high is not None
    assert np.interp(math.log(curve.a90_high), np.log(curve.sizes), curve.pod_low) == pytest.approx(0.9, abs=0.005)
    assert np.all(curve.pod_low <= curve.pod)


def test_a_score_that_falls_with_size_has_no_curve() -> None:
    sizes, response = censored(60, np.random.default_rng(3))
    curve = signal_response(sizes, -response, decision=0.5)

    assert isinstance(curve, NoCurve)
    assert "does not rise" in curve.reason


def test_a_score_without_scatter_has_no_curve() -> None:
    sizes, _ = censored(60, np.random.default_rng(3))
    curve = signal_response(sizes, 0.3 + 2.0 * np.log(sizes), decision=0.5)

    assert isinstance(curve, NoCurve)
    assert "without scatter" in curve.reason


def lots_drawn(lots: int, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Eight anomalies a lot, whose log-odds of being found differ between lots by `spread`."""
    lot = np.repeat(np.arange(lots), 8)
    x = rng.uniform(-1.2, 1.8, lot.size)
    odds = 2 * x + rng.normal(0, spread, lots)[lot]
    return np.exp(x), rng.random(lot.size) < 1 / (1 + np.exp(-odds)), lot.astype(str).tolist()


@pytest.mark.usefixtures("limits_alone")
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_interval_of_a90_over_lots_covers_it_where_lots_are_found_more_and_less_easily(spread: float) -> None:
    rng = np.random.default_rng(14)
    shifts = spread * stats.norm.ppf(np.linspace(0.0005, 0.9995, 1000))
    x90 = optimize.brentq(lambda x: np.mean(1 / (1 + np.exp(-(2 * x + shifts)))) - 0.9, 0, 10)
    truth = math.exp(x90)
    curves = []
    for _ in range(80):
        sizes, found, lots = lots_drawn(12, spread, rng)
        curves.append(hit_miss(sizes, found, lots=lots))
    fitted = [curve for curve in curves if isinstance(curve, PodCurve)]
    assert len(fitted) > 75
    over_lots, alone = (
        np.mean([(low or 0.0) <= truth <= (high or math.inf) for low, high in ends])
        for ends in (
            [(curve.a90_lots_low, curve.a90_lots_high) for curve in fitted],
            [(curve.a90_low, curve.a90_high) for curve in fitted],
        )
    )

    assert over_lots >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 80)
    assert (alone < 0.9) == (spread > 0), "which takes anomalies as independent"


@pytest.mark.usefixtures("limits_alone")
@pytest.mark.parametrize("model", ["hit/miss", "signal response"])
def test_lots_that_differ_widen_the_interval_of_a90_and_one_lot_has_none(model: str) -> None:
    rng = np.random.default_rng(15)
    x = np.tile(np.linspace(-1.5, 1.5, 10), 12)
    alike, shift = rng.normal(0, 0.7, 120), np.repeat(rng.normal(0, 1.5, 12), 10)
    lots = np.repeat(np.arange(12), 10).astype(str).tolist()

    def fitted(response: np.ndarray, lots: list[str]) -> PodCurve:
        if model == "hit/miss":
            curve = hit_miss(np.exp(x), response > 0, lots=lots)
        else:
            curve = signal_response(np.exp(x), response, 0.0, lots=lots)
        assert isinstance(curve, PodCurve)
        return curve

    def width(curve: PodCurve) -> float:
        assert curve.a90_lots_low is not None and curve.a90_lots_high is not None
        assert curve.a90_low is not None and curve.a90_high is not None
        return math.log(curve.a90_lots_high / curve.a90_lots_low) / math.log(curve.a90_high / curve.a90_low)

    assert 1 < width(fitted(2 * x + alike, lots)) < width(fitted(2 * x + alike + shift, lots))
    alone = fitted(2 * x + alike, ["B01"] * 120)
    assert (alone.lots, alone.a90_lots_low, alone.a90_lots_high) == (1, None, None)
