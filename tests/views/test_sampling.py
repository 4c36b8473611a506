"""The sampler equals scipy's, reads no more than it needs, and does not alias."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from medcl.views import sampling
from medcl.views.sampling import bounding_box, sample, sample_nearest


def reader(array: np.ndarray, asked: list | None = None):
    def read(box):
        if asked is not None:
            asked.append(box)
        assert all(0 <= start < stop <= length for (start, stop), length in zip(box, array.shape, strict=True))
        return array[tuple(slice(*limits) for limits in box)]

    return read


def random_matrix(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, ...], pitch: float = 0.9) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = np.empty((3, 4))
    matrix[:, :3] = turn * pitch
    matrix[:, 3] = np.array(shape) / 2 + rng.uniform(-5, 5, 3) - matrix[:, :3] @ ((np.array(size) - 1) / 2)
    return matrix


def expected(array: np.ndarray, matrix: np.ndarray, size: tuple[int, ...], background: float) -> np.ndarray:
    positions = np.einsum("ab,bxyz->axyz", matrix[:, :3], np.indices(size)) + matrix[:, 3][:, None, None, None]
    return ndimage.map_coordinates(array.astype(np.float64), positions, order=1, mode="grid-constant", cval=background)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_equals_scipy_inside_and_outside_the_array(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 200, (30, 26, 22)).astype(dtype)
    matrix = random_matrix(rng, array.shape, (20, 18, 24))
    out = np.empty((20, 18, 24), np.float32)
    sample(reader(array), array.shape, matrix, out, background=7)
    assert out == pytest.approx(expected(array, matrix, out.shape, 7), abs=2e-2)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_a_view_along_the_arrays_axes_equals_scipy_and_the_view_turned_by_next_to_nothing(dtype: type) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(0, 200, (30, 26, 22)).astype(dtype)
    matrix = np.diag([0.8, -1.1, 1.0, 1.0])[:3]
    matrix[:, 3] = -2.3, 24.6, 3.4  # begins before the array, and mirrored
    found, turned = np.empty((20, 18, 24), np.float32), np.empty((20, 18, 24), np.float32)
    sample(reader(array), array.shape, matrix, found, background=7)
    assert found == pytest.approx(expected(array, matrix, found.shape, 7), abs=2e-2)
    matrix[0, 1] = 1e-9
    sample(reader(array), array.shape, matrix, turned, background=7)
    assert found == pytest.approx(turned, abs=2e-2)


def test_slope_intercept_and_background_are_in_stored_units() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-3000, 3000, (20, 20, 20)).astype(np.int16)
    matrix = random_matrix(rng, array.shape, (24, 24, 24), pitch=1.2)
    out = np.empty((24, 24, 24), np.float32)
    sample(reader(array), array.shape, matrix, out, background=-4.0, slope=0.5, intercept=10)
    assert out == pytest.approx(expected(array * 0.5 + 10, matrix, out.shape, -4.0), abs=0.05)


def test_identity_returns_the_voxels() -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (12, 11, 10)).astype(np.int16)
    out = np.empty(array.shape, np.float32)
    sample(reader(array), array.shape, np.eye(3, 4), out, background=0)
    assert np.array_equal(out, array)


def test_asks_once_for_the_exact_box() -> None:
    array = np.zeros((64, 64, 64), np.int16)
    asked: list = []
    matrix = random_matrix(np.random.default_rng(3), array.shape, (16, 16, 16))
    sample(reader(array, asked), array.shape, matrix, np.empty((16, 16, 16), np.float32), background=0)
    corners = np.array([matrix[:, :3] @ [x, y, z] + matrix[:, 3] for x in (0, 15) for y in (0, 15) for z in (0, 15)])
    (box,) = asked
    for axis in range(3):
        assert box[axis][0] in (int(np.floor(corners[:, axis].min())), int(np.floor(corners[:, axis].min())) - 1)
        assert box[axis][1] - int(np.floor(corners[:, axis].max())) in (2, 3)


def test_view_outside_the_array_is_background() -> None:
    array = np.full((8, 8, 8), 100, np.int16)
    matrix = np.eye(3, 4)
    matrix[:, 3] = 50
    out = np.empty((4, 4, 4), np.float32)
    sample(reader(array), array.shape, matrix, out, background=-1024)
    assert np.array_equal(out, np.full((4, 4, 4), -1024))


def test_picture_is_sampled_in_its_plane() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 32767, (40, 30, 1)).astype(np.int16)
    angle = 0.2
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0, 6], [np.sin(angle), np.cos(angle), 0, -3], [0, 0, 1, 0]])
    out = np.empty((24, 20, 1), np.float32)
    sample(reader(array), array.shape, matrix, out, background=5)
    positions = np.einsum("ab,bxy->axy", matrix[:2, :2], np.indices((24, 20))) + matrix[:2, 3][:, None, None]
    flat = ndimage.map_coordinates(array[..., 0].astype(float), positions, order=1, mode="grid-constant", cval=5)
    assert out[..., 0] == pytest.approx(flat, abs=2)


@pytest.mark.parametrize("pitch", [2.0, 3.1, 4.0])
def test_large_steps_average_and_do_not_alias(pitch: float) -> None:
    board = ((np.indices((60, 60, 60)).sum(0) % 2) * 100).astype(np.int16)
    size = (10, 10, 10)
    matrix = np.eye(3, 4) * pitch
    matrix[:, 3] = 29.5 - pitch * 4.5
    out = np.empty(size, np.float32)
    sample(reader(board), board.shape, matrix, out, background=0)
    assert out == pytest.approx(np.full(size, 50), abs=13)


def test_averaging_keeps_positions() -> None:
    ramp = np.broadcast_to(np.arange(80, dtype=np.int16)[:, None, None] * 10, (80, 80, 80))
    matrix = np.eye(3, 4) * 4
    matrix[:, 3] = 9.5
    out = np.empty((12, 12, 12), np.float32)
    sample(reader(ramp), (80, 80, 80), matrix, out, background=0)
    assert out[:, 5, 5] == pytest.approx((np.arange(12) * 4 + 9.5) * 10, abs=1e-2)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_averaged_piece_by_piece_is_the_same(seed: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the array, over its edge, and wholly outside."""
    rng = np.random.default_rng(seed)
    array = rng.integers(-1000, 1000, (50, 41, 33)).astype(dtype)
    matrix = random_matrix(rng, array.shape, (12, 10, 14)) @ np.diag([3.3, 3.3, 3.3, 1])
    matrix[:, 3] = rng.uniform(-30, 60, 3) if seed < 3 else 500
    whole, pieces = np.empty((12, 10, 14), np.float32), np.empty((12, 10, 14), np.float32)
    sample(reader(array), array.shape, matrix, whole, background=-1024, slope=0.5, intercept=3.0)
    monkeypatch.setattr(sampling, "_AT_ONCE", 5000)
    sample(reader(array), array.shape, matrix, pieces, background=-1024, slope=0.5, intercept=3.0)
    assert np.abs(whole - pieces).max() < 1e-3


def test_memory_of_a_view_does_not_grow_with_the_scan() -> None:
    """A whole scan of 300 x 300 x 1500 voxels (257 MiB), and its mask, in one view of 96."""
    shape, matrix = (300, 300, 1500), np.eye(3, 4) * 16
    matrix[:2, 3] = 150 - 47.5 * 16
    out = np.empty((96, 96, 96), np.float32)
    read = lambda box: np.zeros([b - a for a, b in box], np.int16)  # noqa: E731
    sample(read, shape, matrix, out, background=-1024)
    tracemalloc.start()
    sample(read, shape, matrix, out, background=-1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * 2**20


def test_nearest_reads_only_what_is_there() -> None:
    labels = np.random.default_rng(2).integers(1, 5, (9, 8, 7)).astype(np.uint8)
    matrix, asked = np.eye(3, 4), []
    matrix[:, 3] = -4

    def read(box):
        asked.append(box)
        return reader(labels)(box)

    found = sample_nearest(read, labels.shape, matrix, (20, 20, 20))
    assert asked == [((0, 9), (0, 8), (0, 7))]
    assert np.array_equal(found[4:13, 4:12, 4:11], labels) and np.count_nonzero(found) == labels.size
    matrix[:, 3] = 100
    assert not sample_nearest(read, labels.shape, matrix, (5, 5, 5)).any()


def test_nearest_keeps_labels() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, (20, 20, 20)).astype(np.uint8)
    matrix = random_matrix(rng, labels.shape, (10, 10, 10))
    found = sample_nearest(reader(labels), (20, 20, 20), matrix, (10, 10, 10))
    positions = np.einsum("ab,bxyz->axyz", matrix[:, :3], np.indices((10, 10, 10))) + matrix[:, 3][:, None, None, None]
    assert np.array_equal(found, ndimage.map_coordinates(labels, positions, order=0, mode="grid-constant"))
    assert found.dtype == np.uint8


def test_bounding_box_of_a_picture_is_one_plane() -> None:
    low, high = bounding_box(np.eye(3, 4), (5, 6, 1))
    assert low[2] == 0 and high[2] == 1
