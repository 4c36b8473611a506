"""The encoder of Swin UNETR (Hatamizadeh et al. 2022, https://arxiv.org/abs/2201.01266): MONAI's Swin transformer."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from monai.networks.nets.swin_unetr import SwinTransformer
from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder, MonaiForm, check_sides
from medcl.foundation.config import Settings
from medcl.foundation.types import Features

_SIDES = 32  # patches of 2, then four merges: SwinUNETR refuses other sides


class SwinUNETRConfig(Settings):
    """Settings of Swin UNETR's encoder.

    width: channels after the patch embedding (`feature_size` of SwinUNETR). depths, heads: blocks and attention heads of the four stages;
    heads divide width, 2, 4 and 8 times width. window: side of the attention's windows in patches.
    convolutions: a residual convolution before each stage (SwinUNETR's `use_v2`).
    """

    name: Literal["swin_unetr"] = "swin_unetr"
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    width: int = Field(default=48, ge=12, multiple_of=12)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = Field(default=7, ge=2)
    convolutions: bool = False

    def build(self) -> SwinUNETREncoder:
        """The network, its weights drawn from torch's random state."""
        return SwinUNETREncoder(self)


class SwinUNETREncoder(SwinTransformer, Encoder):
    """MONAI's SwinTransformer; the keys of `state_dict` are those under SwinUNETR's `swinViT.`.

    pooled: mean of the last map over space. dense: the patch embedding and the outputs of the four stages, each normalised over its
    channels without scale or shift, as SwinUNETR's decoder takes them.
    """

    def __init__(self, config: SwinUNETRConfig) -> None:
        arguments = {
            "in_chans": config.in_channels,
            "embed_dim": config.width,
            "window_size": [config.window] * config.spatial_dims,
            "patch_size": [2] * config.spatial_dims,
            "depths": list(config.depths),
            "num_heads": list(config.heads),
            "spatial_dims": config.spatial_dims,
            "use_v2": config.convolutions,
        }
        super().__init__(**arguments)
        self.monai = MonaiForm("monai.networks.nets.swin_unetr.SwinTransformer", arguments, output="maps")
        self.channels = tuple(config.width * 2**level for level in range(5))
        self.dim = self.channels[-1]
        self.spatial_dims = config.spatial_dims
        self.stride = _SIDES
        self.any_size = False
        self.multiple = _SIDES

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (MONAI's returns its own)
        self, image: Float[Tensor, "batch channel *space"]
    ) -> Features:
        """Encode (batch, channel, *space). Raises ValueError unless every side is a multiple of 32."""
        check_sides(image, _SIDES)
        dense = super().forward(image)
        return Features(dense[-1].flatten(2).mean(2), tuple(dense))
