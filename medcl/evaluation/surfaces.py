"""How well two outlines agree: overlap, and distances between their surfaces in mm."""

from __future__ import annotations

import numpy as np


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Overlap of two masks, 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 1.0 if total == 0 else 2.0 * int(np.logical_and(one, other).sum()) / total


def surface_scores(one: np.ndarray, other: np.ndarray, spacing_mm: tuple[float, float, float], tolerance_mm: float) -> tuple[float, float]:
    """95% Hausdorff distance in mm, and normalised surface Dice, of two masks (x, y, z).

    The first is the larger of the two directed 95th percentiles of surface distances; the field's diagonal where only one mask is empty.
    The second is the share of both surfaces that lies within the tolerance of the other (Nikolov et al. 2018,
    https://arxiv.org/abs/1809.04430), counted in surface voxels; 1 where both are empty, 0 where only one is.
    """
    if not one.any() and not other.any():
        return 0.0, 1.0
    if not one.any() or not other.any():
        return float(np.linalg.norm(np.array(one.shape) * spacing_mm)), 0.0
    box = tuple(slice(max(0, int(places.min()) - 1), int(places.max()) + 2) for places in np.nonzero(one | other))
    surfaces = [_surface(mask[box]) for mask in (one, other)]
    distances = [_distances(surfaces[0], surfaces[1], spacing_mm), _distances(surfaces[1], surfaces[0], spacing_mm)]
    within = sum(int((found <= tolerance_mm).sum()) for found in distances)
    return max(float(np.percentile(found, 95)) for found in distances), within / sum(map(len, distances))


def _surface(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion, generate_binary_structure

    flat = mask.shape[2] == 1
    cross = generate_binary_structure(2, 1)[..., None] if flat else generate_binary_structure(3, 1)
    padded = np.pad(mask, ((1, 1), (1, 1), (0, 0) if flat else (1, 1)))
    edge = np.logical_and(padded, np.logical_not(binary_erosion(padded, cross)))
    return edge[1:-1, 1:-1] if flat else edge[1:-1, 1:-1, 1:-1]


def _distances(source: np.ndarray, target: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(np.logical_not(target), sampling=spacing_mm))[source]
