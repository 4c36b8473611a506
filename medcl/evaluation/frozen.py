"""Fits on frozen embeddings: nearest neighbours, linear probe, and the raw-pixel floor."""

from __future__ import annotations

import numpy as np

from medcl.evaluation.linear import principal_components, standardiser
from medcl.evaluation.study_data import Draws
from medcl.evaluation.targets import Fitted, Target, choose, in_words

PIXEL_COMPONENTS = 50


class FrozenFits:
    """The fits on one init's embeddings. embeddings: (cases, dim), in the study's order of cases.

    Features are standardised with the training part's mean and spread (all of it: that takes no label). raw: reduce to
    50 principal components of the training part first, as the floor does.
    """

    def __init__(self, embeddings: np.ndarray, target: Target, draws: Draws, raw: bool = False) -> None:
        self.target, self.draws = target, draws
        if raw:
            mean, directions = principal_components(embeddings[draws.train], PIXEL_COMPONENTS)
            embeddings = (embeddings - mean) @ directions
        self.embeddings = np.asarray(embeddings, dtype=np.float64)
        self.features = standardiser(self.embeddings[draws.train])(self.embeddings)

    def fit(self, mode: str, rows: np.ndarray) -> Fitted:
        """Fit `knn` or `linear` on the labelled rows."""
        return self._knn(rows) if mode == "knn" else self._linear(rows)

    def _linear(self, rows: np.ndarray) -> Fitted:
        target, val, test = self.target, self.draws.val, self.draws.test
        models = list(target.probes(self.features[rows], rows))
        tried = in_words(strength for strength, _ in models)
        strength, say, score = choose(models, lambda say: target.judge(say(self.features[val]), rows, val))
        return Fitted(target.outcome(say(self.features[test]), rows, test), {"strength": strength, "tried": tried}, score)

    def _knn(self, rows: np.ndarray) -> Fitted:
        target, (val, test) = self.target, (self.draws.val, self.draws.test)
        said = [target.vote(self.embeddings[rows], rows, self.embeddings[part]) for part in (val, test)]
        return Fitted(target.outcome(said[1], rows, test), {}, target.judge(said[0], rows, val)[0])
