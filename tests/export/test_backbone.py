"""The backbone folder: what is written comes back bit for bit, and nothing altered is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from medcl.export.backbone import Backbone, load_backbone, save_backbone
from medcl.export.proof import Proof, compare, example_inputs
from medcl.foundation.errors import MedclError, UserError
from tests.export.made_backbone import made_views, make_backbone


@pytest.mark.parametrize(("dims", "norm"), [(2, "group"), (2, "instance"), (3, "group"), (3, "instance")])
def test_round_trip_is_bitwise(tmp_path, dims, norm):
    encoder, proof = make_backbone(tmp_path / "bb", dims=dims, norm=norm)
    assert proof.largest_difference == 0.0 and proof.loaded == proof.total == len(encoder.state_dict())
    backbone = load_backbone(tmp_path / "bb")
    image = torch.randn(2, 1, *(40,) * dims)
    with torch.no_grad():
        expected, found = encoder.eval()(image), backbone(image)
    assert torch.equal(found.pooled, expected.pooled) and found.pooled.shape == (2, backbone.dim)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.dense, expected.dense, strict=True))


def test_the_weights_are_the_encoders_own_state_dict(tmp_path):
    encoder, _ = make_backbone(tmp_path / "bb")
    assert load_file(tmp_path / "bb" / "weights.safetensors").keys() == encoder.state_dict().keys()


def test_card_says_what_the_contract_page_promises(volume_backbone):
    card = json.loads((volume_backbone / "card.json").read_text())
    assert card["kind"] == "backbone"
    assert card["contract"]["units"] == ["HU"] and card["contract"]["size"] == [40, 40, 40] and card["contract"]["orientation"] == "RAS"
    assert card["contract"]["recipe"]["intensity"] == {
        "name": "window",
        "low": -1000,
        "high": 1000,
        "stored_low": -1024,
        "stored_high": 3071,
    }
    assert card["training"] == {"steps": 10, "world_batch": 4} and card["licence"] == "for tests" and card["method"]["name"] == "moco"
    assert card["metrics"] == {"knn": 0.5, "collapse": None}
    assert card["proof"]["loaded"] == card["counts"]["tensors"] and card["counts"]["training_patients"] == 2
    assert len(card["files"]["weights.safetensors"]) == 64
    assert load_backbone(volume_backbone).contract.extent_mm == (60.0, 60.0, 60.0)


def test_the_cohort_is_counted_and_nobody_is_singled_out(tmp_path):
    from medcl.export.cohort import count_cohort

    items = pd.DataFrame(
        {
            "patient_key": [f"p{number // 2}" for number in range(40)],
            "pixel_hash": [str(number) for number in range(40)],
            "modality": ["ct"] * 40,
            "sex": ["F"] * 32 + ["M"] * 6 + [""] * 2,
            "age_years": [34.0] * 20 + [float("nan")] * 10 + [89.0] * 10,
            "scanner": ["A"] * 39 + ["B"],
            "report_id": ["secret"] * 40,
        }
    )
    counted = count_cohort(items)
    assert counted == {
        "modality": {"ct": 20},
        "body_part": {"unknown": 20},
        "scanner": {"A": 20, "B": "fewer than 5"},
        "site": {"unknown": 20},
        "age_band": {"30-39": 10, "80+": 5, "unknown": 5},
        "sex": {"F": 16, "M": "fewer than 5", "unknown": "fewer than 5"},
    }
    make_backbone(tmp_path / "bb", items=items)
    card = json.loads((tmp_path / "bb" / "card.json").read_text())
    assert card["cohort"] == counted and card["counts"]["training_patients"] == 20
    text = (tmp_path / "bb" / "README.md").read_text()
    assert "- sex (patients): F 16, M fewer than 5, unknown fewer than 5" in text and "- site (patients): unknown 20" in text
    assert not any(word in text or word in json.dumps(card) for word in ("secret", "p19"))


def test_the_card_for_people_says_how_what_for_and_what_not(volume_backbone):
    from medcl.export.model_card import model_card

    card = json.loads((volume_backbone / "card.json").read_text())
    text = (volume_backbone / "README.md").read_text()
    for line in (
        "- takes: volume, modality ct, values in HU",
        "- grid: 40 x 40 x 40 voxels of 1.5 x 1.5 x 1.5 mm, 60 x 60 x 60 mm in all",
        f"- 2 scans of 2 patients; corpus {'0' * 64}",
        "- licence: for tests",
        "- method moco (temperature 0.2); 10 steps, batches of 4",
        "- views by policy 'ct': crop, rotation",
        "Safety rules overridden, with the reason given:\n- none",
        "- knn: 0.5\n- collapse: not finite",
        *(f"- {limit}" for limit in card["must_not_be_used_for"]),
        card["files"]["weights.safetensors"],
    ):
        assert line in text, line
    overridden = card | {"views": card["views"] | {"overrides": {"gamma": "phantoms only"}}, "metrics": {"lr": 0.1, "probe/auroc": 0.7}}
    said = model_card(overridden, "")
    assert "with the reason given:\n- gamma: phantoms only" in said and "- probe/auroc: 0.7" in said and "- lr" not in said


def test_same_training_same_bytes_and_training_items_without_ids(tmp_path):
    make_backbone(tmp_path / "one")
    make_backbone(tmp_path / "two")
    for name in ("weights.safetensors", "card.json", "README.md", "training_items.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    items = pd.read_parquet(tmp_path / "one" / "training_items.parquet")
    assert items.to_dict("list") == {"patient_key": ["a", "b"], "pixel_hash": ["1", "2"]}


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    make_backbone(tmp_path / "bb", seed=0)
    second, _ = make_backbone(tmp_path / "bb", seed=1)
    image = torch.randn(1, 1, 40, 40, 40)
    assert torch.equal(load_backbone(tmp_path / "bb")(image).pooled, second.eval()(image).pooled)
    assert [path.name for path in tmp_path.iterdir()] == ["bb"]


def test_saving_and_loading_leave_the_random_state_and_the_encoder_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    encoder, _ = make_backbone(tmp_path / "bb")
    load_backbone(tmp_path / "bb")
    assert torch.equal(torch.rand(4), expected)
    assert encoder.training and all(parameter.requires_grad for parameter in encoder.parameters())


def test_a_run_stands_for_its_backbone(tmp_path, volume_backbone):
    shutil.copytree(volume_backbone, tmp_path / "run" / "backbone")
    assert isinstance(load_backbone(tmp_path / "run"), Backbone)


def test_the_backbone_of_a_run_that_is_not_finished_is_not_handed_out(tmp_path, volume_backbone):
    """It is written before the first step, so that a run that could not be exported never starts."""
    run = tmp_path / "run"
    shutil.copytree(volume_backbone, run / "backbone")
    (run / "config.yaml").write_text("")
    for given in (run, run / "backbone"):
        with pytest.raises(UserError, match="this run is not finished, and its backbone holds the weights it began with"):
            load_backbone(given)
    (run / "card.json").write_text("{}")
    assert load_backbone(run).card == load_backbone(run / "backbone").card


def test_a_size_the_encoder_cannot_take_is_the_users_mistake(tmp_path):
    """InstanceNorm on one voxel: found when the backbone is first saved, before a step is trained."""
    from medcl.encoders import ResNetConfig
    from medcl.export.backbone import Provenance

    config = ResNetConfig(depth=10, width=4, spatial_dims=2, norm="instance")
    nothing = Provenance(method={"name": "moco"}, steps=0, world_batch=1, corpus="", licence="")
    with pytest.raises(UserError, match=r"views.size \[24, 24\] does not suit encoder 'resnet'"):
        save_backbone(config.build(), config, tmp_path / "bb", views=made_views(2, 24), provenance=nothing)


def test_nan_weights_are_not_saved_and_the_last_good_ones_stay(tmp_path):
    from medcl.encoders import ResNetConfig
    from medcl.export.backbone import Provenance

    make_backbone(tmp_path / "bb")
    before = (tmp_path / "bb" / "card.json").read_bytes()
    config = ResNetConfig(depth=10, width=4)
    encoder = config.build()
    with torch.no_grad():
        encoder.get_parameter("conv1.weight")[0] = float("nan")
    nothing = Provenance(method={"name": "moco"}, steps=0, world_batch=1, corpus="", licence="")
    with pytest.raises(MedclError, match=r"conv1.weight.*NaN"):
        save_backbone(encoder, config, tmp_path / "bb", views=made_views(3), provenance=nothing)
    assert (tmp_path / "bb" / "card.json").read_bytes() == before
    load_backbone(tmp_path / "bb")


# -- tampering ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, volume_backbone) -> Path:
    return Path(shutil.copytree(volume_backbone, tmp_path / "bb"))


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json", "training_items.parquet"])
@pytest.mark.parametrize("place", [0.001, 0.2, 0.5, 0.8, 0.995])
def test_one_flipped_bit_is_refused(folder, name, place):
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        load_backbone(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "training_items.parquet"])
def test_a_missing_or_cut_file_is_refused(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="missing or altered"):
        load_backbone(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match="missing or altered"):
        load_backbone(folder)


def test_an_edited_card_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    card["contract"]["recipe"]["intensity"]["low"] = -500
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="the card was altered"):
        load_backbone(folder)


@pytest.mark.parametrize("change", ["drop", "shape", "dtype", "extra"])
def test_weights_that_do_not_fit_are_refused_by_name_even_with_a_new_seal(folder, change):
    """Someone who recomputes the hashes is still stopped by names, shapes and types."""
    tensors = load_file(folder / "weights.safetensors")
    if change == "drop":
        del tensors["conv1.weight"]
    elif change == "shape":
        tensors["conv1.weight"] = tensors["conv1.weight"][:2].clone()
    elif change == "dtype":
        tensors["conv1.weight"] = tensors["conv1.weight"].double()
    else:
        tensors["conv1.bias"] = torch.zeros(4)
    save_file(tensors, folder / "weights.safetensors")
    _seal_again(folder)
    with pytest.raises(UserError, match=r"1 tensors do not fit.*conv1"):
        load_backbone(folder)


@pytest.mark.parametrize("change", [{"units": ["arbitrary"]}, {"size": [48, 48, 48]}, {"extent_mm": [40.0, 40.0, 40.0]}])
def test_a_card_whose_contract_contradicts_its_recipe_is_refused_even_with_a_new_seal(folder, change):
    _seal_again(folder, lambda card: card["contract"].update(change))
    with pytest.raises(UserError, match="contradicts its own recipe"):
        load_backbone(folder)


def test_a_card_that_points_outside_its_folder_is_refused(folder):
    _seal_again(folder, lambda card: card["files"].update({"../elsewhere": "0" * 64}))
    with pytest.raises(UserError, match="elsewhere"):
        load_backbone(folder)


def test_a_card_with_unknown_encoder_settings_names_the_key(folder):
    _seal_again(folder, lambda card: card["encoder"].update(dept=10))
    with pytest.raises(UserError, match="did you mean 'depth'"):
        load_backbone(folder)


def test_a_pickle_in_the_place_of_weights_is_never_run(folder):
    import pickle

    (folder / "weights.safetensors").write_bytes(pickle.dumps(_Bomb()))
    _seal_again(folder)
    with pytest.raises(UserError, match="not readable as safetensors"):
        load_backbone(folder)
    assert not _Bomb.exploded


class _Bomb:
    exploded = False

    def __reduce__(self):
        return _explode, ()


def _explode():
    _Bomb.exploded = True


def _seal_again(folder: Path, change=None) -> None:
    from medcl.export import backbone
    from medcl.foundation.files import sha256_of_file

    card = json.loads((folder / "card.json").read_text())
    for name in card["files"]:
        card["files"][name] = sha256_of_file(folder / name)
    if change:
        change(card)
    card["seal"] = backbone._seal(card)
    (folder / "card.json").write_text(json.dumps(card))


# -- the proof itself --------------------------------------------------------------------------------------------------


def test_proof_fails_at_zero_matches_missing_tensors_nan_and_other_outputs(volume_backbone):
    encoder = load_backbone(volume_backbone).encoder
    inputs = example_inputs(encoder, (40, 40, 40), 1, 2)
    with pytest.raises(MedclError, match="loaded 0/39"):
        compare("x", encoder, encoder, inputs, loaded=0, tolerance=1)
    with pytest.raises(MedclError, match="loaded 38/39"):
        compare("x", encoder, encoder, inputs, loaded=38, tolerance=1)
    with pytest.raises(MedclError, match="outputs differ by 1"):
        compare("x", encoder, lambda image: encoder(image).pooled * 1.1, inputs, loaded=39, tolerance=1e-5)
    with pytest.raises(MedclError, match="outputs differ by nan"):
        compare("x", encoder, lambda image: encoder(image).pooled * float("nan"), inputs, loaded=39, tolerance=1e-5)
    with pytest.raises(MedclError, match="output shape"):
        compare("x", encoder, lambda image: encoder(image).pooled[:, :3], inputs, loaded=39, tolerance=1e-5)
    good = compare("x", encoder, encoder, inputs, loaded=39, tolerance=0)
    assert good.inputs == [[1, 1, 40, 40, 40], [2, 1, 40, 40, 56]]
    assert "loaded 39/39" in good.line() and isinstance(good, Proof)
