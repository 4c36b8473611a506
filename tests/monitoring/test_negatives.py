from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medcl.monitoring.negatives import hardest_negatives, negative_figures


def test_the_hardest_negative_is_the_one_a_loop_finds() -> None:
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    patient = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4])
    similarity, where = hardest_negatives(rows, patient)
    for i in range(9):
        others = {j: float(F.cosine_similarity(rows[i], rows[j], dim=0)) for j in range(9) if patient[j] != patient[i]}
        assert float(similarity[i]) == pytest.approx(max(others.values()), abs=1e-6) and others[int(where[i])] == max(others.values())


def test_scans_of_two_patients_that_look_alike_are_suspected() -> None:
    rows, patient = torch.eye(6), torch.arange(6)
    rows[1] = rows[0]  # the same image under two names
    figures = negative_figures(rows, patient, positive_distance=0.2)
    assert figures["hardest_similarity"] == pytest.approx(2 / 6) and figures["suspected_false"] == pytest.approx(2 / 6)
    assert negative_figures(rows, patient).keys() == {"hardest_similarity"}
    assert negative_figures(rows, torch.zeros(6, dtype=torch.int64), 0.2)["hardest_similarity"] == -1.0
