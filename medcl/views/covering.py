"""The un-augmented boxes that show a whole field: one around it, or windows that cover it.

A MONAI bundle carries this file: nothing outside NumPy may be imported.
"""

from __future__ import annotations

import itertools

import numpy as np


def field(shape: tuple[int, ...], spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the field begins and ends, (3,) mm; the first voxel's centre is 0."""
    return -spacing / 2, (np.array(shape) - 0.5) * spacing


def field_centre(shape: tuple[int, ...], spacing: np.ndarray) -> np.ndarray:
    """The middle of the field, in mm."""
    low, high = field(shape, spacing)
    return (low + high) / 2


def covering_extent(shape: tuple[int, ...], spacing: np.ndarray, size: tuple[int, ...], flat: bool) -> np.ndarray:
    """Extent in mm of the smallest isotropic grid of `size` (x, y, z) that covers the field; of a picture, its own thickness."""
    field_mm = np.array(shape) * spacing
    axes = 2 if flat else 3
    extent = np.max(field_mm[:axes] / np.array(size[:axes])) * np.array(size, dtype=float)
    if flat:
        extent[2] = spacing[2]
    return extent


def window_centres(shape: tuple[int, ...], spacing: np.ndarray, extent: np.ndarray, overlap: float) -> list[np.ndarray]:
    """Centres in mm, (3,), of windows of `extent` mm that cover the field; neighbours overlap by at least `overlap`."""
    middle = field_centre(shape, spacing)
    places = [_places(length * step, edge, overlap) for length, step, edge in zip(shape, spacing, extent, strict=True)]
    return [middle + np.array(place) for place in itertools.product(*places)]


def _places(field_mm: float, extent_mm: float, overlap: float) -> np.ndarray:
    """Centres of the windows along one axis, in mm from the field's middle."""
    spare = field_mm - extent_mm
    if spare <= 1e-6:
        return np.zeros(1)
    count = int(np.ceil(spare / (extent_mm * (1 - overlap)) - 1e-6)) + 1
    return np.linspace(-spare / 2, spare / 2, count)
