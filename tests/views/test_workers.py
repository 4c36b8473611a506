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
from tests.views.made_scans import SIZES, on_devices

Stores = Callable[[str], VolumeStore]


def batches(store: VolumeStore, name: str, workers: int, device: torch.device | None = None, processes: bool = False) -> Batches:
    maker = ViewMaker(ViewsConfig(policy=name, size=SIZES[name], strength="strong"), BUILT_IN[name])
    return Batches(store, maker, num_views=2, world_batch=3, seed=7, workers=workers, device=device, processes=processes)


@pytest.mark.parametrize("name", ["ct", "ultrasound"])
def test_views_are_the_same_on_any_number_of_workers_in_any_order_and_after_a_restart(name: str, made_store: Stores) -> None:
    store = made_store(name)
    wanted = {step: [view.clone() for view in batches(store, name, 0).at(step).views] for step in reversed(range(6))}
    for workers in (1, 2, 4):
        for start in (0, 3):
            found = batches(VolumeStore(store.folder), name, workers).iterate(start, 6)
            for step, batch in enumerate(found, start):
                assert all(torch.equal(one, other) for one, other in zip(batch.views, wanted[step], strict=True)), (workers, step)


@on_devices
@pytest.mark.parametrize("name", ["ct", "ultrasound"])
def test_a_device_gives_the_batches_that_the_workers_would_have_made(name: str, device: torch.device, made_store: Stores) -> None:
    """Views within rounding, in the same order and form; the same bits on any number of workers and from any step on."""
    store = made_store(name)
    wanted = [[view.clone() for view in batch.views] for batch in batches(store, name, 0).iterate(0, 5)]
    low, high = BUILT_IN[name].network_range
    on_device = batches(store, name, 0, device=device)
    found = {step: on_device.at(step) for step in (4, 2, 3)}
    for step, batch in found.items():
        assert torch.equal(batch.item, batches(store, name, 0).at(step).item)
        for one, other in zip(batch.views, wanted[step], strict=True):
            assert one.shape == other.shape and one.is_contiguous() == other.is_contiguous()
            assert one.device.type == device.type and (one.cpu() - other).abs().max() < 1e-4 * (high - low)
    for workers, processes in ((1, False), (3, False), (2, True)):
        again = batches(VolumeStore(store.folder), name, workers, device, processes).iterate(2, 5)
        for step, batch in enumerate(again, 2):
            assert all(torch.equal(one, other) for one, other in zip(batch.views, found[step].views, strict=True))
