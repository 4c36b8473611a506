"""The neighbours' vote, against the formula written as a loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medcl.encoders import build_seeded
from medcl.evaluation.knn import knn_probabilities, nearest
from medcl.evaluation.probe import Probe, _label_of_rows
from medcl.foundation.errors import UserError
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import PICTURE_ENCODER, views


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


def test_probe_knows_no_class_of_the_unlabelled(pictures: VolumeStore) -> None:
    """Before pandas 3 a missing text is None, which was a class of that name."""
    labels = pd.DataFrame({"volume_id": ["v000", "v001", "v002"], "finding": pd.Series(["a", None, "b"], dtype=object)})
    store = SimpleNamespace(index=pictures.index, labels=labels)
    assert _label_of_rows(store, "finding")[:4] == ["a", "", "b", ""]  # pyright: ignore[reportArgumentType]


def test_probe_has_two_halves_whoever_is_labelled(pictures: VolumeStore) -> None:
    """Patients of even numbers alone left one half empty, which ended a run at its first probe."""
    patient = pictures.index["patient"].to_numpy()
    maker, encoder = views("xray", (24, 24)), build_seeded(PICTURE_ENCODER, seed=0).eval()
    with torch.no_grad():
        found = Probe(pictures, maker, "device", np.flatnonzero((patient % 2 == 0) & (patient < 16)))(encoder)
    assert 0 <= found["balanced_accuracy"] <= 1
    index = pictures.index.assign(patient=0)
    alone = SimpleNamespace(index=index, labels=pictures.labels)
    with pytest.raises(UserError, match="of one patient"):
        Probe(alone, maker, "device", np.arange(len(index)))  # pyright: ignore[reportArgumentType]
