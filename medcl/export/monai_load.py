"""Load this folder with torch, MONAI and safetensors alone: `network = load(".")`; medcl itself is not needed."""

from __future__ import annotations

import hashlib
import json
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from monai.networks.utils import replace_modules
from safetensors.torch import load_file


def build(description: dict) -> torch.nn.Module:
    """The network that config.json describes, with random weights; as an encoder, (batch, channel, *space) -> (batch, dim).

    target, arguments: the class and how it is called. norm: what MONAI's BatchNorm is replaced by under `prefix`: MONAI 1.6 gives a
    ResNet's blocks BatchNorm whatever its `norm` says (its pull request 9028). drop: a classifier's last layer, taken out. output:
    what the class returns, turned into an embedding by a forward hook; without it, the class returns what it always does.
    """
    network: torch.nn.Module = _class(description["target"])(**description["arguments"])
    if description.get("drop"):
        replace_modules(network, description["drop"], torch.nn.Identity())
    if description.get("norm"):
        _replace_norms(network, description["norm"], description.get("prefix", ""))
    pools = {"tokens": lambda answer: answer[0].mean(1), "maps": lambda answer: answer[-1].flatten(2).mean(2)}
    pool = pools.get(description.get("output", "embedding"))
    if pool:
        network.register_forward_hook(lambda module, inputs, answer: pool(answer))
    return network.eval()


def load(folder: str | Path, **changes: Any) -> torch.nn.Module:
    """The network of this folder with its weights. changes: arguments of your own, such as out_channels=14.

    Raises ValueError unless every tensor of the file has its place and every place under the prefix its tensor, and for files that are not
    those of the card.json beside them.
    """
    folder = Path(folder)
    _check(folder, "config.json", "model.safetensors")
    description = json.loads((folder / "config.json").read_text(encoding="utf-8"))["monai"]
    network = build({**description, "arguments": {**description["arguments"], **changes}})
    weights = load_file(folder / "model.safetensors")
    answer = network.load_state_dict(weights, strict=False)
    missing = [name for name in answer.missing_keys if name.startswith(description.get("prefix", ""))]
    if not weights or missing or answer.unexpected_keys:
        raise ValueError(f"loaded {len(weights) - len(answer.unexpected_keys)}/{len(weights)} tensors, {len(missing)} places stayed empty")
    return network


def _check(folder: Path, *names: str) -> None:
    card = folder / "card.json"
    files = json.loads(card.read_text(encoding="utf-8"))["files"] if card.is_file() else {}
    for name in names:
        if name in files and hashlib.sha256((folder / name).read_bytes()).hexdigest() != files[name]:
            raise ValueError(f"{name}: altered since the export (its SHA-256 is not that of card.json)")


def _class(target: str) -> Any:
    module, _, name = target.rpartition(".")
    if module == "resenc_network":  # the file beside this one
        return runpy.run_path(str(Path(__file__).with_name("resenc_network.py")))[name]
    if not module.startswith("monai.networks.nets"):
        raise ValueError(f"config.json names '{target}': only classes of monai.networks.nets are built")
    return getattr(import_module(module), name)


def _replace_norms(network: torch.nn.Module, norm: dict, prefix: str) -> None:
    for name, module in list(network.named_modules()):
        if name.startswith(prefix) and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            channels = module.num_features
            if norm["name"] == "group":
                new = torch.nn.GroupNorm(norm["groups"], channels)
            else:
                flat = isinstance(module, torch.nn.BatchNorm2d)
                new = (torch.nn.InstanceNorm2d if flat else torch.nn.InstanceNorm3d)(channels, affine=True)
            replace_modules(network, name, new)
