"""nnU-Net, by both of its doors: a whole checkpoint for `-pretrained_weights` of 2.8, and nnssl's adaptation plan for its master."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcl.encoders import ResEncConfig, ResEncUNetEncoder
from medcl.encoders.resenc_network import ResidualEncoder, embedding
from medcl.export.backbone import Backbone
from medcl.export.model_card import model_card
from medcl.export.nnunet_plans import Target, read_target, warnings_for
from medcl.export.proof import Proof, compare, count_matching
from medcl.foundation.errors import MedclError, UserError
from medcl.foundation.files import write_bytes, write_text
from medcl.foundation.randomness import generator

NEXT = "nnUNetv2_train DATASET CONFIGURATION FOLD -p PLANS -pretrained_weights {out}/checkpoint.pth, see {out}/README.md"
OPTIONS = ("plans", "configuration")
TOLERANCE = 1e-5
_FILE = "checkpoint.pth"
_ENCODERS = "encoder.", "decoder.encoder."  # the same modules twice in nnU-Net: what is written last under the second name wins
_SECOND_NAMES = {"conv": "all_modules.0", "norm": "all_modules.1"}
_USE = {
    "whole": """```
nnUNetv2_train DATASET CONFIGURATION FOLD -p PLANS -pretrained_weights checkpoint.pth      # nnU-Net 2.8, these plans only
```
The decoder is freshly drawn; segmentation layers are left to nnU-Net.""",
    "adaptation": """```
nnUNetv2_train_pretrained ...                  # nnU-Net's master reads `nnssl_adaptation_plan` from checkpoint.pth
```""",
}


def write(backbone: Backbone, source: Path, folder: Path, plans: str | Path | None = None, configuration: str | None = None) -> Proof:
    """Write checkpoint.pth and README.md, read the checkpoint again, rebuild the encoder from it and compare.

    plans: nnUNetPlans.json of the data set to be trained on; its network must have this encoder, and the checkpoint is then whole: every
    key but the segmentation layers, the encoder under both of its names. Without it, the checkpoint holds the encoder and the plan by
    which nnU-Net's master adapts it. configuration: of the plans; 3d_fullres or 2d where not given.

    medcl's tensors run x, y, z and nnU-Net's z, y, x (then as `transpose_forward` says): kernels are turned accordingly.
    Raises UserError for an encoder that nnU-Net has no place for, or plans with another network.
    """
    encoder = backbone.encoder
    if not isinstance(encoder, ResEncUNetEncoder):
        name = backbone.card["encoder"].get("name")
        raise UserError(
            f"--to nnunet: encoder.name is '{name}', and nnU-Net (2.8: PlainConvUNet, ResidualEncoderUNet) has no place for its tensors; "
            "use --to monai, onnx or huggingface for this backbone, or pretrain with encoder.name=resenc"
        )
    if plans is None and configuration is not None:
        raise UserError("--configuration: names one of the plans' configurations; give --plans too")
    target = None if plans is None else read_target(Path(plans), configuration, encoder)
    order = target.order if target else tuple(range(encoder.spatial_dims))[::-1] if encoder.spatial_dims == 3 else (0, 1)
    turned = _turned(encoder, order)
    content: dict[str, Any]
    if target is None:
        weights = _named(turned, "encoder.")
        content = {"network_weights": weights, "nnssl_adaptation_plan": _adaptation_plan(backbone, order), "citations": []}
    else:
        weights = {name: tensor for prefix in _ENCODERS for name, tensor in _named(turned, prefix).items()} | _decoder(target)
        content = {"network_weights": weights}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(folder / _FILE, buffer.getvalue())
    write_text(folder / "README.md", model_card(backbone.card, _USE["adaptation" if target is None else "whole"]))
    proof = _prove(backbone, encoder, folder, order, _ENCODERS if target else _ENCODERS[:1])
    return proof.warned(warnings_for(backbone.contract, target))


def _turned(encoder: ResEncUNetEncoder, order: Sequence[int]) -> dict[str, Tensor]:
    """The encoder's tensors with the kernels' axes in nnU-Net's order: order[i] is the axis of ours that becomes axis i."""
    axes = 0, 1, *(2 + axis for axis in order)
    return {name: tensor.permute(axes).contiguous() if tensor.dim() > 2 else tensor for name, tensor in encoder.state_dict().items()}


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Under both names that dynamic-network-architectures gives every layer's tensors."""
    found = {}
    for name, tensor in tensors.items():
        parent, layer, kind = name.rsplit(".", 2)
        found |= {f"{prefix}{parent}.{each}.{kind}": tensor for each in (layer, _SECOND_NAMES[layer])}
    return found


def _decoder(target: Target) -> dict[str, Tensor]:
    """Freshly drawn decoder tensors (He et al. 2015, as nnU-Net draws them), the same on every machine; no segmentation layers."""
    rng = generator(0, "nnU-Net decoder")
    found: dict[str, Tensor] = {}

    def draw(name: str, shape: Sequence[int], fan_in: int) -> None:
        gain = math.sqrt(2 / (1 + 0.01**2) / fan_in)
        found[f"{name}.weight"] = torch.from_numpy((gain * rng.standard_normal(shape)).astype("float32"))

    for stage in range(1, len(target.channels)):
        below, out = target.channels[-stage], target.channels[-stage - 1]
        stride, kernel = target.strides[-stage], target.kernels[-stage - 1]
        draw(f"transpconvs.{stage - 1}", (below, out, *stride), out * math.prod(stride))
        found[f"transpconvs.{stage - 1}.bias"] = torch.zeros(out)
        for number in range(target.decoder_convs[stage - 1]):
            layer, entering = f"stages.{stage - 1}.convs.{number}", out if number else 2 * out
            draw(f"{layer}.conv", (out, entering, *kernel), entering * math.prod(kernel))
            found |= {
                f"{layer}.conv.bias": torch.zeros(out),
                f"{layer}.norm.weight": torch.ones(out),
                f"{layer}.norm.bias": torch.zeros(out),
            }
    plain = {f"decoder.{name}": tensor for name, tensor in found.items() if name.startswith("transpconvs")}
    return plain | _named({name: tensor for name, tensor in found.items() if name.startswith("stages")}, "decoder.")


def _adaptation_plan(backbone: Backbone, order: Sequence[int]) -> dict[str, Any]:
    """What nnU-Net's master asks of an nnssl checkpoint: the architecture, the patch, and where its tensors are."""
    encoder, contract = backbone.encoder, backbone.contract
    assert isinstance(encoder, ResEncUNetEncoder)
    patch = [contract.size[axis] for axis in order]
    spacing = contract.recipe.spacing_mm
    preset = encoder.arguments == ResEncConfig(in_channels=encoder.arguments["in_channels"]).arguments()
    dims, given = encoder.spatial_dims, encoder.arguments
    kwargs = {
        "n_stages": len(given["blocks"]),
        "features_per_stage": given["channels"],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[stage[axis] for axis in order] for stage in given["kernels"]],
        "strides": [[stage[axis] for axis in order] for stage in given["strides"]],
        "n_blocks_per_stage": given["blocks"],
        "n_conv_per_stage_decoder": [1] * (len(given["blocks"]) - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "architecture_plans": {
            "arch_class_name": "ResEncL" if preset else "ResidualEncoderUNet",
            "arch_kwargs": None if preset else kwargs,
            "arch_kwargs_requiring_import": None if preset else ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "pretrain_plan": {
            "plans_name": "medcl",
            "configurations": {
                "medcl": {
                    "spacing": None if spacing is None else [spacing[axis] for axis in order],
                    "patch_size": patch,
                    "normalization_schemes": ["NoNormalization"],
                    "medcl_contract": backbone.card["contract"],
                }
            },
        },
        "pretrain_num_input_channels": encoder.arguments["in_channels"],
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def _prove(backbone: Backbone, encoder: ResEncUNetEncoder, folder: Path, order: Sequence[int], prefixes: Sequence[str]) -> Proof:
    """Every copy of the encoder in the file must be the turned encoder, bit for bit; then the outputs are compared."""
    weights = torch.load(folder / _FILE, map_location="cpu", weights_only=True)["network_weights"]
    turned = _turned(encoder, order)
    counts = []
    for prefix in prefixes:
        copy = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if set(copy) != set(_named(turned, "")):
            raise MedclError(f"nnunet: the tensors under '{prefix}' are not the encoder's; nothing was written")
        counts.append(count_matching(turned, copy))
    arguments = dict(encoder.arguments)
    arguments |= {name: [[stage[axis] for axis in order] for stage in arguments[name]] for name in ("kernels", "strides")}
    network = ResidualEncoder(**arguments).eval()
    network.load_state_dict({name: weights[prefixes[-1] + name] for name in turned})
    axes = 0, 1, *(2 + axis for axis in order)
    return compare(
        "nnunet",
        encoder,
        lambda image: embedding(network(image.permute(axes))),
        backbone.examples(3),
        loaded=min(counts),
        tolerance=TOLERANCE,
    )
