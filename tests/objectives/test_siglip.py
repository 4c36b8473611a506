from __future__ import annotations

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.objectives import Rows, siglip

MODULE = importlib.import_module("medcl.objectives.siglip")  # the package's attribute of this name is the function
ITEM, OTHER = torch.tensor([0, 1, 1, 2, 5]), torch.tensor([1, 0, 2, 2, 3, 4, 0])


def _unit(n: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def _loop(left: Rows, right: Rows, scale: float, bias: float) -> float:
    total = 0.0
    for i in range(len(left)):
        for j in range(len(right)):
            same = int(left.item[i]) == int(right.item[j])
            if same or int(left.patient[i]) != int(right.patient[j]):
                z = 1 if same else -1
                total -= math.log(1 / (1 + math.exp(-z * (scale * float(left.vectors[i] @ right.vectors[j]) + bias))))
    return total / len(left)


@pytest.mark.parametrize("tile", [2**20, 10])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (2.0, 0.5)])
def test_is_the_formula_written_as_a_loop(tile: int, scale: float, bias: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "TILE", tile)
    left, right = Rows(_unit(5, 0), ITEM, ITEM % 3), Rows(_unit(7, 1), OTHER, OTHER % 3)
    assert float(siglip(left, right, scale=scale, bias=bias)) == pytest.approx(_loop(left, right, scale, bias), rel=1e-10)


def test_gradients_by_finite_differences_scale_and_bias_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "TILE", 10)
    scale, bias = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (3.0, -1.0))

    def loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return 2 * siglip(Rows(a, ITEM, ITEM % 3), Rows(b, OTHER, OTHER % 3), scale=scale, bias=bias)

    assert torch.autograd.gradcheck(loss, (_unit(5, 0).requires_grad_(), _unit(7, 1).requires_grad_(), scale, bias))


def test_float32_comes_within_1e_5_of_float64() -> None:
    item = torch.arange(700)
    left, right = _unit(700, 0), _unit(700, 1)
    results = []
    for dtype in (torch.float64, torch.float32):
        a, b = left.to(dtype).requires_grad_(), right.to(dtype)
        loss = siglip(Rows(a, item, item), Rows(b, item, item), scale=10.0, bias=-10.0)
        results.append((loss.detach().double(), torch.autograd.grad(loss, a)[0].double()))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-5, atol=1e-5 * float(results[0][1].abs().max()))
