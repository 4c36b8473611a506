"""Elastic: TorchIO's spline under the same control points, bounded in mm, never folding, the same for masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig
from medcl.views.sampling import sample, sample_nearest, spline_weights
from medcl.views.spatial import Elastic

Stores = Callable[[str], VolumeStore]


def field(bend: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(3, x, y, z) displacements of every view voxel, by scipy's spline."""
    places = [1 + (np.arange(n) + 0.625) / (n + 0.25) * (points - 3) for n, points in zip(size, bend.shape, strict=False)]
    grid = np.stack(np.meshgrid(*places, indexing="ij"))
    return np.stack([ndimage.map_coordinates(bend[..., axis], grid, order=3, prefilter=False) for axis in range(3)])


def test_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.int16, np.float32):
        array = rng.integers(-500, 500, (40, 36, 44)).astype(dtype)
        matrix = np.hstack([np.eye(3) * 0.9 + rng.normal(0, 0.05, (3, 3)), [[7.0], [5], [8]]])
        bend, size = rng.uniform(-3, 3, (7, 7, 7, 3)), (26, 24, 28)
        at = np.einsum("ab,bxyz->axyz", matrix[:, :3], np.indices(size)) + matrix[:, 3][:, None, None, None] + field(bend, size)
        out = np.empty(size, np.float32)
        sample(lambda box, array=array: array[tuple(slice(*edge) for edge in box)], array.shape, matrix, out, background=3, bend=bend)
        expected = ndimage.map_coordinates(array.astype(float), at, order=1, mode="grid-constant", cval=3)
        assert np.abs(out - expected).max() < 1e-4 * np.ptp(array)
        labels = (array > 100).astype(np.uint8)
        found = sample_nearest(lambda box, labels=labels: labels[tuple(slice(*edge) for edge in box)], labels.shape, matrix, size, bend)
        assert (found == ndimage.map_coordinates(labels, at, order=0, mode="grid-constant")).mean() > 0.9999


def test_equals_torchio_with_the_same_control_points() -> None:
    import torch
    import torchio

    rng = np.random.default_rng(1)
    array = ndimage.gaussian_filter(rng.normal(size=(30, 28, 26)), 1.5).astype(np.float32)
    control = rng.uniform(-1.5, 1.5, (7, 7, 7, 3))
    image = torchio.ScalarImage(tensor=torch.from_numpy(array)[None], affine=np.eye(4))
    moved = torchio.ElasticDeformation(control, (1.5,) * 3)(image).data[0].numpy()
    # ITK's axes run to the patient's left and back, ours to the right and front.
    ours = control[::-1, ::-1] * np.array([-1, -1, 1])
    out = np.empty(array.shape, np.float32)
    sample(lambda box: array[tuple(slice(*edge) for edge in box)], array.shape, np.eye(3, 4), out, background=0, bend=ours)
    inside = (slice(3, -3),) * 3
    assert np.abs(out - moved)[inside].max() < 1e-4 * np.ptp(array)


def test_picture_is_bent_in_its_plane() -> None:
    rng = np.random.default_rng(2)
    array = rng.integers(0, 3000, (50, 40, 1)).astype(np.int16)
    bend = Elastic().bend({"mm": 3.0, "key": 5.0}, np.array([30.0, 26.0, 1.0]), True)
    assert bend.shape == (7, 7, 1, 3) and (bend[..., 2] == 0).all()
    matrix = np.hstack([np.eye(3), [[8.0], [6], [0]]])
    out = np.empty((30, 26, 1), np.float32)
    sample(lambda box: array[tuple(slice(*edge) for edge in box)], array.shape, matrix, out, background=0, bend=bend)
    shift = np.stack([spline_weights(30, 7) @ bend[:, :, 0, axis] @ spline_weights(26, 7).T for axis in range(2)])
    at = np.indices((30, 26)) + np.array([8.0, 6.0])[:, None, None] + shift
    assert np.abs(out[..., 0] - ndimage.map_coordinates(array[..., 0].astype(float), at, order=1)).max() < 0.3


@pytest.mark.parametrize("extent", [20.0, 144.0])
def test_no_point_moves_farther_than_it_may_and_nothing_folds(extent: float) -> None:
    step, size = Elastic(max_displacement_mm=5), (24, 24, 24)
    for seed in range(10):
        values = step.draw(np.random.default_rng(seed), False)
        assert 0 <= values["mm"] <= 5
        moved = field(step.bend(values, np.full(3, extent), False), size)
        assert np.linalg.norm(moved, axis=0).max() <= values["mm"] + 1e-6
        slopes = np.stack([np.stack(np.gradient(moved[axis], extent / 24)) for axis in range(3)])
        assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)).min() > 0


def test_a_view_and_its_mask_are_bent_alike(made_store: Stores, tmp_path: Path) -> None:
    """The brightest voxels of a view are where the mask says, bent or not."""
    path = tmp_path / "mr.yaml"
    path.write_text("name: mine\nmodality: mr\nsteps: [{name: crop}, {name: elastic, max_displacement_mm: 5}]\n")
    store = made_store("mr")
    maker = ViewMaker(ViewsConfig(policy=str(path), size=(56, 56, 56)), BUILT_IN["mr"])
    view = maker.draw(store.shape(0), store.affine(0), (0, 0, 0), 1)[0]
    assert view.bend is not None and np.abs(view.bend).max() > 0.1
    whole = store.mask(0)
    assert whole is not None

    class Shown(VolumeStore):
        """A store whose scan is its own mask."""

        def read_raw(self, row, box=None):
            mask = self.mask(row, box)
            assert mask is not None
            return mask.astype(np.int16) * 1000, 1.0, 0.0

    shown = maker.stored_view(Shown(store.folder), 0, view)
    assert ((shown * 2048 > 500) == (maker.render_mask(store, 0, view) == 1)).mean() > 0.999
