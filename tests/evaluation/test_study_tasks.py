"""Studies of findings and quantities, of a student, and of weights that are no backbone, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from medcl.encoders import ResNetConfig, build_seeded
from medcl.evaluation.distillation import Distillation
from medcl.evaluation.given import read_weights
from medcl.evaluation.settings import WeightsConfig
from medcl.evaluation.study import run_study
from medcl.evaluation.study_data import study_cases
from medcl.foundation.errors import DataError, UserError
from medcl.reporting.page import write_study_page
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import PICTURE_ENCODER, VOLUME_ENCODER, study_config

SEEN = {
    "recipe": "xray",
    "views": {"policy": "xray", "size": [24, 24]},
    "finetune": {"num_steps": 4, "batch": 8, "learning_rates": [0.01], "looks": 1, "workers": 0},
}


def _study(store: VolumeStore, out: Path, **changes: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    run_study(study_config(store, **{**SEEN, **changes}), out, before_card=write_study_page)
    return pd.read_csv(out / "results.csv"), json.loads((out / "study.json").read_text())


def test_study_of_findings(pictures: VolumeStore, tmp_path: Path) -> None:
    task = {"name": "multilabel", "labels": ["blob", "device"]}
    results, facts = _study(pictures, tmp_path / "study", task=task, fractions=[0.01, 0.3, 1.0])
    assert set(results["mode"]) == {"knn", "linear", "finetune"}
    assert set(results["metric"]) == {"auroc", "auprc", "brier", "auroc_blob", "auroc_device", "auprc_blob", "auprc_device"}
    assert facts["title"] == "blob, device" and [refusal["fraction"] for refusal in facts["refused"]] == [0.01]
    linear = results[(results["mode"] == "linear") & (results["fraction"] == 1) & (results["init"] == "random")].set_index("metric")[
        "value"
    ]
    assert linear["auroc"] == pytest.approx((linear["auroc_blob"] + linear["auroc_device"]) / 2, abs=1e-4)
    assert linear["auroc_blob"] > 0.7
    closeup, words = json.loads((tmp_path / "study" / "closeup.json").read_text()), (tmp_path / "study" / "page.html").read_text()
    part = closeup["points"][-1]["parts"][0]
    own = results[(results["mode"] == closeup["mode"]) & (results["fraction"] == 1) & (results["init"] == "random")]
    assert part["name"] == "blob" and part["inits"]["random"]["classes"][1]["auroc"][0] == pytest.approx(
        own.loc[own["metric"] == "auroc_blob", "value"].mean(), abs=1e-4
    )
    assert " found</span>" in words and "false alarms of" in words and "The same map by device" in words and "at least one" in words


def test_study_of_a_quantity(pictures: VolumeStore, tmp_path: Path) -> None:
    results, facts = _study(pictures, tmp_path / "study", task={"name": "regression", "label": "contrast"}, fractions=[0.02, 0.3, 1.0])
    assert set(results["metric"]) == {"r2", "mae", "rmse", "pearson", "spearman"}
    assert facts["metric"] == "r2" and "quarter" in facts["refused"][0]["reason"]
    whole = results[(results["mode"] == "linear") & (results["fraction"] == 1) & (results["metric"] == "spearman")]
    assert whole.set_index("init")["value"]["random"] > 0.3
    summary = pd.read_csv(tmp_path / "study" / "summary.csv")
    assert summary.loc[summary["metric"] == "mae", "high"].max() > 1, "in the quantity's unit"
    words = (tmp_path / "study" / "page.html").read_text()
    assert (
        "true contrast" in words and "limits of agreement" in words and "the lowest quarter" in words and "distance from the truth" in words
    )
    names = {path.name for path in (tmp_path / "study" / "figures").iterdir()}
    assert {f"{stem}_random.{form}" for stem in ("agreement", "embedding_map") for form in ("png", "svg", "pdf")} <= names


def test_age_is_known_to_every_manifest(pictures: VolumeStore) -> None:
    cases = study_cases([pictures], study_config(pictures, task={"name": "regression", "label": "age_years"}, **SEEN).task)
    assert len(cases) == 120 and set(cases.target.label) == {50.0}


@pytest.mark.parametrize(
    "task, message",
    [
        ({"name": "multilabel", "labels": ["blob", "contrast"]}, "'contrast': the value .* neither present nor absent"),
        ({"name": "regression", "label": "sex"}, "'sex': the value 'F' is no number"),
    ],
)
def test_labels_of_the_wrong_kind_are_named(pictures: VolumeStore, tmp_path: Path, task: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _study(pictures, tmp_path / "study", task=task)


def test_student_learns_from_its_teacher_only(pictures: VolumeStore, tmp_path: Path) -> None:
    changes = {**SEEN["finetune"], "learning_rates": [0.01], "distill": {"temperature": 2.0}}
    results, facts = _study(pictures, tmp_path / "study", modes=["finetune", "distill"], finetune=changes, fractions=[0.2], floor=False)
    own = results[(results["mode"] == "distill") & (results["metric"] == "auroc")]
    train = facts["parts"]["train"]["cases"]
    for choice, cases in zip(own["choice"].map(json.loads), own["num_cases"], strict=True):
        assert choice["temperature"] == 2 and choice["unlabelled"] == train - cases
    assert any("temperature 2" in line for line in facts["protocol"]["lines"])


@pytest.mark.parametrize("temperature, label_share", [(1.0, 0.0), (2.0, 0.0), (0.5, 0.3)])
def test_distillation_is_equation_3(temperature: float, label_share: float) -> None:
    rng = np.random.default_rng(0)
    outputs, teacher = rng.normal(size=(2, 3, 2))
    truth = np.array([[0, 1], [0, 0], [1, 0]])
    expected = 0.0
    for row in range(3):
        says = np.exp(teacher[row] / temperature) / np.exp(teacher[row] / temperature).sum()
        for own in range(2):
            heard = outputs[row] / temperature
            expected -= (1 - label_share) * says[own] * (heard[own] - np.log(np.exp(heard).sum())) / 3
            expected -= label_share * truth[row, own] * (outputs[row, own] - np.log(np.exp(outputs[row]).sum())) / 3
    lessons = torch.tensor(np.stack([teacher, truth], axis=1))
    loss = Distillation(torch.nn.CrossEntropyLoss(), temperature, label_share)(torch.tensor(outputs), lessons)
    assert loss.item() == pytest.approx(expected)


def _foreign(path: Path, prefix: str = "module.encoder.", without: str = "") -> dict[str, torch.Tensor]:
    state = build_seeded(PICTURE_ENCODER, seed=5).state_dict()
    content = {prefix + name: tensor for name, tensor in state.items() if name != without} | {"head.weight": torch.zeros(2, 3)}
    save_file(content, path) if path.suffix == ".safetensors" else torch.save({"epoch": 3, "state_dict": content}, path)
    return state


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_anyones_weights_arrive(pictures: VolumeStore, tmp_path: Path, name: str) -> None:
    state = _foreign(tmp_path / name)
    given = {"weights": str(tmp_path / name), "encoder": PICTURE_ENCODER.model_dump()}
    results, facts = _study(pictures, tmp_path / "study", inits={"random": PICTURE_ENCODER.model_dump(), "theirs": given}, modes=["knn"])
    found = facts["inits"]["theirs"]
    assert f"{len(state)} of {len(state)} tensors from {name}; 1 of the file not used" in found["words"]
    assert found["kind"] == "weights" and any("theirs does not say" in note for note in facts["notes"])
    assert str(tmp_path) not in (tmp_path / "study" / "study.json").read_text()
    values = results[results["metric"] == "auroc"].pivot_table(index=["fraction", "draw"], columns="init", values="value")
    assert not np.allclose(values["random"], values["theirs"])
    assert all(torch.equal(tensor, state[key]) for key, tensor in read_weights(WeightsConfig(**given)).state.items())  # pyright: ignore[reportArgumentType]


def test_weights_that_do_not_fit_say_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    _foreign(path, without="module.encoder.conv1.weight")
    state = build_seeded(PICTURE_ENCODER, seed=5).state_dict()
    lost = next(iter(state))
    _foreign(path, without=lost)
    config = WeightsConfig(weights=path, encoder=PICTURE_ENCODER)
    with pytest.raises(UserError, match=f"{len(state) - 1}/{len(state)} encoder tensors fit, '{lost}' has no place"):
        read_weights(config)
    given = read_weights(config.model_copy(update={"allow_missing": True}))
    assert lost not in given.state and f"1 stay random ({lost}" in given.words
    both = {f"{place}.{name}": tensor for place in ("encoder_q", "encoder_k") for name, tensor in state.items()}
    torch.save(both, path)
    with pytest.raises(UserError, match=r"2 places; name one as prefix: encoder_k\., encoder_q\."):
        read_weights(config)
    assert read_weights(config.model_copy(update={"prefix": "encoder_q."})).state.keys() == state.keys()


def test_colour_weights_see_grey_as_they_saw_three_equal_channels(tmp_path: Path) -> None:
    path, grey = tmp_path / "colour.safetensors", build_seeded(PICTURE_ENCODER, seed=5).state_dict()
    first = next(name for name, tensor in grey.items() if tensor.dim() == 4)
    shares = torch.tensor([0.2, 0.3, 0.5])[:, None, None]
    save_file({**grey, first: grey[first] * shares}, path)
    config = WeightsConfig(weights=path, encoder=PICTURE_ENCODER)
    with pytest.raises(UserError, match=f"'{first}' has no place"):
        read_weights(config)
    given = read_weights(config.model_copy(update={"from_colour": True}))
    assert torch.allclose(given.state[first], grey[first])


def _as_torchvision_names_it(width: int) -> dict[str, torch.Tensor]:
    """The state_dict of torchvision's resnet18, narrower."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, 7, 7), "fc.weight": (1000, 8 * width), "fc.bias": (1000,)}
    norms = {"bn1": width}
    for number in range(4):
        wide = width * 2**number
        for block in range(2):
            name, narrow = f"layer{number + 1}.{block}", wide // 2 if number and not block else wide
            shapes |= {f"{name}.conv1.weight": (wide, narrow, 3, 3), f"{name}.conv2.weight": (wide, wide, 3, 3)}
            norms |= {f"{name}.bn1": wide, f"{name}.bn2": wide}
            if narrow < wide:
                shapes[f"{name}.downsample.0.weight"] = (wide, narrow, 1, 1)
                norms[f"{name}.downsample.1"] = wide
    for name, wide in norms.items():
        shapes |= {f"{name}.{part}": (wide,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def test_imagenets_resnet_begins_a_deep_one(tmp_path: Path) -> None:
    torch.save(_as_torchvision_names_it(4), tmp_path / "resnet18.pth")
    encoder = ResNetConfig(depth=18, spatial_dims=3, width=4, shortcut="without_bias")
    given = read_weights(WeightsConfig(weights=tmp_path / "resnet18.pth", encoder=encoder, from_colour=True, inflate=True))
    assert given.words == "60 of 60 tensors from resnet18.pth, from 2D to 3D; 42 of the file not used"


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="not readable as weights"):
        read_weights(WeightsConfig(weights=tmp_path / "bomb.pt", encoder=PICTURE_ENCODER))
    assert not (tmp_path / "exploded").exists()


def test_flat_weights_begin_a_deep_encoder(tmp_path: Path) -> None:
    state = _foreign(tmp_path / "flat.safetensors")
    given = read_weights(WeightsConfig(weights=tmp_path / "flat.safetensors", encoder=VOLUME_ENCODER, inflate=True))
    kernel = next(name for name, tensor in state.items() if tensor.dim() == 4)
    assert given.state[kernel].dim() == 5 and "from 2D to 3D" in given.words
    assert torch.equal(given.state[kernel].sum(-1), state[kernel].transpose(2, 3))
    with pytest.raises(ValueError, match="spatial_dims is 2"):
        WeightsConfig(weights=tmp_path / "flat.safetensors", encoder=PICTURE_ENCODER, inflate=True)


def test_another_label_is_learned_first_and_kept(pictures: VolumeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"label": "blob", "encoder": PICTURE_ENCODER.model_dump(), "num_steps": 60, "learning_rate": 0.003}
    inits = {"random": PICTURE_ENCODER.model_dump(), "blobs": first}
    out = tmp_path / "study"
    changes: dict[str, Any] = {"inits": inits, "modes": ["linear"], "fractions": [1.0], "draws": 1, "floor": False}
    finetune = {**SEEN["finetune"], "batch": 16, "looks": 3}
    results, facts = _study(pictures, out, **changes, finetune=finetune)
    auroc = results[results["metric"] == "auroc"].set_index("init")["value"]
    assert auroc["blobs"] > auroc["random"], "it was told the answer"
    assert "label 'blob'" in facts["inits"]["blobs"]["words"]
    assert any(note.startswith("blobs was told the answer") for note in facts["notes"]), (
        "few labels are no saving where all were spent before"
    )
    monkeypatch.setattr("medcl.evaluation.supervised.FinetuneFits", lambda *_: pytest.fail("learned again"))
    again, _ = _study(pictures, out, **changes, finetune=finetune)
    assert again.equals(results)
    with pytest.raises(DataError, match="label 'sex': the training cases hold 1"):
        _study(pictures, tmp_path / "other", **{**changes, "inits": {"sexes": {**first, "label": "sex"}}})
