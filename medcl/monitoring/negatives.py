"""Whether negatives are what they should be: how close the hardest ones come, and how many may be positives in disguise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from medcl.monitoring.collapse import MOST_ROWS


@torch.no_grad()
def hardest_negatives(embeddings: Float[Tensor, "n dim"], patient: Int64[Tensor, " n"]) -> tuple[Float[Tensor, " m"], Int64[Tensor, " m"]]:
    """Cosine similarity of each of the first 1,024 rows with the most similar row of another patient (-1: none), and that row."""
    rows, codes = F.normalize(embeddings[:MOST_ROWS].float(), dim=1), patient[:MOST_ROWS]
    found = (rows @ rows.T).masked_fill(codes[:, None] == codes[None, :], -1.0).max(dim=1)
    return found.values, found.indices


def negative_figures(
    embeddings: Float[Tensor, "n dim"], patient: Int64[Tensor, " n"], positive_distance: float | None = None
) -> dict[str, float]:
    """`hardest_similarity`, the mean over rows; `suspected_false`, the share of rows whose hardest negative is closer than positives are.

    positive_distance: mean squared distance of positive pairs (`collapse.alignment`); without it the second figure is left out. A share
    that grows while the loss falls says that scans of different patients look alike, or that a patient has two names.
    """
    hardest = hardest_negatives(embeddings, patient)[0]
    figures = {"hardest_similarity": float(hardest.mean())}
    if positive_distance is not None:
        figures["suspected_false"] = float((hardest > 1 - positive_distance / 2).float().mean())
    return figures
