"""Points of one tissue in several views of it, by the geometry that was drawn: what losses on single voxels compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medcl.foundation.errors import UserError
from medcl.views.sampling import spline_weights

if TYPE_CHECKING:
    from medcl.views.batched import ViewParameters

# Candidates for each point wanted: of a pair that overlaps by 0.3 enough of them lie in both.
_CANDIDATES = 16
# Where the array has less than this share of a view's volume, candidates are drawn in the array: drawn in the view they would miss it.
_MOSTLY_PADDING = 0.5
# No bend folds (`Elastic.bend`), so that the way back converges; ten rounds leave less than a tenth of a voxel.
_ROUNDS = 10


def matched_points(
    views: Sequence[ViewParameters], shape: tuple[int, ...], count: int, rng: np.random.Generator, scan: str = "a scan"
) -> np.ndarray:
    """(views, count, 3) places in voxels of each view, the n-th of every view in the same tissue: uniform over what all show of the field.

    shape: of the stored array. scan: its name, for the error. Where hardly anything is shared, points come several times. Raises UserError
    where nothing is.
    """
    first, *others = views
    candidates, stored = _candidates(first, shape, _CANDIDATES * count, rng)
    places = [candidates, *(from_stored(view, stored) for view in others)]
    shown = _inside(stored, shape)
    for view, place in zip(views, places, strict=True):
        shown &= _inside(place, view.size)
    found = np.flatnonzero(shown)
    if not len(found):
        size = " x ".join(str(length) for length in shape)
        raise UserError(
            f"views.overlap: two views of {scan}, {size} voxels, show nothing of it in common, and this method compares what both show; "
            "raise it, or leave out scans that are far smaller than a view"
        )
    chosen = np.resize(found, count)
    return np.stack([place[chosen] for place in places])


def _candidates(view: ViewParameters, shape: tuple[int, ...], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Uniform places (count, 3) in voxels of a view, and stored ones: over the view, or over the array where that is much smaller."""
    drawn = rng.random((count, 3))
    low, high = _around(view, shape)
    if np.prod(high - low) > _MOSTLY_PADDING * np.prod(view.size) * abs(np.linalg.det(view.matrix[:, :3])):
        places = drawn * view.size - 0.5
        return places, to_stored(view, places)
    stored = low + drawn * (high - low)
    return from_stored(view, stored), stored


def _around(view: ViewParameters, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest box of the stored array, in its voxels, that holds all that a view shows of it."""
    half = np.abs(view.matrix[:, :3]) @ np.array(view.size) / 2
    if view.bend is not None:
        half += np.abs(view.bend).max(axis=(0, 1, 2))
    middle = view.matrix[:, :3] @ ((np.array(view.size) - 1) / 2) + view.matrix[:, 3]
    return np.maximum(middle - half, -0.5), np.minimum(middle + half, np.array(shape) - 0.5)


def to_stored(view: ViewParameters, places: np.ndarray) -> np.ndarray:
    """Voxels of a view (n, 3) -> voxels of the stored array, as `sample` looks for them."""
    return places @ view.matrix[:, :3].T + view.matrix[:, 3] + _bent(view, places)


def from_stored(view: ViewParameters, stored: np.ndarray) -> np.ndarray:
    """The way back: voxels of the stored array (n, 3) -> voxels of a view."""
    back = np.linalg.inv(view.matrix[:, :3]).T
    straight = places = (stored - view.matrix[:, 3]) @ back
    for _ in range(_ROUNDS if view.bend is not None else 0):
        places = straight - _bent(view, places) @ back
    return places


def _bent(view: ViewParameters, places: np.ndarray) -> np.ndarray:
    if view.bend is None:
        return np.zeros_like(places)
    weights = (spline_weights(view.size[axis], view.bend.shape[axis], places[:, axis]) for axis in range(3))
    return np.einsum("abcd,na,nb,nc->nd", view.bend, *weights, optimize=True)


def _inside(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.all((places >= -0.5) & (places < np.array(shape) - 0.5), axis=1)
