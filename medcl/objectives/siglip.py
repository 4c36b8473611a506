"""The pairwise sigmoid loss of SigLIP: every pair is a yes-or-no question of its own. Zhai et al. 2023, https://arxiv.org/abs/2303.15343"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from medcl.objectives.log_sum_exp import TILE
from medcl.objectives.rows import Rows, hides_some, positives, similarities, spans


def siglip(left: Rows, right: Rows, *, scale: float | Tensor, bias: float | Tensor) -> Float[Tensor, ""]:
    """`-1/n sum_ij log sigmoid(z_ij (scale l_i.r_j + bias))`, z = 1 for pairs of one item, -1 for others (Zhai et al., algorithm 1).

    n: left rows. Pairs of one patient and different items are left out. Both `scale` (the inverse temperature) and `bias` may be
    learned; the paper starts at 10 and -10. Memory as `info_nce`; float32 (float64 where given), also under autocast.
    """
    with torch.autocast(left.vectors.device.type, enabled=False):
        first, second = left.scaled(scale), right.scaled()
        bias = torch.as_tensor(bias, dtype=first.vectors.dtype, device=first.vectors.device)
        sums, counts = positives(first, second, itself=False)
        # -log sigmoid(s) = softplus(s) - s: every pair as if it were negative, then what the positives change.
        yes = (first.vectors * sums).sum() + bias * counts.sum()
        return (_SoftplusSum.apply(first, second, bias, first.vectors, second.vectors) - yes) / len(left)


class _SoftplusSum(torch.autograd.Function):
    """`sum_ij softplus(l_i.r_j + bias)`, its gradient finished while a tile is there."""

    @staticmethod
    def forward(ctx: Any, left: Rows, right: Rows, bias: Tensor, *vectors: Tensor) -> Tensor:
        gradients = [torch.zeros_like(bias), *(torch.zeros_like(part) for part in vectors)]
        total, hides = torch.zeros_like(bias), hides_some(left, right)
        for rows in spans(len(left), max(1, TILE // len(right))):
            tile = similarities(left, right, rows, slice(None), hides).add_(bias)
            total += F.softplus(tile).sum()
            share = tile.sigmoid_()
            gradients[0] += share.sum()
            gradients[1][rows].addmm_(share, right.vectors)
            gradients[2].addmm_(share.T, left.vectors[rows])
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(gradient * upstream[0] for gradient in ctx.saved_tensors)
