"""The probe equals scikit-learn's logistic regression, and its strength is chosen on validation only."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge

from medcl.evaluation import linear
from medcl.evaluation.classes import Classes
from medcl.evaluation.frozen import FrozenFits
from medcl.evaluation.label_fraction import Splits
from medcl.evaluation.study_data import Draws


def _problem(cases: int, dim: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(cases) % classes
    return rng.normal(size=(cases, dim)) + rng.normal(size=(classes, dim))[label] * 0.7, label


@pytest.mark.parametrize("cases, dim, classes", [(200, 12, 2), (30, 80, 2), (150, 10, 4), (24, 60, 3)])
def test_equals_scikit_learn(cases: int, dim: int, classes: int) -> None:
    features, label = _problem(cases, dim, classes)
    for model in linear.fit_logistic(features, label, classes, (0.01, 1.0)):
        theirs = LogisticRegression(C=model.strength, tol=1e-8, max_iter=5000).fit(features, label)
        assert model.probabilities(features) == pytest.approx(theirs.predict_proba(features), abs=2e-3)


def test_strength_is_chosen_by_validation() -> None:
    """Noise features everywhere but one: strong penalties win on validation."""
    rng = np.random.default_rng(0)
    label = np.concatenate([np.arange(40) % 2, np.arange(300) % 2, np.arange(20) % 2])
    features = rng.normal(size=(360, 200))
    features[:, 0] += 2 * label
    parts = np.repeat(["train", "val", "test"], [40, 300, 20])
    target, train, val = Classes(label, ("0", "1")), np.arange(40), np.arange(40, 340)
    fits = FrozenFits(features, target, Draws(Splits(parts, ""), {}, (), ()))
    found = fits.fit("linear", train)
    judged = {strength: target.judge(say(fits.features[val]), train, val) for strength, say in target.probes(fits.features[train], train)}
    assert list(judged) == sorted(linear.STRENGTHS)
    assert judged[found.choice["strength"]] == max(judged.values())  # type: ignore[index]
    assert found.validation == max(judged.values())[0]


@pytest.mark.parametrize("cases, dim", [(200, 12), (30, 80)])
def test_ridge_equals_scikit_learn(cases: int, dim: int) -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(cases, dim)) + 3
    value = 40 + 12 * features[:, 0] + rng.normal(size=cases)
    for model in linear.fit_ridge(features, value, (0.01, 1.0)):
        theirs = Ridge(alpha=1 / model.strength).fit(features, value)
        assert model.outputs(features)[:, 0] == pytest.approx(theirs.predict(features))


def test_standardised_features_survive_constants() -> None:
    features = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0]])
    assert linear.standardiser(features)(features).tolist() == [[-1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_components_equal_scikit_learn(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 4, shape[1])
    mean, directions = linear.principal_components(rows, 5)
    ours, theirs = (rows - mean) @ directions, PCA(5, svd_solver="full").fit_transform(rows)
    assert np.abs(ours) == pytest.approx(np.abs(theirs))


def test_components_are_as_many_as_there_are() -> None:
    rows = np.outer(np.arange(5.0), np.ones(8))
    assert linear.principal_components(rows, 50)[1].shape == (8, 1)
