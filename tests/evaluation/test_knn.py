"""The neighbours' vote, against the formula written as a loop."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.evaluation.knn import knn_probabilities, nearest


def test_vote_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    bank, query, label = rng.normal(size=(30, 6)), rng.normal(size=(7, 6)), rng.integers(0, 3, 30)
    ours = knn_probabilities(bank, label, query, 3, neighbours=5, temperature=0.1)
    for row, vector in enumerate(query):
        cosine = np.array([vector @ other / np.linalg.norm(vector) / np.linalg.norm(other) for other in bank])
        shares = np.zeros(3)
        for neighbour in sorted(range(30), key=lambda n: -cosine[n])[:5]:
            shares[label[neighbour]] += np.exp(cosine[neighbour] / 0.1)
        assert ours[row] == pytest.approx(shares / shares.sum())


def test_fewer_cases_than_neighbours_and_zero_rows() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    answer = knn_probabilities(bank, np.array([0, 1, 1]), np.array([[2.0, 0.1]]), 2)
    assert answer.sum() == pytest.approx(1)
    assert answer[0, 0] > 0.99


def test_nearest_first() -> None:
    bank = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]])
    assert nearest(bank, np.array([[1.0, 0.0]]), 2).tolist() == [[1, 2]]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcl.evaluation import knn

    rng = np.random.default_rng(1)
    bank, query, label = rng.normal(size=(20, 4)), rng.normal(size=(50, 4)), rng.integers(0, 2, 20)
    whole = knn_probabilities(bank, label, query, 2)
    monkeypatch.setattr(knn, "_CHUNK", 60)
    assert knn_probabilities(bank, label, query, 2) == pytest.approx(whole)
