"""The encoder as MONAI alone would build it, as JSON for a folder's config and as an expression for a bundle's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from medcl.encoders import Encoder, MonaiForm
from medcl.foundation.errors import UserError

_POOL = {"tokens": "answer[0].mean(1)", "maps": "answer[-1].flatten(2).mean(2)"}


def describe(encoder: Encoder, target: str) -> MonaiForm:
    """MONAI's form of the encoder. Raises UserError for one that MONAI has no class for."""
    if encoder.monai is None:
        raise UserError(f"--to {target}: MONAI has no network of the kind '{type(encoder).__name__}'; use --to backbone or onnx")
    return encoder.monai


def description(form: MonaiForm) -> dict[str, Any]:
    """What `monai_load.build` reads."""
    return {name: value for name, value in asdict(form).items() if value is not None}


def bundle_expression(form: MonaiForm) -> str:
    """The same steps as Python on `net`, for a bundle's config: it may name no class but MONAI's and torch's."""
    steps = []
    if form.drop:
        steps.append(f"monai.networks.utils.replace_modules(net, '{form.drop}', torch.nn.Identity())")
    if form.norm:
        steps.append(
            f"[monai.networks.utils.replace_modules(net, name, (lambda channels: {_norm(form)})(module.num_features)) for name, module in "
            "list(net.named_modules()) if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]"
        )
    if form.output in _POOL:
        steps.append(f"net.register_forward_hook(lambda module, inputs, answer: {_POOL[form.output]})")
    return f"$(lambda net: ({', '.join([*steps, 'net'])},)[-1])(@network_body)"


def _norm(form: MonaiForm) -> str:
    assert form.norm is not None
    if form.norm["name"] == "group":
        return f"torch.nn.GroupNorm({form.norm['groups']}, channels)"
    return f"torch.nn.InstanceNorm{form.arguments['spatial_dims']}d(channels, affine=True)"
