"""Classification: a case is of one class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medcl.evaluation.knn import knn_probabilities
from medcl.evaluation.linear import fit_logistic
from medcl.evaluation.scores import Predictions
from medcl.evaluation.targets import Colouring, Say, defined, once


@dataclass(frozen=True)
class Classes:
    """A Target (see there). label: (cases,) class numbers; names: what the classes are called."""

    label: np.ndarray
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """A probability for each class."""
        return len(self.names)

    def groups(self, part: np.ndarray | None = None) -> tuple[None, tuple[str, ...]]:
        """One for each class."""
        return None, tuple(f"class '{name}'" for name in self.names)

    def lacks(self, part: np.ndarray) -> str:
        """A class: none of its cases can be found, and the mean over the classes is undefined."""
        missing = [name for number, name in enumerate(self.names) if number not in self.label[part]]
        return f"a case of class '{missing[0]}'" if missing else ""

    def colourings(self) -> tuple[Colouring, ...]:
        """The classes."""
        return (Colouring("", self.names, self.label),)

    def vote(self, bank: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Shares of the vote."""
        return knn_probabilities(bank, self.label[rows], query, self.width)

    def probes(self, features: np.ndarray, rows: np.ndarray) -> Iterable[tuple[float, Say]]:
        """Logistic regression."""
        return [(model.strength, model.probabilities) for model in fit_logistic(features, self.label[rows], self.width)]

    def shares(self, rows: np.ndarray) -> np.ndarray:
        """Share of every class among the rows: (classes,); all alike where there are none."""
        return np.bincount(self.label[rows], minlength=self.width) / len(rows) if len(rows) else np.full(self.width, 1 / self.width)

    def loss(self, rows: np.ndarray, balanced: bool) -> nn.Module:
        """Cross-entropy."""
        weights = 1 / np.maximum(self.shares(rows), 1e-12) if balanced else np.ones(self.width)
        return nn.CrossEntropyLoss(torch.tensor(weights / weights.sum() * self.width, dtype=torch.float32))

    def activate(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return outputs.softmax(1)

    def restored(self, said: np.ndarray, rows: np.ndarray, balanced: bool) -> np.ndarray:
        """A balanced loss made all classes equal; give them their shares back."""
        said = said * self.shares(rows) if balanced else said
        return said / said.sum(1, keepdims=True)

    def outcome(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> Predictions:
        """Probabilities, the truth, and the shares that decisions take out."""
        return Predictions(said, self.label[part], self.shares(rows))

    def judge(self, said: np.ndarray, rows: np.ndarray, part: np.ndarray) -> tuple[float, float]:
        """Macro AUROC, then log-likelihood; 0.5 where a class is missing."""
        truth = said[np.arange(len(part)), self.label[part]]
        return defined(once(self.outcome(said, rows, part))["auroc"], 0.5), float(np.mean(np.log(np.maximum(truth, 1e-12))))
