"""Every intensity step against its formula or the library that defines it, under the same values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcl.store.recipe import BUILT_IN
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
from medcl.views.policy import built_in_policies, load_policy
from medcl.views.step import Look, Step

LOOK = Look(background=-2.0, spacing_mm=(1.0, 1.5, 2.0), network=(1.0, 0.0), limits=(-5.0, 5.0))
HU_LOOK = Look(background=-1024.0, spacing_mm=(1.5, 1.5, 1.5), network=BUILT_IN["ct"].network_scale(), limits=(-1000.0, 1000.0))


def view(seed: int = 0, shape: tuple[int, int, int] = (14, 12, 10)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def applied(step: Step, values: dict[str, float], image: np.ndarray, look: Look = LOOK) -> np.ndarray:
    out = image.copy()
    step.apply(out, values, look)
    return out


def test_shift_and_scale() -> None:
    assert applied(IntensityShift(max_shift=20), {"shift": 12.5}, view()) == pytest.approx(view() + 12.5, abs=1e-5)
    scale = IntensityScale(range=(0.95, 1.05))
    hounsfield = view() * 100
    assert applied(scale, {"factor": 1.04}, hounsfield, HU_LOOK) == pytest.approx(hounsfield * 1.04, abs=1e-3)
    assert applied(scale, {"factor": 1.04}, view()) == pytest.approx(-2 + (view() + 2) * 1.04, abs=1e-5)


def test_contrast_keeps_the_mean() -> None:
    out = applied(Contrast(range=(0.7, 1.4)), {"factor": 1.3}, view())
    assert out == pytest.approx(view().mean() + (view() - view().mean()) * 1.3, abs=1e-5)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
def test_gamma_equals_monai(exponent: float) -> None:
    from monai.transforms.intensity.array import AdjustContrast

    expected = np.asarray(AdjustContrast(gamma=exponent)(view()[None]))[0]
    assert applied(Gamma(range=(0.5, 2)), {"exponent": exponent}, view()) == pytest.approx(expected, abs=2e-4)


def test_histogram_shift_equals_monai() -> None:
    from monai.transforms.intensity.array import RandHistogramShift

    step = HistogramShift(max_shift=0.45, num_points=9)
    values = step.draw(np.random.default_rng(3), False)
    points = np.array(list(values.values()))
    assert len(points) == 9 and (np.diff(points) > 0).all() and np.abs(points * 8 - np.arange(9)).max() <= 0.45
    peer = RandHistogramShift(9, prob=1.0)
    peer._do_transform = True
    peer.reference_control_points, peer.floating_control_points = np.linspace(0, 1, 9), points
    expected = np.asarray(peer(view()[None], randomize=False))[0]
    assert applied(step, values, view()) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_cutout_hides_one_box_of_at_most_its_share() -> None:
    step = Cutout(max_share=0.1)
    for flat, shape in ((False, (30, 40, 50)), (True, (60, 50, 1))):
        shares = []
        for seed in range(40):
            image = view(seed, shape)
            values = step.draw(np.random.default_rng(seed), flat)
            hidden = np.argwhere(applied(step, values, image) != image)
            if len(hidden):
                box = np.ptp(hidden, axis=0) + 1
                assert np.prod(box) == len(hidden), "one box"
                assert len(hidden) / image.size == pytest.approx(values["share"], abs=0.01)
            shares.append(len(hidden) / image.size)
        assert 0.06 < max(shares) <= 0.11
    assert (applied(step, {"x0": 0.0, "x1": 0.5, "y0": 0.0, "y1": 1.0, "z0": 0.0, "z1": 1.0}, view())[:7] == LOOK.background).all()


def test_gamma_is_monotone() -> None:
    image = view()
    order = np.argsort(image.ravel())
    assert (np.diff(applied(Gamma(range=(0.5, 2)), {"exponent": 0.7}, image).ravel()[order]) >= 0).all()


def test_blur_equals_scipy_in_millimetres() -> None:
    out = applied(Blur(max_sigma_mm=3), {"sigma_mm": 1.8}, view())
    expected = ndimage.gaussian_filter(view(), [1.8, 1.2, 0.9], mode="nearest", truncate=4)
    assert out == pytest.approx(expected, abs=1e-4)


def test_blur_of_a_picture_is_in_pixels_and_in_its_plane() -> None:
    image = view(shape=(30, 20, 1))
    out = applied(Blur(max_sigma_px=2), {"sigma_px": 1.3}, image)
    assert out[..., 0] == pytest.approx(ndimage.gaussian_filter(image[..., 0], 1.3, mode="nearest"), abs=1e-4)


def test_bias_field_equals_its_polynomial() -> None:
    step = BiasField(max_coefficient=0.3)
    values = step.draw(np.random.default_rng(3), False)
    assert len(values) == 19 and "c000" not in values
    image = view()
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    exponent = sum(value * x ** int(name[1]) * y ** int(name[2]) * z ** int(name[3]) for name, value in values.items())
    assert applied(step, values, image) == pytest.approx(-2 + (image + 2) * np.exp(exponent), rel=1e-4, abs=1e-4)
    assert not any(name.endswith(("1", "2", "3")) for name in step.draw(np.random.default_rng(3), True))


def test_low_resolution_loses_detail_and_keeps_slopes() -> None:
    step = LowResolution(max_factor=4)
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], (24, 8, 8)).copy()
    out = applied(step, {"x": 3.0, "y": 1.0, "z": 1.0}, ramp)
    assert out[4:-4] == pytest.approx(ramp[4:-4], abs=1e-4)
    fine = view(shape=(24, 24, 24))
    for axis, name in enumerate("xyz"):
        coarse = applied(step, {"x": 1.0, "y": 1.0, "z": 1.0, name: 3.0}, fine)
        along = np.diff(coarse, axis=axis).std() / np.diff(fine, axis=axis).std()
        across = np.diff(coarse, axis=(axis + 1) % 3).std() / np.diff(fine, axis=(axis + 1) % 3).std()
        assert along < 0.35 and along < 0.7 * across
    assert np.array_equal(applied(step, {"x": 1.0, "y": 1.0, "z": 1.0}, fine), fine)


def test_thick_slices_are_along_one_axis() -> None:
    step = LowResolution(max_factor=4, axis="one")
    for seed in range(20):
        drawn = step.draw(np.random.default_rng(seed), False)
        assert sorted(drawn.values())[:2] == [1.0, 1.0] and 1 <= max(drawn.values()) <= 4


def test_window_jitter_moves_the_window_and_not_the_values() -> None:
    image = view() * 500
    out = image.copy()
    look = WindowJitter(max_shift=100).apply(out, {"low": -60.0, "high": 40.0}, HU_LOOK)
    assert np.array_equal(out, image)
    scale, shift = look.network
    assert (-1060 * scale + shift, 1040 * scale + shift) == pytest.approx((-1, 1))


STEPS = [
    pytest.param(step, name, id=f"{name}-{step.name}")
    for name in built_in_policies()
    for step in load_policy(name).steps
    if step.stage == "intensity" and step.name not in ("motion", "ghosting", "gain", "shadow")
]


@pytest.mark.parametrize(("step", "policy"), STEPS)
def test_drawn_values_stay_in_their_settings_and_apply_to_the_same_bits(step: Step, policy: str) -> None:
    flat = BUILT_IN[policy].kind == "picture"
    shape = (20, 24, 1) if flat else (12, 14, 10)
    for seed in range(5):
        values = step.draw(np.random.default_rng(seed), flat)
        assert values == step.draw(np.random.default_rng(seed), flat)
        one, other = applied(step, values, view(seed, shape)), applied(step, values, view(seed, shape))
        assert np.array_equal(one, other) and np.isfinite(one).all()
    for setting in ("max_shift", "max_sd", "max_sigma_mm"):
        bound = getattr(step, setting, None)
        drawn = [step.draw(np.random.default_rng(seed), False) for seed in range(50)]
        if bound is not None:
            assert max(abs(next(iter(values.values()))) for values in drawn) <= bound
