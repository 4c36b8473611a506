"""DeLong's test: two AUROCs measured on one test set, compared by their own covariance, without resampling.

DeLong, DeLong, Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating characteristic
curves"; by midranks, as Sun and Xu 2014 show. It knows one fit on each side and independent cases: where a study has
several draws, or several images of a patient, its p value would be too small (see `applies`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DeLong:
    """auroc: (2,) of both scores; covariance: (2, 2); difference: first minus second, its 95% interval and two-sided p value."""

    auroc: np.ndarray
    covariance: np.ndarray
    difference: float
    low: float
    high: float
    p_value: float


def applies(probabilities: np.ndarray, patient: np.ndarray, fits: int) -> bool:
    """Whether the test is valid: two classes, one fit on each side, one case for each patient.

    probabilities: (cases, classes); patient: (cases,) keys; fits: on each side.
    """
    return fits == 1 and probabilities.shape[1] == 2 and len(np.unique(patient)) == len(patient)


def compare_aurocs(one: np.ndarray, other: np.ndarray, positive: np.ndarray) -> DeLong:
    """Compare two scores (cases,) for the same cases; positive: (cases,) truth.

    p is NaN where both scores leave no doubt (variance 0) and yet differ. Raises ValueError where a class has fewer than two cases.
    """
    from scipy.stats import norm

    positive = np.asarray(positive, dtype=bool)
    if min(positive.sum(), (~positive).sum()) < 2:
        raise ValueError("DeLong's test needs at least two cases of each class")
    of_positive, of_negative = zip(*(_placements(np.asarray(score, dtype=np.float64), positive) for score in (one, other)), strict=True)
    auroc = np.mean(of_positive, axis=1)
    covariance = np.cov(of_positive) / positive.sum() + np.cov(of_negative) / (~positive).sum()
    difference = float(auroc[0] - auroc[1])
    spread = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    half = float(norm.isf(0.025)) * spread
    certain = 1.0 if abs(difference) < 1e-12 else float("nan")
    p_value = float(2 * norm.sf(abs(difference) / spread)) if spread > 1e-12 else certain
    return DeLong(auroc, covariance, difference, difference - half, difference + half, p_value)


def _placements(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every positive case the share of negative ones below it, for every negative the share of positives above it; ties count half."""
    from scipy.stats import rankdata

    among_all = rankdata(score)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    below = (among_all[positive] - rankdata(score[positive])) / negatives
    above = 1 - (among_all[~positive] - rankdata(score[~positive])) / positives
    return below, above
