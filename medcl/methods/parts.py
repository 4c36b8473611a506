"""What several methods need: standardised embeddings, a momentum teacher, a queue of keys."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from medcl.encoders.contract import Encoder


def unit(embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Rows of length 1, in float32 whatever the network computed in."""
    return F.normalize(embeddings.float(), dim=1)


def standardised(embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Each dimension with mean 0 and variance 1 over the rows, in float32: BatchNorm without its scale and shift.

    Ioffe & Szegedy 2015, Algorithm 1. For `compare`, where the rows are the whole world batch: the same numbers for any
    number of processes or pieces. A dimension that varies by less than a thousandth of its size says nothing but
    rounding and becomes 0, so that collapsed embeddings do not pass for spread ones.
    """
    rows = embeddings.float()
    mean = rows.mean(dim=0)
    return _scaled(rows, mean, (rows - mean).square().mean(dim=0))


def _scaled(rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    speaks = variance > 1e-6 * (variance + mean.square()).detach()
    return torch.where(speaks, (rows - mean) / torch.where(speaks, variance, 1.0).sqrt(), 0.0)


class RunningMoments(nn.Module):
    """Mean and variance of embeddings over the steps, so that one embedding can be standardised by itself afterwards.

    mean, variance: (dim,), exponential averages over the world batches, the last about `1 / (1 - momentum)` of them.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, dim: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """As `standardised`, with the moments kept."""
        return _scaled(embeddings.float(), self.mean, self.variance)

    @torch.no_grad()
    def follow(self, embeddings: Float[Tensor, "n dim"]) -> None:
        """Move towards the moments of a world batch; the first few batches count alike."""
        rows = embeddings.float()
        share = torch.clamp(1 / (self.count + 1.0), min=1 - self.momentum)
        self.mean.lerp_(rows.mean(dim=0), share)
        self.variance.lerp_(rows.var(dim=0, correction=0), share)
        self.count += 1


class Teacher(nn.Module):
    """A frozen copy of backbone and head that follows them slowly: `teacher = m teacher + (1 - m) student` (MoCo, eq. 2)."""

    def __init__(self, backbone: Encoder, head: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.head = copy.deepcopy(head).requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch dim"]:
        """Projected embeddings without gradient, not normalised."""
        return self.head(self.backbone(image).pooled)

    @torch.no_grad()
    def update(self, backbone: Encoder, head: nn.Module, momentum: float | None = None) -> None:
        """Move towards the student; momentum 0 copies it. What is remembered and not learned (BatchNorm's moments) is the student's."""
        student: list[Tensor] = [*backbone.parameters(), *head.parameters()]
        teacher: list[Tensor] = [*self.backbone.parameters(), *self.head.parameters()]
        # One fused call: four times faster than a loop over the tensors of a ResNet-50.
        torch._foreach_lerp_(teacher, student, 1 - (self.momentum if momentum is None else momentum))
        for own, theirs in zip(self.backbone.buffers(), backbone.buffers(), strict=True):
            own.copy_(theirs)

    @torch.no_grad()
    def distance(self, backbone: Encoder, head: nn.Module) -> float:
        """Length of teacher less student over that of the student, all parameters as one vector; 0 = equal."""
        student: list[Tensor] = [*backbone.parameters(), *head.parameters()]
        apart = torch._foreach_sub([*self.backbone.parameters(), *self.head.parameters()], student)
        return float(nn.utils.get_total_norm(apart) / nn.utils.get_total_norm(student))


class KeyQueue(nn.Module):
    """The keys of earlier batches, oldest overwritten first; one key a row, so that enqueueing writes whole rows.

    keys: (size, dim); patients: (size,); count: keys ever pushed. MoCo's code fills what is not written yet
    with random unit vectors; an untrained network tells those from real keys at once, so they only make the first steps look
    learned.
    """

    keys: Tensor
    patients: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("patients", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def filled(self) -> tuple[Float[Tensor, "n dim"], Int64[Tensor, " n"]]:
        """The keys there are and their patients, in the queue's own memory."""
        held = min(int(self.count), len(self.keys))
        return self.keys[:held], self.patients[:held]

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "n dim"], patients: Int64[Tensor, " n"]) -> None:
        """Overwrite the oldest rows; of more keys than the queue holds, the last are kept."""
        size = len(self.keys)
        first = self.count + max(len(keys) - size, 0)
        keys, patients = keys[-size:], patients[-size:]
        rows = (first + torch.arange(len(keys), device=self.keys.device)) % size
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.patients.index_copy_(0, rows, patients)
        self.count.copy_(first + len(keys))
