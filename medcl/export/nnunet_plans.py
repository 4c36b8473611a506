"""What a data set's nnU-Net plans ask of an encoder, and where they contradict the contract of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcl.encoders import ResEncUNetEncoder
from medcl.export.backbone import Contract
from medcl.foundation.errors import UserError
from medcl.foundation.files import read_json

_FITTING = {"conv_bias": (True,), "dropout_op": (None,), "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU")}
_NORMS = "torch.nn.modules.instancenorm.InstanceNorm{dims}d", "torch.nn.InstanceNorm{dims}d"


@dataclass(frozen=True)
class Target:
    """The network of one configuration of the plans, axes in nnU-Net's order. order: the axis of medcl's that becomes each of them."""

    order: tuple[int, ...]
    channels: list[int]
    kernels: list[list[int]]
    strides: list[list[int]]
    decoder_convs: list[int]
    schemes: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None


def read_target(path: Path, configuration: str | None, encoder: ResEncUNetEncoder) -> Target:
    """Read plans and make sure that their network has this encoder. Raises UserError naming the field that differs."""
    plans, dims = read_json(path), encoder.spatial_dims
    name = configuration or ("3d_fullres" if dims == 3 else "2d")
    chosen = _configuration(plans, name, path)
    architecture = chosen.get("architecture") or {}
    network = str(architecture.get("network_class_name"))
    where = f"--plans {path.name}, {name}"
    if not network.endswith("ResidualEncoderUNet"):
        found = network.rpartition(".")[2]
        raise UserError(f"{where}: its network is {found}; plan with a ResEnc preset (nnUNetv2_plan_experiment -pl nnUNetPlannerResEncL)")
    kwargs = architecture.get("arch_kwargs") or {}
    stages = int(kwargs.get("n_stages", 0))
    order = _order(plans, dims)
    target = Target(
        order=order,
        channels=_each(kwargs.get("features_per_stage"), stages),
        kernels=[_each(stage, dims) for stage in _each(kwargs.get("kernel_sizes"), stages)],
        strides=[_each(stage, dims) for stage in _each(kwargs.get("strides"), stages)],
        decoder_convs=_each(kwargs.get("n_conv_per_stage_decoder"), stages - 1),
        schemes=tuple(chosen.get("normalization_schemes", ())),
        spacing_mm=tuple(chosen["spacing"]) if chosen.get("spacing") else None,
    )
    ours = {name: [[stage[axis] for axis in order] for stage in encoder.arguments[name]] for name in ("kernels", "strides")}
    pairs = {
        "blocks": (encoder.arguments["blocks"], _each(kwargs.get("n_blocks_per_stage"), stages)),
        "width, encoder.widest": (encoder.arguments["channels"], target.channels),
        "kernels": (ours["kernels"], target.kernels),
        "strides": (ours["strides"], target.strides),
    }
    for field, (found, needed) in pairs.items():
        if found != needed:
            raise UserError(f"{where}: encoder.{field} gives {found}, the plans have {needed}; pretrain with these, or plan with these")
    fitting = {**_FITTING, "norm_op": tuple(each.format(dims=dims) for each in _NORMS)}
    for field, allowed in fitting.items():
        if kwargs.get(field) not in allowed:
            raise UserError(f"{where}: {field} is {kwargs.get(field)}, and this encoder was trained with {allowed[0]}")
    return target


def warnings_for(contract: Contract, target: Target | None) -> list[str]:
    """Where nnU-Net will show the network other values than it was pretrained on."""
    low, high = contract.network_range
    intensity = contract.recipe.intensity
    seen = f"{intensity.low:g} to {intensity.high:g} {contract.units[0]} as {low:g} to {high:g}" if intensity.name == "window" else None
    found = []
    if target is None and seen:
        found.append(f"the backbone saw {seen}; nnU-Net's `like_nnssl` preprocessing standardises every channel (z-score) instead")
    for scheme in dict.fromkeys(target.schemes if target else ()):
        if scheme == "NoNormalization" or (scheme == "ZScoreNormalization" and intensity.name == "zscore"):
            continue
        what = seen or f"'{intensity.name}' intensities in {low:g} to {high:g}"
        found.append(f"the backbone saw {what}; these plans apply {scheme}, so its first layers meet another scale")
    spacing = contract.recipe.spacing_mm
    if target and target.spacing_mm and spacing and len(target.spacing_mm) == len(target.order) == 3:
        wanted = [spacing[axis] for axis in target.order]
        if any(abs(planned / ours - 1) > 0.25 for planned, ours in zip(target.spacing_mm, wanted, strict=True)):
            found.append(f"the backbone saw {wanted} mm voxels, these plans have {list(target.spacing_mm)} mm")
    return (
        [*found, "nnU-Net keeps a file's own orientation; the backbone saw " + contract.orientation] if contract.kind == "volume" else found
    )


def _configuration(plans: Any, name: str, path: Path) -> dict[str, Any]:
    """A configuration with what it inherits."""
    known = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(known, dict) or name not in known:
        names = ", ".join(known or ["none there"])
        raise UserError(f"--plans {path.name}: has no configuration '{name}'; name one with --configuration ({names})")
    chosen = dict(known[name])
    parent = chosen.pop("inherits_from", None)
    return chosen if parent is None else {**_configuration(plans, parent, path), **chosen}


def _order(plans: dict[str, Any], dims: int) -> tuple[int, ...]:
    """nnU-Net reads volumes as z, y, x and then permutes by `transpose_forward`; pictures are rows, columns as ours are."""
    if dims == 2:
        return 0, 1
    return tuple((2, 1, 0)[axis] for axis in plans.get("transpose_forward", (0, 1, 2)))


def _each(value: Any, count: int) -> list[Any]:
    return [value] * count if not isinstance(value, list | tuple) else list(value)
