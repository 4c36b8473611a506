"""`medcl.into`: pretrained weights into anyone's own network, by name and shape, counted and said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medcl.export.backbone import load_backbone
from medcl.foundation.errors import UserError


@dataclass(frozen=True)
class Transfer:
    """What arrived. loaded, total: encoder tensors. prefixes: where in the network; missing: encoder tensors with no place there.

    untouched: tensors of the network that kept their values (a decoder, a head).
    """

    loaded: int
    total: int
    prefixes: tuple[str, ...]
    missing: tuple[str, ...]
    untouched: tuple[str, ...]

    def line(self) -> str:
        """The report in one line."""
        places = ", ".join(f"'{prefix}'" for prefix in self.prefixes)
        return f"loaded {self.loaded}/{self.total} encoder tensors under {places}; {len(self.untouched)} other tensors untouched"


def into(folder: str | Path, network: nn.Module, *, allow_missing: bool = False) -> Transfer:
    """Copy a backbone's weights into `network`, in place, under every prefix where its tensors have names and shapes of their own.

    A network that holds the encoder twice (nnU-Net: `encoder.` and `decoder.encoder.`) gets it in both places. Raises
    UserError, with the network unchanged, where no tensor fits or, without `allow_missing`, where one has no place.
    """
    ours = load_backbone(folder).encoder.state_dict()
    theirs = network.state_dict()
    fits = {prefix: _fitting(ours, theirs, prefix) for prefix in _prefixes(ours, theirs)}
    most = max((len(names) for names in fits.values()), default=0)
    if most == 0:
        known = ", ".join(list(theirs)[:3])
        raise UserError(
            f"{folder}: loaded 0/{len(ours)} encoder tensors: the network has none of these names and shapes (it begins with {known})"
        )
    chosen = {prefix: names for prefix, names in fits.items() if len(names) == most}
    missing = tuple(name for name in ours if name not in next(iter(chosen.values())))
    if missing and not allow_missing:
        raise UserError(
            f"{folder}: {most}/{len(ours)} encoder tensors fit, '{missing[0]}' has no place; pass allow_missing=True if that is meant"
        )
    written = {prefix + name for prefix, names in chosen.items() for name in names}
    with torch.no_grad():
        for prefix, names in chosen.items():
            for name in names:
                theirs[prefix + name].copy_(ours[name])
    untouched = tuple(name for name in theirs if name not in written)
    return Transfer(most, len(ours), tuple(sorted(chosen)), missing, untouched)


def _prefixes(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> set[str]:
    return {full.removesuffix(name) for full in theirs for name in ours if full == name or full.endswith(f".{name}")}


def _fitting(ours: dict[str, Tensor], theirs: dict[str, Tensor], prefix: str) -> set[str]:
    return {name for name, tensor in ours.items() if prefix + name in theirs and theirs[prefix + name].shape == tensor.shape}
