"""How a run holds its network: exact, compiled, computed anew to save memory, split over the processes, averaged over the steps."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medcl.encoders.contract import Encoder
from medcl.foundation import distributed
from medcl.foundation.config import Settings
from medcl.foundation.errors import UserError
from medcl.methods.method import Method
from medcl.methods.parts import Teacher
from medcl.training.grad_cache import Stepped
from medcl.training.launch import Place


class NetworkConfig(Settings):
    """How the network is held; but for `ema` none of it changes what is learned, beyond rounding, and names of tensors stay.

    ema: momentum of a running average of the backbone's weights (0.999, say), which is then what is probed and exported; checkpoints hold
    both. recompute: what a block of the network computed is not kept for the backward pass but computed again (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174). shard: weights, gradients and the optimizer's state are split over the processes (torch's FSDP2), for
    networks that outgrow a card; a single process has nothing to split. compile: by torch.compile; the first steps take minutes.
    exact: a GPU adds in the same order each time, so that a run that goes on after a stop is the same to the bit there as it always is on
    a CPU; a network or method with an operation that torch cannot do so (vox2vec's reading of maps at points) is refused.
    """

    ema: float | None = Field(default=None, ge=0, lt=1)
    recompute: bool = False
    shard: bool = False
    compile: bool = False
    exact: bool = False


class Network:
    """A run's method, on its device, held as the settings say.

    engine: what a step calls: `Stepped(method)`, within DistributedDataParallel where there are several processes and nothing is split.
    average: the running average of the backbone, or None. Raises UserError where the settings do not fit method or machine.
    """

    def __init__(self, method: Method, config: NetworkConfig, place: Place) -> None:
        self.method, self.config = method, config
        split = config.shard and place.world_size > 1
        self.average = None if config.ema is None else Teacher(method.backbone, nn.Identity(), config.ema)
        self._whole = copy.deepcopy(method.backbone).requires_grad_(False) if split else None
        if config.exact and place.device.type == "cuda":
            pool_in_order(method)
        if config.recompute:
            recompute(method)
        if split:  # before the method is moved: it never is whole on a card
            shard(method, place.device.type)
            if self.average is not None:
                shard(self.average, place.device.type)
        for module in filter(None, (method, self.average)):
            module.to(place.device).train()
        if config.compile:
            _compile(method, place.device)
        self.engine: nn.Module = Stepped(method) if split else place.spread(Stepped(method))

    def follow(self, step: int) -> None:
        """The average follows, from step 0 on; at first faster, or it would long remember how the run began."""
        if self.average is not None and self.config.ema is not None:
            self.average.update(self.method.backbone, self.average.head, momentum=min(self.config.ema, (1 + step) / (10 + step)))

    def backbone(self) -> Encoder:
        """What is probed and exported: the average where there is one. Every process must ask, for each may hold a part of it."""
        held = self.method.backbone if self.average is None else self.average.backbone
        if self._whole is None:
            return held  # type: ignore[return-value]
        self._whole.load_state_dict({name: distributed.whole(tensor).cpu() for name, tensor in held.state_dict().items()})
        # A copy, so that no card goes on holding all of it once whoever asked is done.
        return copy.deepcopy(self._whole).to(next(held.parameters()).device)


def pool_in_order(method: nn.Module) -> None:
    """Pool volumes plane by plane, then along the first axis: the same values, and gradients that a GPU adds in the same order each time.

    Torch's own kernels for volumes add gradients in any order (https://github.com/pytorch/pytorch/issues/110698), those for planes do not.
    """
    for module in method.modules():
        pool = _pool_of_planes(module)
        if pool is not None:
            module.forward = functools.partial(_in_planes, pool, module)


def _pool_of_planes(module: nn.Module) -> Callable[..., Tensor] | None:
    """What pools planes as this module pools volumes; None where it does not, or also says where the largest values were."""
    if isinstance(module, nn.MaxPool3d) and not module.return_indices:
        return functools.partial(F.max_pool2d, ceil_mode=module.ceil_mode)
    if isinstance(module, nn.AvgPool3d) and module.divisor_override is None:
        return functools.partial(F.avg_pool2d, ceil_mode=module.ceil_mode, count_include_pad=module.count_include_pad)
    return None


def _in_planes(pool: Callable[..., Tensor], module: nn.Module, value: Tensor) -> Tensor:
    """(batch, channel, x, y, z), pooled as the module says."""
    # Averages have no dilation.
    given = [getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation") if hasattr(module, name)]
    along_x, *in_plane = zip(*(number if isinstance(number, tuple) else (number,) * 3 for number in given), strict=True)
    planes = pool(value.flatten(1, 2), *zip(*in_plane, strict=True))
    lines = pool(planes.unflatten(1, value.shape[1:3]).flatten(3), *zip(along_x, (1, 1, 0, 1), strict=False))
    return lines.unflatten(3, planes.shape[2:])


def recompute(method: nn.Module) -> None:
    """Make every block of the networks that learn forget what it computed, until the backward pass asks for it."""
    for network in _networks(method):
        for block in blocks(network):
            if any(True for _ in block.children()) and any(value.requires_grad for value in block.parameters()):
                # Torch's own wrapper is a module, and would change the names of tensors.
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def shard(method: nn.Module, device_type: str) -> None:
    """Split all weights over the processes, block by block, so that only one block at a time is whole on a card.

    Raises UserError for a method with parameters that belong to no network of it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    bare = [name for name, _ in method.named_parameters(recurse=False)]
    if bare:
        raise UserError(
            f"training.network.shard: {type(method).__name__} itself holds {', '.join(bare)}, which no network gathers; set it to false"
        )
    # Torch warns of outputs that are views: writing into them would lose their gradient, and no method does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    mesh = init_device_mesh(device_type, (distributed.world_size(),))
    for network in _networks(method):
        for part in (*blocks(network), network):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The parts that a network calls one after the other: its children, and the members of containers in their place."""
    for child in network.children():
        if isinstance(child, nn.Sequential) or type(child).forward is nn.Module.forward:  # lists and mere names are never called
            yield from blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _networks(method: nn.Module) -> Iterator[nn.Module]:
    """Encoders and heads, also those of a teacher."""
    for child in method.children():
        if isinstance(child, Teacher):
            yield from _networks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _compile(method: nn.Module, device: torch.device) -> None:
    _require_compiler(device)
    for network in _networks(method):
        # One kernel for each size: with kernels for any size, a run that goes on would not round as one that was never stopped.
        network.compile(dynamic=False)


def _require_compiler(device: torch.device) -> None:
    """Compile something tiny, so that a machine that cannot says so before the run."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what torch itself deprecates
            torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # inductor wraps what compilers say in exceptions of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"training.network.compile: torch cannot compile on this machine ({reason}); install a C++ compiler (apt install g++), or set "
            "it to false"
        ) from None
