"""DeLong's test as published, and against its definition written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medcl.evaluation.delong import applies, compare_aurocs

# The 49 patients of DeLong et al. 1988 that have all three tests, as the manual of SAS prints them (PROC LOGISTIC, "Comparing ROC
# curves"): albumin, total protein, K-G score, benefit from surgery (0 is the event there).
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1
3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1
3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1
3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def test_published_example() -> None:
    """AUROC, standard errors, difference, interval and p value that SAS prints for the data of the paper, to its four digits."""
    albumin, protein, score, benefit = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4).T
    against_score = compare_aurocs(albumin, 10 - score, benefit == 1)
    assert against_score.auroc.round(4).tolist() == [0.7366, 0.7258]
    assert np.sqrt(np.diag(against_score.covariance)).round(4).tolist() == [0.0927, 0.1028]
    found = (against_score.difference, against_score.low, against_score.high, against_score.p_value)
    assert [round(value, 4) for value in found] == [0.0108, -0.1761, 0.1976, 0.9102]
    other = compare_aurocs(protein, 10 - score, benefit == 1)
    assert [round(value, 4) for value in (other.difference, other.low, other.high, other.p_value)] == [-0.0780, -0.2830, 0.1271, 0.4561]


def _by_definition(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Covariance (2, 2) by equations 4 to 6 of the paper, pair by pair."""
    cases, controls = np.flatnonzero(positive), np.flatnonzero(~positive)
    above = np.array([[[np.heaviside(own[i] - own[j], 0.5) for j in controls] for i in cases] for own in scores])
    areas = above.mean((1, 2))
    by_case, by_control = above.mean(2) - areas[:, None], above.mean(1) - areas[:, None]
    parts = [np.einsum("rk,sk->rs", part, part) / (part.shape[1] - 1) / part.shape[1] for part in (by_case, by_control)]
    return parts[0] + parts[1]


def test_covariance_equals_the_definition_and_auroc_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.3
    scores = np.round(rng.normal(size=(2, 60)) + positive, 1)  # ties
    found = compare_aurocs(*scores, positive)
    assert found.covariance == pytest.approx(_by_definition(scores, positive))
    assert found.auroc == pytest.approx([roc_auc_score(positive, own) for own in scores])


def test_level_and_power_are_the_nominal_ones() -> None:
    """p is uniform where nothing differs: 600 studies of two correlated scores."""
    values = []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        positive = np.arange(120) % 3 == 0
        shared = rng.normal(size=120) + positive
        values.append(compare_aurocs(*(shared + rng.normal(0, 0.7, (2, 120))), positive).p_value)
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert 0.03 <= np.mean(np.array(values) < 0.05) <= 0.07


def test_equal_and_certain_scores() -> None:
    positive = np.array([True, True, False, False])
    score = np.array([4.0, 3.0, 2.0, 1.0])
    assert compare_aurocs(score, score, positive).p_value == 1.0
    assert np.isnan(compare_aurocs(score, -score, positive).p_value)
    with pytest.raises(ValueError, match="two cases"):
        compare_aurocs(score, score, np.array([True, False, False, False]))


def test_applies_only_to_one_fit_and_one_case_a_patient() -> None:
    two, three, patient = np.full((4, 2), 0.5), np.full((4, 3), 1 / 3), np.array(["a", "b", "c", "d"])
    assert applies(two, patient, 1)
    assert not applies(two, patient, 5)
    assert not applies(three, patient, 1)
    assert not applies(two, np.array(["a", "a", "b", "c"]), 1)
