"""The encoder of SegResNet (Myronenko 2018, https://arxiv.org/abs/1810.11654): MONAI's, with leak-free norms."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from monai.networks.nets.segresnet_ds import SegResEncoder
from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder, MonaiForm, leak_free
from medcl.foundation.config import Settings
from medcl.foundation.types import Features


class SegResNetConfig(Settings):
    """Settings of SegResNet's encoder.

    blocks: how many in each stage; the grid halves and the channels double from one to the next. width: channels of the first stage.
    norm: see `ResNetConfig`.
    """

    name: Literal["segresnet"] = "segresnet"
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    blocks: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=2)
    width: int = Field(default=32, ge=4)
    norm: Literal["group", "instance"] = "instance"

    def build(self) -> SegResNet:
        """The network, its weights drawn from torch's random state."""
        return SegResNet(self)


class SegResNet(SegResEncoder, Encoder):
    """MONAI's SegResEncoder; the keys of `state_dict` are MONAI's own.

    pooled: mean of the last stage over space. dense: the outputs of all stages, the first at full resolution.
    """

    stages_in = "layers"

    def __init__(self, config: SegResNetConfig) -> None:
        arguments = {
            "spatial_dims": config.spatial_dims,
            "init_filters": config.width,
            "in_channels": config.in_channels,
            "blocks_down": list(config.blocks),
            "norm": list(leak_free(config.norm, config.width)),
        }
        super().__init__(**arguments)
        self.monai = MonaiForm("monai.networks.nets.segresnet_ds.SegResEncoder", arguments, output="maps")
        stages = range(len(config.blocks))
        self.channels = tuple(config.width * 2**stage for stage in stages)
        self.dim = self.channels[-1]
        self.spatial_dims = config.spatial_dims
        self.stride = 2 ** stages[-1]
        self.any_size = True

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (MONAI's returns its own)
        self, image: Float[Tensor, "batch channel *space"]
    ) -> Features:
        """Encode (batch, channel, *space)."""
        dense = self._forward(image)
        return Features(dense[-1].flatten(2).mean(2), tuple(dense))
