"""`medcl.into`: pretrained weights into anyone's own network, by name and shape, counted and said; and anyone's into an encoder."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
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
    chosen, missing = _places(ours, theirs, str(folder), "the network", allow_missing)
    written = {prefix + name for prefix, names in chosen.items() for name in names}
    with torch.no_grad():
        for prefix, names in chosen.items():
            for name in names:
                theirs[prefix + name].copy_(ours[name])
    untouched = tuple(name for name in theirs if name not in written)
    return Transfer(len(ours) - len(missing), len(ours), tuple(sorted(chosen)), missing, untouched)


def fill(encoder: nn.Module, path: Path, *, prefix: str | None = None, from_colour: bool = False, allow_missing: bool = False) -> Transfer:
    """The other way round: copy anyone's weights into an encoder, in place, from where the file has its names and shapes.

    path: see `read_tensors`. prefix: where in the file, such as `state_dict.encoder_q.`; by default the one place where most of it
    is. from_colour: kernels of the file that take red, green and blue are summed, which is to show them grey. `Transfer.untouched` are
    tensors of the file that were not used. Raises UserError, with the encoder unchanged, where no
    tensor fits, where two places fit as well, or, without `allow_missing`, where a tensor of the encoder is not in the file.
    """
    ours, theirs = encoder.state_dict(), read_tensors(path)
    if from_colour:
        theirs = {name: kernel.sum(1, keepdim=True) if _takes_colour(kernel) else kernel for name, kernel in theirs.items()}
    known = theirs if prefix is None else {name: tensor for name, tensor in theirs.items() if name.startswith(prefix)}
    chosen, missing = _places(ours, known, str(path), "the file", allow_missing)
    if prefix is not None and prefix in chosen:
        chosen = {prefix: chosen[prefix]}
    if len(chosen) > 1:
        raise UserError(f"{path}: holds the encoder in {len(chosen)} places; name one as prefix: {', '.join(sorted(chosen))}")
    ((place, names),) = chosen.items()
    encoder.load_state_dict({name: theirs[place + name] for name in names}, strict=False)
    untouched = tuple(name for name in theirs if name.removeprefix(place) not in names)
    return Transfer(len(names), len(ours), (place,), missing, untouched)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` file, or of a `.pt`, `.pth`, `.ckpt` or `.bin` that torch reads without running code.

    Names of nested tables are joined by dots. Raises UserError where the file is missing, broken, holds more than plain values, or this
    torch cannot be trusted with a foreign file (before 2.10: CVE-2025-32434, CVE-2026-24747).
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights as .safetensors or .pt")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
            raise UserError(f"{path}: torch {torch.__version__} is too old to read a foreign .pt safely; save it as .safetensors")
        return dict(_flat(torch.load(path, map_location="cpu", weights_only=True)))
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not readable as weights ({first}); save the state_dict alone, as .safetensors") from None


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def _places(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], source: str, where: str, allow_missing: bool
) -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """The prefixes of `theirs` under which most of our tensors are, with their names there; and those that are not."""
    fits = {prefix: _fitting(ours, theirs, prefix) for prefix in _prefixes(ours, theirs)}
    most = max((len(names) for names in fits.values()), default=0)
    if most == 0:
        known = ", ".join(list(theirs)[:3])
        raise UserError(
            f"{source}: loaded 0/{len(ours)} encoder tensors: {where} has none of these names and shapes (it begins with {known})"
        )
    chosen = {prefix: names for prefix, names in fits.items() if len(names) == most}
    missing = tuple(name for name in ours if name not in next(iter(chosen.values())))
    if missing and not allow_missing:
        raise UserError(
            f"{source}: {most}/{len(ours)} encoder tensors fit, '{missing[0]}' has no place; say allow_missing if that is meant"
        )
    return chosen, missing


def _takes_colour(kernel: Tensor) -> bool:
    return kernel.dim() >= 4 and kernel.shape[1] == 3


def _prefixes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> set[str]:
    return {full.removesuffix(name) for full in theirs for name in ours if full == name or full.endswith(f".{name}")}


def _fitting(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefix: str) -> set[str]:
    return {name for name, tensor in ours.items() if prefix + name in theirs and theirs[prefix + name].shape == tensor.shape}
