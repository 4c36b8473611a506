from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.objectives import info_nce


def _by_loop(anchors: Tensor, candidates: Tensor, positive: Tensor, valid: Tensor, temperature: float) -> float:
    losses = []
    for i in range(len(anchors)):
        total = sum(math.exp(float(anchors[i] @ candidates[j]) / temperature) for j in range(len(candidates)) if valid[i, j])
        terms = [
            -math.log(math.exp(float(anchors[i] @ candidates[p]) / temperature) / total) for p in range(len(candidates)) if positive[i, p]
        ]
        if terms:
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


def _case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    anchors, candidates = (F.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1) for n in (5, 7))
    positive = torch.rand(5, 7, generator=generator) < 0.3
    positive[0, 0] = True
    positive[1] = False  # an anchor without a positive does not count
    valid = positive | (torch.rand(5, 7, generator=generator) < 0.6)
    return anchors, candidates, positive, valid


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_is_the_formula_written_as_a_loop(seed: int, temperature: float) -> None:
    anchors, candidates, positive, valid = _case(seed)
    found = info_nce(anchors, candidates, positive, temperature=temperature, valid=valid)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(_by_loop(anchors, candidates, positive, valid, temperature), rel=1e-12)
    everything = torch.ones_like(valid)
    found = info_nce(anchors, candidates, positive, temperature=temperature)
    assert float(found) == pytest.approx(_by_loop(anchors, candidates, positive, everything, temperature), rel=1e-12)


def test_gradient_by_finite_differences() -> None:
    anchors, candidates, positive, valid = _case(0)
    anchors.requires_grad_(), candidates.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: info_nce(a, c, positive, temperature=0.5, valid=valid), (anchors, candidates))


def test_with_one_positive_it_is_cross_entropy() -> None:
    anchors, candidates = torch.randn(6, 8), torch.randn(6, 8)
    found = info_nce(anchors, candidates, torch.eye(6, dtype=torch.bool), temperature=0.2)
    torch.testing.assert_close(found, F.cross_entropy(anchors @ candidates.T / 0.2, torch.arange(6)))


def test_what_is_not_valid_has_no_influence() -> None:
    anchors, candidates, positive, valid = _case(1)
    hidden = ~valid.any(dim=0)
    hidden[3] = True
    valid[:, 3], positive[:, 3] = False, False
    moved = candidates.clone()
    moved[hidden] *= 40
    first, second = (info_nce(anchors, c, positive, temperature=0.1, valid=valid) for c in (candidates, moved))
    assert torch.equal(first, second)


def test_an_anchor_without_anything_valid_gives_no_nan() -> None:
    anchors, candidates = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    positive = torch.zeros(2, 4, dtype=torch.bool)
    positive[0, 0] = True
    loss = info_nce(anchors, candidates, positive, temperature=0.1, valid=positive)
    loss.backward()
    assert float(loss.detach()) == 0.0 and anchors.grad is not None and bool(anchors.grad.isfinite().all())
    nothing = info_nce(anchors, candidates, torch.zeros(2, 4, dtype=torch.bool), temperature=0.1)
    assert float(nothing.detach()) == 0.0


def test_stays_in_float32_under_autocast() -> None:
    anchors, candidates = torch.randn(4, 16), torch.randn(4, 16)
    positive = torch.eye(4, dtype=torch.bool)
    plain = info_nce(anchors, candidates, positive, temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        cast = info_nce(anchors, candidates, positive, temperature=0.05)
        low = info_nce(anchors.bfloat16(), candidates.bfloat16(), positive, temperature=0.05)
    assert torch.equal(plain, cast) and low.dtype == torch.float32
