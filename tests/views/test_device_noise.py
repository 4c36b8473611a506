"""Noise on a device: both ways of making it give the numbers of the compiled pass, and what does not work is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from medcl.views import device_noise, filters
from tests.views.made_scans import on_devices

KEYS, DEVIATIONS = (5, 2**51 + 12345, (7 << 32) + 9), (1.0, 0.5, 2.0)
COUNTS = (1, 1024, 4096, 4097, 15_200)  # a block fills 4096

# Triton's interpreter runs a kernel by NumPy; it must be asked for before Triton is imported.
INTERPRETED = f"""
import torch
from medcl.views import device_noise, noise_kernel
keys, deviations = torch.tensor({KEYS}), torch.tensor({DEVIATIONS})
for count in {COUNTS}:
    found = device_noise.by_kernel(noise_kernel.normal_numbers, keys, deviations, count)
    assert torch.allclose(found, device_noise.by_torch(keys, deviations, count), rtol=0, atol=1e-5), count
assert device_noise.working_kernel(lambda: noise_kernel.normal_numbers, keys.device) is noise_kernel.normal_numbers
"""


def numbers(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(KEYS, device=device), torch.tensor(DEVIATIONS, device=device)


@on_devices
@pytest.mark.parametrize("count", COUNTS)
def test_torch_gives_the_numbers_of_the_compiled_pass(count: int, device: torch.device) -> None:
    found = device_noise.by_torch(*numbers(device), count).cpu().numpy()
    for row, key, deviation in zip(found, KEYS, DEVIATIONS, strict=True):
        wanted = filters.noise_like(np.zeros((count, 1, 1), np.float32), key, deviation)
        assert np.abs(row - wanted.ravel()).max() < 1e-5


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this system")
def test_the_kernel_gives_the_same_numbers_as_torch() -> None:
    """In Triton's interpreter, which needs no GPU."""
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=os.environ | {"TRITON_INTERPRET": "1"}, timeout=120)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernel_runs_on_a_gpu() -> None:
    device = torch.device("cuda", 0)
    kernel = device_noise.kernel_on(device)
    assert kernel is not None
    for count in COUNTS:
        found = device_noise.by_kernel(kernel, *numbers(device), count)
        assert torch.allclose(found, device_noise.by_torch(*numbers(device), count), rtol=0, atol=1e-5)


class _Fake:
    """Stands for a kernel: torch's numbers, and something wrong with them."""

    def __init__(self, wrong: float) -> None:
        self.wrong = wrong

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def run(out: torch.Tensor, keys: torch.Tensor, deviations: torch.Tensor, count: int, block: int, **_: Any) -> None:
            assert grid == (-(-count // (4 * block)), len(keys))
            out.copy_(device_noise.by_torch(keys, deviations, count)).mul_(1 + self.wrong)

        return run


def _missing() -> Any:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


def test_a_kernel_that_is_wrong_or_missing_is_not_used() -> None:
    cpu, right = torch.device("cpu"), _Fake(0.0)
    assert device_noise.working_kernel(lambda: right, cpu) is right
    assert device_noise.working_kernel(lambda: _Fake(0.01), cpu) is None
    assert device_noise.working_kernel(_missing, cpu) is None
