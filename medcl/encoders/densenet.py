"""DenseNet in 2D and 3D (Huang et al. 2017, https://arxiv.org/abs/1608.06993): MONAI's network with leak-free norms and dense features."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from monai.networks.nets import densenet as monai_densenet
from pydantic import Field
from torch import Tensor, nn

from medcl.encoders.contract import Encoder, MonaiForm, leak_free
from medcl.foundation.config import Settings
from medcl.foundation.types import Features

_BLOCKS = {121: [6, 12, 24, 16], 169: [6, 12, 32, 32], 201: [6, 12, 48, 32]}
_NORMS = "transition1.norm", "transition2.norm", "transition3.norm", "norm5"


class DenseNetConfig(Settings):
    """Settings of a DenseNet.

    width (even): channels of the stem (64 in the paper); every layer adds half as many. norm: see `ResNetConfig`. Sides of at least
    64 voxels leave the last block more than one.
    """

    name: Literal["densenet"] = "densenet"
    depth: Literal[121, 169, 201] = 121
    spatial_dims: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    width: int = Field(default=64, ge=4, multiple_of=2)
    norm: Literal["group", "instance"] = "group"

    def build(self) -> DenseNet:
        """The network, its weights drawn from torch's random state."""
        return DenseNet(self)


class DenseNet(monai_densenet.DenseNet, Encoder):
    """MONAI's DenseNet without its classifier; the keys of `state_dict` are MONAI's own.

    pooled: mean of the last block over space. dense: the normalised outputs of the four blocks.
    """

    stages_in = "features"

    def __init__(self, config: DenseNetConfig) -> None:
        growth = config.width // 2
        arguments = {
            "spatial_dims": config.spatial_dims,
            "in_channels": config.in_channels,
            "out_channels": 1,
            "init_features": config.width,
            "growth_rate": growth,
            "block_config": _BLOCKS[config.depth],
            "norm": list(leak_free(config.norm, growth)),
        }
        super().__init__(**arguments)
        self.class_layers.out = nn.Identity()
        self.monai = MonaiForm("monai.networks.nets.DenseNet", arguments, drop="class_layers.out")
        self.channels = tuple(self.features.get_parameter(f"{name}.weight").shape[0] for name in _NORMS)
        self.dim = self.channels[-1]
        self.spatial_dims = config.spatial_dims
        self.stride = 32
        self.any_size = True

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Features:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Encode (batch, channel, *space)."""
        dense, value = [], image
        for name, layer in self.features.named_children():
            if name.startswith("transition"):
                norm, relu, conv, pool = layer.children()
                dense.append(relu(norm(value)))
                value = pool(conv(dense[-1]))
            else:
                value = layer(value)
        *_, last = dense = [*dense, self.class_layers.get_submodule("relu")(value)]
        return Features(last.flatten(2).mean(2), tuple(dense))
