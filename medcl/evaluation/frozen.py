"""Classification on frozen embeddings: nearest neighbours, linear probe, and the raw-pixel floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcl.evaluation.knn import knn_probabilities
from medcl.evaluation.linear import choose, fit_logistic, principal_components, standardiser, validation_auroc
from medcl.evaluation.scores import Predictions
from medcl.evaluation.study_data import Draws, StudyCases

PIXEL_COMPONENTS = 50


@dataclass(frozen=True)
class Fitted:
    """What one fit gives: predictions for the test cases, what validation chose, and with which AUROC."""

    outcome: Predictions
    choice: dict[str, float | str]
    validation: float


class FrozenFits:
    """The fits on one init's embeddings. embeddings: (cases, dim), in the study's order of cases.

    Features are standardised with the training part's mean and spread (all of it: that takes no label). raw: reduce to
    50 principal components of the training part first, as the floor does.
    """

    def __init__(self, embeddings: np.ndarray, cases: StudyCases, draws: Draws, raw: bool = False) -> None:
        self.cases, self.draws = cases, draws
        if raw:
            mean, directions = principal_components(embeddings[draws.train], PIXEL_COMPONENTS)
            embeddings = (embeddings - mean) @ directions
        self.embeddings = np.asarray(embeddings, dtype=np.float64)
        self.features = standardiser(self.embeddings[draws.train])(self.embeddings)

    def fit(self, mode: str, rows: np.ndarray) -> Fitted:
        """Fit `knn` or `linear` on the labelled rows."""
        return self._knn(rows) if mode == "knn" else self._linear(rows)

    def _linear(self, rows: np.ndarray) -> Fitted:
        label, prior = self.cases.cases.label, self._prior(rows)
        models = fit_logistic(self.features[rows], label[rows], len(self.cases.classes))
        model, area = choose(models, self.features[self.draws.val], label[self.draws.val], prior)
        probabilities = model.probabilities(self.features[self.draws.test])
        return Fitted(Predictions(probabilities, label[self.draws.test], prior), {"strength": model.strength}, area)

    def _knn(self, rows: np.ndarray) -> Fitted:
        label, prior = self.cases.cases.label, self._prior(rows)
        said = [self._vote(rows, part) for part in (self.draws.val, self.draws.test)]
        area = validation_auroc(Predictions(said[0], label[self.draws.val], prior))
        return Fitted(Predictions(said[1], label[self.draws.test], prior), {}, area)

    def _vote(self, rows: np.ndarray, part: np.ndarray) -> np.ndarray:
        return knn_probabilities(self.embeddings[rows], self.cases.cases.label[rows], self.embeddings[part], len(self.cases.classes))

    def _prior(self, rows: np.ndarray) -> np.ndarray:
        return class_shares(self.cases, rows)


def class_shares(cases: StudyCases, rows: np.ndarray) -> np.ndarray:
    """Share of every class among the rows: (classes,)."""
    return np.bincount(cases.cases.label[rows], minlength=len(cases.classes)) / len(rows)
