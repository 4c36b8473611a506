"""Every score against scikit-learn, under weights and ties."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from medcl.evaluation.scores import Measured, Predictions, ranking, score_classification, score_measured, table_of


def _predictions(classes: int, cases: int = 150, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, cases)
    logits = rng.normal(size=(cases, classes)) + 1.0 * np.eye(classes)[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = np.round(probabilities, 1) + 1e-3  # many ties
    probabilities /= probabilities.sum(1, keepdims=True)
    return Predictions(probabilities, label, np.full(classes, 1 / classes))


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_equal_scikit_learn(classes: int) -> None:
    predictions = _predictions(classes)
    weights = np.random.default_rng(1).integers(0, 4, size=(3, 150)).astype(float)
    ours = score_classification(table_of(predictions), weights)
    p, y = predictions.probabilities, predictions.label
    for row, weight in enumerate(weights):
        columns = [1] if classes == 2 else range(classes)
        assert ours["auroc"][row] == pytest.approx(np.mean([metrics.roc_auc_score(y == c, p[:, c], sample_weight=weight) for c in columns]))
        assert ours["auprc"][row] == pytest.approx(
            np.mean([metrics.average_precision_score(y == c, p[:, c], sample_weight=weight) for c in columns])
        )
        said = p.argmax(1)
        assert ours["balanced_accuracy"][row] == pytest.approx(metrics.balanced_accuracy_score(y, said, sample_weight=weight))
        average = "binary" if classes == 2 else "macro"
        assert ours["f1"][row] == pytest.approx(metrics.f1_score(y, said, sample_weight=weight, average=average))
        brier = np.average(0.5 * ((p - np.eye(classes)[y]) ** 2).sum(1), weights=weight)
        assert ours["brier"][row] == pytest.approx(brier)
    if classes == 2:
        assert ours["brier"][0] == pytest.approx(metrics.brier_score_loss(y, p[:, 1], sample_weight=weights[0]))


def test_integer_weights_are_repetitions() -> None:
    predictions = _predictions(3)
    weight = np.random.default_rng(2).integers(0, 3, 150)
    again = np.repeat(np.arange(150), weight)
    table = table_of(predictions)
    repeated = type(table)(*(getattr(table, name)[again] for name in ("ranks", "probabilities", "decision", "label")))
    weighted = score_classification(table, weight[None].astype(float))
    plain = score_classification(repeated, np.ones((1, len(again))))
    for name, value in weighted.items():
        assert value == pytest.approx(plain[name]), name


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2], [0.45, 0.55]])
    predictions = Predictions(probabilities, np.array([1, 0, 0, 1]), np.array([0.5, 0.5]))
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.8) + abs(1 - 0.55)) / 4
    assert score_classification(table_of(predictions), np.ones((1, 4)))["ece"][0] == pytest.approx(expected)


def test_decisions_take_the_prior_out() -> None:
    rare = Predictions(np.array([[0.8, 0.2], [0.95, 0.05]]), np.array([1, 0]), np.array([0.9, 0.1]))
    assert score_classification(table_of(rare), np.ones((1, 2)))["balanced_accuracy"][0] == 1.0


def test_a_class_without_cases_is_undefined_and_a_constant_score_is_chance() -> None:
    assert np.isnan(ranking(np.arange(3.0), np.zeros(3, bool), np.ones((1, 3)))[0][0])
    assert ranking(np.zeros(4), np.array([1, 0, 1, 0], bool), np.ones((1, 4)))[0][0] == 0.5


def test_a_score_that_is_no_number_leaves_the_ranking_undefined() -> None:
    """Sorted as they come, positives first, such scores would be a perfect ranking."""
    for areas in ranking(np.full(4, np.nan), np.array([1, 1, 0, 0], bool), np.ones((2, 4))):
        assert np.isnan(areas).tolist() == [True, True]


def test_measurements_are_weighted_means_that_leave_gaps_out() -> None:
    measured = Measured(("dice", "hd95_mm"), np.array([[0.5, 2.0], [1.0, np.nan], [0.0, 4.0]]))
    answer = score_measured(measured, np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]]))
    assert answer["dice"].tolist() == [0.75, 1.0]
    assert answer["hd95_mm"][0] == 2.0 and np.isnan(answer["hd95_mm"][1])
