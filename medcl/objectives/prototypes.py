"""Prototypes: codes that use all of them alike, and predicting one view's code from another view. Caron et al. 2020, https://arxiv.org/abs/2006.09882"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn_codes(scores: Float[Tensor, "batch prototype"], *, sharpness: float, rounds: int = 3) -> Float[Tensor, "batch prototype"]:
    """Codes that agree with the scores while every prototype gets the same share of the batch: SwAV's eq. 3 to 5.

    scores: scalar products of unit embeddings with unit prototypes, of the whole world batch. sharpness: epsilon, the weight of the
    entropy; small is sharp. rounds: of the Sinkhorn-Knopp iteration. Rows sum to one. Float32 (float64 where given), in logarithms,
    so that nothing overflows however small epsilon is.
    """
    with torch.autocast(scores.device.type, enabled=False):
        codes = scores.to(torch.promote_types(scores.dtype, torch.float32)) / sharpness
        for _ in range(rounds):
            codes = codes - codes.logsumexp(dim=0, keepdim=True)
            codes = codes - codes.logsumexp(dim=1, keepdim=True)
        return codes.exp()


def swapped_prediction(
    scores: Sequence[Float[Tensor, "batch prototype"]], *, temperature: float, sharpness: float, rounds: int = 3
) -> Float[Tensor, ""]:
    """Mean of `-sum_k q_s^k log softmax_k(scores_v / t)` over items, s of the first two views and v of all others: SwAV's eq. 1, 2 and 6.

    scores: of each view, the pair first, local views after it; only the pair has codes q.
    """
    with torch.autocast(scores[0].device.type, enabled=False):
        said = [F.log_softmax(view.to(torch.promote_types(view.dtype, torch.float32)) / temperature, dim=1) for view in scores]
        losses = []
        for own in range(2):
            code = sinkhorn_codes(scores[own], sharpness=sharpness, rounds=rounds)
            losses += [-(code * other).sum(dim=1).mean() for view, other in enumerate(said) if view != own]
        return torch.stack(losses).mean()
