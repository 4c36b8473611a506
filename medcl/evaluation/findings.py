"""Several findings at once: a case has each of them or not, and for some of them nobody may have said so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.evaluation.knn import knn_probabilities
from medcl.evaluation.linear import STRENGTHS, fit_logistic
from medcl.evaluation.scores import Predictions, in_parts, ranking
from medcl.evaluation.targets import Colouring, Say, defined, once


@dataclass(frozen=True)
class FindingPredictions:
    """What was said about test cases: names of the findings, probabilities and label (cases, findings); label: 1, 0, or -1 unknown.

    prior: (findings,) share of the labelled training cases with each finding; a case is said to have what is more probable than that.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray
    label: np.ndarray
    prior: np.ndarray

    @property
    def num_cases(self) -> int:
        """How many test cases there are."""
        return len(self.label)

    def single(self, column: int) -> tuple[np.ndarray, Predictions]:
        """One finding as a question of two classes: (cases,) where the answer is known, and what was said of those."""
        known = self.label[:, column] >= 0
        present, prior = self.probabilities[known, column], self.prior[column]
        return known, Predictions(np.stack([1 - present, present], 1), self.label[known, column], np.array([1 - prior, prior]))

    def table(self) -> FindingTable:
        """Ranks among the cases where the finding is known, so that two models can be exchanged case by case."""
        from scipy.stats import rankdata

        known = self.label >= 0
        ranks = np.zeros(self.label.shape)
        for column, own in enumerate(known.T):
            ranks[own, column] = rankdata(self.probabilities[own, column]) / max(1, own.sum())
        return FindingTable(self.names, ranks, self.probabilities.astype(np.float64), self.label)


@dataclass(frozen=True)
class FindingTable:
    """`FindingPredictions` in the form that scores read."""

    names: tuple[str, ...]
    ranks: np.ndarray
    probabilities: np.ndarray
    label: np.ndarray

    def below(self, other: FindingTable) -> FindingTable:
        """The rows of both, those of `other` last."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("ranks", "probabilities", "label"))
        return FindingTable(self.names, *(np.concatenate(pair) for pair in pairs))

    def scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """auroc, auprc, brier: means over the findings that a weighting leaves defined; auroc_NAME, auprc_NAME: each of them."""
        return in_parts(self._scores, weights)

    def _scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        single = [self._of_one(column, weights) for column in range(len(self.names))]
        means = {name: mean_of_defined(np.stack([own[name] for own in single])) for name in ("auroc", "auprc", "brier")}
        parts = {f"{name}_{of}": own[name] for name in ("auroc", "auprc") for of, own in zip(self.names, single, strict=True)}
        return means | parts

    def _of_one(self, column: int, weights: np.ndarray) -> dict[str, np.ndarray]:
        known = self.label[:, column] >= 0
        truth, mine = self.label[known, column] == 1, weights[:, known]
        auroc, auprc = ranking(self.ranks[known, column], truth, mine)
        total = mine.sum(1)
        squares = mine @ (self.probabilities[known, column] - truth) ** 2
        brier = np.divide(squares, total, out=np.full(len(total), np.nan), where=total > 0)
        return {"auroc": auroc, "auprc": auprc, "brier": brier}


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """(findings, rows) -> (rows,), NaN where none is defined."""
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0.0).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)


@dataclass(frozen=True)
class Findings:
    """A Target (see there). label: (cases, findings) float32, 1, 0 or NaN where unknown; names: what the findings are called.

    Draws are stratified by presence and absence of each finding; a patient counts for the rarest among the own.
    """

    label: np.ndarray
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """A probability for each finding."""
        return len(self.names)

    def groups(self, part: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        """Presence and absence of each."""
        membership = np.concatenate([self.label == 1, self.label == 0], axis=1)
        return membership, (*(f"'{name}'" for name in self.names), *(f"those without '{name}'" for name in self.names))

    def lacks(self, part: np.ndarray) -> str:
        """One finding at least that some have and others have not; findings without both are left out of the means."""
        label = self.label[part]
        both = (label == 1).any(0) & (label == 0).any(0)
        return "" if both.any() else "cases with and cases without a finding, of any of them"

    def colourings(self) -> tuple[Colouring, ...]:
        """Whether there is any; then each finding."""
        present, known = self.label == 1, ~np.isnan(self.label)
        some = np.where(present.any(1), 1, np.where(known.all(1), 0, -1))
        each = (
            Colouring(name, ("absent", "present"), np.nan_to_num(own, nan=-1).astype(np.int64))
            for name, own in zip(self.names, self.label.T, strict=True)
        )
        return Colouring("any finding", ("none of them", "at least one"), some), *each

    def vote(self, bank: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """For each finding the share of the vote among those for whom it is known."""
        columns = []
        for known, label in self._known(rows):
            columns.append(knn_probabilities(bank[known], label, query, 2)[:, 1])
        return np.stack(columns, axis=1)

    def probes(self, features: np.ndarray, rows: np.ndarray) -> Iterable[tuple[float, Say]]:
        """Logistic regression of each finding by itself, all of one strength."""
        models = [fit_logistic(features[known], label, 2) for known, label in self._known(rows)]

        def say_with(place: int) -> Say:
            return lambda some: np.stack([own[place].probabilities(some)[:, 1] for own in models], axis=1)

        return [(strength, say_with(place)) for place, strength in enumerate(sorted(STRENGTHS))]

    def shares(self, rows: np.ndarray) -> np.ndarray:
        """Share of the cases with each finding, among those for whom it is known: (findings,); a half where there are none."""
        return np.array([label.mean() if len(label) else 0.5 for _, label in self._known(rows)])

    def loss(self, rows: np.ndarray, balanced: bool) -> nn.Module:
        """Cross-entropy of every known finding."""
        share = self.shares(rows)
        weights = np.stack([0.5 / (1 - share), 0.5 / share]) if balanced else np.ones((2, self.width))
        return KnownEntropy(torch.tensor(weights, dtype=torch.float32))

    def activate(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return outputs.sigmoid()

    def restored(self, said: np.ndarray, rows: np.ndarray, balanced: bool) -> np.ndarray:
        """A balanced loss made presence and absence equal; give them their shares back."""
        if not balanced:
            return said
        share = self.shares(rows)
        present, absent = said * share, (1 - said) * (1 - share)
        return present / (present + absent)

    def outcome(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> FindingPredictions:
        """Probabilities, the truth, and the shares that decisions take out."""
        return FindingPredictions(self.names, said, np.nan_to_num(self.label[part], nan=-1).astype(np.int64), self.shares(rows))

    def judge(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> tuple[float, float]:
        """Macro AUROC, then Brier score; 0.5 where no finding has both kinds of cases."""
        found = once(self.outcome(said, rows, part))
        return defined(found["auroc"], 0.5), -defined(found["brier"], 1.0)

    def _known(self, rows: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """For each finding: which of the rows say whether it is there, and what they say (0 or 1)."""
        for column in self.label[rows].T:
            known = ~np.isnan(column)
            yield known, column[known].astype(np.int64)


class KnownEntropy(nn.Module):
    """Cross-entropy of findings that are known. weights: (2, findings), of absence and presence."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(batch, findings) twice, NaN in the target where unknown -> mean over what is known."""
        known = ~target.isnan()
        truth = target.nan_to_num()
        absent, present = self.get_buffer("weights")
        weight = torch.where(truth > 0.5, present, absent) * known
        return (weight * F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")).sum() / known.sum().clamp(min=1)
