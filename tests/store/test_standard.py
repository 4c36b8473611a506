"""prepare_volume: the same standard volume whatever way a scan was stored, and a refusal where it contradicts the recipe."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcl.foundation import geometry
from medcl.foundation.types import Volume
from medcl.store.body import body_box, largest_part
from medcl.store.recipe import BUILT_IN
from medcl.store.standard import Refused, as_integers, predicted_shape, prepare_volume


def ct(shape=(60, 50, 12), spacing=(0.8, 0.8, 5.0), seed: int = 0) -> Volume:
    """A block of tissue in air."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, -1000.0)
    array[10:50, 8:42, 2:10] = 40
    array[20:25, 20:25, 4:8] = 700
    return Volume((array + rng.normal(0, 5, shape)).astype(np.int16), np.diag([*spacing, 1.0]), "ct", "HU")


def turned(volume: Volume) -> Volume:
    """The same scan with its axes permuted and flipped on disk."""
    array, affine = geometry.reorient(volume.array, volume.affine, "PSL")
    return Volume(np.ascontiguousarray(array), affine, volume.modality, volume.units)


def test_orientation_on_disk_makes_no_difference() -> None:
    one, other = prepare_volume(ct(), BUILT_IN["ct"]), prepare_volume(turned(ct()), BUILT_IN["ct"])
    assert np.array_equal(one.array, other.array)
    assert other.affine == pytest.approx(one.affine)
    assert geometry.orientation(one.affine) == "RAS"


def test_coarse_axis_keeps_its_spacing_unless_told() -> None:
    assert geometry.spacing_mm(prepare_volume(ct(), BUILT_IN["ct"]).affine) == pytest.approx((1.5, 1.5, 5.0))
    fine = BUILT_IN["ct"].model_copy(update={"keep_coarse": False})
    assert geometry.spacing_mm(prepare_volume(ct(), fine).affine) == pytest.approx((1.5, 1.5, 1.5))


def test_body_crop_cuts_air_and_keeps_the_world() -> None:
    volume = ct(shape=(120, 110, 30), spacing=(1.5, 1.5, 1.5))
    recipe = BUILT_IN["ct"].model_copy(update={"body_margin_mm": 3.0})
    prepared = prepare_volume(volume, recipe)
    assert all(new < old for new, old in zip(prepared.array.shape, volume.array.shape, strict=True))
    bone = np.argwhere(prepared.array > 600).mean(0)
    assert prepared.affine @ [*bone, 1] == pytest.approx(volume.affine @ [*np.argwhere(volume.array > 600).mean(0), 1], abs=0.1)


def test_no_body_is_cut_without_a_margin() -> None:
    """The body is looked for on every fourth voxel: what lies between is body, too."""
    recipe = BUILT_IN["ct"].model_copy(update={"body_margin_mm": 0.0})
    for first in (*range(9), 15):
        body = (slice(first, first + 41), slice(first + 1, first + 40), slice(first + 2, first + 43))
        array = np.full((70, 64, 66), -1000, np.int16)
        array[body] = 40
        box = body_box(array, np.eye(4), recipe)
        assert all(
            start <= part.start <= start + 3 and part.stop <= stop <= part.stop + 3 for (start, stop), part in zip(box, body, strict=True)
        )


def test_hounsfield_units_survive() -> None:
    prepared = prepare_volume(ct(shape=(60, 50, 12), spacing=(1.5, 1.5, 5.0)), BUILT_IN["ct"])
    values = prepared.array[prepared.array > -500]
    assert np.median(values) == pytest.approx(40, abs=2)
    assert prepared.background == -1024 and prepared.array.max() <= 3071


def test_mr_is_standardised_whatever_its_units() -> None:
    rng = np.random.default_rng(1)
    array = np.zeros((40, 40, 30))
    array[5:35, 5:35, 5:25] = rng.normal(500, 100, (30, 30, 20))
    one = prepare_volume(Volume(array, np.eye(4), "mr", "arbitrary"), BUILT_IN["mr"])
    other = prepare_volume(Volume(array * 37, np.eye(4), "mr", "arbitrary"), BUILT_IN["mr"])
    assert one.array == pytest.approx(other.array, abs=1e-3)
    body = one.array[6:34, 6:34, 6:24]
    assert abs(body.mean()) < 0.05 and body.std() == pytest.approx(1, abs=0.1)
    assert one.array * one.spread + one.center == pytest.approx(np.maximum(array, 0), abs=300)
    assert np.median(np.abs(body * one.spread + one.center - array[6:34, 6:34, 6:24])) < 1e-2


def test_picture_is_made_smaller_never_larger() -> None:
    big = Volume(np.random.default_rng(2).integers(0, 4096, (600, 400, 1)), np.diag([0.2, 0.2, 1, 1]), "xray", "arbitrary", "picture")
    prepared = prepare_volume(big, BUILT_IN["xray"])
    assert prepared.array.shape == (256, 171, 1)
    assert geometry.spacing_mm(prepared.affine)[:2] == pytest.approx((0.2 * 600 / 256,) * 2)
    assert prepared.array.min() >= 0 and prepared.array.max() <= 1
    small = Volume(big.array[:28, :28], np.eye(4), "xray", "display", "picture")
    assert prepare_volume(small, BUILT_IN["xray"]).array.shape == (28, 28, 1)


def test_shape_is_zero_or_one() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[3:6, 3:6, 3:6] = 255
    prepared = prepare_volume(Volume(mask, np.eye(4), "shape", "arbitrary"), BUILT_IN["shape"])
    assert np.array_equal(prepared.array, mask / 255)


REFUSALS = {
    "wrong_units": lambda volume: Volume(volume.array, volume.affine, "ct", "arbitrary"),
    "wrong_modality": lambda volume: Volume(volume.array, volume.affine, "mr", "HU"),
    "wrong_kind": lambda volume: Volume(volume.array[..., :1], volume.affine, "ct", "HU", "picture"),
    "implausible_units": lambda volume: Volume(volume.array + 1024, volume.affine, "ct", "HU"),
    "not_finite": lambda volume: Volume(np.where(volume.array > 600, np.nan, volume.array), volume.affine, "ct", "HU"),
    "constant": lambda volume: Volume(np.zeros((9, 9, 9)), volume.affine, "ct", "HU"),
    "wrong_shape": lambda volume: Volume(volume.array[0], volume.affine, "ct", "HU"),
    "sheared_grid": lambda volume: Volume(volume.array, volume.affine + np.eye(4, k=1) * 0.2, "ct", "HU"),
}


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_contradictions_are_refused_with_a_code(code: str) -> None:
    with pytest.raises(Refused) as refusal:
        prepare_volume(REFUSALS[code](ct()), BUILT_IN["ct"])
    assert refusal.value.code == code and refusal.value.exit_code == 2


@pytest.mark.parametrize("name", ["ct", "mr"])
@pytest.mark.parametrize("target", ["RAS", "PSL", "ILA"])
def test_predicted_shape_is_the_shape(name: str, target: str) -> None:
    recipe = BUILT_IN[name].model_copy(update={"body_crop": False, "modalities": ("ct",), "units": ("HU",), "plausible": None})
    array, affine = geometry.reorient(ct().array, ct().affine, target)
    prepared = prepare_volume(Volume(array, affine, "ct", "HU"), recipe)
    assert predicted_shape(array.shape, geometry.spacing_mm(affine), target, recipe) == prepared.array.shape


@pytest.mark.parametrize("density", [0.0, 0.1, 0.35, 0.5, 0.7, 1.0])
def test_largest_part_is_that_of_scipy(density: float) -> None:
    """Of several as large, the one whose first voxel comes first."""
    rng = np.random.default_rng(int(10 * density))
    for _ in range(60):
        mask = rng.random(tuple(rng.integers(1, 12, 3))) < density
        size, box = largest_part(np.asfortranarray(mask) if rng.random() < 0.5 else mask)
        labels, _ = ndimage.label(mask)
        sizes = np.bincount(labels.ravel())[1:]
        assert size == sizes.max(initial=0)
        if size:
            within = np.argwhere(labels == sizes.argmax() + 1)
            assert box == list(zip(within.min(0).tolist(), within.max(0).tolist(), strict=True))


@pytest.mark.parametrize("shape", [(3, 4, 5), (16, 33, 47), (40, 20, 1)])
def test_integers_are_rounded_and_bounded_however_the_values_lie(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(0, 30000, shape).astype(np.float32)
    wanted = np.clip(np.rint((values - np.float32(3)) / np.float32(0.5)), -32768, 32767).astype(np.int16)
    for held in (values, np.asfortranarray(values), values[::-1][::-1]):
        found = as_integers(held, "int16", 0.5, 3.0)
        assert np.array_equal(found, wanted) and found.flags.c_contiguous


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int32])
def test_a_constant_and_a_wrong_unit_are_seen_in_any_kind_of_integers(kind: type) -> None:
    array = np.full((6, 5, 4), 7, kind)
    with pytest.raises(Refused, match="every voxel is 7"):
        prepare_volume(Volume(array, np.eye(4), "ct", "HU"), BUILT_IN["ct"])
    array[3, 2, 1] = 120
    with pytest.raises(Refused, match="values from 7 to 120 do not look like HU"):
        prepare_volume(Volume(array[:, ::-1], np.eye(4), "ct", "HU"), BUILT_IN["ct"])
