"""Real views through the loader: the same bits on any number of threads, from any step on, and in a store opened anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from medcl.loading.batches import Batches
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig
from tests.views.made_scans import SIZES

Stores = Callable[[str], VolumeStore]


def batches(store: VolumeStore, name: str, workers: int) -> Batches:
    maker = ViewMaker(ViewsConfig(policy=name, size=SIZES[name], strength="strong"), BUILT_IN[name])
    return Batches(store, maker, num_views=2, world_batch=3, seed=7, workers=workers)


@pytest.mark.parametrize("name", ["ct", "ultrasound"])
def test_views_are_the_same_on_any_number_of_workers_in_any_order_and_after_a_restart(name: str, made_store: Stores) -> None:
    store = made_store(name)
    wanted = {step: [view.clone() for view in batches(store, name, 0).at(step).views] for step in reversed(range(6))}
    for workers in (1, 2, 4):
        for start in (0, 3):
            found = batches(VolumeStore(store.folder), name, workers).iterate(start, 6)
            for step, batch in enumerate(found, start):
                assert all(torch.equal(one, other) for one, other in zip(batch.views, wanted[step], strict=True)), (workers, step)
