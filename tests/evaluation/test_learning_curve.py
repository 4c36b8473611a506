"""A law is found where there is one, its band covers, and it is refused where it would be a story."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from medcl.evaluation.learning_curve import Law, NoLaw, fit_law
from medcl.evaluation.statistics import Estimate

N = np.array([10, 50, 100, 1000])


def _truth(n, ceiling: float = 0.95, gain: float = 0.05, rate: float = 0.4):
    return ceiling - gain * (np.asarray(n) / 1000) ** -rate


def _curve(rng: np.random.Generator, spread: float = 0.01, n: np.ndarray = N) -> list[Estimate]:
    """Estimates around the law; the replicates lie around what was measured, as a bootstrap's do."""
    values = _truth(n) + rng.normal(0, spread, len(n))
    return [Estimate(np.array([value]), value + rng.normal(0, spread, 400)) for value in values]


def test_exact_points_give_the_law_back() -> None:
    found = fit_law(N, [Estimate(np.array([value]), value + 2e-3 * np.linspace(-1, 1, 100)) for value in _truth(N)], 1.0)
    assert isinstance(found, Law)
    assert found.ceiling == pytest.approx(0.95, abs=0.01) and found.rate == pytest.approx(0.4, rel=0.05)
    assert found.line == pytest.approx(_truth(found.n), abs=1e-3)
    assert found.twice[0] == pytest.approx(_truth(2000), abs=3e-3)


def test_fit_is_the_least_squares_that_scipy_finds() -> None:
    n = np.array([10, 30, 100, 300, 1000])
    rng = np.random.default_rng(2)
    values = _truth(n) + rng.normal(0, 0.004, 5)
    spread = rng.normal(0, 0.01, 500)
    found = fit_law(n, [Estimate(np.array([value]), value + spread) for value in values], 1.0)
    assert isinstance(found, Law)
    theirs, _ = curve_fit(_truth, n, values, p0=(0.9, 0.1, 0.5), bounds=([0, 0, 0.05], [1, 1, 2]))
    assert found.line == pytest.approx(_truth(found.n, *theirs), abs=1e-3)


def test_band_covers_the_law() -> None:
    """150 studies: the band holds the true curve between the points and at twice the labels."""
    inside, beyond, refused = [], [], 0
    for seed in range(150):
        found = fit_law(N, _curve(np.random.default_rng(seed)), 1.0)
        if isinstance(found, NoLaw):
            refused += 1
            continue
        middle = np.searchsorted(found.n, 300)
        inside.append(found.low[middle] <= _truth(found.n[middle]) <= found.high[middle])
        beyond.append(found.twice[1] <= _truth(2000) <= found.twice[2])
    assert refused < 8
    assert np.mean(inside) > 0.91 and np.mean(beyond) > 0.91


def test_three_fractions_are_too_few() -> None:
    found = fit_law(N[:3], _curve(np.random.default_rng(0), n=N[:3]), 1.0)
    assert isinstance(found, NoLaw) and "too few" in found.reason and "4 are needed" in found.reason
    twins = fit_law(np.array([10, 10, 50, 100]), _curve(np.random.default_rng(0)), 1.0)
    assert isinstance(twins, NoLaw), "two fractions with as many patients are one point"


def test_a_curve_that_falls_or_bends_otherwise_is_refused() -> None:
    def points(*values: float) -> list[Estimate]:
        return [Estimate(np.array([value]), value + 0.002 * np.linspace(-1, 1, 100)) for value in values]

    falls = fit_law(N, points(0.9, 0.85, 0.84, 0.8), 1.0)
    assert isinstance(falls, NoLaw) and "does not rise" in falls.reason
    jumps = fit_law(N, points(0.6, 0.6, 0.9, 0.9), 1.0)
    assert isinstance(jumps, NoLaw) and "outside the interval" in jumps.reason


def test_ceiling_stays_below_the_best_there_is_and_lower_may_be_better() -> None:
    steep = fit_law(N, [Estimate(np.array([value]), value + 0.03 * np.linspace(-1, 1, 100)) for value in (0.7, 0.8, 0.84, 0.95)], 1.0)
    assert isinstance(steep, Law) and steep.line[-1] < steep.ceiling <= 1.0
    capped = fit_law(N, [Estimate(np.array([value]), value + 0.03 * np.linspace(-1, 1, 100)) for value in (0.7, 0.8, 0.84, 0.95)], 0.98)
    assert isinstance(capped, Law) and capped.ceiling == pytest.approx(0.98)
    errors = [Estimate(np.array([value]), value + 0.1 * np.linspace(-1, 1, 100)) for value in 6 - 5 * _truth(N)]
    falling = fit_law(N, errors, 0.0, higher_is_better=False)
    assert isinstance(falling, Law)
    assert falling.ceiling >= 0 and np.all(np.diff(falling.line) < 0) and np.all(falling.low <= falling.high)
