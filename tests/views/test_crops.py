"""Where crops lie: inside the field where they fit, overlapping as promised, counted as it is."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.foundation.randomness import generator
from medcl.views.covering import field
from medcl.views.crops import Frame, draw_centre, overlap, pull_together, showing
from medcl.views.spatial import Rotation


def random_frame(rng: np.random.Generator, spread: float = 40.0, max_deg: float = 15.0) -> Frame:
    step = Rotation(max_deg=max_deg)
    return Frame(rng.uniform(-spread, spread, 3), rng.uniform(20, 60, 3), step.turn(step.draw(rng, False)))


def counted(one: Frame, other: Frame, points: int = 200_000) -> float:
    """Monte Carlo: the share of the smaller crop inside the larger one."""
    small, large = sorted((one, other), key=lambda frame: float(np.prod(frame.extent)))
    rng = np.random.default_rng(0)
    world = (rng.random((points, 3)) - 0.5) * small.extent @ small.turn.T + small.centre
    return float((np.abs((world - large.centre) @ large.turn) <= large.extent / 2).all(1).mean())


@pytest.mark.parametrize("seed", range(8))
def test_overlap_is_what_counting_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = random_frame(rng, 15), random_frame(rng, 15)
    assert overlap(one, other) == pytest.approx(counted(one, other), abs=0.005)
    alike = Frame(other.centre, other.extent, one.turn * (-1, 1, 1))
    assert overlap(one, alike) == pytest.approx(counted(one, alike), abs=0.005), "mirrored, and not turned"
    assert overlap(one, other) == overlap(other, one)


def test_overlap_of_a_crop_with_itself_and_with_a_far_one() -> None:
    frame = random_frame(np.random.default_rng(0))
    assert overlap(frame, frame) == 1
    assert overlap(frame, Frame(frame.centre + 500, frame.extent, frame.turn)) == 0


@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 1.0])
def test_pulled_together_overlaps_as_promised(least: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        first, second = random_frame(rng, 80), random_frame(rng, 80)
        second = Frame(second.centre, first.extent * rng.uniform(0.8, 1.25), second.turn)
        pulled = pull_together(first, second, least)
        assert overlap(first, pulled) >= least
        assert counted(first, pulled) >= least - 0.005
        assert np.array_equal(pulled.extent, second.extent)


@pytest.mark.parametrize("flat", [False, True])
def test_a_turned_crop_shows_what_it_must_of_the_field(flat: bool) -> None:
    """Its corners lie outside, so that it is a little larger than one that is not turned; that one is left alone."""
    shape, spacing, least = (100, 120, 1 if flat else 90), np.array([1.0, 0.8, 1.2]), 0.6
    begin, end = field(shape, spacing)
    whole, rng = Frame((begin + end) / 2, end - begin, np.eye(3)), np.random.default_rng(0)
    larger = 0
    for _ in range(40):
        step = Rotation(max_deg=15)
        extent = (end - begin) * (np.array([least**0.5, least**0.5, 1.0]) if flat else least ** (1 / 3))
        turned = Frame(draw_centre(extent, shape, spacing, rng), extent, step.turn(step.draw(rng, flat)))
        found = showing(turned, shape, spacing, least, flat)
        points = (rng.random((100_000, 3)) - 0.5) * whole.extent + whole.centre
        assert (np.abs((points - found.centre) @ found.turn) <= found.extent / 2).all(1).mean() >= least - 0.01
        assert np.array_equal(found.centre, turned.centre) and np.array_equal(found.turn, turned.turn)
        assert not flat or found.extent[2] == turned.extent[2]
        larger += not np.array_equal(found.extent, turned.extent)
        upright = Frame(turned.centre, extent, np.eye(3))
        assert np.array_equal(showing(upright, shape, spacing, least, flat).extent, extent)
    assert larger > 20


def test_a_pair_that_overlaps_enough_is_left_alone() -> None:
    first = random_frame(np.random.default_rng(2), 0)
    second = Frame(first.centre + 1, first.extent, first.turn)
    assert np.array_equal(pull_together(first, second, 0.5).centre, second.centre)


def test_centres_fill_the_field_and_stay_inside_where_they_can() -> None:
    shape, spacing = (100, 40, 20), np.array([1.0, 1.5, 2.0])
    extent = np.array([50.0, 50.0, 50.0])  # fits in 100 mm and 60 mm, not in 40 mm
    drawn = np.array([draw_centre(extent, shape, spacing, generator(0, "views", step)) for step in range(500)])
    low, high = drawn - extent / 2, drawn + extent / 2
    field_low, field_high = -spacing / 2, (np.array(shape) - 0.5) * spacing
    assert (low[:, :2] >= field_low[:2] - 1e-9).all() and (high[:, :2] <= field_high[:2] + 1e-9).all()
    assert (low[:, 2] <= field_low[2] + 1e-9).all() and (high[:, 2] >= field_high[2] - 1e-9).all()
    assert low[:, 0].min() < field_low[0] + 1 and high[:, 0].max() > field_high[0] - 1
