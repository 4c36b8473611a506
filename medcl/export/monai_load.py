"""Load this folder with torch, MONAI and safetensors alone: `network = load(".")`; medcl itself is not needed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from monai.networks.nets.resnet import ResNet
from monai.networks.utils import replace_modules
from safetensors.torch import load_file


def build(arguments: dict, norm: dict) -> torch.nn.Module:
    """MONAI's ResNet with the given arguments, (batch, channel, *space) -> (batch, dim).

    MONAI 1.6 gives the blocks BatchNorm whatever `norm` says (its pull request 9028): what it left is replaced.
    norm: {"name": "group", "groups": n} or {"name": "instance"}.
    """
    network = ResNet(**arguments)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            channels = module.num_features
            if norm["name"] == "group":
                new = torch.nn.GroupNorm(norm["groups"], channels)
            else:
                new = getattr(torch.nn, f"InstanceNorm{arguments['spatial_dims']}d")(channels, affine=True)
            replace_modules(network, name, new)
    return network.eval()


def load(folder: str | Path) -> torch.nn.Module:
    """The network of this folder with its weights; raises where a tensor is missing or too many."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = build(config["monai"]["arguments"], config["monai"]["norm"])
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return network
