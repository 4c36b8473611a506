"""Checkpoints that are whole or absent, and the rules by which a run begins.

`checkpoints/step-N/` holds `tensors.safetensors` and `state.json` (with the SHA-256 of the tensors); `LATEST` names the newest, `BEST` the
one with the best value of a figure, where one was asked for. Tensors are whole, however many processes held parts of them.
Written as `step-N.partial` beside its target, flushed, renamed. Nothing is pickled.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medcl.foundation import distributed
from medcl.foundation.config import Settings
from medcl.foundation.distributed import split_like, whole
from medcl.foundation.errors import UserError
from medcl.foundation.files import read_json, sha256_of_file, sync_folder, write_json, write_text
from medcl.foundation.progress import Progress, Silent
from medcl.methods.parts import Teacher

TENSORS, STATE, LATEST, BEST = "tensors.safetensors", "state.json", "LATEST", "BEST"
_NAME = re.compile(r"step-(\d+)")


class KeepConfig(Settings):
    """Which checkpoints stay: the `last` ones, and the one where the logged figure `best` was highest (or lowest).

    best: a name of metrics.jsonl, such as `probe/balanced_accuracy`. A checkpoint is judged by the newest value at its step.
    """

    last: int = Field(default=2, ge=1)
    best: str | None = None
    best_is: Literal["highest", "lowest"] = "highest"


@dataclass(frozen=True)
class Start:
    """Where a run begins: the steps already done, what the watchers remembered, the newest value of every figure."""

    step: int = 0
    watchers: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


def begin(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path | None,
    *,
    resume: Path | None = None,
    weights: Path | None = None,
    average: Teacher | None = None,
    progress: Progress | None = None,
) -> Start:
    """Fill method, optimizer and the running average of the backbone (None: there is none), by the first rule that applies:

    1. The run's own newest sound checkpoint in `folder`: the same command goes on where it stopped.
    2. `resume`, a checkpoint folder of another run (or its `checkpoints/`): everything, the step too.
    3. `weights`, a backbone's `weights.safetensors` (or its folder, or a checkpoint's): the backbone only, from step 0.
    4. Scratch: the weights the method was built with, from step 0.

    Raises UserError where `resume` or `weights` was given and does not fit.
    """
    say = progress or Silent()
    own = newest(folder, say, own=True) if folder else None
    if own is not None:
        return restore(own, method, optimizer, average)
    if resume is not None:
        other = resume if (resume / STATE).is_file() else newest(resume, say)
        if other is None:
            raise UserError(f"{resume}: no sound checkpoint there; expected a step-N folder or the folder that holds them")
        return restore(other, method, optimizer, average)
    if weights is not None:
        _start_from(method, weights)
    _begin_average(average, method)
    return Start()


def save(
    folder: Path,
    step: int,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    watchers: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
    keep: KeepConfig | None = None,
    average: Teacher | None = None,
) -> Path:
    """Write `step-N`, swap LATEST and BEST, remove what `keep` does not name. Every process calls it; the first writes.

    Raises UserError where the disk is full or a value is not finite; the checkpoints already there stay as they are.
    """
    keep = keep or KeepConfig()
    tensors = _tensors(method, optimizer, average)
    target, partial = folder / f"step-{step}", folder / f"step-{step}.partial"
    if distributed.rank() != 0:
        return target
    _require_finite(tensors, step)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _require_space(folder, sum(tensor.nbytes for tensor in tensors.values()))
        save_file(tensors, partial / TENSORS)
        _flush(partial / TENSORS)
        state = {"step": step, "sha256": sha256_of_file(partial / TENSORS), "watchers": dict(watchers or {})}
        write_json(partial / STATE, state | {"figures": {key: value for key, value in (figures or {}).items() if math.isfinite(value)}})
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        sync_folder(folder)
        write_text(folder / LATEST, target.name + "\n")
        best = _best(folder, keep)
        if best is not None:
            write_text(folder / BEST, best.name + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{target}: the checkpoint could not be written ({error}); free some space, then the same command goes on from the last one"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in _found(folder)[keep.last :]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _best(folder: Path, keep: KeepConfig) -> Path | None:
    """The checkpoint with the best value, the earliest of equals. The best so far is always there to be compared with."""
    values = {}
    for path in reversed(_found(folder)):
        figures = read_json(path / STATE).get("figures", {}) if (path / STATE).is_file() else {}
        if keep.best in figures:
            values[path] = figures[keep.best]
    return (max if keep.best_is == "highest" else min)(values, key=lambda path: values[path], default=None)


def newest(folder: Path, progress: Progress | None = None, *, own: bool = False) -> Path | None:
    """The newest sound checkpoint, or None; broken ones are skipped with a warning.

    own: the run that the folder belongs to asks. Only it may sweep partial ones left by a crash, for in another's folder they may be
    in the making, and set broken ones aside as `step-N.damaged`, so that they do not count among those kept.
    """
    first = distributed.rank() == 0
    for orphan in folder.glob("step-*.partial") if own and first else ():
        shutil.rmtree(orphan, ignore_errors=True)
    for path in _found(folder):
        try:
            _read_state(path)
        except UserError as error:
            if first:
                (progress or Silent()).say(f"warning: {error}; {'set aside, ' if own else ''}trying the one before")
            if own and first:
                path.rename(_unused(path.with_suffix(".damaged")))
        else:
            return path
    return None


def _unused(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{number or ''}") for number in itertools.count())
    return next(name for name in names if not name.exists())


def restore(path: Path, method: nn.Module, optimizer: torch.optim.Optimizer, average: Teacher | None = None) -> Start:
    """Load a checkpoint; one without a running average begins it. Raises UserError where it is broken or belongs to other settings."""
    state = _read_state(path)
    tensors = load_file(path / TENSORS)
    _load(method, _part(tensors, "method."), path)
    _begin_average(average, method)
    if average is not None and (kept := _part(tensors, "average.")):
        _load(average, kept, path)
    moments: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = split_like(tensor, parameters[int(index)]) if tensor.ndim else tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return Start(int(state["step"]), state["watchers"], state.get("figures", {}))


def size(method: nn.Module, optimizer: torch.optim.Optimizer, average: Teacher | None = None) -> int:
    """Bytes of one checkpoint, once the optimizer has made a step."""
    return sum(tensor.nbytes for tensor in _tensors(method, optimizer, average).values())


def _tensors(method: nn.Module, optimizer: torch.optim.Optimizer, average: Teacher | None) -> dict[str, Tensor]:
    """Everything a checkpoint holds, whole, on the CPU of the first process; {} on the others."""
    tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items() if isinstance(value, Tensor)}
    found = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if distributed.rank() == 0:
            found[name] = tensor.cpu().contiguous()
    return found


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}


def _begin_average(average: Teacher | None, method: Any) -> None:
    if average is not None:
        average.update(method.backbone, average.head, momentum=0.0)


def _fit(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors as this process holds those of the module: parts, where it is split."""
    held = module.state_dict()
    return {name: split_like(tensor, held[name]) if name in held else tensor for name, tensor in tensors.items()}


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(_fit(tensors, module))
    except RuntimeError as error:
        raise UserError(
            f"{path}: belongs to other settings of encoder or method ({_first_line(error)}); take another --out, or its settings"
        ) from None


def _start_from(method: Any, path: Path) -> None:
    if path.is_dir():
        path = path / (TENSORS if (path / TENSORS).is_file() else "weights.safetensors")
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a backbone folder or its weights.safetensors")
    try:
        tensors = _part(load_file(path), "method.backbone." if path.name == TENSORS else "")
        method.start_from(_fit(tensors, method.backbone))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: does not fit the encoder ({_first_line(error)}); take the encoder settings of its card") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json(path / STATE)
    if not isinstance(state, dict) or not {"step", "sha256", "watchers"} <= state.keys():
        raise UserError(f"{path / STATE}: is no checkpoint's state")
    if not (path / TENSORS).is_file() or sha256_of_file(path / TENSORS) != state["sha256"]:
        raise UserError(f"{path}: its tensors are damaged (SHA-256 differs)")
    return state


def _found(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    steps = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(steps, reverse=True)]


def _require_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if broken:
        raise UserError(
            f"after step {step}: {broken[0]} and {len(broken) - 1} more are not finite, so nothing was saved; "
            "lower training.optimizer.lr or take precision fp32, the last checkpoint is still good"
        )


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + 2**20:
        raise OSError(f"{needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free")


def _flush(path: Path) -> None:
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())
