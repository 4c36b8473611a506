"""The smallest encoder there can be: one strided convolution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from medcl.encoders import Encoder
from medcl.foundation.config import Settings
from medcl.foundation.types import Features


class PatchMeanConfig(Settings):
    """width: length of the embedding."""

    name: Literal["patch_mean"] = "patch_mean"
    spatial_dims: Literal[2, 3] = 2
    width: int = Field(default=16, ge=2)

    def build(self) -> PatchMean:
        """The network."""
        return PatchMean(self)


class PatchMean(Encoder):
    """Patches of 4 voxels, projected and averaged."""

    def __init__(self, config: PatchMeanConfig) -> None:
        super().__init__()
        self.dim, self.channels = config.width, (config.width,)
        self.spatial_dims, self.stride, self.any_size = config.spatial_dims, 4, True
        self.patches = (nn.Conv2d if config.spatial_dims == 2 else nn.Conv3d)(1, config.width, 4, 4)

    def forward(self, image: Tensor) -> Features:
        """(batch, 1, *space) -> Features."""
        value = self.patches(image).tanh()
        return Features(value.flatten(2).mean(2), (value,))
