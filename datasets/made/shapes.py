"""Soft shapes on a grid of millimetres: the bricks of every phantom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Grid:
    """Where voxels are, in mm from the middle of the field; arrays are (z, y, x), DICOM's world: x left, y back, z head."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing_mm: tuple[float, float, float]  # z, y, x

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0

    def points(self) -> np.ndarray:
        """(voxels, 3) in x, y, z order."""
        return np.stack([self.x.ravel(), self.y.ravel(), self.z.ravel()], axis=1)


def straight_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """A regular grid centred on 0."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return Grid(x, y, z, spacing_mm)


def bent_grid(grid: Grid, draw: np.random.Generator, shift_mm: float, bend_mm: float, turn_deg: float) -> Grid:
    """The same voxels seen by a body that lies shifted, turned and smoothly bent."""
    bend = [_smooth_field(draw, grid.shape) * bend_mm for _ in range(3)]
    shift = draw.normal(0, shift_mm, 3)
    angle = np.deg2rad(np.clip(draw.normal(0, turn_deg), -2 * turn_deg, 2 * turn_deg))
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = grid.x * cos - grid.y * sin, grid.x * sin + grid.y * cos
    moved = [(a + b + s).astype(np.float32) for a, b, s in zip((x, y, grid.z), bend, shift, strict=True)]
    return Grid(moved[0], moved[1], moved[2], grid.spacing_mm)


def _smooth_field(draw: np.random.Generator, shape: tuple[int, ...], waves: int = 4) -> np.ndarray:
    """A sum of a few slow cosine waves with standard deviation about 1."""
    field = draw.normal(0, 1, (waves,) * len(shape)) / np.sqrt(2.0 ** (len(shape) - 1) * waves)
    for n in shape:
        basis = np.cos(np.pi * np.outer(np.arange(waves), (np.arange(n) + 0.5) / n))
        field = np.tensordot(field, basis, axes=(0, 0))
    return field.astype(np.float32)


def inside(distance_mm: np.ndarray, softness_mm: float = 2.0) -> np.ndarray:
    """1 inside (negative distance), 0 outside, with a soft edge about four times `softness_mm` wide."""
    ramp = distance_mm * np.float32(-0.25 / softness_mm)
    ramp += np.float32(0.5)
    return np.clip(ramp, 0, 1, out=ramp)


def ellipsoid(grid: Grid, centre: tuple[float, ...], axes: tuple[float, ...], power: float = 2.0) -> np.ndarray:
    """About the signed distance (mm) to an ellipsoid; `power` above 2 squares its corners."""
    terms = [np.abs((a - c) / r) for a, c, r in zip((grid.x, grid.y, grid.z), centre, axes, strict=True)]
    if power == 2.0:
        radius = np.sqrt(terms[0] ** 2 + terms[1] ** 2 + terms[2] ** 2)
    else:
        radius = (terms[0] ** power + terms[1] ** power + terms[2] ** power) ** (1 / power)
    return ((radius - 1) * min(axes)).astype(np.float32)


def cylinder(grid: Grid, centre: tuple[float, float], axes: tuple[float, float], power: float = 2.0) -> np.ndarray:
    """About the signed distance (mm) to an upright elliptic cylinder."""
    radius = (np.abs((grid.x - centre[0]) / axes[0]) ** power + np.abs((grid.y - centre[1]) / axes[1]) ** power) ** (1 / power)
    return ((radius - 1) * min(axes)).astype(np.float32)


def texture(draw: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Smooth Gaussian noise with standard deviation 1, `sigma` in voxels."""
    noise = gaussian_filter(draw.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return noise / max(float(noise.std()), 1e-6)


def mix(image: np.ndarray, weight: np.ndarray, value: float | np.ndarray) -> np.ndarray:
    """Lay `value` over `image` where `weight` is 1."""
    return image + weight * (value - image)


def curve(centre: np.ndarray, direction: np.ndarray, length: float, bend: float, draw: np.random.Generator, knots: int = 15) -> np.ndarray:
    """(knots, d) points of a curved line of about `length` mm."""
    direction = direction / np.linalg.norm(direction)
    side = draw.normal(0, 1, len(centre))
    side -= side @ direction * direction
    side /= np.linalg.norm(side)
    t = np.linspace(-1, 1, knots)[:, None]
    return centre + direction * (t * length / 2) + side * ((t * t - 1 / 3) * bend * length / 2)


def distance_to_points(points: np.ndarray, knots: np.ndarray, reach_mm: float = 26.0) -> np.ndarray:
    """(n,) distance from each point to the nearest knot; 1e3 and more for points further than `reach_mm` from all of them."""
    best = np.full(len(points), 1e6, dtype=np.float32)
    low, high = knots.min(0) - reach_mm, knots.max(0) + reach_mm
    near = np.arange(len(points))
    for axis in range(points.shape[1]):
        values = points[near, axis]
        near = near[(values > low[axis]) & (values < high[axis])]
    close, found = points[near], np.full(len(near), 1e6, dtype=np.float32)
    for knot in knots.astype(np.float32):
        delta = close - knot
        np.minimum(found, np.einsum("ij,ij->i", delta, delta), out=found)
    best[near] = found
    return np.sqrt(best)
