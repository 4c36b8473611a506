"""One large contrastive batch in pieces, exactly: gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medcl.foundation.distributed import gather_all
from medcl.foundation.errors import UserError
from medcl.foundation.types import Batch, StepOutput
from medcl.methods.method import Method


class Stepped(nn.Module):
    """A method behind one `forward`, so that DistributedDataParallel sees every way in which a step computes gradients."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(
        self, batch: Batch, progress: float, cotangents: Sequence[Tensor | None] | None = None, extra: Mapping[str, Tensor] | None = None
    ) -> StepOutput | Tensor:
        """The method's step; with cotangents a scalar whose gradient is theirs.

        cotangents: the loss's gradient with respect to each embedding of this piece. extra: gradients, by name, of parameters that
        `compare` itself uses.
        """
        if cotangents is None:
            return self.method(batch, progress)
        embeddings = self.method.encode(batch, progress)
        terms = [(value * wanted).sum() for value, wanted in zip(embeddings, cotangents, strict=True) if wanted is not None]
        parameters = dict(self.method.named_parameters())
        terms += [(parameters[name] * gradient).sum() for name, gradient in (extra or {}).items()]
        return torch.stack(terms).sum()


def check_pieces(method: Method, pieces: int, batch: int) -> None:
    """Raise UserError where a method cannot be computed in pieces."""
    if pieces > 1 and type(method).forward is not Method.forward:
        raise UserError(f"training.pieces: {type(method).__name__} overrides forward: its loss is not one row per item; set it to 1")
    if pieces > batch:
        raise UserError(f"training.pieces: {pieces} pieces of {batch} items per process; take at most {batch}")


def backward_in_pieces(engine: nn.Module, method: Method, batch: Batch, pieces: int, progress: float) -> StepOutput:
    """Gradients of the whole batch with the memory of one piece; the same as one backward pass up to rounding.

    engine: `Stepped(method)`, or DistributedDataParallel around it. First all embeddings without a graph, then the loss and its gradient
    with respect to them, then each piece again with a graph that this gradient enters.
    """
    bounds = [len(batch) * piece // pieces for piece in range(pieces + 1)]
    parts = [batch.rows(start, stop) for start, stop in itertools.pairwise(bounds)]
    seeds = torch.randint(2**62, (pieces,)).tolist()  # of each piece, so that dropout takes out the same both times
    encoded = []
    with torch.no_grad():
        for seed, part in zip(seeds, parts, strict=True):
            torch.manual_seed(seed)
            encoded.append(method.encode(part, progress))
    leaves = tuple(_leaf(torch.cat(tensors)) for tensors in zip(*encoded, strict=True))
    output = method.compare(gather_all(leaves), progress)
    cotangents, extra = _gradients(output.loss, leaves, method)
    for piece, part in enumerate(parts):
        last = piece == pieces - 1
        with contextlib.nullcontext() if last or not hasattr(engine, "no_sync") else engine.no_sync():  # type: ignore[operator]
            own = [None if wanted is None else wanted[bounds[piece] : bounds[piece + 1]] for wanted in cotangents]
            torch.manual_seed(seeds[piece])
            engine(part, progress, own, extra if last else None).backward()
    return output


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _gradients(loss: Tensor, leaves: Sequence[Tensor], method: Method) -> tuple[list[Tensor | None], dict[str, Tensor]]:
    named = [(name, parameter) for name, parameter in method.named_parameters() if parameter.requires_grad]
    learned = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad(loss, [*learned, *(parameter for _, parameter in named)], allow_unused=True)
    by_leaf = iter(found[: len(learned)])
    cotangents = [next(by_leaf) if leaf.requires_grad else None for leaf in leaves]
    extra = {name: gradient for (name, _), gradient in zip(named, found[len(learned) :], strict=True) if gradient is not None}
    return cotangents, extra
