"""The proof of an export: tensors counted, outputs compared; a mismatch is a failure and zero matches never pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medcl.encoders import Encoder
from medcl.foundation.errors import MedclError
from medcl.foundation.randomness import generator


@dataclass(frozen=True)
class Proof:
    """What was compared. loaded, total: encoder tensors that arrived, of those there are.

    largest_difference: over all inputs, relative to the largest output of the encoder; inputs: their shapes. warnings: what the other
    software does otherwise than the contract says.
    """

    target: str
    loaded: int
    total: int
    largest_difference: float
    tolerance: float
    inputs: list[list[int]]
    warnings: tuple[str, ...] = ()

    def warned(self, warnings: Sequence[str]) -> Proof:
        """The same proof with warnings."""
        return replace(self, warnings=tuple(warnings))

    def check(self) -> Proof:
        """Raise MedclError unless every tensor arrived and the outputs agree."""
        if self.loaded == 0 or self.loaded != self.total:
            raise MedclError(f"{self.target}: loaded {self.loaded}/{self.total} encoder tensors; nothing was written")
        if not self.largest_difference <= self.tolerance:  # a NaN fails too
            raise MedclError(
                f"{self.target}: outputs differ by {self.largest_difference:.1e}, allowed {self.tolerance:.0e}; nothing was written"
            )
        return self

    def line(self) -> str:
        """The proof in one line."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.inputs)
        count = f"loaded {self.loaded}/{self.total} encoder tensors"
        return f"{count}; largest relative difference {self.largest_difference:.1e} on inputs {shapes}"

    def to_card(self) -> dict[str, Any]:
        """The proof as the card holds it."""
        return {**asdict(self), "warnings": list(self.warnings)}


def example_inputs(
    encoder: Encoder, size: Sequence[int], channels: int, count: int, largest: int = 64, fixed: bool = False
) -> list[Tensor]:
    """`count` made inputs (batch, channel, *space) of different shapes, the same on every machine.

    size: the contract's grid. Encoders that take any size get at most `largest` per axis, and each further input is 16 longer on its
    last axis (those that take multiples: one multiple longer); the others, and with `fixed` all, get their own size. Batches grow.
    """
    inputs = []
    step, unit = (16, 1) if encoder.any_size else (encoder.multiple, encoder.multiple)
    step, unit = (0, 0) if fixed else (step, unit)
    for number in range(count):
        space = [max(unit, min(length, largest) // unit * unit) for length in size] if unit else list(size)
        space[-1] += step * number
        draw = generator(0, "export", number).standard_normal((1 + number, channels, *space))
        inputs.append(torch.from_numpy(draw.astype("float32")).clamp(-1, 1))
    return inputs


def count_matching(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> int:
    """How many of our tensors are in theirs under the same name, bit for bit."""
    return sum(
        name in theirs and tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name].cpu()) for name, tensor in ours.items()
    )


def compare(
    target: str,
    ours: Encoder,
    theirs: Callable[[Tensor], Any],
    inputs: Sequence[Tensor],
    *,
    loaded: int,
    tolerance: float,
    total: int | None = None,
) -> Proof:
    """Run both on the inputs and compare the pooled outputs (theirs may return Features or the embedding itself).

    loaded: how many encoder tensors arrived, of `total`: all of the encoder's, where nothing else is said. Raises MedclError on a mismatch.
    """
    largest = 0.0
    with torch.no_grad():
        for image in inputs:
            expected = ours(image).pooled
            answer = theirs(image)
            answer = getattr(answer, "pooled", answer)
            if tuple(answer.shape) != tuple(expected.shape):
                raise MedclError(f"{target}: output shape {tuple(answer.shape)}, expected {tuple(expected.shape)}; nothing was written")
            difference = (answer - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
            largest = max(largest, float(difference)) if torch.isfinite(difference) else float("nan")
    total = len(ours.state_dict()) if total is None else total
    return Proof(target, loaded, total, largest, tolerance, [list(image.shape) for image in inputs]).check()
