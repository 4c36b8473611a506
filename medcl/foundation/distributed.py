"""The only place that knows there may be several processes."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_active() -> bool:
    """Whether a process group has been joined (see training/launch.py)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, 0 where there is only one."""
    return dist.get_rank() if is_active() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_active() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if is_active():
        dist.barrier()


def any_process(flag: bool, device: torch.device | None = None) -> bool:
    """Whether the flag is true on any process: how ranks agree to stop at the same step."""
    if not is_active():
        return flag
    value = torch.tensor([int(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def lost_ranks(wait_s: float = 10.0) -> list[int]:
    """After a collective failed: the ranks that do not say within `wait_s` that they are still there. Every survivor calls it."""
    store = dist.distributed_c10d._get_default_store()
    deadline, lost = time.monotonic() + wait_s, []
    try:
        store.set(f"medcl/survivor/{rank()}", "here")
        for other in range(world_size()):
            try:
                store.wait([f"medcl/survivor/{other}"], timedelta(seconds=max(deadline - time.monotonic(), 0.1)))
            except dist.DistStoreError:
                lost.append(other)
    except dist.DistNetworkError:
        return [0]  # the first rank keeps the store
    return lost


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds a part of it: one of torch's DTensors, without importing them."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is split over the processes (every one must ask); any other as it is."""
    return tensor.full_tensor() if is_split(tensor) else tensor  # type: ignore[operator]


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, equal on every process, as this process's part where `like` is split; nothing is sent."""
    if not is_split(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = like.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order: (batch, ...) -> (world * batch, ...), with gradient.

    Every process is expected to compute the same loss from the result. The backward pass hands each process the
    gradient of its own rows times the number of processes, so that DistributedDataParallel's mean over processes is
    exactly the gradient that one process with the whole batch would have. No communication is needed backwards.
    """
    if not is_active():
        return tensor
    return _Gather.apply(tensor)


def gather_all(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`gather` for each tensor of a tuple."""
    return tuple(gather(tensor) for tensor in tensors)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        result = torch.cat(parts)
        if not tensor.is_floating_point():
            ctx.mark_non_differentiable(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        start = rank() * ctx.rows
        return gradients[0][start : start + ctx.rows] * world_size()
