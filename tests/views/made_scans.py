"""Small made scans, one kind per recipe."""

from __future__ import annotations

import numpy as np
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


MAKERS = {"ct": _ct, "mr": _mr, "xray": _xray, "shape": _shape}
SIZES: dict[str, tuple[int, ...]] = {"ct": (32, 32, 32), "mr": (24, 24, 24), "xray": (64, 64), "shape": (24, 24, 24)}
