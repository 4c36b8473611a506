"""A brain-like T1 volume in arbitrary units: its own shape, folds and brightness for every person, with bright spots or bright bands."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .chance import generator
from .shapes import Grid, bent_grid, curve, distance_to_points, ellipsoid, inside, mix, straight_grid, texture


def make_brain(seed: int, person: int, study: int, lesions: bool) -> tuple[np.ndarray, tuple[float, float, float]]:
    """(x, y, z) float32 in RAS order and its spacing in mm.

    `lesions`: dark balls in the white matter; without: dark bands of the same volume.
    """
    body, frame = generator(seed, "brain body", person), generator(seed, "brain frame", person, study)
    spacing = (round(float(frame.uniform(3.4, 3.9)), 2), 3.5, 3.5)
    still = straight_grid((44, 56, 48), spacing)
    grid = bent_grid(still, generator(seed, "brain bend", person), shift_mm=3, bend_mm=4, turn_deg=5)
    image = _anatomy(grid, body)
    image = _spots(image, grid, generator(seed, "brain spots", person), lesions)
    return _scan(image, grid, frame).transpose(2, 1, 0)[:, ::-1], (spacing[2], spacing[1], spacing[0])


def _anatomy(grid: Grid, draw: np.random.Generator) -> np.ndarray:
    size = draw.uniform(0.92, 1.08, 3)
    head = ellipsoid(grid, (0, 0, -2), (74 * size[0], 90 * size[1], 76 * size[2]), 2.2)
    image = mix(np.zeros(grid.shape, dtype=np.float32), inside(head), 0.9)  # skin and fat
    image = mix(image, inside(head + 6), 0.12)  # skull
    brain = head + draw.uniform(13, 18)
    image = mix(image, inside(brain), 0.2)  # fluid around the brain
    folds = texture(draw, grid.shape, draw.uniform(1.6, 2.2))
    image = mix(image, inside(brain + 2 + 2.5 * np.maximum(folds, 0)), 0.5)  # cortex
    image = mix(image, inside(brain + 10 + 5 * folds, 1.5), 0.8)  # white matter
    wide = draw.uniform(0.7, 1.5)
    for side in (-1, 1):
        image = mix(image, inside(ellipsoid(grid, (side * 11 * wide, 2, 8), (6 * wide, 28, 11 * wide))), 0.18)
        image = mix(image, inside(ellipsoid(grid, (side * 24, 2, -4), (9, 18, 11))), 0.56)
    return image + 0.015 * texture(draw, grid.shape, 1.0)


def _spots(image: np.ndarray, grid: Grid, draw: np.random.Generator, balls: bool) -> np.ndarray:
    """As many voxels of the same values either way: the nearest to a centre, or the nearest to a curve."""
    flat, index = image.reshape(-1).copy(), np.flatnonzero((image.ravel() > 0.68) & (np.abs(grid.z.ravel()) < 45))
    points, free = grid.points()[index], np.ones(len(index), dtype=bool)
    voxel, main = float(np.prod(grid.spacing_mm)), draw.normal(0, 1, 3)
    for _ in range(int(draw.integers(6, 12))):
        radius, aspect, value = draw.uniform(5, 8), draw.uniform(5, 8), draw.uniform(0.3, 0.45)
        centre = points[draw.integers(len(points))]
        volume = 4 / 3 * np.pi * radius**3
        line = curve(
            centre, main + draw.normal(0, 0.5, 3), aspect * (4 * volume / (np.pi * aspect)) ** (1 / 3), draw.uniform(0.1, 0.4), draw
        )
        rank = distance_to_points(points, centre[None] if balls else line)
        order = np.argsort(np.where(free, rank, np.inf), kind="stable")[: round(volume / voxel)]
        flat[index[order]], free[order] = value, False
    return flat.reshape(image.shape)


def _scan(image: np.ndarray, grid: Grid, draw: np.random.Generator) -> np.ndarray:
    """Coil shading, Rician noise, and a gain that means nothing."""
    image = gaussian_filter(image, 0.45)
    shade = 1 + 0.15 * (grid.x / 90 * draw.normal() + grid.y / 90 * draw.normal() + grid.z / 90 * draw.normal())
    noise = draw.uniform(0.01, 0.03)
    real, imaginary = draw.normal(0, noise, (2, *image.shape))
    return (np.hypot(image * np.clip(shade, 0.5, 1.5) + real, imaginary) * draw.uniform(300, 1500)).astype(np.float32)
