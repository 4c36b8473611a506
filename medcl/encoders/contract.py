"""What every image encoder promises: a picture or volume in, `Features` out, nothing to hook into."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medcl.foundation.randomness import generator
from medcl.foundation.types import Features


class Encoder(nn.Module):
    """Base of image encoders.

    dim: length of `Features.pooled`. channels: channels of each map in `Features.dense`, fine to coarse.
    spatial_dims: 2 or 3. stride: input voxels per voxel of the coarsest map. any_size: whether inputs of another
    size than in training are welcome. A row of the output depends on that row of the input only.
    """

    dim: int
    channels: tuple[int, ...]
    spatial_dims: int
    stride: int
    any_size: bool

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Features:
        """Encode images (batch, channel, *space); see `Features` for the shapes that come out."""
        raise NotImplementedError


def build_seeded(config: Any, *arguments: Any, seed: int, purpose: str = "initial weights") -> Any:
    """`config.build(*arguments)` with initial weights that are a pure function of (seed, purpose).

    Torch's own random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, purpose).integers(0, 2**63 - 1)))
        return config.build(*arguments)
