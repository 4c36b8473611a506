"""InfoNCE: one equation for SimCLR, MoCo and ConVIRT, in memory that grows with the rows and not with their pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medcl.objectives.log_sum_exp import log_sum_exp, log_sum_exp_both_ways, log_sum_exp_symmetric
from medcl.objectives.rows import Rows, positives

Loss = Float[Tensor, ""]


def info_nce(anchors: Rows, candidates: Rows, *others: Rows, temperature: float | Tensor) -> Loss:
    """Mean over anchors i of `-1/|P(i)| sum_{p in P(i)} log( exp(a_i.c_p / t) / sum_{j in V(i)} exp(a_i.c_j / t) )`.

    P(i): candidates of the same item. V(i): these, and all candidates and others of other patients. others: more rows to
    compare with, such as a queue, never positives. With one positive this is van den Oord et al. 2018 (eq. 4) and MoCo's eq. 1;
    with several, L_out of Khosla et al. 2020 (eq. 2). Anchors without a positive do not count. Computed in float32 (float64
    where given), also under autocast.
    """
    with torch.autocast(anchors.vectors.device.type, enabled=False):
        left = anchors.scaled(1 / temperature)
        right = tuple(rows.scaled() for rows in (candidates, *others))
        agreement, weights = _agreement(left, right[0])
        return log_sum_exp(left, right, weights)[0] - (weights * agreement).sum()


def nt_xent(views: Rows, *, temperature: float | Tensor) -> Loss:
    """`info_nce` of rows with one another, none with itself: SimCLR's eq. 1, where each item comes with two views."""
    with torch.autocast(views.vectors.device.type, enabled=False):
        rows = views.scaled(temperature**-0.5)
        agreement, weights = _agreement(rows, rows, itself=True)
        return log_sum_exp_symmetric(rows, weights)[0] - (weights * agreement).sum()


def info_nce_both_ways(left: Rows, right: Rows, *, temperature: float | Tensor, left_weight: float) -> tuple[Loss, Loss, Loss]:
    """`w l(left -> right) + (1 - w) l(right -> left)`, each as `info_nce`; then both by themselves, without gradient.

    ConVIRT's eq. 4; with w = 1/2 CLIP's loss (Radford et al. 2021, figure 3).
    """
    with torch.autocast(left.vectors.device.type, enabled=False):
        first, second = left.scaled(1 / temperature), right.scaled()
        there, down = _agreement(first, second)
        back, across = _agreement(second, first)
        total, by_row, by_column = log_sum_exp_both_ways(first, second, (left_weight * down, (1 - left_weight) * across))
        loss = total - left_weight * (down * there).sum() - (1 - left_weight) * (across * back).sum()
        return loss, (down * (by_row - there.detach())).sum(), (across * (by_column - back.detach())).sum()


def _agreement(left: Rows, right: Rows, itself: bool = False) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean similarity of each left row with its positives, and the weights that make a mean over the rows that have some."""
    sums, counts = positives(left, right, itself=itself)
    weights = (counts > 0).to(left.vectors.dtype) / (counts > 0).sum().clamp(min=1)
    return (left.vectors * sums).sum(dim=1) / counts.clamp(min=1), weights
