"""Normal numbers by counter for many views on a device, the same as of elementary.add_noise: by one kernel of Triton, or by torch.

torch's own operations go over memory ninety times, which costs a GPU as much as all the rest of its views.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1024
_WORD = 0xFFFFFFFF


def normal_numbers(keys: Tensor, deviations: Tensor, count: int) -> Tensor:
    """(views, count) float32. keys: (views,) int64; deviations: (views,) float32, on the device where the numbers are wanted."""
    kernel = kernel_on(keys.device)
    return by_kernel(kernel, keys, deviations, count) if kernel else by_torch(keys, deviations, count)


def by_kernel(kernel: Any, keys: Tensor, deviations: Tensor, count: int) -> Tensor:
    """By `noise_kernel.normal_numbers`."""
    out = torch.empty((len(keys), count), device=keys.device)
    with torch.cuda.device_of(keys):
        kernel[-(-count // (4 * _BLOCK)), len(keys)](out, keys, deviations, count, _BLOCK, enable_fp_fusion=True)
    return out


def by_torch(keys: Tensor, deviations: Tensor, count: int) -> Tensor:
    """By torch's own operations."""
    blocks = -(-count // (4 * _BLOCK))
    size_words, angle_words = _philox(keys, blocks * _BLOCK)
    radius = (((size_words >> 8).float() + 0.5) * 2.0**-24).log_().mul_(-2).sqrt_()
    angle = ((angle_words >> 9).float() + 0.5) * (np.pi * 2.0**-23) - np.pi / 2
    # One more bit for the half of the circle.
    sign = 1 - 2 * (angle_words & 1).float()
    numbers = torch.stack([radius * angle.cos() * sign, radius * angle.sin()])
    # Of every counter the cosine and the sine of the first pair of words, then of the second.
    ordered = numbers.view(2, 2, len(keys), blocks, _BLOCK).permute(2, 3, 1, 0, 4)
    return ordered.flatten(1)[:, :count] * deviations[:, None]


@cache
def kernel_on(device: torch.device) -> Any | None:
    """The kernel, where it works on this device."""
    return working_kernel(_compiled, device) if device.type == "cuda" else None


def _compiled() -> Any:
    from medcl.views.noise_kernel import normal_numbers

    return normal_numbers


def working_kernel(load: Callable[[], Any], device: torch.device) -> Any | None:
    """The kernel that `load` gives, or None where it does not give a device the right numbers, or does not run there: Triton wants a C
    compiler, which a machine may lack. Tried once; waits for the device."""
    keys, deviations, count = torch.tensor([3, 2**51 + 7], device=device), torch.tensor([1.0, 0.5], device=device), 5 * _BLOCK
    try:
        kernel = load()
        found = by_kernel(kernel, keys, deviations, count)
    except Exception:  # whatever is missing: there is another way
        return None
    return kernel if torch.allclose(found, by_torch(keys, deviations, count), atol=1e-4) else None


def _philox(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Philox 4x32 with 10 rounds for counters 0 .. count - 1: words 0 and 2, and words 1 and 3, each (2, views, count) int64.

    A product of two words needs 64 bits and wraps like one without a sign; bits above the lowest 32 are cut off late.
    """
    device, rounds = keys.device, torch.arange(10, device=keys.device)[:, None]
    low, high = (keys & _WORD) + rounds * 0x9E3779B9 & _WORD, ((keys >> 32) & _WORD) + rounds * 0xBB67AE85 & _WORD
    # Both multiplied words at once, and both others: a GPU takes as long to begin as to count.
    factors = torch.full((2, 1, 1), 0xD2511F53, device=device)
    factors[1] = 0xCD9E8D57
    multiplied = torch.zeros((2, len(keys), count), dtype=torch.int64, device=device)
    multiplied[0] = torch.arange(count, device=device)
    others = torch.zeros((), dtype=torch.int64, device=device)
    for step in torch.stack([low, high], 1)[..., None]:
        products = (multiplied * factors).flip(0)
        multiplied = (products >> 32).bitwise_xor_(others).bitwise_xor_(step).bitwise_and_(_WORD)
        others = products
    return multiplied, others & _WORD
