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
# No bend folds (`Elastic.bend`), so that the way back converges; ten rounds leave less than a tenth of a voxel.
_ROUNDS = 10


def matched_points(views: Sequence[ViewParameters], shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """(views, count, 3) places in voxels of each view, the n-th of every view in the same tissue: uniform over what all show of the field.

    shape: of the stored array. Where hardly anything is shared, points come several times. Raises UserError where nothing is.
    """
    first, *others = views
    candidates = rng.random((_CANDIDATES * count, 3)) * first.size - 0.5
    stored = to_stored(first, candidates)
    places = [candidates, *(from_stored(view, stored) for view in others)]
    shown = _inside(stored, shape)
    for view, place in zip(others, places[1:], strict=True):
        shown &= _inside(place, view.size)
    found = np.flatnonzero(shown)
    if not len(found):
        raise UserError("views.overlap: two views of a scan show nothing in common, and this method compares what both show; raise it")
    chosen = np.resize(found, count)
    return np.stack([place[chosen] for place in places])


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
