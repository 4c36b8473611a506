from __future__ import annotations

import itertools

import numpy as np

from medcl.foundation.randomness import generator


def test_a_stream_depends_on_its_key_alone() -> None:
    first = generator(3, "views", step=5, item=7, view=1).random(100)
    generator(3, "views", step=5, item=7, view=0).random(10_000)
    assert np.array_equal(first, generator(3, "views", step=5, item=7, view=1).random(100))


def test_different_keys_give_different_streams() -> None:
    keys = itertools.product((0, 1, -1, 2**63), ("views", "order"), (0, 1), (0, 1), (0, 1))
    draws = {generator(seed, purpose, step, item, view).bytes(16) for seed, purpose, step, item, view in keys}
    assert len(draws) == 4 * 2 * 2 * 2 * 2


def test_neighbouring_streams_are_uncorrelated() -> None:
    table = np.array([generator(0, "views", item=item).random(2000) for item in range(50)])
    correlations = np.corrcoef(table)[np.triu_indices(50, 1)]
    assert abs(correlations.mean()) < 0.003 and np.abs(correlations).max() < 0.1
