"""Vision transformer in 2D and 3D (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929): MONAI's, as UNETR uses it."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from monai.networks.nets import vit as monai_vit
from pydantic import Field, model_validator
from torch import Tensor

from medcl.encoders.contract import Encoder, MonaiForm
from medcl.foundation.config import Settings
from medcl.foundation.types import Features


class ViTConfig(Settings):
    """Settings of a vision transformer.

    size: the voxel grid it takes, equal to `views.size`: its position table has an entry for every patch. patch: side of a patch in
    voxels. width: of a token, a multiple of heads. depth: number of blocks.
    """

    name: Literal["vit"] = "vit"
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    size: tuple[int, ...]
    patch: int = Field(default=16, ge=1)
    width: int = Field(default=768, ge=4)
    depth: int = Field(default=12, ge=4)
    heads: int = Field(default=12, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> ViTConfig:
        if len(self.size) != self.spatial_dims:
            raise ValueError(f"size {list(self.size)} has {len(self.size)} numbers, spatial_dims is {self.spatial_dims}")
        if any(side % self.patch or side < self.patch for side in self.size):
            raise ValueError(f"size {list(self.size)}: every side must be a multiple of patch {self.patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self

    def build(self) -> ViT:
        """The network, its weights drawn from torch's random state."""
        return ViT(self)


class ViT(monai_vit.ViT, Encoder):
    """MONAI's ViT without a class token; the keys of `state_dict` are MONAI's own.

    pooled: mean of the normalised tokens. dense: the tokens after a quarter, a half, three quarters and all of the blocks, each laid
    out as a map. A plain transformer has one resolution: depth takes the place of scale, as in UNETR.
    """

    stages_in = "blocks"

    def __init__(self, config: ViTConfig) -> None:
        arguments = {
            "in_channels": config.in_channels,
            "img_size": list(config.size),
            "patch_size": [config.patch] * config.spatial_dims,
            "hidden_size": config.width,
            "mlp_dim": 4 * config.width,
            "num_layers": config.depth,
            "num_heads": config.heads,
            "spatial_dims": config.spatial_dims,
        }
        super().__init__(**arguments)
        for name, parameter in self.named_parameters():
            if "cross_attn" in name:  # MONAI's blocks hold a norm that nothing uses; DistributedDataParallel would wait for its gradient
                parameter.requires_grad_(False)
        self.monai = MonaiForm("monai.networks.nets.ViT", arguments, output="tokens")
        self.size = config.size
        self.grid = tuple(side // config.patch for side in config.size)
        self.looks = tuple(config.depth * quarter // 4 for quarter in (1, 2, 3))
        self.dim = config.width
        self.channels = (config.width,) * 4
        self.spatial_dims = config.spatial_dims
        self.stride = config.patch
        self.any_size = False

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (MONAI's returns its own)
        self, image: Float[Tensor, "batch channel *space"]
    ) -> Features:
        """Encode (batch, channel, *size). Raises ValueError for another size."""
        if tuple(image.shape[2:]) != self.size:
            raise ValueError(f"sides {list(image.shape[2:])}, but encoder.size is {list(self.size)}")
        tokens, hidden = super().forward(image)
        levels = [*(hidden[look] for look in self.looks), tokens]
        dense = tuple(level.transpose(1, 2).unflatten(2, self.grid) for level in levels)
        return Features(tokens.mean(1), dense)
