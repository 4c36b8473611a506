"""Regression: a case has a quantity, such as an age or a volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medcl.evaluation.knn import knn_means
from medcl.evaluation.linear import fit_ridge
from medcl.evaluation.scores import in_parts
from medcl.evaluation.targets import Colouring, Say, defined, once

QUARTERS = ("the lowest quarter", "the second quarter", "the third quarter", "the highest quarter")


@dataclass(frozen=True)
class ValuePredictions:
    """What was said about test cases: the value and the truth, both (cases,). It is the table that scores read, too."""

    value: np.ndarray
    truth: np.ndarray

    @property
    def num_cases(self) -> int:
        """How many test cases there are."""
        return len(self.truth)

    def table(self) -> ValuePredictions:
        """Values are read as they are."""
        return self

    def below(self, other: ValuePredictions) -> ValuePredictions:
        """The rows of both, those of `other` last."""
        return ValuePredictions(np.concatenate([self.value, other.value]), np.concatenate([self.truth, other.truth]))

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """r2 (share of the variance explained, 0 for the mean), mae, rmse (in the quantity's own unit), pearson, spearman."""
        return in_parts(self._scores, weights)

    def _scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = weights / weights.sum(1, keepdims=True)
        value, truth = self.value.astype(np.float64), self.truth.astype(np.float64)
        unit = float(np.ptp(truth)) or 1.0  # what counts as alike must not depend on the unit that the quantity comes in
        value, truth = (value - truth[0]) / unit, (truth - truth[0]) / unit
        error = value - truth
        squares = weights @ error**2
        spread = weights @ truth**2 - (weights @ truth) ** 2
        return {
            "r2": 1 - _over(squares, spread),
            "mae": unit * (weights @ np.abs(error)),
            "rmse": unit * np.sqrt(squares),
            "pearson": _correlation(np.broadcast_to(value, weights.shape), np.broadcast_to(truth, weights.shape), weights),
            "spearman": _correlation(_weighted_ranks(value, weights), _weighted_ranks(truth, weights), weights),
        }


def _correlation(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r of each row; all (rows, cases), weights adding up to 1."""
    one = one - np.sum(weights * one, axis=1, keepdims=True)
    other = other - np.sum(weights * other, axis=1, keepdims=True)
    spreads = np.sum(weights * one**2, axis=1) * np.sum(weights * other**2, axis=1)
    return _over(np.sum(weights * one * other, axis=1), np.sqrt(np.maximum(spreads, 0)))


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks as if every case were there as often as its weight says: (rows, cases)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(mass, axis=1) - mass / 2)[:, group]


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where all cases are alike."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 1e-12)


@dataclass(frozen=True)
class Quantity:
    """A Target (see there). label: (cases,) float32, in the quantity's own unit.

    Draws are stratified by quarters of the cases they are from: of all of them, a part need not hold two patients of each.
    """

    label: np.ndarray
    width: int = 1

    def groups(self, part: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        """The quarters of the part; fewer where many of its cases have the same value."""
        own = self.label if part is None else self.label[part]
        edges = np.quantile(own, (0.25, 0.5, 0.75))
        quarter, found = np.searchsorted(edges, self.label, side="right"), np.unique(np.searchsorted(edges, own, side="right"))
        return quarter[:, None] == found, tuple(QUARTERS[number] for number in found)

    def lacks(self, part: np.ndarray) -> str:
        """A second value."""
        return "" if len(np.unique(self.label[part])) > 1 else "a second value: all its cases have the same one"

    def colourings(self) -> tuple[Colouring, ...]:
        """The quarters."""
        membership, words = self.groups()
        return (Colouring("", words, membership.argmax(1)),)

    def vote(self, bank: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """The neighbours' weighted mean."""
        return knn_means(bank, self.label[rows, None].astype(np.float64), query)

    def probes(self, features: np.ndarray, rows: np.ndarray) -> Iterable[tuple[float, Say]]:
        """Ridge regression."""
        return [(model.strength, model.outputs) for model in fit_ridge(features, self.label[rows])]

    def loss(self, rows: np.ndarray, balanced: bool) -> nn.Module:
        """Mean squared error, in spreads of the labelled cases."""
        return StandardSquares(*self._scale(rows))

    def activate(self, outputs: Tensor) -> Tensor:
        """As it is."""
        return outputs

    def restored(self, said: np.ndarray, rows: np.ndarray, balanced: bool) -> np.ndarray:
        """From spreads back to the quantity's unit."""
        mean, spread = self._scale(rows)
        return said * spread + mean

    def outcome(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> ValuePredictions:
        """Values and the truth."""
        return ValuePredictions(said[:, 0], self.label[part])

    def judge(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> tuple[float, float]:
        """R2, then closeness."""
        found = once(self.outcome(said, rows, part))
        return defined(found["r2"], 0.0), -found["mae"]

    def _scale(self, rows: np.ndarray) -> tuple[float, float]:
        own = self.label[rows]
        return float(own.mean()), max(float(own.std()), 1e-6 * float(np.abs(own).max())) or 1.0


class StandardSquares(nn.Module):
    """Mean squared distance of outputs (batch, 1) from targets (batch,), in spreads."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """A scalar."""
        return torch.mean((outputs[:, 0] - (target - self.mean) / self.spread) ** 2)
