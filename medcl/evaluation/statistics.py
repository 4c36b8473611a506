"""How sure a study may be: intervals over patients and draws, paired differences, Holm's correction, label saving.

Two things vary: which patients the test set happens to hold, and which patients happened to be labelled. Patients are
resampled whole, the same for every fit, so differences between initialisations are paired. Draws are few (five), so
what they add is widened as Student's t demands. An image-level bootstrap would be too narrow by far.
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
    """A mean over draws. values: (draws,) one number per fit; replicates: (resamples,) what it might have been."""

    values: np.ndarray
    replicates: np.ndarray

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

    A replicate is the mean over the draws on resampled patients, plus how far a resampled set of draws lies from all
    draws. The second part is multiplied by sqrt(draws / chi2), chi2 with draws - 1 degrees of freedom: that makes its
    spread Student's t of so few draws (a bootstrap of five would be 11% too narrow, and its tails too thin). Replicates
    are moved to have the estimate in their middle: resampled patients make a calibration error look worse than it is.
    """
    replicates = np.mean(over_patients, axis=0)
    known = replicates[~np.isnan(replicates)]
    bias = np.mean(known) - np.mean(values) if len(known) else 0.0
    return Estimate(np.asarray(values, dtype=np.float64), replicates - bias + _draw_part(values, resamples))


def _draw_part(values: np.ndarray, resamples: Resamples) -> np.ndarray:
    draws = len(values)
    if draws < 2:
        return np.zeros(len(resamples))
    random = generator(resamples.seed, "bootstrap draws", draws)
    picked = random.integers(0, draws, size=(len(resamples), draws))
    deviation = np.asarray(values)[picked].mean(1) - np.mean(values)
    return deviation * np.sqrt(draws / random.chisquare(draws - 1, size=len(resamples)))


def difference(one: Estimate, other: Estimate) -> Estimate:
    """one - other, draw by draw and replicate by replicate: the pairing takes out what both share."""
    return Estimate(one.values - other.values, one.replicates - other.replicates)


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
    in all draws alike, on ranks where only the order counts (Bandos, Rockette, Gur 2005). What the draws add is
    the random sign-flip of each draw's deviation from the mean difference, widened as in `estimate`.
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
    null = np.mean(differences[:, 1:], axis=0)
    if draws > 1:
        random = generator(seed, "permutation draws", draws)
        signs = random.choice([-1.0, 1.0], size=(len(null), draws))
        null = null + (signs @ (observed - observed.mean())) / draws * np.sqrt(draws / random.chisquare(draws - 1, size=len(null)))
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
