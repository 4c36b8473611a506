"""Resampling keeps where things are, interpolates upwards and averages downwards."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcl.store.resample import keep_small_labels, nearest_on_grid, resample, resampled_length


def _ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A linear function of the world position."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    return (grid @ [2.0, -1.0, 0.5] + 7).astype(np.float32)


AFFINE = np.array([[0.8, 0, 0, -30], [0, 0.9, 0, 12], [0, 0, 5.0, 100], [0, 0, 0, 1]])


@pytest.mark.parametrize("factors", [(2.0, 1.7, 0.3), (0.5, 0.5, 0.5), (3.0, 3.0, 1.0)])
def test_world_positions_are_kept(factors: tuple[float, float, float]) -> None:
    shape = (40, 36, 12)
    array, affine = resample(_ramp(shape, AFFINE), AFFINE, factors)
    assert array.shape == tuple(resampled_length(n, f) for n, f in zip(shape, factors, strict=True))
    assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx(np.array([0.8, 0.9, 5.0]) * factors)
    inside = tuple(slice(2 + int(2 / f), n - 2 - int(2 / f)) for n, f in zip(array.shape, factors, strict=True))
    assert array[inside] == pytest.approx(_ramp(array.shape, affine)[inside], abs=1e-3)


def test_centre_of_the_field_stays() -> None:
    array, affine = resample(np.zeros((41, 30, 9)), AFFINE, (1.9, 0.7, 2.2))
    before = AFFINE @ [20, 14.5, 4, 1]
    after = affine @ [*((np.array(array.shape) - 1) / 2), 1]
    assert after == pytest.approx(before)


def test_upwards_equals_trilinear_interpolation() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(9, 8, 7)).astype(np.float32)
    fine, _ = resample(array, np.eye(4), (0.5, 0.5, 0.5))
    positions = np.meshgrid(*((np.arange(2 * n) + 0.5) / 2 - 0.5 for n in array.shape), indexing="ij")
    expected = ndimage.map_coordinates(array, positions, order=1, mode="nearest")
    assert fine == pytest.approx(expected, abs=1e-5)


def test_downwards_does_not_alias() -> None:
    """A checkerboard finer than the new voxels becomes its mean, not a pattern."""
    board = (np.indices((48, 48, 48)).sum(0) % 2).astype(np.float32)
    coarse, _ = resample(board, np.eye(4), (4.0, 4.0, 4.0))
    assert coarse == pytest.approx(np.full(coarse.shape, 0.5), abs=0.02)


def test_no_change_is_no_change() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    same, affine = resample(array, AFFINE, (1.0, 1.0, 1.0))
    assert np.array_equal(same, array) and np.array_equal(affine, AFFINE)


def test_mask_follows_its_own_affine() -> None:
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[2, 3, 4] = 5
    mask_affine = np.diag([-1.0, 1, 1, 1])
    mask_affine[0, 3] = 9
    on_grid = nearest_on_grid(mask, mask_affine, (12, 10, 10), np.eye(4))
    assert np.argwhere(on_grid).tolist() == [[7, 3, 4]] and on_grid[7, 3, 4] == 5


def test_a_label_of_one_voxel_stays() -> None:
    """Nearest neighbours at twice the spacing miss seven of eight such labels."""
    rng, grid = np.random.default_rng(0), np.diag([2.0, 2.0, 2.0, 1.0])
    for _ in range(30):
        labels = np.zeros((24, 24, 24), np.uint8, order="C" if rng.random() < 0.5 else "F")
        labels[4:20, 4:20, 4:20] = 2
        at = rng.integers(0, 24, 3)
        labels[tuple(at)] = 7
        on_grid = nearest_on_grid(labels, np.eye(4), (12, 12, 12), grid)
        before = on_grid.copy()
        assert keep_small_labels(labels, np.eye(4), on_grid, grid) == []
        (found,) = np.argwhere(on_grid == 7)
        assert np.abs(2 * found - at).max() <= 1
        before[tuple(found)] = 7
        assert np.array_equal(before, on_grid), "nothing else is touched"


def test_no_label_is_kept_at_the_cost_of_another_or_outside() -> None:
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    labels = np.zeros((16, 16, 40), np.uint8)
    labels[8, 8, 8], labels[9, 8, 8], labels[1, 1, 30] = 1, 2, 3
    on_grid = nearest_on_grid(labels, np.eye(4), (4, 4, 4), grid)
    assert keep_small_labels(labels, np.eye(4), on_grid, grid) == [2, 3]
    assert on_grid[2, 2, 2] == 1 and np.count_nonzero(on_grid) == 1
