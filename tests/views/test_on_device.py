"""Views computed by torch, many at once, are those of the compiled passes within rounding: every policy, every step, any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views import device_filters, filters, on_device, raw_views
from medcl.views.batched import ViewMaker, ViewParameters
from medcl.views.intensity import (
    BiasField,
    Blur,
    Contrast,
    Cutout,
    Gamma,
    HistogramShift,
    IntensityScale,
    IntensityShift,
    LowResolution,
    WindowJitter,
)
from medcl.views.noise import DoseNoise, Noise, RicianNoise, Speckle
from medcl.views.policy import ViewsConfig
from medcl.views.raw_views import RawViews
from medcl.views.sampling import read_region, region_of, sample
from medcl.views.step import Look, Step
from medcl.views.ultrasound import Gain, Shadow
from tests.views.made_scans import SIZES, on_devices

Stores = Callable[[str], VolumeStore]

BATCHED: list[Step] = [
    IntensityShift(max_shift=0.5),
    IntensityScale(range=(0.7, 1.4)),
    WindowJitter(max_shift=0.8),
    Gamma(range=(0.5, 2.0)),
    HistogramShift(),
    Contrast(range=(0.6, 1.6)),
    Noise(max_sd=0.5),
    RicianNoise(max_sd=0.5),
    DoseNoise(max_sd=0.5),
    Speckle(max_sd=0.4),
    Blur(max_sigma_mm=2.5),
    Blur(max_sigma_px=1.5),
    BiasField(),
    LowResolution(max_factor=3.0),
    LowResolution(max_factor=4.0, axis="one"),
    Cutout(max_share=0.3),
    Gain(),
    Shadow(),
]


def maker_for(name: str, **more) -> ViewMaker:
    return ViewMaker(ViewsConfig(**{"policy": name, "size": SIZES[name], "strength": "strong", **more}), BUILT_IN[name])


def differences(maker: ViewMaker, store: VolumeStore, drawn: Sequence[tuple[int, ViewParameters]], device: torch.device) -> np.ndarray:
    """Largest difference of every view between both ways, as a share of the network's range."""
    raw = [maker.read(store, row, view) for row, view in drawn]
    found = maker.render_batch(raw, device)
    assert found.device.type == device.type and found.dtype == torch.float32 and found.shape == (len(drawn), *maker.size)
    wanted = np.stack([maker.render(store, row, view) for row, view in drawn])
    low, high = maker.recipe.network_range
    return np.abs(found.cpu().numpy() - wanted).max((1, 2, 3)) / (high - low)


def draws(maker: ViewMaker, store: VolumeStore, steps: int) -> list[tuple[int, ViewParameters]]:
    return [(step % len(store), view) for step in range(steps) for view in maker.draw_row(store, step % len(store), (3, step, step))]


@on_devices
@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_policy_gives_the_same_views(name: str, device: torch.device, made_store: Stores) -> None:
    store, maker = made_store(name), maker_for(name)
    drawn = draws(maker, store, 12)
    assert {step.name for step in maker.policy.steps if step.stage == "intensity" and step.probability > 0.1} <= {
        step for _, view in drawn for step in view.values
    }
    assert differences(maker, store, drawn, device).max() < 1e-4


@on_devices
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("mr", "{name: elastic, max_displacement_mm: 5}"),
        ("xray", "{name: elastic, max_displacement_mm: 5}"),
        ("mr", "{name: motion}, {name: noise, max_sd: 0.2}"),
    ],
)
def test_what_bends_and_what_only_works_alone(name: str, step: str, device: torch.device, made_store: Stores, tmp_path: Path) -> None:
    """A view with a step that has no batched form is rendered by the worker, and passes through unchanged."""
    path = tmp_path / "policy.yaml"
    crop = "{name: crop, keep: [0.5, 1.0]}" if name == "xray" else "{name: crop}"
    path.write_text(f"name: mine\nmodality: {name}\nsteps: [{crop}, {{name: rotation, max_deg: 10}}, {step}]\n")
    store = made_store(name)
    maker = maker_for(name, policy=str(path), strength="default", allow={"elastic": "a test"} if name == "xray" else {})
    drawn = draws(maker, store, 2)
    assert all((view.bend is not None) == ("elastic" in step) for _, view in drawn)
    assert differences(maker, store, drawn, device).max() < 1e-4


@on_devices
@pytest.mark.parametrize("shape", [(17, 14, 12), (40, 30, 1)], ids=["volume", "picture"])
@pytest.mark.parametrize("step", BATCHED, ids=lambda step: step.name)
def test_every_step_alike(step: Step, shape: tuple[int, int, int], device: torch.device) -> None:
    """One batch in which every view has values, a background and a spacing of its own; one of the views has one value only."""
    rng = np.random.default_rng(0)
    images = rng.gamma(2.0, size=(5, *shape)).astype(np.float32)
    images[3] = 0.5
    backgrounds, spacings = rng.uniform(-1, 0, 5), rng.uniform(0.8, 2.0, (5, 3))
    values = [step.draw(np.random.default_rng(number), shape[2] == 1) for number in range(5)]
    together = torch.from_numpy(images.copy()).to(device)
    fives = {name: np.array([drawn[name] for drawn in values]) for name in values[0]}
    looks = Look(backgrounds, tuple(spacings.T), (np.full(5, 0.5), np.zeros(5)), (np.full(5, -2.0), np.full(5, 2.0)), device_filters)
    after = step.apply(together, fives, looks)
    for number, image in enumerate(images):
        alone = image.copy()
        x, y, z = spacings[number].tolist()
        look = step.apply(alone, values[number], Look(float(backgrounds[number]), (x, y, z), (0.5, 0.0), (-2.0, 2.0)))
        assert np.abs(together[number].cpu().numpy() - alone).max() < 1e-4 * np.ptp(images)
        assert [np.broadcast_to(ends, 5)[number] for ends in after.network] == pytest.approx(look.network)
    assert step.name == "window_jitter" or not np.array_equal(together.cpu().numpy(), images)


def test_every_batched_step_is_tested() -> None:
    batched = {kind for kind in Step.__subclasses__() if kind.batched and kind.__module__.startswith("medcl.")}
    assert batched == {type(step) for step in BATCHED}


def test_both_kinds_of_passes_are_the_same_list() -> None:
    def passes(module: ModuleType) -> set[str]:
        return {name for name, value in vars(module).items() if callable(value) and value.__module__ == module.__name__ and name[0] != "_"}

    assert passes(device_filters) - {"on"} == passes(filters)


@on_devices
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_samples_inside_outside_and_averaged(dtype: type, device: torch.device) -> None:
    """Regions of different shapes and factors in one batch, some wholly outside the array."""
    rng = np.random.default_rng(1)
    array = rng.integers(0, 250, (40, 36, 50)).astype(dtype)
    size, wanted, regions = (12, 10, 14), [], []
    for pitch, shift in ((0.7, 0.0), (1.0, 12.0), (2.1, -9.0), (3.3, 4.0), (0.8, 200.0)):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix = np.hstack([turn * pitch, np.zeros((3, 1))])
        matrix[:, 3] = np.array(array.shape) / 2 + shift - matrix[:, :3] @ ((np.array(size) - 1) / 2)
        given = {"background": 9.0, "slope": 0.5, "intercept": 3.0, "bend": rng.uniform(-2, 2, (7, 7, 7, 3)) if pitch < 1 else None}
        out = np.empty(size, np.float32)
        read = lambda box: array[tuple(slice(*edge) for edge in box)]  # noqa: E731
        sample(read, array.shape, matrix, out, **given)
        wanted.append(out)
        regions.append(read_region(read, array.shape, matrix, size, **given))
    assert {region.factors for region in regions} > {(1, 1, 1), (2, 2, 2)}
    look = Look(9.0, (1.0, 1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    raw = RawViews.joined([RawViews.of(size, region, look, {}) for region in regions])
    for held in (raw, stacked(raw), RawViews.joined([stacked(raw), raw])):
        views = torch.full((len(held.shapes), *size), torch.nan, device=device)
        on_device._sample(held, slice(0, len(views)), views)
        again = np.stack(wanted * (len(views) // 5))
        assert np.abs(views.cpu().numpy() - again).max() < 1e-4 * 125
        on_device._sample(held, slice(1, 4), views[1:4].fill_(torch.nan))
        assert np.abs(views.cpu().numpy() - again).max() < 1e-4 * 125


def stacked(raw: RawViews) -> RawViews:
    """In one array, however much room that takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_views, "_MOST_ROOM", 1e9)
        found = raw.stacked()
    assert len(found.arrays) == 1 and found.shapes is raw.shapes
    return found


def test_views_are_not_stacked_into_mostly_zeros() -> None:
    look = Look(0.0, (1.0, 1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    near, far = (RawViews.of((2, 2, 2), region_of(np.ones((n, n, n), np.float32)), look, {}) for n in (4, 9))
    assert len(RawViews.joined([near] * 3).stacked().arrays) == 1
    assert len(RawViews.joined([near] * 3 + [far]).stacked().arrays) == 4


@on_devices
def test_a_view_does_not_depend_on_its_neighbours_or_on_how_often(device: torch.device, made_store: Stores, monkeypatch) -> None:
    """Twice the same bits; in other company, or in pieces that fit into less memory, the same within rounding."""
    store, maker = made_store("ct"), maker_for("ct")
    raw = [maker.read(store, row, view) for row, view in draws(maker, store, 4)]
    whole = maker.render_batch(raw, device)
    assert torch.equal(whole, maker.render_batch(raw, device))
    monkeypatch.setattr(on_device, "_AT_ONCE", 3 * 60**3)
    assert torch.allclose(maker.render_batch(raw, device), whole, atol=1e-5)
    assert torch.allclose(maker.render_batch(raw[::-1], device), whole.flip(0), atol=1e-5)


@pytest.mark.parametrize("name", ["mr", "ultrasound"])
def test_nothing_waits_for_the_device_or_mixes_it_with_the_cpu(name: str, made_store: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `meta` has shapes and no values: asking for a value (on a GPU: waiting), or adding a tensor of the CPU, fails there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    store, maker = made_store(name), maker_for(name)
    raw = [maker.read(store, row, view) for row, view in draws(maker, store, 2)]
    steps = [step for step in BATCHED if step.name != "blur"]
    flat = maker.flat
    drawn = [{step.name: step.draw(np.random.default_rng(number), flat) for step in steps} for number in range(len(raw))]
    again = {name: (np.arange(len(raw)), {key: np.array([one[name][key] for one in drawn]) for key in drawn[0][name]}) for name in drawn[0]}
    joined = RawViews.joined(raw)
    joined = replace(joined, drawn=joined.drawn | again)
    views = on_device.render_batch(joined, [*steps, Blur(max_sigma_px=1.0)], (-1.0, 1.0), torch.device("meta"))
    assert views.device.type == "meta" and views.shape == (len(raw), *maker.size)


def test_a_finished_view_passes_through() -> None:
    view = np.random.default_rng(0).normal(size=(6, 5, 1)).astype(np.float32)
    region = region_of(view)
    assert region.array is view and region.factors == (1, 1, 1) and not region.bend.size


def test_autocast_of_the_caller_does_not_make_views_coarse(made_store: Stores) -> None:
    store, maker = made_store("mr"), maker_for("mr")
    with torch.autocast("cpu", torch.bfloat16):
        assert differences(maker, store, draws(maker, store, 6), torch.device("cpu")).max() < 1e-4
