"""The encoder as MONAI alone would build it: its class, its arguments, and the norm MONAI puts elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from medcl.encoders import Encoder, ResNet
from medcl.foundation.errors import UserError


@dataclass(frozen=True)
class MonaiNetwork:
    """`monai.networks.nets.<name>(**arguments)`, every BatchNorm in it replaced by `norm` (see export/monai_load.py).

    norm: {"name": "group", "groups": n} or {"name": "instance"}.
    """

    name: str
    arguments: dict[str, Any]
    norm: dict[str, Any]

    @property
    def norm_expression(self) -> str:
        """The norm layer in Python, its channels called `channels`."""
        if self.norm["name"] == "group":
            return f"torch.nn.GroupNorm({self.norm['groups']}, channels)"
        return f"torch.nn.InstanceNorm{self.arguments['spatial_dims']}d(channels, affine=True)"


def describe(encoder: Encoder, target: str) -> MonaiNetwork:
    """Read MONAI's arguments off the network. Raises UserError for an encoder that MONAI has no class for."""
    if not isinstance(encoder, ResNet):
        raise UserError(f"--to {target}: MONAI has no network of the kind '{type(encoder).__name__}'; use --to backbone or onnx")
    stages = (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)
    norm, blocks = encoder.bn1, [next(stage.children()) for stage in stages]
    grouped = isinstance(norm, nn.GroupNorm)
    arguments = {
        "block": "bottleneck" if hasattr(blocks[0], "conv3") else "basic",
        "layers": [len(stage) for stage in stages],
        "block_inplanes": [block.get_parameter("conv1.weight").shape[0] for block in blocks],
        "spatial_dims": encoder.spatial_dims,
        "n_input_channels": encoder.conv1.in_channels,
        "conv1_t_size": encoder.conv1.kernel_size[0],
        "conv1_t_stride": encoder.conv1.stride[0],
        "no_max_pool": encoder.no_max_pool,
        "feed_forward": False,
        "norm": ["group", {"num_groups": norm.num_groups}] if grouped else ["instance", {"affine": True}],
    }
    return MonaiNetwork("ResNet", arguments, {"name": "group", "groups": norm.num_groups} if grouped else {"name": "instance"})
