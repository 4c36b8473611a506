"""Codes are the solution of their optimal transport problem, and the swapped prediction has a gradient in the predictions only."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.objectives import sinkhorn_codes, swapped_prediction


def _scores(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def _as_in_algorithm_1(scores: list[list[float]], epsilon: float, rounds: int) -> list[list[float]]:
    """The authors' pseudocode: exp, then rows (prototypes) to 1/K and columns (items) to 1/B in turn."""
    items, prototypes = len(scores), len(scores[0])
    q = [[math.exp(scores[b][k] / epsilon) for b in range(items)] for k in range(prototypes)]
    for _ in range(rounds):
        q = [[value / sum(row) / prototypes for value in row] for row in q]
        columns = [sum(row[b] for row in q) for b in range(items)]
        q = [[row[b] / columns[b] / items for b in range(items)] for row in q]
    return [[q[k][b] * items for k in range(prototypes)] for b in range(items)]


@pytest.mark.parametrize("rounds", [1, 3])
def test_codes_are_those_of_the_paper(rounds: int) -> None:
    scores = _scores(7, 4)
    wanted = torch.tensor(_as_in_algorithm_1(scores.tolist(), 0.05, rounds), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn_codes(scores, sharpness=0.05, rounds=rounds), wanted)


def test_codes_use_every_prototype_alike_and_never_overflow() -> None:
    drawn_to_one = _scores(12, 4)
    drawn_to_one[:, 0] += 5
    codes = sinkhorn_codes(drawn_to_one, sharpness=0.05, rounds=200)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-2, atol=0)
    assert torch.isfinite(sinkhorn_codes(drawn_to_one.float(), sharpness=1e-4)).all(), "exp(50000) is not"


def test_the_gradient_is_that_of_the_predictions() -> None:
    views = [_scores(5, 3, seed).requires_grad_() for seed in range(3)]

    def loss(*views: Tensor) -> Tensor:
        codes = [sinkhorn_codes(view, sharpness=0.1) for view in held]
        said = [(view / 0.2).log_softmax(1) for view in views]
        return -sum((codes[s] * said[v]).sum(1).mean() for s in range(2) for v in range(3) if v != s) / 4

    held = [view.detach() for view in views]
    found = torch.autograd.grad(swapped_prediction(views, temperature=0.2, sharpness=0.1), views)
    wanted = torch.autograd.grad(loss(*views), views)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
