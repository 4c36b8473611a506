"""A learning curve as a law: value(n) = ceiling - gain * (n / most)^-rate, fitted to the fractions with the replicates' uncertainty.

The inverse power law of Figueroa et al. 2012, "Predicting sample size required for classification performance", and Hestness
et al. 2017, "Deep learning scaling is predictable, empirically". Three numbers need four points, and a law that misses what
was measured is not shown. Where the law is true its band covers: reports/statistics/calibration.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcl.evaluation.statistics import Estimate, quantiles

FEWEST_POINTS = 4
POINTS = 41
_Numbers = tuple[np.ndarray, np.ndarray, np.ndarray]
_RATES = np.geomspace(0.05, 2.0, 80)


@dataclass(frozen=True)
class Law:
    """One fitted curve. n: (points,) numbers of labelled patients, ascending; line, low, high: (points,) value and 95% band.

    ceiling: what is approached with ever more labels; rate: how fast; twice: value with twice the most labels, its interval.
    """

    n: np.ndarray
    line: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ceiling: float
    rate: float
    twice: tuple[float, float, float]


@dataclass(frozen=True)
class NoLaw:
    """Why no law is shown, in words for a person."""

    reason: str


def fit_law(num_patients: np.ndarray, curve: list[Estimate], best: float, higher_is_better: bool = True) -> Law | NoLaw:
    """Fit one curve, and every replicate of it.

    num_patients: (fractions,) labelled patients, ascending; curve: an estimate for each; best: the best value there is, which the
    ceiling cannot pass. Points count by the inverse of their variance.
    """
    n = np.asarray(num_patients, dtype=np.float64)
    if len(np.unique(n)) < FEWEST_POINTS:
        return NoLaw(f"{len(np.unique(n))} numbers of labels are too few for a law of three parameters; {FEWEST_POINTS} are needed")
    sign = 1.0 if higher_is_better else -1.0
    replicates = sign * np.stack([point.replicates for point in curve])
    replicates = replicates[:, ~np.isnan(replicates).any(0)]
    means = sign * np.array([[point.mean] for point in curve])
    if np.isnan(means).any() or replicates.shape[1] < 0.9 * len(curve[0].replicates):
        return NoLaw("a fraction has no defined value")
    weights = 1 / (np.var(replicates, axis=1) + 1e-6)
    found = _fit(n / n[-1], means, weights, sign * best)
    if found[1][0] <= 0:
        return NoLaw("the curve does not rise with the labels")
    missed = [place for place, point in enumerate(curve) if not _inside(sign * _value(found, n[place] / n[-1])[0], point)]
    if missed:
        return NoLaw(f"the best law lies outside the interval at {n[missed[0]]:.0f} patients")
    again = _fit(n / n[-1], replicates, weights, sign * best)
    grid = np.geomspace(n[0], n[-1], POINTS)
    line, low, high = np.array([_point(found, again, at / n[-1], sign) for at in grid]).T
    return Law(grid, line, low, high, float(sign * found[0][0]), float(found[2][0]), _point(found, again, 2.0, sign))


def _point(found: _Numbers, again: _Numbers, share: float, sign: float) -> tuple[float, float, float]:
    """Value and interval of the law at a share of the most patients."""
    low, high = sorted(sign * end for end in quantiles(_value(again, share)))
    return float(sign * _value(found, share)[0]), low, high


def _inside(value: float, point: Estimate) -> bool:
    low, high = point.interval()
    return low <= value <= high


def _value(law: _Numbers, share: float) -> np.ndarray:
    ceiling, gain, rate = law
    return ceiling - gain * share**-rate


def _fit(share: np.ndarray, values: np.ndarray, weights: np.ndarray, best: float) -> _Numbers:
    """Weighted least squares for every column of `values` (fractions, rows): ceiling, gain, rate, each (rows,).

    For a given rate the law is linear, so the rate is looked for on a grid and the rest is solved, with gain >= 0 and
    ceiling <= best.
    """
    answer = np.zeros((3, values.shape[1]))
    least = np.full(values.shape[1], np.inf)
    weights = weights / weights.sum()
    middle = weights @ values
    for rate in _RATES:
        power = share**-rate
        centred = power - weights @ power
        gain = np.maximum(-(weights * centred) @ (values - middle) / ((weights * centred) @ centred), 0.0)
        ceiling = middle + gain * (weights @ power)
        capped = np.maximum((weights * power) @ (best - values) / ((weights * power) @ power), 0.0)
        gain, ceiling = np.where(ceiling > best, capped, gain), np.minimum(ceiling, best)
        error = weights @ (values - (ceiling - gain * power[:, None])) ** 2
        better = error < least - 1e-15
        least = np.where(better, error, least)
        answer = np.where(better, np.stack([ceiling, gain, np.full_like(gain, rate)]), answer)
    return answer[0], answer[1], answer[2]
