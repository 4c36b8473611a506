"""Small made scans, one kind per recipe, and the devices that views are computed on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medcl.foundation.types import Volume


def _body(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Smooth texture inside an ellipsoid; 0 outside, 0.2 to 1 inside."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.9
    texture = ndimage.gaussian_filter(rng.normal(size=shape), [2 if n > 1 else 0 for n in shape])
    texture = 0.6 + 0.4 * np.clip(texture / (2 * texture.std()), -1, 1)
    return np.where(inside, texture, 0)


def _ct(rng: np.random.Generator) -> Volume:
    body = _body((90, 84, 70), rng)
    array = np.where(body > 0, np.where(body > 0.85, 600, np.where(body < 0.35, -90, 30)), -1000) + rng.normal(0, 4, body.shape)
    return Volume(array.astype(np.int16), np.diag([1.5, 1.5, 1.5, 1]), "ct", "HU")


def _mr(rng: np.random.Generator) -> Volume:
    return Volume(_body((50, 56, 48), rng) * 800, np.diag([1.0, 1.0, 1.2, 1]), "mr", "arbitrary")


def _xray(rng: np.random.Generator) -> Volume:
    return Volume((_body((150, 120, 1), rng) * 255).astype(np.uint8), np.diag([2.0, 2.0, 1, 1]), "xray", "display", "picture")


def _shape(rng: np.random.Generator) -> Volume:
    return Volume((_body((28, 28, 28), rng) > 0.6).astype(np.uint8), np.eye(4), "shape", "arbitrary")


def _pet(rng: np.random.Generator) -> Volume:
    body = _body((40, 44, 52), rng)
    return Volume((body**4 * 6 + np.where(body > 0.95, 6, 0)).astype(np.float32), np.diag([3.0, 3.0, 3.0, 1]), "pet", "SUV")


def _mammography(rng: np.random.Generator) -> Volume:
    """A breast at the left edge of a black picture, with a few bright specks."""
    breast = np.zeros((150, 180, 1))
    breast[:90, 20:160] = _body((180, 140, 1), rng)[90:]
    breast[breast > 0.97] = 1.6
    return Volume((breast * 150).astype(np.uint8), np.diag([0.5, 0.5, 1, 1]), "mammography", "display", "picture")


def _ultrasound(rng: np.random.Generator) -> Volume:
    """A sector below its probe."""
    x, y = np.meshgrid(np.linspace(-1, 1, 130), np.linspace(0, 1, 110), indexing="ij")
    sector = (np.abs(x) < 0.15 + 0.8 * y) & (x**2 / 2 + y**2 < 1)
    echoes = _body((190, 170, 1), rng)[30:160, 30:140, 0]
    return Volume(
        (np.where(sector, echoes, 0) * 220)[..., None].astype(np.uint8), np.diag([1.0, 1.0, 1, 1]), "ultrasound", "display", "picture"
    )


MAKERS = {
    "ct": _ct,
    "mr": _mr,
    "pet": _pet,
    "xray": _xray,
    "mammography": _mammography,
    "ultrasound": _ultrasound,
    "shape": _shape,
}
SIZES: dict[str, tuple[int, ...]] = {
    "ct": (32, 32, 32),
    "mr": (24, 24, 24),
    "pet": (24, 24, 24),
    "xray": (64, 64),
    "mammography": (64, 64),
    "ultrasound": (64, 64),
    "shape": (24, 24, 24),
}

_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
on_devices = pytest.mark.parametrize("device", [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=_CUDA)], ids=str)
