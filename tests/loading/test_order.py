from __future__ import annotations

import numpy as np
import pytest

from medcl.loading.order import items_at


@pytest.mark.parametrize(("num_items", "world_batch"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 5), (1000, 64)])
def test_every_epoch_has_every_item_once(num_items: int, world_batch: int) -> None:
    steps = -(-4 * num_items // world_batch)
    stream = np.concatenate([items_at(step, num_items, world_batch, seed=3) for step in range(steps)])
    assert stream.dtype == np.int64 and len(stream) == steps * world_batch
    for epoch in range(4):
        assert sorted(stream[epoch * num_items : (epoch + 1) * num_items]) == list(range(num_items))


def test_order_is_a_function_of_step_and_seed_alone() -> None:
    forwards = [items_at(step, 50, 8, seed=1).tolist() for step in range(30)]
    backwards = [items_at(step, 50, 8, seed=1).tolist() for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards != [items_at(step, 50, 8, seed=2).tolist() for step in range(30)]


def test_epochs_differ_and_are_not_the_files_order() -> None:
    first, second = items_at(0, 100, 100, seed=0), items_at(1, 100, 100, seed=0)
    assert not np.array_equal(first, second) and not np.array_equal(first, np.arange(100))


def test_nobody_can_spoil_the_order_by_writing_into_a_batch() -> None:
    items_at(0, 10, 5, seed=0)[:] = 0
    assert len(set(items_at(0, 10, 10, seed=0).tolist())) == 10
