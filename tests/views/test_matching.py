"""Matched points show the same tissue in every view: the sampler's own geometry, there and back, on scans and pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medcl.foundation.errors import UserError
from medcl.loading.batches import Batches
from medcl.methods.vox2vec import levels_at
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.matching import from_stored, matched_points, to_stored
from medcl.views.policy import ViewsConfig
from medcl.views.spatial import Elastic
from tests.views.made_scans import SIZES
from tests.views.test_elastic import field

Stores = Callable[[str], VolumeStore]
POINTS = 40


def geometry_only(name: str) -> ViewMaker:
    """Strong geometry, always bent where bending is allowed, and no intensity."""
    maker = ViewMaker(ViewsConfig(policy=name, size=SIZES[name], strength="strong", overlap=0.4), BUILT_IN[name])
    steps = [step for step in maker.policy.steps if step.stage != "intensity" and step.name != "elastic"]
    if name in ("mr", "shape"):
        steps.append(Elastic(probability=1, max_displacement_mm=3))
    return ViewMaker(maker.config, BUILT_IN[name], policy=maker.policy.model_copy(update={"steps": tuple(steps)}))


@pytest.mark.parametrize("name", ["mr", "ct", "xray"])
def test_there_and_back(name: str, made_store: Stores) -> None:
    store, maker = made_store(name), geometry_only(name)
    for item in range(5):
        view = maker.draw_row(store, 0, (1, item, 0), 1)[0]
        voxels = np.stack(np.meshgrid(*map(np.arange, view.size), indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
        wanted = voxels @ view.matrix[:, :3].T + view.matrix[:, 3]
        if view.bend is not None:
            wanted += field(view.bend, view.size).reshape(3, -1).T
        assert (view.bend is not None) == (name == "mr")
        assert np.abs(to_stored(view, voxels) - wanted).max() < 1e-5
        assert np.abs(from_stored(view, wanted) - voxels).max() < 0.1


@pytest.mark.parametrize("name", ["mr", "ct", "shape", "xray", "ultrasound"])
def test_both_views_show_the_same_at_their_points(name: str, made_store: Stores) -> None:
    """Through the loader: turned, mirrored, scaled, bent, and for pictures rows before columns."""
    store = made_store(name)
    batches = Batches(store, geometry_only(name), num_views=2, num_points=POINTS, world_batch=4, seed=3, workers=0)
    apart, at_random = [], []
    for step in range(4):
        batch = batches.at(step)
        assert batch.points is not None and batch.points.shape == (4, 2, POINTS, batch.views[0].ndim - 2)
        assert batch.points.abs().max() <= 1
        first, second = (levels_at((view,), batch.points[:, number])[..., 0] for number, view in enumerate(batch.views))
        apart.append((first - second).abs())
        at_random.append((first - second.roll(1, dims=1)).abs())
    assert torch.cat(apart).mean() < 0.25 * torch.cat(at_random).mean()


def test_points_are_a_function_of_the_key_and_lie_where_the_scan_is(made_store: Stores) -> None:
    store, maker = made_store("ct"), geometry_only("ct")
    settings = {"num_views": 2, "num_points": POINTS, "world_batch": 3, "seed": 7}
    wanted = [batch.points for batch in Batches(store, maker, workers=0, **settings).iterate(0, 4)]
    for more in ({"workers": 3}, {"workers": 2, "device": torch.device("cpu")}):
        found = Batches(store, maker, **settings, **more).iterate(1, 4)
        assert all(torch.equal(batch.points, points) for batch, points in zip(found, wanted[1:], strict=True))
    assert not torch.equal(wanted[0], wanted[1])
    shape, rng = store.shape(0), np.random.default_rng(0)
    for item in range(5):
        views = maker.draw_row(store, 0, (2, 0, item), 2)
        for view, places in zip(views, matched_points(views, shape, POINTS, rng), strict=True):
            assert len(np.unique(places, axis=0)) == POINTS, "no point twice where there is room"
            stored = to_stored(view, places)
            assert (stored > -0.6).all() and (stored < np.array(shape) - 0.4).all()


@pytest.mark.parametrize("shape", [(200, 200, 1), (200, 1, 200), (24, 24, 24), (8, 8, 8)])
def test_scans_far_smaller_than_a_view_have_points_of_their_own(shape: tuple[int, int, int]) -> None:
    """Nearly all of such a view is padding: as many different points as wanted, and of bent views too."""
    maker = ViewMaker(ViewsConfig(policy="mr", size=(96, 96, 96), strength="strong"), BUILT_IN["mr"])
    steps = (*maker.policy.steps, Elastic(probability=0.5, max_displacement_mm=3))
    maker = ViewMaker(maker.config, BUILT_IN["mr"], policy=maker.policy.model_copy(update={"steps": steps}))
    for item in range(20):
        views = maker.draw(shape, np.eye(4), (0, 0, item))
        places = matched_points(views, shape, 16, np.random.default_rng(item))
        assert len(np.unique(places[0], axis=0)) == 16
        stored = [to_stored(view, at) for view, at in zip(views, places, strict=True)]
        assert np.abs(stored[0] - stored[1]).max() < 0.2
        assert (stored[0] > -0.6).all() and (stored[0] < np.array(shape) - 0.4).all()


def test_views_that_the_scan_fills_have_the_points_they_had() -> None:
    """Candidates are drawn in the view, one after the other: a run that goes on sees the same points."""
    maker, shape = geometry_only("mr"), (50, 56, 48)
    for item in range(10):
        views = maker.draw(shape, np.diag([1, 1, 1.2, 1]), (0, 0, item))
        candidates = np.random.default_rng(item).random((16 * POINTS, 3)) * views[0].size - 0.5
        places = matched_points(views, shape, POINTS, np.random.default_rng(item))[0]
        assert {tuple(place) for place in places} <= {tuple(place) for place in candidates}


def test_views_that_share_nothing_are_refused(made_store: Stores) -> None:
    store, maker = made_store("ct"), geometry_only("ct")
    windows = maker.windows(store.shape(0), store.affine(0), overlap=0.0)
    said = rf"views\.overlap: two views of row 0, {' x '.join(map(str, store.shape(0)))} voxels"
    with pytest.raises(UserError, match=said):
        maker.match(store, 0, [windows[0], windows[-1]], 8, (0, 0, 0))
