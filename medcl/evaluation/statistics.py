"""How sure a study may be: intervals over patients and draws, paired differences, Holm's correction, label saving.

Two things vary: which patients the test set happens to hold, and which patients happened to be labelled. Patients are
resampled whole, the same for every fit, so differences between initialisations are paired. Draws are few (five), so
what they add is widened as Student's t demands. An image-level bootstrap would be too narrow by far. How often all this
holds what it promises is measured: reports/statistics/calibration.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcl.evaluation.scores import Outcome
from medcl.foundation.randomness import generator


@dataclass(frozen=True)
class Resamples:
    """Shared by every fit of a study. patients: (resamples, cases) how often each case's patient was drawn."""

    patients: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.patients)


@dataclass(frozen=True)
class Estimate:
    """A mean over draws. values: (draws,) one number per fit; replicates: (resamples,) what it might have been.

    by_draw, by_chance: the parts of the replicates, where they are known: (draws, resamples) how far resampled patients move
    each draw's number, and (resamples,) how far other draws might have moved the mean.
    """

    values: np.ndarray
    replicates: np.ndarray
    by_draw: np.ndarray | None = None
    by_chance: np.ndarray | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    def interval(self, lowest: float = -np.inf, highest: float = np.inf) -> tuple[float, float]:
        """The middle 95% of the replicates, within what the number can be."""
        low, high = quantiles(self.replicates)
        return max(low, lowest), min(high, highest)


@dataclass(frozen=True)
class Saving:
    """The fraction of labels at which a curve meets the target. None: not reached; inf as `high`: not in every replicate.

    at_most: the curve is there at its smallest fraction already, so the truth may be smaller.
    """

    fraction: float | None
    low: float
    high: float
    at_most: bool = False


def resample_patients(patient: np.ndarray, resamples: int, seed: int) -> Resamples:
    """Draw patients with replacement, all cases of a patient together. patient: (cases,) keys."""
    keys, code = np.unique(patient, return_inverse=True)
    counts = generator(seed, "bootstrap patients").multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=resamples)
    return Resamples(counts[:, code].astype(np.float32), seed)


def score(outcome: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every number of one fit for every weighting of the cases: name -> (rows,)."""
    return outcome.table().scores(weights)


def score_once(outcome: Outcome, num_cases: int) -> dict[str, float]:
    """Every number of one fit on the test set as it is."""
    return {name: float(value[0]) for name, value in score(outcome, np.ones((1, num_cases))).items()}


def estimate(values: np.ndarray, over_patients: np.ndarray, resamples: Resamples) -> Estimate:
    """Combine what patients and draws contribute. values: (draws,); over_patients: (draws, resamples).

    A replicate is the mean over the draws on resampled patients, plus how far another set of draws might lie from this
    one: their deviations, each times a normal number, times sqrt(draws / chi2) with draws - 1 degrees of freedom. That is
    Student's t of so few draws (a bootstrap of five would be 11% too narrow, and its tails too thin). What patients do to
    each draw alone is left out of the first part, for the spread over draws holds it (see `_shared`). Replicates
    are moved to have the estimate in their middle: resampled patients make a calibration error look worse than it is.
    """
    values = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(over_patients).any(0)
    centre = np.mean(over_patients[:, known], axis=1, keepdims=True) if known.any() else values[:, None]
    by_draw = over_patients - centre
    return _joined(values, by_draw, _draw_part(values, resamples))


def _joined(values: np.ndarray, by_draw: np.ndarray, by_chance: np.ndarray) -> Estimate:
    return Estimate(values, np.mean(values) + _shared(by_draw) * by_draw.mean(0) + by_chance, by_draw, by_chance)


def _draw_part(values: np.ndarray, resamples: Resamples) -> np.ndarray:
    draws = len(values)
    if draws < 2:
        return np.zeros(len(resamples))
    random = generator(resamples.seed, "bootstrap draws", draws)
    deviation = random.normal(size=(len(resamples), draws)) @ (values - np.mean(values)) / draws
    return deviation * np.sqrt(draws / random.chisquare(draws - 1, size=len(resamples)))


def _shared(by_draw: np.ndarray) -> float:
    """What of the standard deviation of the mean over draws all draws have in common. by_draw: (draws, resamples).

    Each fit errs on the test patients in its own way as well, which moves the draws apart: the spread over draws holds
    it, and a sum of both would count it twice. The covariance between draws is what the spread over draws cannot show.
    """
    draws = len(by_draw)
    known = by_draw[:, ~np.isnan(by_draw).any(0)]
    if draws < 2 or known.shape[1] < 2:
        return 1.0
    covariance = np.cov(known)
    between = (covariance.sum() - np.trace(covariance)) / (draws * (draws - 1))
    return float(np.sqrt(np.clip(between / covariance.mean(), 0.0, 1.0))) if covariance.mean() > 0 else 1.0


def difference(one: Estimate, other: Estimate) -> Estimate:
    """one - other, draw by draw and replicate by replicate: the pairing takes out what both share."""
    values = one.values - other.values
    if one.by_draw is None or other.by_draw is None or one.by_chance is None or other.by_chance is None:
        return Estimate(values, one.replicates - other.replicates)
    return _joined(values, one.by_draw - other.by_draw, one.by_chance - other.by_chance)


def quantiles(replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the replicates; undefined ones are left out, infinite ones count as they are."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = np.quantile(known, tail, method="lower")
    return float(low), float(np.quantile(known, 1 - tail, method="higher"))


def permutation_p(ones: list[Outcome], others: list[Outcome], patient: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """Two-sided p value of the mean difference over draws, for every number: name -> p.

    ones, others: one outcome per draw for the same test cases. If the two initialisations were alike, their
    predictions for a patient could change places: each permutation exchanges them for a random half of the patients,
    in all draws alike, on ranks where only the order counts (Bandos, Rockette, Gur 2005). What the draws add, and
    what of the exchange they share, is as in `estimate`.
    """
    keys, code = np.unique(patient, return_inverse=True)
    swap = generator(seed, "permutation patients").random((resamples, len(keys)))[:, code] < 0.5
    as_it_is = np.zeros((1, len(code)), dtype=bool)
    swap = np.concatenate([as_it_is, swap])
    weights = np.concatenate([~swap, swap], axis=1)
    pairs = [_exchange(one, other, weights) for one, other in zip(ones, others, strict=True)]
    return {name: _p_value(np.stack([pair[name] for pair in pairs]), seed) for name in pairs[0]}


def _exchange(one: Outcome, other: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Difference of the numbers when row by row `weights` picks the cases of one, and its complement those of the other."""
    if type(one) is not type(other):
        raise TypeError("outcomes of two kinds cannot be compared")
    both = one.table().below(other.table())
    first, second = both.scores(weights.astype(np.float32)), both.scores((~weights).astype(np.float32))
    return {name: first[name] - second[name] for name in first}


def _p_value(differences: np.ndarray, seed: int) -> float:
    """differences: (draws, 1 + permutations), the observed one first."""
    draws, observed = len(differences), differences[:, 0]
    null = np.mean(differences[:, 1:], axis=0) * _shared(differences[:, 1:])
    if draws > 1:
        random = generator(seed, "permutation draws", draws)
        deviation = random.normal(size=(len(null), draws)) @ (observed - observed.mean()) / draws
        null = null + deviation * np.sqrt(draws / random.chisquare(draws - 1, size=len(null)))
    null = null[~np.isnan(null)]
    if np.isnan(observed).any() or not len(null):
        return float("nan")
    as_far = np.abs(null) >= abs(observed.mean()) - 1e-12
    return float((1 + np.sum(as_far)) / (1 + len(null)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979): family-wise error kept whatever the dependence. NaN stays NaN and does not count."""
    p_values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p_values))
    corrected = np.full(len(p_values), np.nan)
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return corrected


def label_saving(fractions: np.ndarray, curve: list[Estimate], target: Estimate, higher_is_better: bool = True) -> Saving:
    """Where the curve meets the target: inverted by lines over the logarithm of the fraction.

    curve: one estimate per fraction, ascending. More labels are taken to do no harm: the curve is made monotone first
    (isotonic regression), so a lucky bump among few labels is not taken for a saving.
    """
    sign = 1.0 if higher_is_better else -1.0
    means = sign * np.array([[point.mean] for point in curve])
    replicates = sign * np.stack([point.replicates for point in curve])
    found = float(_meets(np.asarray(fractions), means, np.array([sign * target.mean]))[0])
    low, high = quantiles(_meets(np.asarray(fractions), replicates, sign * target.replicates))
    return Saving(None if np.isinf(found) else found, low, high, at_most=bool(found <= fractions[0]))


def is_better(one: Estimate, other: Estimate, lower_is_better: bool = False) -> bool:
    """Whether 97.5% of the replicates have the one better than the other: of the same cases, so that they go together."""
    low, high = quantiles(one.replicates - other.replicates)
    return high < 0 if lower_is_better else low > 0


def _meets(fractions: np.ndarray, curves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Smallest fraction at which each curve (fractions, rows) reaches its target (rows,); inf where none does."""
    curves = _isotonic(curves)
    reached = curves >= targets
    first = np.argmax(reached, axis=0)
    rows = np.arange(curves.shape[1])
    before = np.maximum(first - 1, 0)
    rise = curves[first, rows] - curves[before, rows]
    share = np.divide(targets - curves[before, rows], rise, out=np.zeros_like(rise), where=rise > 0)
    logs = np.log(fractions)
    answer = np.where(first == 0, fractions[0], np.exp(logs[before] + share * (logs[first] - logs[before])))
    return np.where(np.isnan(curves).any(0) | np.isnan(targets), np.nan, np.where(reached.any(0), answer, np.inf))


def _isotonic(curves: np.ndarray) -> np.ndarray:
    """Least-squares non-decreasing fit of every column, by the min-max formula: max over a <= i of min over b >= i of mean(a..b)."""
    length = len(curves)
    sums = np.concatenate([np.zeros((1, curves.shape[1])), np.cumsum(curves, axis=0)])
    fitted = np.empty_like(curves, dtype=np.float64)
    for here in range(length):
        lows = [np.min([(sums[b + 1] - sums[a]) / (b + 1 - a) for b in range(here, length)], axis=0) for a in range(here + 1)]
        fitted[here] = np.max(lows, axis=0)
    return fitted
