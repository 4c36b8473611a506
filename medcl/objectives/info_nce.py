"""InfoNCE with a positive mask: one equation for SimCLR, MoCo and ConVIRT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def info_nce(
    anchors: Float[Tensor, "n dim"],
    candidates: Float[Tensor, "m dim"],
    positive: Bool[Tensor, "n m"],
    *,
    temperature: float,
    valid: Bool[Tensor, "n m"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over anchors i of `-1/|P(i)| sum_{p in P(i)} log( exp(a_i.c_p / t) / sum_{j in V(i)} exp(a_i.c_j / t) )`.

    anchors, candidates: unit vectors. positive: P, which candidates belong to an anchor. valid: V, which candidates an
    anchor is compared with at all (None: all); positives must be among them. With one positive this is van den Oord et
    al. 2018 (eq. 4), NT-Xent (SimCLR, eq. 1) and MoCo's eq. 1; with several, L_out of Khosla et al. 2020 (eq. 2). Anchors
    without a positive do not count. Computed in float32 (float64 where given), also under autocast.
    """
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, candidates.dtype), torch.float32)
    with torch.autocast(anchors.device.type, enabled=False):
        logits = anchors.to(dtype) @ candidates.to(dtype).T / temperature
        if valid is not None:
            # Finite, so that an anchor without any valid candidate has a gradient of zero, not of NaN.
            logits = logits.masked_fill(~valid, torch.finfo(dtype).min / 2)
        log_share = logits - logits.logsumexp(dim=1, keepdim=True)
        count = positive.sum(dim=1)
        per_anchor = -torch.where(positive, log_share, 0).sum(dim=1) / count.clamp(min=1)
        return per_anchor.sum() / (count > 0).sum().clamp(min=1)
