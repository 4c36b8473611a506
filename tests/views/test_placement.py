"""Crops that keep to the body or to what is marked, and stores that do not know where that is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcl.foundation.errors import UserError
from medcl.foundation.randomness import generator
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.crops import draw_centre
from medcl.views.policy import ViewsConfig

Stores = Callable[[str], VolumeStore]


def maker_for(tmp_path: Path, modality: str, place: str, size: int) -> ViewMaker:
    path = tmp_path / f"{place}.yaml"
    path.write_text(f"name: mine\nmodality: {modality}\nsteps: [{{name: crop, place: {place}}}]\n")
    return ViewMaker(ViewsConfig(policy=str(path), size=(size,) * 3), BUILT_IN[modality])


def test_boxes_are_around_the_body_and_around_every_label(made_store: Stores) -> None:
    store = made_store("mr")
    for row in range(len(store)):
        (body,) = store.boxes(row, "body")
        inside = store.read(row).array > store.background(row) + 0.3
        for axis, (start, stop) in enumerate(body):
            seen = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
            assert start <= seen.min() and seen.max() < stop, "nothing of the body is cut away"
        mask = store.mask(row)
        assert mask is not None
        found = np.argwhere(mask)
        assert store.boxes(row, "mask") == [tuple((int(a), int(b) + 1) for a, b in zip(found.min(0), found.max(0), strict=True))]


def test_a_crop_around_the_mask_holds_it_whole(made_store: Stores, tmp_path: Path) -> None:
    store, maker = made_store("ct"), maker_for(tmp_path, "ct", "mask", 12)
    anywhere = maker_for(tmp_path, "ct", "field", 12)
    kept, lost = [], []
    for step in range(40):
        for chosen, found in ((maker, kept), (anywhere, lost)):
            mask = chosen.render_mask(store, 1, chosen.draw_row(store, 1, (0, step, 1))[0])
            assert mask is not None
            found.append(mask.sum())
    whole = store.mask(1)
    assert whole is not None and min(kept) >= 0.5 * whole.sum() and np.mean(lost) < 0.3 * np.mean(kept)


def test_a_crop_stays_in_its_box_and_in_the_field() -> None:
    shape, spacing, extent = (60, 50, 40), np.array([1.0, 2.0, 3.0]), np.array([20.0, 20.0, 30.0])
    box = ((2, 40), (10, 18), (36, 40))
    drawn = np.array([draw_centre(extent, shape, spacing, generator(0, "views", step), [box]) for step in range(300)])
    low, high = drawn - extent / 2, drawn + extent / 2
    assert (low >= -spacing / 2 - 1e-9).all() and (high <= (np.array(shape) - 0.5) * spacing + 1e-9).all()
    assert (low[:, 0] >= 1.5).all() and (high[:, 0] <= 39.5).all(), "inside the box where it fits"
    assert (low[:, 1] <= 19).all() and (high[:, 1] >= 35).all(), "around the box where that is smaller"
    two = [box, ((50, 60), (10, 18), (36, 40))]
    sides = [draw_centre(np.full(3, 5.0), shape, spacing, generator(0, "views", step), two)[0] > 45 for step in range(300)]
    assert 0.4 < np.mean(sides) < 0.6


def test_where_nothing_is_marked_the_body_serves(made_store: Stores) -> None:
    class Unmarked(VolumeStore):
        def has_mask(self, row: int) -> bool:
            return False

    store = Unmarked(made_store("mr").folder)
    assert store.boxes(0, "mask") == store.boxes(0, "body")


def test_a_store_that_does_not_know_is_refused_with_the_way_out(made_store: Stores, tmp_path: Path) -> None:
    copy = tmp_path / "old"
    shutil.copytree(made_store("mr").folder, copy)
    made_store("mr").index.drop(columns=["body_box", "mask_boxes"]).to_parquet(copy / "index.parquet")
    with pytest.raises(UserError, match="prepare it again, or take `place: field`"):
        maker_for(tmp_path, "mr", "body", 16).draw_row(VolumeStore(copy), 0, (0, 0, 0))
    assert maker_for(tmp_path, "mr", "field", 16).draw_row(VolumeStore(copy), 0, (0, 0, 0))


def test_turned_views_beside_a_report_show_what_they_must_of_the_scan() -> None:
    maker = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 32)), BUILT_IN["ct"], paired=True)
    shape = (120, 120, 120)
    places = np.random.default_rng(0).random((50_000, 3)) * shape - 0.5
    views = [view for item in range(40) for view in maker.draw(shape, np.eye(4), (0, 0, item))]
    shares = [(np.abs((places - view.frame.centre) @ view.frame.turn) <= view.frame.extent / 2).all(1).mean() for view in views]
    assert min(shares) > 0.6 - 0.01
