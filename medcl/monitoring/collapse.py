"""Whether embeddings still say something: spread, effective rank, share of the first direction, alignment, uniformity.

Nothing is centred before directions are counted: a constant embedding has one direction, and centring it away would
leave rounding noise that looks like full rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medcl.foundation.config import Settings

MOST_ROWS = 1024


class CollapseLimits(Settings):
    """From where on embeddings count as collapsed; the figures are those of `collapse_figures`.

    spread: below it, and below spread_kept of the run's first, they run to one point. first_direction_share: above it they lie on one line.
    effective_rank: below it they fill too few directions; off by default, as what is few depends on method and data.
    """

    spread: float = Field(default=0.05, ge=0)
    spread_kept: float = Field(default=0.5, ge=0)
    first_direction_share: float = Field(default=0.98, ge=0, le=1)
    effective_rank: float = Field(default=0.0, ge=0)


@torch.no_grad()
def collapse_figures(embeddings: Float[Tensor, "n dim"]) -> dict[str, float]:
    """Figures of the first 1,024 rows, each normalised to length 1.

    spread: mean standard deviation per dimension times sqrt(dim); 1 = even over the sphere, 0 = one point (Chen & He
    2021, section 4.1). effective_rank: exponential of the entropy of the singular values (Roy & Vetterli 2007). first_direction_share:
    part of the squared length along the first singular direction. uniformity: log mean exp(-2 |x - y|^2) over pairs
    (Wang & Isola 2020, eq. 5); 0 = one point, about -4 = even over the sphere.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return _figures(F.normalize(embeddings[:MOST_ROWS].float(), dim=1))


def _figures(rows: Float[Tensor, "n dim"]) -> dict[str, float]:
    singular = torch.linalg.svdvals(rows)
    total = singular.sum()
    if not total > 0:
        return {"spread": 0.0, "effective_rank": 1.0, "first_direction_share": 1.0, "uniformity": 0.0}
    share = singular / total
    entropy = -torch.special.xlogy(share, share).sum()
    squared = (2 - 2 * rows @ rows.T).clamp(min=0)
    upper = torch.ones_like(squared, dtype=torch.bool).triu(1)
    return {
        "spread": float(rows.std(dim=0, correction=0).mean()) * rows.shape[1] ** 0.5,
        "effective_rank": float(entropy.exp()),
        "first_direction_share": float(singular[0] ** 2 / singular.square().sum()),
        "uniformity": float((-2 * squared[upper]).exp().mean().log()) if len(rows) > 1 else 0.0,
    }


@torch.no_grad()
def alignment(left: Float[Tensor, "n dim"], right: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Mean squared distance between the two sides of a positive pair of unit vectors (Wang & Isola 2020, eq. 4); 0 = equal."""
    return (left.float() - right.float()).square().sum(dim=1).mean()


def collapse_reason(figures: Mapping[str, float], first: Mapping[str, float], limits: CollapseLimits | None = None) -> str | None:
    """In words what has collapsed, or None. `first`: the figures at the start of the run.

    A network that has not learned anything yet also maps all images close together, so smallness alone is no proof:
    the spread must have fallen to less than a share of what it was, or be lost in rounding.
    """
    limits = limits or CollapseLimits()
    spread = figures["spread"]
    if spread < 1e-3:
        return f"all embeddings are the same (spread {spread:.1e})"
    if spread < limits.spread and spread < limits.spread_kept * first["spread"]:
        return f"all embeddings run to one point (spread {spread:.3f}, {first['spread']:.3f} at the start)"
    if spread > 0.3 and figures["first_direction_share"] > limits.first_direction_share:
        return f"all embeddings lie on one line (first direction {figures['first_direction_share']:.1%})"
    if figures["effective_rank"] < limits.effective_rank:
        return f"embeddings fill few directions (effective rank {figures['effective_rank']:.1f})"
    return None
