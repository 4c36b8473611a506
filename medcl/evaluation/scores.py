"""The numbers a study reports, each for many weightings of the test cases at once.

A weighting is a row of `weights` (rows, cases): a bootstrap sample of patients is how often each was drawn, a
permutation gives weight to one of two models' predictions. Every function answers one value per row, NaN where the
row leaves the number undefined (a class without cases).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np

ECE_BINS = 15
LOWER_IS_BETTER = frozenset({"brier", "ece", "hd95_mm", "mae", "rmse"})
CHANCE = {"auroc": 0.5, "dice": 0.0, "r2": 0.0}
_INFINITE = float("inf")
# What a number can be, where that is not 0 to 1.
_BOUNDS = {name: (0.0, _INFINITE) for name in ("hd95_mm", "mae", "rmse")}
_BOUNDS |= {"r2": (-_INFINITE, 1.0), "pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0)}
_CHUNK = 2_000_000  # numbers in the largest temporary array


class Table(Protocol):
    """Predictions in the form that scores read. Two tables of one kind can be put one below the other."""

    def below(self, other: Any) -> Any:
        """The rows of both, those of `other` last."""
        ...

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """weights: (rows, cases) -> name: (rows,)."""
        ...


class Outcome(Protocol):
    """What one fit said about the test cases, or what was measured on them."""

    @property
    def num_cases(self) -> int:
        """How many test cases there are."""
        ...

    def table(self) -> Table:
        """In the form that scores read."""
        ...


def bounds(metric: str) -> tuple[float, float]:
    """The least and the most that a number can be; `hd95_mm_2` is bounded as `hd95_mm` is."""
    found = [ends for name, ends in _BOUNDS.items() if metric == name or metric.startswith(f"{name}_")]
    return found[0] if found else (0.0, 1.0)


@dataclass(frozen=True)
class Predictions:
    """What a classifier said about test cases.

    probabilities: (cases, classes), calibrated to the share of the classes among the labelled training cases; prior:
    (classes,) those shares; label: (cases,) class numbers. Decisions go to the class of the highest probability /
    prior, the best choice where every class counts the same.
    """

    probabilities: np.ndarray
    label: np.ndarray
    prior: np.ndarray

    @property
    def num_cases(self) -> int:
        """How many test cases there are."""
        return len(self.label)

    def table(self) -> ClassTable:
        """In the form that scores read."""
        return table_of(self)


@dataclass(frozen=True)
class Measured:
    """What was measured case by case, where no classes are involved: names of the numbers and values (cases, numbers)."""

    names: tuple[str, ...]
    values: np.ndarray

    @property
    def num_cases(self) -> int:
        """How many test cases there are."""
        return len(self.values)

    def table(self) -> Measured:
        """Measurements are read as they are."""
        return self

    def below(self, other: Measured) -> Measured:
        """The rows of both, those of `other` last."""
        return Measured(self.names, np.concatenate([self.values, other.values]))

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """See `score_measured`."""
        return score_measured(self, weights)


@dataclass(frozen=True)
class Outlined(Measured):
    """What was measured of outlines, and the outlines themselves. said: (cases, side, side) uint8, numbers of structures on the one slice
    that is shown (see outlines.py).
    """

    said: np.ndarray


@dataclass(frozen=True)
class ClassTable:
    """Predictions of classes in the form that scores read. Both tables that are joined have the same classes."""

    ranks: np.ndarray
    probabilities: np.ndarray
    decision: np.ndarray
    label: np.ndarray

    def below(self, other: ClassTable) -> ClassTable:
        """The rows of both, those of `other` last."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("ranks", "probabilities", "decision", "label"))
        return ClassTable(*(np.concatenate(pair) for pair in pairs))

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """See `score_classification`."""
        return score_classification(self, weights)


def table_of(predictions: Predictions) -> ClassTable:
    """Ranks instead of probabilities where only the order counts, so that two models can be exchanged case by case."""
    from scipy.stats import rankdata

    probabilities = predictions.probabilities.astype(np.float64)
    decision = np.argmax(probabilities / np.maximum(predictions.prior, 1e-12), axis=1)
    return ClassTable(rankdata(probabilities, axis=0) / len(probabilities), probabilities, decision, predictions.label)


def score_classification(table: ClassTable, weights: np.ndarray) -> dict[str, np.ndarray]:
    """auroc, auprc, f1 (macro, one class against the rest; the higher class where there are two), balanced_accuracy, brier, ece."""
    return in_parts(lambda some: _score_rows(table, some), weights)


def in_parts(score: Callable[[np.ndarray], dict[str, np.ndarray]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """`score` of a few rows of weights at a time, as float64, so that no temporary array grows without bound."""
    rows = max(1, _CHUNK // weights.shape[1])
    parts = [score(weights[start : start + rows].astype(np.float64)) for start in range(0, len(weights), rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _score_rows(table: ClassTable, weights: np.ndarray) -> dict[str, np.ndarray]:
    chosen = [1] if table.ranks.shape[1] == 2 else range(table.ranks.shape[1])
    areas = np.mean([ranking(table.ranks[:, own], table.label == own, weights) for own in chosen], axis=0)
    numbers = {"balanced_accuracy": balanced_accuracy, "f1": f1, "brier": brier, "ece": ece}
    return {"auroc": areas[0], "auprc": areas[1], **{name: number(table, weights) for name, number in numbers.items()}}


def score_measured(measured: Measured, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Weighted means of what was measured, cases that have no value left out."""
    known = np.isfinite(measured.values)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(known, measured.values, 0.0)) / (weights @ known.astype(np.float64))
    return {name: means[:, column] for column, name in enumerate(measured.names)}


def ranking(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC and the precision-recall curve, each (rows,).

    The first is the chance that a positive case scores above a negative one, ties counting half; the second is average
    precision: steps, no interpolation. NaN where a score is: it has no place in any order.
    """
    if np.isnan(score).any():
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last_of_tie = np.concatenate([ordered[1:] != ordered[:-1], [True]])
    return _areas(order, last_of_tie, positive[order], np.ascontiguousarray(weights, dtype=np.float64))


@numba.njit(cache=True, nogil=True)
def _areas(order, last_of_tie, positive, weights):  # pragma: no cover (compiled)
    rows, cases = weights.shape
    roc, precision_recall = np.full(rows, np.nan), np.full(rows, np.nan)
    for row in range(rows):
        found = wrong = area = average = tied_found = tied_wrong = 0.0
        for place in range(cases):
            weight = weights[row, order[place]]
            if positive[place]:
                tied_found += weight
            else:
                tied_wrong += weight
            if last_of_tie[place]:
                area += tied_wrong * (found + 0.5 * tied_found)
                found += tied_found
                wrong += tied_wrong
                if tied_found > 0:
                    average += tied_found * found / (found + wrong)
                tied_found = tied_wrong = 0.0
        if found > 0:
            precision_recall[row] = average / found
            if wrong > 0:
                roc[row] = area / (found * wrong)
    return roc, precision_recall


def balanced_accuracy(table: ClassTable, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes of the share of their cases that were recognised."""
    recalls = []
    for own in range(table.probabilities.shape[1]):
        is_own = table.label == own
        recalls.append(_ratio(weights @ (is_own & (table.decision == own)), weights @ is_own))
    return np.mean(recalls, axis=0)


def f1(table: ClassTable, weights: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall; of the higher class where there are two, else the mean over classes."""
    classes = table.probabilities.shape[1]
    values = []
    for own in [1] if classes == 2 else range(classes):
        is_own, said = table.label == own, table.decision == own
        values.append(_ratio(2 * (weights @ (is_own & said)), weights @ is_own + weights @ said))
    return np.mean(values, axis=0)


def brier(table: ClassTable, weights: np.ndarray) -> np.ndarray:
    """Mean squared distance between probabilities and truth, summed over classes, halved: 0 is perfect, 1 is always wrong."""
    truth = np.eye(table.probabilities.shape[1])[table.label]
    return _ratio(weights @ (0.5 * np.sum((table.probabilities - truth) ** 2, axis=1)), weights.sum(1))


def ece(table: ClassTable, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error of the most probable class, 15 equal bins (Guo et al. 2017, equation 3)."""
    confidence = table.probabilities.max(1)
    correct = (table.probabilities.argmax(1) == table.label).astype(np.float64)
    bins = np.clip((confidence * ECE_BINS).astype(int), 0, ECE_BINS - 1)
    inside = np.eye(ECE_BINS)[bins]
    gaps = np.abs(weights @ (inside * (correct - confidence)[:, None]))
    return _ratio(gaps.sum(1), weights.sum(1))


def _ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), empty, dtype=np.float64), where=whole > 0)
