from __future__ import annotations

import itertools

import numpy as np
import pytest

from medcl.foundation import geometry
from medcl.foundation.randomness import generator

ORIENTATIONS = ["".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)]


def _affine(orientation: str) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(orientation):
        world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[world, column] = (1.5 + column) * (1 if letter in "RAS" else -1)
    affine[:3, 3] = 7, -3, 11
    return affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorient_moves_no_voxel_in_the_world(orientation: str) -> None:
    rng = generator(0, "test")
    array, affine = rng.random((3, 4, 5)), _affine(orientation)
    assert geometry.orientation(affine) == orientation
    turned, new = geometry.reorient(array, affine)
    assert geometry.orientation(new) == "RAS"
    for index in itertools.product(*map(range, turned.shape)):
        world = new @ [*index, 1]
        back = np.rint(np.linalg.solve(affine, world)[:3]).astype(int)
        assert turned[index] == array[tuple(back)]


def test_oblique_axes_go_to_the_closest() -> None:
    angle = np.deg2rad(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert geometry.orientation(affine) == "RAS"


def test_lps_to_ras_turns_the_first_two_world_axes() -> None:
    assert np.allclose(geometry.ras_from_lps(np.eye(4)), np.diag([-1, -1, 1, 1]))


def test_an_impossible_orientation_is_refused() -> None:
    with pytest.raises(ValueError, match="RRS"):
        geometry.reorient(np.zeros((2, 2, 2)), np.eye(4), "RRS")


def test_rows_and_columns() -> None:
    picture = np.arange(6).reshape(3, 2, 1)  # three columns, two rows
    assert geometry.rows_and_columns(picture).shape == (2, 3)
    assert geometry.rows_and_columns(picture)[1, 2] == picture[2, 1, 0]
