"""`--to monai --into NETWORK`: the encoder's tensors under the names that MONAI's segmentation networks have for them."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from medcl.encoders import Encoder, ResNet, SegResNet, SwinUNETREncoder, ViT
from medcl.export.backbone import Backbone
from medcl.export.model_card import model_card
from medcl.export.monai_network import description
from medcl.export.proof import Proof, compare, count_matching
from medcl.foundation.errors import UserError
from medcl.foundation.files import write_bytes, write_json, write_text

TOLERANCE = 1e-5
_USE = """```python
from load_backbone import load                 # the file beside this one; needs torch, monai and safetensors

network = load(".", out_channels=14)           # monai.networks.nets.{name}, its encoder pretrained, the rest random
```"""
# MONAI's FlexibleUNet builds these ResNets and no others: (block, layers) -> its name, and the shortcut it has.
_FLEXIBLE = {
    ("basic", (1, 1, 1, 1)): ("resnet10", "without_bias"),
    ("basic", (2, 2, 2, 2)): ("resnet18", "padding"),
    ("basic", (3, 4, 6, 3)): ("resnet34", "padding"),
    ("bottleneck", (3, 4, 6, 3)): ("resnet50", "without_bias"),
}


def write_into(backbone: Backbone, into: str, folder: Path) -> Proof:
    """Write model.safetensors (names of the network), config.json and load_backbone.py; the last one loads them for the comparison.

    into: a key of NETWORKS. Raises UserError for an encoder that this network does not hold, with the reason.
    """
    if into not in NETWORKS:
        raise UserError(f"--into {into}: expected one of {', '.join(NETWORKS)}")
    kind, prefix, arguments_of = NETWORKS[into]
    encoder = backbone.encoder
    if not isinstance(encoder, kind):
        name = backbone.card["encoder"].get("name")
        raise UserError(f"--into {into}: encoder.name is '{name}', and {into} holds a {_NAMES[into]}")
    assert encoder.monai is not None
    arguments = {**arguments_of(encoder.monai.arguments), "out_channels": 2}
    norm = {"norm": encoder.monai.norm} if encoder.monai.norm else {}
    config = {"target": f"monai.networks.nets.{into}", "arguments": arguments, "prefix": prefix, **norm}
    write_json(folder / "config.json", {"monai": config, "medcl": {key: backbone.card[key] for key in ("encoder", "contract")}})
    write_bytes(folder / "model.safetensors", save({prefix + name: tensor for name, tensor in encoder.state_dict().items()}))
    shutil.copyfile(Path(__file__).with_name("monai_load.py"), folder / "load_backbone.py")
    write_text(folder / "README.md", model_card(backbone.card, _USE.format(name=into)))
    return _prove(backbone, into, prefix, folder)


def _prove(backbone: Backbone, into: str, prefix: str, folder: Path) -> Proof:
    network = runpy.run_path(str(folder / "load_backbone.py"))["load"](folder)
    state = network.state_dict()
    theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    proof = compare(
        f"monai into {into}",
        backbone.encoder,
        _pooled(network.get_submodule(prefix.rstrip(".")), description(backbone.encoder.monai)["output"]),  # pyright: ignore[reportArgumentType]
        backbone.examples(3),
        loaded=count_matching(backbone.encoder.state_dict(), theirs),
        tolerance=TOLERANCE,
    )
    return proof.warned([f"{len(state) - len(theirs)} other tensors of {into} stay random"])


def _pooled(encoder: torch.nn.Module, output: str) -> Callable[[Tensor], Tensor]:
    if output == "tokens":
        return lambda image: encoder(image)[0].mean(1)
    return lambda image: encoder(image)[-1].flatten(2).mean(2)


def _swin(given: Mapping[str, Any]) -> dict[str, Any]:
    same = ("window_size", "depths", "num_heads", "spatial_dims", "use_v2")
    return {"in_channels": given["in_chans"], "feature_size": given["embed_dim"], **{name: given[name] for name in same}}


def _unetr(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["num_layers"] != 12 or set(given["patch_size"]) != {16}:
        raise UserError(
            f"--into UNETR: encoder.depth is {given['num_layers']} and encoder.patch {given['patch_size'][0]}, UNETR has 12 and 16; "
            "pretrain with encoder.depth=12 and encoder.patch=16"
        )
    return {name: given[name] for name in ("in_channels", "img_size", "hidden_size", "mlp_dim", "num_heads", "spatial_dims")}


def _segresnet(given: Mapping[str, Any]) -> dict[str, Any]:
    return dict(given)


def _flexible(given: Mapping[str, Any]) -> dict[str, Any]:
    name, shortcut = _FLEXIBLE[given["block"], tuple(given["layers"])]
    has = "padding" if given["shortcut_type"] == "A" else "projection" if given["bias_downsample"] else "without_bias"
    wanted = {"shortcut": (has, shortcut), "width": (given["block_inplanes"][0], 64), "stem_kernel": (given["conv1_t_size"], 7)}
    wanted |= {"stem_stride": (given["conv1_t_stride"], 2), "stem_pool": (not given["no_max_pool"], True)}
    for field, (found, needed) in wanted.items():
        if found != needed:
            way = f"pretrain with encoder.{field}={needed}"
            raise UserError(f"--into FlexibleUNet: encoder.{field} is {found}, its {name} has {needed}; {way}")
    return {"in_channels": given["n_input_channels"], "backbone": name, "pretrained": False, "spatial_dims": given["spatial_dims"]}


NETWORKS: Mapping[str, tuple[type[Encoder], str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "SwinUNETR": (SwinUNETREncoder, "swinViT.", _swin),
    "UNETR": (ViT, "vit.", _unetr),
    "SegResNetDS": (SegResNet, "encoder.", _segresnet),
    "FlexibleUNet": (ResNet, "encoder.", _flexible),
}
_NAMES = {"SwinUNETR": "swin_unetr", "UNETR": "vit", "SegResNetDS": "segresnet", "FlexibleUNet": "resnet"}
