"""Where outlines are looked at: the slice through the middle of what is to be outlined, with some of its surroundings."""

from __future__ import annotations

import numpy as np

from medcl.foundation import geometry
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters
from medcl.views.covering import field_centre
from medcl.views.crops import Frame
from medcl.views.sampling import sample_nearest

SIDE = 96
_SURROUNDINGS = 2.0  # side of what is shown over that of the structures


def middle_slice(maker: ViewMaker, store: VolumeStore, row: int, truth: np.ndarray) -> ViewParameters:
    """An axial view of 96 x 96 pixels. truth: (x, y, z) of the stored grid, true in the structures; the whole field where none is."""
    shape, affine = store.shape(row), store.affine(row)
    spacing = np.array(geometry.spacing_mm(affine))
    centre, side = field_centre(shape, spacing), float((np.array(shape) * spacing)[:2].max())
    slices = np.flatnonzero(truth.any((0, 1)))
    centre[2] = spacing[2] * (slices[len(slices) // 2] if len(slices) else shape[2] // 2)
    if len(slices):
        at = np.argwhere(truth[:, :, slices[len(slices) // 2]])
        low, high = at.min(0) * spacing[:2], at.max(0) * spacing[:2]
        around = _SURROUNDINGS * float((high - low + spacing[:2]).max())
        if around < side:
            centre[:2], side = (low + high) / 2, around
    return maker.place(Frame(centre, np.array([side, side, spacing[2]]), np.eye(3)), (SIDE, SIDE, 1), affine)


def labels_there(labels: np.ndarray, view: ViewParameters) -> np.ndarray:
    """Numbers of structures (x, y, z) on the stored grid -> (96, 96) uint8 rows and columns, as people look at a slice."""
    found = sample_nearest(lambda box: labels[tuple(slice(*ends) for ends in box)], labels.shape, view.matrix, view.size)  # pyright: ignore[reportArgumentType]
    return upright(found).astype(np.uint8)


def upright(view: np.ndarray) -> np.ndarray:
    """(x, y, 1) of a volume -> rows and columns: the patient's front on top, the right side left."""
    return view[:, :, 0].T[::-1]
