"""Distribution functions against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edge.validation.distributions import (
    beta_cdf,
    beta_quantile,
    chi2_quantile,
    log_normal_cdf,
    t_quantile,
)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 60), (60, 1), (3, 297), (5.5, 0.5), (400, 700)])
@pytest.mark.parametrize("x", [1e-6, 0.01, 0.3, 0.5, 0.97])
def test_the_beta_function_is_that_of_scipy(a: float, b: float, x: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(1, 60), (3, 297), (0.5, 4.5), (40, 7)])
def test_a_beta_quantile_is_that_of_scipy(a: float, b: float) -> None:
    assert beta_quantile(0.95, a, b) == pytest.approx(stats.beta.ppf(0.95, a, b), rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 5, 11, 200])
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.9, 0.975])
def test_a_quantile_of_students_t_is_that_of_scipy(degrees: int, probability: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-8, abs=1e-7)


def test_the_log_of_the_normal_function_holds_far_into_the_tail() -> None:
    z = np.array([-200.0, -40.0, -30.0, -29.9, -5.0, 0.0, 9.0])

    assert log_normal_cdf(z) == pytest.approx(stats.norm.logcdf(z), rel=1e-6)


def test_chi_squared_of_one_degree_is_that_of_scipy() -> None:
    assert chi2_quantile(0.9) == pytest.approx(stats.chi2.ppf(0.9, 1))
