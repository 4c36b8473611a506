"""Views: a pure function of their key, placed where they say, scaled as the recipe says, only what the box holds read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medcl.store.recipe import BUILT_IN
from medcl.store.standard import Prepared
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters
from medcl.views.crops import Frame, overlap
from medcl.views.policy import ViewsConfig
from tests.views.made_scans import SIZES

Stores = Callable[[str], VolumeStore]
NAMES = sorted(SIZES)


def maker_for(name: str, paired: bool = False, **more) -> ViewMaker:
    return ViewMaker(ViewsConfig(**{"policy": name, "size": SIZES[name], **more}), BUILT_IN[name], paired)


def drawn(maker: ViewMaker, store: VolumeStore, row: int = 0, step: int = 0, seed: int = 0, views: int = 2) -> tuple[ViewParameters, ...]:
    return maker.draw(store.shape(row), store.affine(row), (seed, step, row), views)


@pytest.fixture
def still(tmp_path: Path) -> Callable[[str], str]:
    """A policy for a modality that changes nothing but the place."""

    def write(modality: str, steps: str = "") -> str:
        path = tmp_path / f"{modality}.yaml"
        path.write_text(f"name: still\nmodality: {modality}\nsteps: [{{name: crop{', keep: [0.5, 1]' * (modality == 'xray')}}}{steps}]\n")
        return str(path)

    return write


@pytest.mark.parametrize("name", NAMES)
def test_view_is_a_pure_function_of_its_key(name: str, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name)
    keys = [(seed, step, row) for seed in (0, 1) for step in (0, 7) for row in (0, 3)]

    def render(key: tuple[int, int, int]) -> list[np.ndarray]:
        return [maker.render(store, key[2], view) for view in maker.draw(store.shape(key[2]), store.affine(key[2]), key)]

    first = [render(key) for key in keys]
    copy = pickle.loads(pickle.dumps(maker))
    assert copy.resolved() == maker.resolved()
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(render, reversed(keys)))[::-1]
    for one, other in zip(first, backwards, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    flat = [view.tobytes() for views in first for view in views]
    assert len(set(flat)) == len(flat), "two keys gave one view"


@pytest.mark.parametrize("name", NAMES)
def test_view_has_the_size_and_range_the_encoder_expects(name: str, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name)
    low, high = maker.recipe.network_range
    for step in range(5):
        for view in drawn(maker, store, step=step):
            values = maker.render(store, 0, view)
            assert values.shape == maker.size and values.dtype == np.float32
            assert values.min() >= low and values.max() <= high and values.std() > 0.01


def test_picture_size_is_rows_and_columns(made_store: Stores) -> None:
    store = made_store("xray")
    maker = maker_for("xray", size=(48, 40))
    assert maker.render(store, 0, drawn(maker, store)[0]).shape == (40, 48, 1)


def test_fills_the_buffer_it_is_given_and_no_other(made_store: Stores) -> None:
    store, maker = made_store("ct"), maker_for("ct")
    view = drawn(maker, store)[0]
    batch = np.full((3, *maker.size), 9, np.float32)
    assert maker.render(store, 0, view, batch[1]) is not None
    assert np.array_equal(batch[1], maker.render(store, 0, view)) and (batch[[0, 2]] == 9).all()
    with pytest.raises(ValueError, match="expected contiguous float32"):
        maker.render(store, 0, view, np.empty((4, 4, 4), np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("least", [0.4, 0.7])
def test_pairs_overlap_as_configured(name: str, least: float, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name, overlap=least)
    for step in range(40):
        first, *others = drawn(maker, store, step=step, views=3)
        assert all(overlap(first.frame, other.frame) >= least for other in others)


@pytest.mark.parametrize("name", NAMES)
def test_view_voxels_are_where_the_matrix_and_the_world_say(name: str, made_store: Stores) -> None:
    """matrix and world agree, and so do the extent in mm and the spacing."""
    store, maker = made_store(name), maker_for(name)
    for step in range(10):
        for view in drawn(maker, store, step=step):
            corner = np.array([*view.size, 1]) - [1, 1, 1, 0]
            assert store.affine(0) @ [*(view.matrix @ corner), 1] == pytest.approx(view.world @ corner)
            axes = 2 if maker.flat else 3
            assert np.array(view.spacing_mm)[:axes] * view.size[:axes] == pytest.approx(view.frame.extent[:axes])
            assert max(view.spacing_mm[:axes]) == pytest.approx(min(view.spacing_mm[:axes])), "isotropic"


def test_unscaled_crop_has_the_spacing_of_the_recipe(made_store: Stores, still: Callable[[str], str]) -> None:
    store = made_store("mr")
    maker = maker_for("mr", policy=still("mr"))
    assert drawn(maker, store)[0].spacing_mm == pytest.approx((1, 1, 1))
    assert store.index["spacing_mm"].iloc[0].tolist() == pytest.approx([1, 1, 1.2])


def test_still_crop_is_the_volume_itself(made_store: Stores, still: Callable[[str], str]) -> None:
    """Without steps a view is the stored volume, interpolated at the crop's place and scaled to the network."""
    from scipy import ndimage

    store = made_store("ct")
    maker = maker_for("ct", policy=still("ct"))
    scale, shift = maker.recipe.network_scale()
    for step in range(3):
        view = drawn(maker, store, step=step)[0]
        positions = np.einsum("ab,bxyz->axyz", view.matrix[:, :3], np.indices(view.size)) + view.matrix[:, 3][:, None, None, None]
        hounsfield = ndimage.map_coordinates(store.read(0).array, positions, order=1, mode="grid-constant", cval=-1024)
        assert maker.render(store, 0, view) == pytest.approx(np.clip(hounsfield * scale + shift, -1, 1), abs=1e-4)


def test_flip_mirrors_the_view_and_whole_views_are_never_augmented(made_store: Stores, still: Callable[[str], str]) -> None:
    store = made_store("mr")
    plain = maker_for("mr", policy=still("mr"))
    flip = still("mr", ", {name: flip_left_right, probability: 1.0}")
    flipping = maker_for("mr", policy=flip, allow={"flip_left_right": "a phantom has no sides"})
    one, other = drawn(plain, store)[0], drawn(flipping, store)[0]
    assert other.world[:3, 0] @ store.affine(0)[:3, 0] < 0 < one.world[:3, 0] @ store.affine(0)[:3, 0]
    mirrored = plain.place(other.frame, plain.size, store.affine(0))
    unturned = plain.place(Frame(other.frame.centre, other.frame.extent, np.eye(3)), plain.size, store.affine(0))
    assert plain.render(store, 0, mirrored)[::-1] == pytest.approx(plain.render(store, 0, unturned), abs=1e-5)
    whole = flipping.whole(store.shape(0), store.affine(0))
    assert np.array_equal(whole.matrix, plain.whole(store.shape(0), store.affine(0)).matrix)


def test_only_the_box_is_read(made_store: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    store, maker = made_store("ct"), maker_for("ct", size=(16, 16, 16))
    asked = []
    real = VolumeStore.read_raw
    monkeypatch.setattr(VolumeStore, "read_raw", lambda self, row, box=None: asked.append(box) or real(self, row, box))
    for view in drawn(maker, store):
        maker.render(store, 0, view)
    assert len(asked) == 2
    for box in asked:
        assert np.prod([stop - start for start, stop in box]) < 5 * 16**3 < np.prod(store.shape(0)) / 5


def test_memory_and_store_give_the_same_view(made_store: Stores) -> None:
    """What a backbone embeds later, straight from a scan, is what it was trained on."""
    for name in NAMES:
        store, maker = made_store(name), maker_for(name)
        prepared = Prepared(store.read(0).array, store.affine(0), store.background(0))
        for view in drawn(maker, store):
            assert maker.render_prepared(prepared, view) == pytest.approx(maker.render(store, 0, view), abs=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_whole_view_shows_the_whole_field_without_change(name: str, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name)
    view = maker.whole(store.shape(0), store.affine(0))
    assert view.values == {} and view.size == maker.size
    last = np.array(store.shape(0)) - 1
    to_view = np.linalg.inv(np.vstack([view.matrix, [0, 0, 0, 1]]))
    for corner in (np.zeros(3), last):
        at = (to_view @ [*corner, 1])[:3]
        assert (at >= -0.51).all() and (at <= np.array(view.size) - 0.49).all()
    centre = view.matrix @ [*((np.array(view.size) - 1) / 2), 1]
    assert centre == pytest.approx(last / 2)


def test_windows_cover_the_field_at_the_spacing_of_training(made_store: Stores) -> None:
    store, maker = made_store("ct"), maker_for("ct")
    windows = maker.windows(store.shape(0), store.affine(0))
    covered = np.zeros(store.shape(0), bool)
    for view in windows:
        assert view.spacing_mm == pytest.approx((1.5, 1.5, 1.5)) and view.values == {}
        low, high = view.matrix @ [0, 0, 0, 1], view.matrix @ [*(np.array(view.size) - 1), 1]
        covered[tuple(slice(max(0, int(np.ceil(a - 0.5))), int(np.floor(b + 0.5)) + 1) for a, b in zip(low, high, strict=True))] = True
    assert covered.all() and len(windows) > 8
    steps = np.diff(sorted({round(float(view.frame.centre[0]), 3) for view in windows}))
    assert steps.max() <= 0.5 * 48 + 1e-6
    assert len(maker.windows(store.shape(0), store.affine(0), overlap=0.0)) < len(windows)
    larger = maker.windows(store.shape(0), store.affine(0), (64, 64, 64))
    assert larger[0].size == (64, 64, 64) and larger[0].spacing_mm == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(("name", "paired"), [("xray", False), ("ct", True)])
def test_where_training_shows_the_field_one_window_is_the_whole(name: str, paired: bool, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name, paired)
    (window,) = maker.windows(store.shape(0), store.affine(0))
    assert np.array_equal(window.matrix, maker.whole(store.shape(0), store.affine(0)).matrix)


@pytest.mark.parametrize(
    ("name", "paired", "least"),
    [("xray", False, 0.5), ("xray", True, 0.6), ("ct", True, 0.6), ("mammography", True, 0.8), ("ultrasound", False, 0.8)],
)
def test_views_keep_their_share_of_the_field(name: str, paired: bool, least: float, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name, paired)
    axes = 2 if maker.flat else 3
    field = np.array(store.shape(0)) * store.index["spacing_mm"].iloc[0]
    for step in range(40):
        for view in drawn(maker, store, step=step):
            kept = np.prod(np.minimum(1, view.frame.extent[:axes] / field[:axes]))
            assert kept >= least - 1e-9


def test_mask_follows_the_view(made_store: Stores, still: Callable[[str], str]) -> None:
    store = made_store("mr")
    maker = maker_for("mr", policy=still("mr", ", {name: rotation, max_deg: 15}"), size=(56, 56, 56))
    view = drawn(maker, store)[0]
    mask, whole = maker.render_mask(store, 0, view), store.mask(0)
    assert mask is not None and whole is not None and mask.any()
    middle = view.matrix @ [*np.argwhere(mask).mean(0), 1]
    assert middle == pytest.approx(np.argwhere(whole).mean(0), abs=0.7)


def test_values_that_were_drawn_are_within_the_policy(made_store: Stores) -> None:
    store, maker = made_store("ct"), maker_for("ct")
    views = [view for step in range(300) for view in drawn(maker, store, step=step)]
    degrees = [abs(view.values["rotation"]["deg"]) for view in views if "rotation" in view.values]
    factors = [view.values["scale"]["factor"] for view in views if "scale" in view.values]
    assert 0.4 < len(degrees) / len(views) < 0.6 and 13 < max(degrees) <= 15
    assert 0.8 <= min(factors) < 0.83 and 1.2 < max(factors) <= 1.25
    for view in views[:20]:
        angle = np.rad2deg(np.arccos(np.clip((np.trace(view.frame.turn) - 1) / 2, -1, 1)))
        assert angle == pytest.approx(abs(view.values.get("rotation", {"deg": 0})["deg"]), abs=1e-4)


def test_a_view_turned_like_the_first_says_so() -> None:
    """Slabs cannot overlap by all of themselves unless they are turned alike: what is printed is that turn, and each view's own scale."""
    maker = maker_for("ct", size=(96, 96, 16), overlap=0.9)
    turning = [step for step in maker.policy.steps if step.name == "rotation"]
    alike = 0
    for item in range(30):
        views = maker.draw((300, 300, 200), np.diag([1.5, 1.5, 1.5, 1]), (0, 0, item))
        for view in views:
            turns = [step.turn(view.values[step.name]) for step in turning if step.name in view.values]
            assert np.allclose(turns[0] if turns else np.eye(3), view.frame.turn)
            factor = view.values.get("scale", {"factor": 1.0})["factor"]
            assert np.allclose(view.spacing_mm, 1.5 * factor), "a view keeps its own scale"
        alike += "rotation" in views[0].values and views[1].frame.turn is views[0].frame.turn
    assert alike > 3
