"""ResNet in 2D and 3D (He et al. 2016, https://arxiv.org/abs/1512.03385): MONAI's network with leak-free norms and dense features."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from monai.networks.nets import resnet as monai_resnet
from pydantic import Field, field_validator
from torch import Tensor, nn

from medcl.encoders.contract import Encoder, MonaiForm, leak_free
from medcl.foundation.config import Settings
from medcl.foundation.types import Features

_LAYERS: dict[int, tuple[str, list[int]]] = {
    10: ("basic", [1, 1, 1, 1]),
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}


class ResNetConfig(Settings):
    """Settings of a ResNet.

    width: channels of the first stage (64 in the paper); the later ones have 2, 4 and 8 times as many.
    norm: `group` (Wu & He 2018; width / 2 groups, 32 at most) or `instance`; both look at one item alone, so nothing leaks through
    batch statistics. stem_kernel (odd), stem_stride, stem_pool: 7, 2, true as in the paper; for inputs under about 64 voxels take
    3, 1, true or 3, 1, false, so that the last stage still has more than one voxel. shortcut: where a block changes its shape, a
    `projection` (option B of the paper), the same `without_bias`, or `padding` with zeros (option A). MONAI's FlexibleUNet has
    padding at depths 18 and 34, and projections without bias at 10 and 50. A projection is left out of what is written down: cards
    and runs from before there was a choice still say the same.
    """

    name: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50] = 18
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    width: int = Field(default=64, ge=4)
    norm: Literal["group", "instance"] = "group"
    stem_kernel: int = Field(default=7, ge=1)
    stem_stride: int = Field(default=2, ge=1)
    stem_pool: bool = True
    shortcut: Literal["projection", "without_bias", "padding"] = Field(default="projection", exclude_if=lambda value: value == "projection")

    @field_validator("stem_kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that the stem keeps the grid centred; take 3, 5 or 7")
        return value

    def build(self) -> ResNet:
        """The network, its weights drawn from torch's random state (see `build_seeded`)."""
        return ResNet(self)


class ResNet(monai_resnet.ResNet, Encoder):
    """MONAI's ResNet without its classifier; the keys of `state_dict` are MONAI's own.

    pooled: mean of the last stage over space. dense: the outputs of the four stages.
    """

    def __init__(self, config: ResNetConfig) -> None:
        block, layers = _LAYERS[config.depth]
        planes = [config.width * factor for factor in (1, 2, 4, 8)]
        # Set before MONAI's constructor, which calls _make_layer. Not a module or tensor, so nn.Module allows it.
        self._norm = leak_free(config.norm, config.width)
        arguments = {
            "block": block,
            "layers": layers,
            "block_inplanes": planes,
            "spatial_dims": config.spatial_dims,
            "n_input_channels": config.in_channels,
            "conv1_t_size": config.stem_kernel,
            "conv1_t_stride": config.stem_stride,
            "no_max_pool": not config.stem_pool,
            "shortcut_type": "A" if config.shortcut == "padding" else "B",
            "bias_downsample": config.shortcut != "without_bias",
            "feed_forward": False,
            "norm": list(self._norm),
        }
        super().__init__(**arguments)
        groups = self._norm[1].get("num_groups")
        norm = {"name": "group", "groups": groups} if groups else {"name": "instance"}
        self.monai = MonaiForm("monai.networks.nets.ResNet", arguments, norm=norm)
        self.dim = self.in_planes
        self.channels = tuple(plane * self.in_planes // planes[-1] for plane in planes)
        self.spatial_dims = config.spatial_dims
        self.stride = config.stem_stride * (2 if config.stem_pool else 1) * 8
        self.any_size = True

    def _make_layer(self, *arguments: Any, **keywords: Any) -> nn.Sequential:
        """MONAI 1.6 forgets `norm` here and builds BatchNorm blocks under any stem norm (MONAI pull request 9028)."""
        return super()._make_layer(*arguments, **{**keywords, "norm": self._norm})

    def _downsample_basic_block(self, x: Tensor, planes: int, stride: int, spatial_dims: int = 3) -> Tensor:
        """MONAI 1.6 detaches this shortcut (`out.data`), so that no gradient passes it; the values are the same."""
        every = (slice(None, None, stride),) * spatial_dims
        value = x[(slice(None), slice(None), *every)]
        return F.pad(value, [0, 0] * spatial_dims + [0, planes - value.shape[1]])

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (MONAI's returns the pooled tensor alone)
        self, image: Float[Tensor, "batch channel *space"]
    ) -> Features:
        """Encode (batch, channel, *space)."""
        value = self.act(self.bn1(self.conv1(image)))
        if not self.no_max_pool:
            value = self.maxpool(value)
        dense = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            value = stage(value)
            dense.append(value)
        return Features(self.avgpool(value).flatten(1), tuple(dense))
