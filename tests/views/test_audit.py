"""The audit passes what is safe, catches each planted breach and names its step, and the page needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcl.foundation.errors import DataError
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views import audit, batched, filters
from medcl.views.audit import preview
from medcl.views.batched import ViewMaker
from medcl.views.intensity import hidden_box
from medcl.views.measure import _MASK_VOXELS, _kept, measure
from medcl.views.policy import Policy, ViewsConfig
from medcl.views.spatial import Elastic
from tests.store.made_data import MadeData
from tests.views.made_scans import SIZES

Stores = Callable[[str], VolumeStore]


def maker_for(name: str, **more) -> ViewMaker:
    return ViewMaker(ViewsConfig(**{"policy": name, "size": SIZES[name], **more}), BUILT_IN[name])


def written(tmp_path: Path, modality: str, steps: str, audit: str = "{}") -> str:
    path = tmp_path / f"{modality}.yaml"
    path.write_text(f"name: mine\nmodality: {modality}\nsteps: [{steps}]\naudit: {audit}\n")
    return str(path)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_built_in_policies_pass_and_write_three_files(name: str, made_store: Stores, tmp_path: Path) -> None:
    result = preview(made_store(name), maker_for(name), tmp_path / "out", count=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.json", "contact_sheet.png", "index.html"]
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == result
    figures = result["figures"]
    assert result["breaches"] == [] and figures["overlap"]["min"] >= 0.5 and figures["swapped_share"] == 0 == figures["empty_share"]
    assert figures["mask_survival"] is not None and (figures["drift"] == {}) == (name == "shape")


def test_the_same_twice(made_store: Stores, tmp_path: Path) -> None:
    for out in ("one", "two"):
        preview(made_store("ct"), maker_for("ct"), tmp_path / out, count=2)
    for name in ("audit.json", "contact_sheet.png", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_scans_that_may_hold_text_are_measured_and_not_drawn(made_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, maker = made_store("xray"), maker_for("xray")
    preview(store, maker, tmp_path / "all")
    flagged: set[int] = set()
    monkeypatch.setattr(VolumeStore, "may_hold_text", lambda self, row: row in flagged)
    drawn: list[list[int]] = []
    keep = audit.contact_sheet
    monkeypatch.setattr(audit, "contact_sheet", lambda store, maker, rows, seed: drawn.append(list(rows)) or keep(store, maker, rows, seed))
    for flagged in ({0, 2}, {0, 1, 2, 3}):
        preview(store, maker, tmp_path / "some")
        assert drawn.pop() == sorted({0, 1, 2, 3} - flagged)
        assert f"a name in it: {len(flagged)} of the scans" in (tmp_path / "some" / "index.html").read_text()
        assert json.loads((tmp_path / "some" / "audit.json").read_text()) == json.loads((tmp_path / "all" / "audit.json").read_text())


def test_page_is_one_file_that_asks_nobody(made_store: Stores, tmp_path: Path) -> None:
    preview(made_store("xray"), maker_for("xray"), tmp_path, count=2)
    page = (tmp_path / "index.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "http" not in page.replace("http-equiv", "")


def test_a_tame_gamma_on_ct_is_seen_as_a_change_of_hounsfield_units(made_store: Stores, tmp_path: Path) -> None:
    policy = written(tmp_path, "ct", "{name: crop}, {name: gamma, range: [0.7, 0.8]}", "{max_drift: 25, max_drift_share: 0.06}")
    maker = maker_for("ct", policy=policy, allow={"gamma": "to see what it does"})
    with pytest.raises(DataError, match=r"gamma: change of .*'s mean is") as breach:
        preview(made_store("ct"), maker, tmp_path / "out", count=1)
    assert breach.value.exit_code == 3 and (tmp_path / "out" / "index.html").is_file()
    assert "Override in force: gamma is unsafe for ct" in (tmp_path / "out" / "index.html").read_text()


def test_the_same_shift_is_blamed_on_the_shift(made_store: Stores, tmp_path: Path) -> None:
    policy = written(
        tmp_path, "ct", "{name: crop}, {name: blur, max_sigma_mm: 2}, {name: intensity_shift, max_shift: 20}", "{max_drift: 5}"
    )
    with pytest.raises(DataError, match=r"^intensity_shift: change of"):
        preview(made_store("ct"), maker_for("ct", policy=policy), tmp_path / "out", count=1)


@pytest.mark.parametrize(
    ("modality", "step"),
    [("mr", "flip_left_right"), ("mr", "flip_front_back"), ("mr", "flip_up_down"), ("xray", "flip_left_right"), ("xray", "flip_up_down")],
)
def test_a_mirror_along_any_axis_is_seen(modality: str, step: str, made_store: Stores, tmp_path: Path) -> None:
    crop = "{name: crop, keep: [0.6, 1]}" if modality == "xray" else "{name: crop}"
    policy = written(tmp_path, modality, f"{crop}, {{name: rotation}}, {{name: {step}}}")
    maker = maker_for(modality, policy=policy, allow={step: "planted", "rotation": "planted"})
    with pytest.raises(DataError, match=f"^{step}: share of views with sides exchanged") as breach:
        preview(made_store(modality), maker, tmp_path / "out", count=1)
    assert str(breach.value).count("sides exchanged") == 1


@pytest.mark.parametrize(
    ("step", "settings", "figure"),
    [
        ("flip_up_down", "", "share of views with sides exchanged is 0.002, allowed is 0"),
        ("gamma", ", range: [0.5, 0.6]", "change of .*'s mean is"),
        ("scale", ", range: [1.4, 1.5]", "physical volume of a view over the policy's is"),
    ],
)
def test_a_step_that_hardly_ever_acts_is_measured_all_the_same(
    step: str, settings: str, figure: str, made_store: Stores, tmp_path: Path
) -> None:
    rare = f"{{name: {step}, probability: 0.002{settings}}}"
    others = "{name: rotation, probability: 0.01, max_deg: 5}, {name: intensity_shift, probability: 0.01, max_shift: 10}"
    policy = written(tmp_path, "ct", f"{{name: crop}}, {rare}, {others}", "{max_drift: 25, max_drift_share: 0.06}")
    maker = maker_for("ct", policy=policy, size=(16, 16, 16), allow={step: "planted"})
    unseen = 0
    for seed in range(3):
        figures, breaches = measure(made_store("ct"), maker, seed=seed)
        assert {found.step for found in breaches} == {step}
        if all(found.acts_in for found in breaches):
            unseen += 1
            assert figures["swapped_share"] == 0 and figures["volume_change"]["max"] < 1.1, "the policy's own views, as it draws them"
            assert re.match(rf"{step}: {figure}.*it acts in 0\.2% of the views", str(breaches[0]))
    assert unseen
    with pytest.raises(DataError, match=f"{step}: "):
        preview(made_store("ct"), maker, tmp_path / "out", count=1)
    written_down = json.loads((tmp_path / "out" / "audit.json").read_text())["breaches"]
    assert {found["step"] for found in written_down} == {step} and {found["acts_in"] for found in written_down} <= {None, 0.002}


def test_a_step_that_is_made_to_act_counts_as_often_as_it_does(made_store: Stores, tmp_path: Path) -> None:
    policy = written(tmp_path, "mr", "{name: crop}, {name: flip_left_right, probability: 0.01}", "{max_swapped_share: 0.1}")
    maker = maker_for("mr", policy=policy, allow={"flip_left_right": "one view in a hundred does no harm here"})
    assert measure(made_store("mr"), maker)[1] == []


def test_half_a_turn_exchanges_sides_and_is_blamed_on_what_turned(made_store: Stores) -> None:
    """Two mirrors are no mirror, but left is right all the same."""
    two = Policy.model_validate(
        {
            "name": "two",
            "modality": "mr",
            "steps": [{"name": "crop"}] + [{"name": f"flip_{a}", "probability": 1.0} for a in ("left_right", "front_back")],
        }
    )
    far = Policy.model_validate({"name": "far", "modality": "mr", "steps": [{"name": "crop"}, {"name": "rotation", "max_deg": 180}]})
    for policy, step, allow in ((two, "flip_left_right", ("flip_left_right", "flip_front_back")), (far, "rotation", ("rotation",))):
        config = ViewsConfig(policy="mr", size=SIZES["mr"], allow=dict.fromkeys(allow, "planted"))
        figures, breaches = measure(made_store("mr"), ViewMaker(config, BUILT_IN["mr"], policy=policy))
        assert [found.step for found in breaches] == [step] and figures["swapped_share"] > 0.3


def test_a_crop_that_loses_the_marked_thing_is_seen(made_store: Stores, tmp_path: Path) -> None:
    policy = written(tmp_path, "ct", "{name: crop}", "{min_mask_survival: 0.9}")
    with pytest.raises(DataError, match="crop: share of marked masks that both views keep is 0"):
        preview(made_store("ct"), maker_for("ct", policy=policy, size=(8, 8, 8)), tmp_path / "out", count=1)


def test_a_cutout_that_hides_the_marked_thing_is_seen_and_blamed(made_store: Stores, tmp_path: Path) -> None:
    store = made_store("ct")
    policy = written(tmp_path, "ct", "{name: crop, place: mask}, {name: cutout, max_share: 0.1}", "{min_mask_survival: 0.99}")
    maker = maker_for("ct", policy=policy)
    figures, breaches = measure(store, maker, seed=1)
    shown = []
    for step, row in [(step, row) for step in range(4) for row in range(4)]:
        pair = maker.draw_row(store, row, (1, step, row))
        masks = [maker.render_mask(store, row, view) for view in pair]
        whole = [mask.sum() for mask in masks if mask is not None]
        for mask, view in zip(masks, pair, strict=True):
            filters.fill_box(mask, hidden_box(view.values["cutout"], view.size), 0)
        shown.append(all(mask.sum() >= 0.5 * before for mask, before in zip(masks, whole, strict=True)))
    assert figures["mask_survival"] == np.mean(shown) < 1, "as what is rendered says"
    assert [found.step for found in breaches if "masks" in found.figure] == ["cutout"]


def test_a_mask_that_is_bent_out_of_view_is_lost(made_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every view is bent by 6 mm the same way, more than the step is allowed; the crops alone keep each mask whole."""
    store = made_store("mr")
    policy = written(tmp_path, "mr", "{name: crop, place: mask}, {name: elastic}", "{min_mask_survival: 0.99}")
    maker = maker_for("mr", policy=policy, size=(16, 16, 16))
    assert measure(store, maker)[1] == []
    monkeypatch.setattr(Elastic, "bend", lambda self, values, extent, flat: np.full((4, 4, 4, 3), (6.0, 0, 0)))
    figures, breaches = measure(store, maker)
    shown = []
    for step, row in [(step, row) for step in range(4) for row in range(4)]:
        masks = [maker.render_mask(store, row, view) for view in maker.draw_row(store, row, (0, step, row))]
        shown.append(min(mask.sum() for mask in masks if mask is not None) >= np.sum(store.mask(row)) / 2)
    assert figures["mask_survival"] == np.mean(shown) < 0.9, "as what is rendered says"
    assert any("masks" in found.figure for found in breaches)


def test_a_large_mask_is_followed_by_a_part_of_its_voxels(made_store: Stores) -> None:
    """A box of half the field along each axis, of which views show half or a quarter: what is known of all voxels comes out."""
    store, maker = made_store("ct"), maker_for("ct")
    box = np.zeros(store.shape(0), np.uint8)
    box[tuple(slice(n // 4, 3 * n // 4) for n in box.shape)] = 1
    stored = np.argwhere(box).astype(float)
    part = stored[np.random.default_rng(0).integers(len(stored), size=_MASK_VOXELS)]
    for item in range(10):
        view = maker.draw_row(store, 0, (0, item, 0))[0]
        assert len(stored) > 10 * _MASK_VOXELS and _kept(view, part)[0] == pytest.approx(_kept(view, stored)[0], abs=0.04)


def test_a_spacing_that_is_not_accounted_for_is_seen(made_store: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: views that are sampled as if voxels were cubes of 1 mm."""
    policy = written(tmp_path, "mr", "{name: crop}, {name: scale}")
    real = batched._parameters

    def forgetful(frame, size, affine, values):
        right = real(frame, size, affine, values)
        matrix = right.matrix * np.linalg.norm(affine[:3, :3], axis=0)[:, None]
        return batched.ViewParameters(matrix, size, affine @ np.vstack([matrix, [0, 0, 0, 1]]), frame, values)

    monkeypatch.setattr(batched, "_parameters", forgetful)
    with pytest.raises(DataError, match=r"scale: ratio of scales along two axes is 1.2,"):
        preview(made_store("mr"), maker_for("mr", policy=policy), tmp_path / "out", count=1)


def test_views_of_nothing_are_seen(made_store: Stores, tmp_path: Path) -> None:
    policy = written(tmp_path, "ct", "{name: crop}", "{max_empty_share: 0.0}")
    store = made_store("ct")
    maker = maker_for("ct", policy=policy, size=(8, 8, 8))
    with pytest.raises(DataError, match="crop: share of views that show next to nothing"):
        for seed in range(20):
            preview(store, maker, tmp_path / "out", count=1, seed=seed)


def test_real_mr_with_masks(real_data: Path, tmp_path: Path) -> None:
    """Hippocampus: views keep the marked structure in most pairs, and a flip let in by `allow` is caught."""
    import nibabel
    import pandas as pd

    from medcl.foundation.progress import Silent
    from medcl.foundation.types import Volume
    from medcl.store.prepare import prepare_data

    volumes, masks = {}, {}
    for path in sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:8]:
        image, mask = nibabel.load(path), nibabel.load(str(path).replace("imagesTr", "labelsTr"))
        volumes[path.name] = Volume(np.asarray(image.dataobj), image.affine, "mr", "arbitrary")
        masks[path.name] = Volume(np.asarray(mask.dataobj), mask.affine, "mr", "arbitrary")
    labels = pd.DataFrame({"volume_id": list(volumes), "mask_id": list(masks)})
    prepare_data(MadeData(volumes, masks, labels), "hash", tmp_path / "store", BUILT_IN["mr"], jobs=1, progress=Silent())
    store = VolumeStore(tmp_path / "store")
    result = preview(store, maker_for("mr", size=(32, 32, 32)), tmp_path / "out", count=2)
    assert result["figures"]["mask_survival"] > 0.7 and result["breaches"] == []
    policy = written(tmp_path, "mr", "{name: crop}, {name: flip_left_right}")
    with pytest.raises(DataError, match="flip_left_right"):
        preview(store, maker_for("mr", policy=policy, allow={"flip_left_right": "planted"}), tmp_path / "flip", count=1)
