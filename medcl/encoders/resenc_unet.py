"""The encoder of nnU-Net's ResEnc U-Nets (Isensee et al. 2024, https://arxiv.org/abs/2404.09556); by default that of ResEncL."""

from __future__ import annotations

import math
from typing import Any, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from medcl.encoders.contract import Encoder, check_sides
from medcl.encoders.resenc_network import ResidualEncoder, embedding
from medcl.foundation.config import Settings
from medcl.foundation.types import Features


class ResEncConfig(Settings):
    """Settings of a residual encoder; the defaults are ResEncL on an isotropic grid.

    blocks: how many in each stage. width: channels of the first stage, doubled from one to the next up to `widest` (nnU-Net: 320 in 3D, 512
    in 2D). kernels, strides: for each stage one number per axis, in the order of medcl's axes (x y z; rows columns), as the plans of an
    anisotropic data set have them; by default 3, and 2 from the second stage on.
    """

    name: Literal["resenc"] = "resenc"
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    blocks: tuple[int, ...] = Field(default=(1, 3, 4, 6, 6, 6), min_length=2)
    width: int = Field(default=32, ge=2)
    widest: int = Field(default=320, ge=2)
    kernels: tuple[tuple[int, ...], ...] | None = None
    strides: tuple[tuple[int, ...], ...] | None = None

    @model_validator(mode="after")
    def _one_for_each_stage(self) -> ResEncConfig:
        for name in ("kernels", "strides"):
            given = getattr(self, name)
            if given is not None and [len(stage) for stage in given] != [self.spatial_dims] * len(self.blocks):
                raise ValueError(f"{name}: expected {self.spatial_dims} numbers for each of the {len(self.blocks)} stages of blocks")
        if any(length % 2 == 0 for stage in self.kernels or () for length in stage):
            raise ValueError("kernels: every length must be odd, so that the grid stays centred")
        return self

    def build(self) -> ResEncUNetEncoder:
        """The network, its weights drawn from torch's random state."""
        return ResEncUNetEncoder(self)

    def arguments(self) -> dict[str, Any]:
        """The arguments of `ResidualEncoder`."""
        stages = len(self.blocks)
        return {
            "in_channels": self.in_channels,
            "channels": [min(self.width * 2**stage, self.widest) for stage in range(stages)],
            "blocks": list(self.blocks),
            "kernels": [list(each) for each in self.kernels or ((3,) * self.spatial_dims,) * stages],
            "strides": [list(each) for each in self.strides or ((1,) * self.spatial_dims, *((2,) * self.spatial_dims,) * (stages - 1))],
        }


class ResEncUNetEncoder(ResidualEncoder, Encoder):
    """pooled: mean of the last stage over space. dense: the outputs of all stages, the first at full resolution."""

    stages_in = "stages"

    def __init__(self, config: ResEncConfig) -> None:
        self.arguments = config.arguments()
        super().__init__(**self.arguments)
        self.channels = tuple(self.arguments["channels"])
        self.dim = self.channels[-1]
        self.spatial_dims = config.spatial_dims
        self.stride = max(math.prod(steps) for steps in zip(*self.arguments["strides"], strict=True))
        self.any_size = False
        self.multiple = self.stride

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Features:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Encode (batch, channel, *space). Raises ValueError where a side is no multiple of the stride: the shortcuts would not fit."""
        check_sides(image, self.multiple)
        maps = super().forward(image)
        return Features(embedding(maps), tuple(maps))
