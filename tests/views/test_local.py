"""Local views: smaller grids at the pair's spacing, overlapping the first view, refused where a part does not tell what the whole shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medcl.api import pretrain
from medcl.api import preview as preview_run
from medcl.encoders import ResNetConfig, build_seeded
from medcl.export.backbone import load_backbone
from medcl.foundation.errors import DataError, UserError
from medcl.loading.batches import Batches
from medcl.methods import SwAVConfig
from medcl.run_config import load_pretrain, load_study, views_to_make
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from medcl.views.audit import preview
from medcl.views.batched import ViewMaker
from medcl.views.crops import overlap
from medcl.views.policy import LocalViewsConfig, ViewsConfig
from tests.views.made_scans import SIZES, on_devices

Stores = Callable[[str], VolumeStore]
REASON = {"crop": "multi-crop, as a test"}


def with_local(name: str, **local) -> ViewsConfig:
    flat = len(SIZES[name]) == 2
    local = {"count": 3, "size": [24, 32] if flat else [12, 16, 16]} | local
    return ViewsConfig(policy=name, size=SIZES[name], local=local, overlap=0.6, allow=REASON if flat else {})


@on_devices
@pytest.mark.parametrize("name", ["mr", "xray"])
def test_they_come_after_the_pair_and_leave_it_as_it_was(name: str, device: torch.device, made_store: Stores) -> None:
    store, plain = made_store(name), with_local(name).model_copy(update={"local": None})
    settings = {"world_batch": 3, "seed": 7, "workers": 0}
    pair = Batches(store, ViewMaker(plain, BUILT_IN[name]), num_views=2, **settings).at(1)
    maker = ViewMaker(with_local(name), BUILT_IN[name])
    found = Batches(store, maker, num_views=5, **settings).at(1)
    small = (24, 32) if name == "xray" else (12, 16, 16)
    assert [tuple(view.shape[2:]) for view in found.views] == [SIZES[name]] * 2 + [small] * 3
    assert all(torch.equal(one, other) for one, other in zip(found.views, pair.views, strict=False))
    assert not torch.equal(found.views[2], found.views[3])
    low, high = BUILT_IN[name].network_range
    computed = Batches(store, maker, num_views=5, device=device, **settings).at(1)
    for one, other in zip(computed.views, found.views, strict=True):
        assert (one.cpu() - other).abs().max() < 1e-4 * (high - low)


def test_in_volumes_they_show_less_at_the_same_spacing(made_store: Stores) -> None:
    store, maker = made_store("mr"), ViewMaker(with_local("mr"), BUILT_IN["mr"])
    for step in range(20):
        first, _, *local = maker.draw_row(store, 1, (0, step, 1), 5)
        assert len(local) == 3
        for view in local:
            factor = view.values.get("scale", {}).get("factor", 1.0)
            assert np.allclose(view.spacing_mm, maker.nominal_pitch(store.shape(1), store.affine(1)) * factor)
            assert overlap(first.frame, view.frame) >= 0.6


def test_in_pictures_they_show_their_share_of_the_field(made_store: Stores) -> None:
    store, maker = made_store("xray"), ViewMaker(with_local("xray", keep=[0.2, 0.3]), BUILT_IN["xray"])
    shares = [view.values["crop"]["share"] for step in range(20) for view in maker.draw_row(store, 0, (0, step, 0), 4)[2:]]
    assert min(shares) >= 0.2 and max(shares) <= 0.3
    assert maker.resolved()["local"]["keep"] == [0.2, 0.3]


def test_a_part_of_a_picture_needs_a_reason_which_cards_carry() -> None:
    config = with_local("xray", keep=[0.1, 0.3])
    with pytest.raises(UserError, match="a smaller part does not tell what the whole shows"):
        ViewMaker(config.model_copy(update={"allow": {}}), BUILT_IN["xray"])
    assert "multi-crop, as a test" in ViewMaker(config, BUILT_IN["xray"]).overrides["crop"]


@pytest.mark.parametrize(
    "local",
    [
        {"size": [16, 16]},
        {"size": [4, 16, 16]},
        {"size": [16, 16, 40]},
        {"size": [16, 16, 20]},
        {"size": [16, 16, 16], "keep": [0.4, 0.1]},
    ],
)
def test_sizes_that_do_not_fit_are_refused(local: dict) -> None:
    with pytest.raises(ValueError, match=r"local\.size|keep"):
        ViewsConfig(policy="mr", size=(24, 24, 16), local=local)


def test_a_shape_that_cannot_overlap_as_it_should_is_refused() -> None:
    """No view is below what `reach` says; the scale of the policy makes a flat local view larger than the pair along two axes."""
    local = {"count": 3, "size": (8, 32, 32)}
    with pytest.raises(UserError, match=r"views\.local\.size \[8, 32, 32\]: such views share as little as 0\.41 .*views\.overlap is 0\.5"):
        ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 32), local=local), BUILT_IN["ct"])
    maker = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 32), overlap=0.4, local=local), BUILT_IN["ct"])
    draws = [maker.draw((90, 90, 90), np.diag([1.5, 1.5, 1.5, 1]), (0, 0, item), 5) for item in range(60)]
    found = [overlap(first.frame, view.frame) for first, _, *others in draws for view in others]
    assert 0.4 <= min(found) < 0.5


def test_what_a_shape_can_overlap_is_the_least_over_all_sizes() -> None:
    for pair, own in [((32, 32, 32), (8, 32, 32)), ((96, 64, 16), (40, 8, 16)), ((28, 20), (8, 16))]:
        sizes = np.array(own) * np.geomspace(1 / 1.5, 1.5, 2000)[:, None]
        shared = np.minimum(sizes, pair).prod(1) / np.minimum(sizes.prod(1), np.prod(pair))
        assert LocalViewsConfig(size=own).reach(pair, 1.5) == pytest.approx(shared.min(), abs=1e-3)
        assert LocalViewsConfig(size=own).reach(pair, 1.0) == 1.0


LOCAL = "views.local={size: [16, 16, 16]}"


def _views(*overrides: str, **encoder) -> int:
    settings = load_pretrain(Path("configs/pretrain/hippocampus_moco.yaml"), list(overrides))
    return views_to_make(settings, build_seeded(settings.method, build_seeded(settings.encoder, seed=0), seed=0))


def test_only_methods_and_encoders_that_can_use_them_get_them() -> None:
    assert _views() == 2
    assert _views("method={name: swav}") == 2
    assert _views("method={name: swav}", LOCAL) == 6
    with pytest.raises(UserError, match=r"views\.local: method\.name 'moco'"):
        _views(LOCAL)
    with pytest.raises(UserError, match=r"views\.local: encoder\.name 'vit'"):
        _views("method={name: swav}", LOCAL, "encoder={name: vit, size: [32, 32, 32], patch: 8, width: 48, depth: 4, heads: 4}")


def test_local_views_teach(made_store: Stores) -> None:
    """A step with them has a gradient through every view."""
    store, maker = made_store("mr"), ViewMaker(with_local("mr"), BUILT_IN["mr"])
    encoder = ResNetConfig(depth=10, spatial_dims=3, width=4, stem_kernel=3, stem_stride=1, stem_pool=False)
    method = build_seeded(SwAVConfig(num_prototypes=6), build_seeded(encoder, seed=0), seed=0)
    batch = Batches(store, maker, num_views=5, world_batch=4, seed=0, workers=0).at(0)
    embeddings = method.encode(batch, 0.0)
    for found in embeddings:
        found.retain_grad()
    method.compare(embeddings, 0.0).loss.backward()
    assert len(embeddings) == 5 and all(float(found.grad.abs().max()) > 0 for found in embeddings)


def test_a_study_shows_whole_scans() -> None:
    with pytest.raises(UserError, match=r"'views': local views are for pretraining"):
        load_study(Path("configs/evaluate/hippocampus.yaml"), ["views={policy: mr, size: [32, 32, 32], local: {size: [16, 16, 16]}}"])


def _picture_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("name", ["mr", "xray"])
def test_a_preview_shows_and_measures_them(name: str, made_store: Stores, tmp_path: Path) -> None:
    maker = ViewMaker(with_local(name), BUILT_IN[name])
    plain = ViewMaker(with_local(name).model_copy(update={"local": None}), BUILT_IN[name])
    found = preview(made_store(name), maker, tmp_path / "local", count=2)["figures"]
    pair = preview(made_store(name), plain, tmp_path / "pair", count=2)["figures"]
    local = found.pop("local")
    assert found == pair, "what is said of the pair does not change"
    assert local["overlap"]["min"] >= 0.6 and local["field_share"]["mean"] < 0.75 * found["field_share"]["mean"]
    assert local["empty_share"] == 0
    page = (tmp_path / "local" / "index.html").read_text()
    assert "3 local ones of " in page and "local views: overlap with view 1" in page
    assert "local" not in (tmp_path / "pair" / "index.html").read_text()
    (wide, high), (narrow, same) = (_picture_size(tmp_path / folder / "contact_sheet.png") for folder in ("local", "pair"))
    assert high == same and wide > narrow


def test_local_views_of_nothing_are_seen(made_store: Stores, tmp_path: Path) -> None:
    (tmp_path / "ct.yaml").write_text("name: mine\nmodality: ct\nsteps: [{name: crop}]\naudit: {max_empty_share: 0.0}\n")
    views = ViewsConfig(policy=str(tmp_path / "ct.yaml"), size=(80, 80, 64), local={"count": 8, "size": (8, 8, 8)})
    with pytest.raises(DataError, match="local: share of views that show next to nothing"):
        preview(made_store("ct"), ViewMaker(views, BUILT_IN["ct"]), tmp_path / "out", count=1)


def _run(name: str, store: VolumeStore, path: Path) -> ViewsConfig:
    views, flat = with_local(name), name == "xray"
    encoder = {"name": "resnet", "depth": 10, "spatial_dims": 2 if flat else 3, "width": 4, "stem_kernel": 3, "stem_stride": 1}
    settings = {"store": str(store.folder), "encoder": encoder, "method": {"name": "swav", "num_prototypes": 4}}
    settings |= {"views": views.model_dump(mode="json"), "training": {"num_steps": 2, "world_batch": 3, "workers": 0}}
    path.write_text(yaml.safe_dump(settings))
    return views


def test_a_run_can_be_previewed(made_store: Stores, tmp_path: Path) -> None:
    """What its YAML says: views, overrides and local ones; and what the run would refuse is refused."""
    _run("xray", made_store("xray"), tmp_path / "run.yaml")
    audit = preview_run(tmp_path / "run.yaml", out=tmp_path / "preview", count=1)
    assert audit["views"]["local"]["count"] == 3 and "multi-crop, as a test" in audit["views"]["overrides"]["crop"]
    with pytest.raises(UserError, match=r"method\.name 'moco' does not compare local views"):
        preview_run(tmp_path / "run.yaml", {"method": {"name": "moco"}}, out=tmp_path / "refused", count=1)


@pytest.mark.parametrize("name", ["mr", "xray"])
def test_a_run_with_them_hands_over_a_backbone_that_names_them(name: str, made_store: Stores, tmp_path: Path) -> None:
    """From settings to a backbone that is loaded back, and makes the same views again."""
    views = _run(name, made_store(name), tmp_path / "run.yaml")
    run = pretrain(tmp_path / "run.yaml", out=tmp_path / "run")
    backbone = load_backbone(run.backbone)
    assert backbone.views.config.local == views.local
    store = made_store(name)
    ours = ViewMaker(views, BUILT_IN[name]).draw_row(store, 0, (0, 0, 0), 5)
    for one, other in zip(ours, backbone.views.draw_row(store, 0, (0, 0, 0), 5), strict=True):
        assert one.size == other.size and np.array_equal(one.matrix, other.matrix)
