"""A study is whole, the same however often it was stopped, and refuses what would make it dishonest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medcl.evaluation import study as studies
from medcl.evaluation.embed import embed_rows, training_windows
from medcl.evaluation.facts import shown_settings
from medcl.evaluation.settings import ClassificationTask, RetrievalTask
from medcl.evaluation.study import run_study
from medcl.evaluation.study_data import label_words, study_cases
from medcl.export.backbone import load_backbone
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.types import Volume
from medcl.reporting.page import write_study_page
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import PICTURE_ENCODER, VOLUME_ENCODER, image_text_run, picture_backbone, study_config

NUMBERS = ("results.csv", "summary.csv", "headline.json", "study.json", "splits.csv", "draws.csv", "embedding_map.json", "neighbours.json")
NUMBERS += ("closeup.json", "learning_curves.json")


@pytest.fixture(scope="module")
def finished(pictures: VolumeStore, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "study"
    run_study(study_config(pictures, backbone), out)
    return out


def test_folder_is_whole(finished: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    own = results[results["metric"] == "auroc"].groupby(["init", "mode", "fraction"]).size()
    assert own[("moco", "knn", 0.2)] == own[("random", "finetune", 0.2)] == own[("random", "finetune", 1.0)] == 2
    assert own[("moco", "linear", 1.0)] == own[("pixels", "linear", 1.0)] == 1, "the same fit in every draw is done once"
    assert set(results.loc[results["init"] == "pixels", "mode"]) == {"linear"}
    card = json.loads((finished / "card.json").read_text())
    assert card["kind"] == "study" and card["counts"]["fits"] == own.sum()
    facts = json.loads((finished / "study.json").read_text())
    assert [refusal["fraction"] for refusal in facts["refused"]] == [0.01]
    assert facts["parts"]["train"]["cases"] + facts["parts"]["val"]["cases"] + facts["parts"]["test"]["cases"] == 118
    assert str(finished.parent) not in (finished / "study.json").read_text()
    assert "like no second one" in facts["leaks"] and {volume for pair in facts["lookalikes"] for volume in pair} <= set(
        pd.read_csv(finished / "splits.csv")["volume_id"]
    )
    closeup = json.loads((finished / "closeup.json").read_text())
    assert closeup["mode"] == "finetune" and len(closeup["hardest"]) == 8
    assert [point["fraction"] for point in closeup["points"]] == [0.2, 1.0]


def test_no_scan_that_may_hold_text_is_shown(finished: Path, pictures: VolumeStore) -> None:
    """By the flag that ingest writes: a name may be in the pixels, and a page is shown around."""
    splits = pd.read_csv(finished / "splits.csv")
    flagged = set(pictures.index["volume_id"][[pictures.may_hold_text(row) for row in range(len(pictures))]])
    near, closeup = (json.loads((finished / name).read_text()) for name in ("neighbours.json", "closeup.json"))
    test = splits[splits["split"] == "test"]["volume_id"].tolist()
    for asked, shown, volumes in (
        (near["label"], near["pictures"], splits["volume_id"].tolist()),
        ([str(found["case"]) for found in closeup["hardest"]], closeup["pictures"], test),
    ):
        assert set(shown) == {case for case in asked if volumes[int(case)] not in flagged} and 0 < len(shown) < len(asked)


def test_labelled_patients_are_the_same_for_all_and_never_tested(finished: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    assert (results.groupby(["fraction", "draw"])["num_cases"].nunique() == 1).all()
    splits, draws = pd.read_csv(finished / "splits.csv"), pd.read_csv(finished / "draws.csv")
    part = splits.drop_duplicates("patient_key").set_index("patient_key")["split"]
    assert (part[draws["patient_key"]] == "train").all()
    assert (splits.groupby("patient_key")["split"].nunique() == 1).all()


def test_tuning_is_recorded_and_shared_by_the_draws(finished: Path) -> None:
    results = pd.read_csv(finished / "results.csv")
    tuned = results[(results["mode"] == "finetune") & (results["metric"] == "auroc")]
    rates = [json.loads(choice)["learning_rate"] for choice in tuned["choice"]]
    assert set(rates) <= {0.01, 0.001}
    assert {json.loads(choice)["tried"] for choice in tuned["choice"]} == {"0.01 0.001"}
    assert (tuned.assign(rate=rates).groupby(["init", "fraction"])["rate"].nunique() == 1).all()
    assert len(list((finished / "fits").glob("random-finetune@*-0.2-0.json"))) == 2, "both rates were tried at the first draw"


def test_stopped_and_resumed_is_the_same(
    pictures: VolumeStore, backbone: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice on the way, then finished; then once more, with nothing left to fit."""
    out, config = tmp_path / "study", study_config(pictures, backbone)
    save, left = studies.FitFolder.save, [3, 9]

    def dying(self: Any, fit: Any, basis: str) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return save(self, fit, basis)

    monkeypatch.setattr(studies.FitFolder, "save", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_study(config, out)
        assert not (out / "card.json").exists()
        left.pop(0)
        left.append(10**9)
    run_study(config, out)
    for name in NUMBERS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    monkeypatch.setattr(studies.FitFolder, "save", lambda *_: pytest.fail("a finished fit was done again"))
    run_study(config, out)
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_other_budget_is_fitted_anew_but_embeddings_stay(pictures: VolumeStore, finished: Path, backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(finished, out)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "embeddings").iterdir()}
    changed = study_config(pictures, backbone, finetune={"num_steps": 3, "batch": 8, "learning_rates": [0.01], "looks": 1, "workers": 0})
    run_study(changed, out)
    assert before == {path.name: path.stat().st_mtime_ns for path in (out / "embeddings").iterdir()}
    old, new = (pd.read_csv(folder / "results.csv") for folder in (finished, out))
    frozen = ["knn", "linear"]
    assert old[old["mode"].isin(frozen)].reset_index(drop=True).equals(new[new["mode"].isin(frozen)].reset_index(drop=True))
    assert set(new.loc[new["mode"] == "finetune", "choice"].map(lambda text: json.loads(text)["step"])) == {3}


def test_page_shows_nothing_of_an_earlier_state_of_the_study(pictures: VolumeStore, finished: Path, backbone: Path, tmp_path: Path) -> None:
    """Gone on with another split and without frozen embeddings, it showed the map and the neighbours of the earlier test set."""
    out = tmp_path / "study"
    shutil.copytree(finished, out)
    assert "Nearest neighbours" in write_study_page(out).read_text() and (out / "figures" / "label_efficiency_knn.png").is_file()
    (out / "figures" / "mine.png").write_bytes(b"")
    changed = study_config(pictures, backbone, modes=["finetune"], fractions=[1.0], draws=1, split={"seed": 3, "test": 0.3})
    run_study(changed, out, before_card=write_study_page)
    assert "What the encoders see" not in (out / "page.html").read_text() and not (out / "embedding_map.json").exists()
    stems = {path.stem for path in (out / "figures").iterdir()}
    assert {"label_efficiency_finetune", "mine"} <= stems and not {"label_efficiency_knn", "embedding_map_moco"} & stems


def test_folder_of_another_study_is_refused(pictures: VolumeStore, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another task"):
        run_study(study_config(pictures, task={"name": "retrieval"}, modes=["retrieval"]), finished)
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(UserError, match="holds no study"):
        run_study(study_config(pictures), tmp_path)


def _items(store: VolumeStore, finished: Path, part: str) -> pd.DataFrame:
    splits = pd.read_csv(finished / "splits.csv")
    volumes = splits.loc[splits["split"] == part, "volume_id"].iloc[:2]
    return store.index[store.index["volume_id"].isin(volumes)][["patient_key", "pixel_hash"]]


def test_leak_is_exit_3_unless_transductive(pictures: VolumeStore, finished: Path, tmp_path: Path) -> None:
    items = _items(pictures, finished, "test")
    leaking = picture_backbone(tmp_path / "leaking", items.assign(patient_key="renamed"))
    with pytest.raises(DataError, match=r"moco: 0 test patients \(none\), 2 test images") as caught:
        run_study(study_config(pictures, leaking), tmp_path / "one")
    assert caught.value.exit_code == 3 and items["pixel_hash"].iloc[0] in str(caught.value)
    same_patient = picture_backbone(tmp_path / "same_patient", items.assign(pixel_hash="other"))
    with pytest.raises(DataError, match=items["patient_key"].iloc[0]):
        run_study(study_config(pictures, same_patient), tmp_path / "two")
    config = study_config(pictures, leaking, transductive=True, modes=["knn"], floor=False)
    run_study(config, tmp_path / "three")
    assert json.loads((tmp_path / "three" / "study.json").read_text())["transductive"] is True


def test_training_on_training_patients_is_no_leak(pictures: VolumeStore, finished: Path, tmp_path: Path) -> None:
    honest = picture_backbone(tmp_path / "honest", _items(pictures, finished, "train"))
    result = run_study(study_config(pictures, honest, modes=["knn"], floor=False), tmp_path / "study")
    assert "no test patient" in json.loads((result.folder / "study.json").read_text())["leaks"]


def test_backbone_that_keeps_no_record_is_named(pictures: VolumeStore, tmp_path: Path) -> None:
    silent = picture_backbone(tmp_path / "silent", None)
    run_study(study_config(pictures, silent, modes=["knn"], floor=False), tmp_path / "study")
    assert any("cannot be ruled out" in note for note in json.loads((tmp_path / "study" / "study.json").read_text())["notes"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task": {"name": "classification", "label": "blub"}}, "no such label; they have: blob"),
        ({"data": "nowhere"}, "no such folder"),
        ({"task": {"name": "multilabel", "labels": ["blob", "blob"]}}, "'blob' is there twice"),
        ({"inits": {"random": VOLUME_ENCODER.model_dump()}, "views": {"policy": "xray", "size": [24, 24]}}, "spatial_dims is 3"),
        ({"inits": {"random": PICTURE_ENCODER.model_dump()}}, "'views' is missing"),
        ({"inits": {"moco": "nowhere"}}, "nowhere: no such folder"),
        ({"recipe": "mr"}, "shown as init 'moco' was trained, so another would do nothing"),
    ],
)
def test_mistakes_say_the_way_out(pictures: VolumeStore, backbone: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_study(study_config(pictures, backbone, **changes), tmp_path / "study")


def test_mode_that_is_named_twice_counts_once(pictures: VolumeStore, backbone: Path) -> None:
    """Its fits would look like twice as many draws, and their interval would be too narrow."""
    assert study_config(pictures, backbone, modes=["knn", "linear", "knn"]).modes == ("knn", "linear")


def test_store_of_another_recipe_is_refused(outlined: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the DATA folder"):
        run_study(study_config(outlined, backbone), tmp_path / "study")


def test_every_fraction_refused_fails(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every fraction is refused"):
        run_study(study_config(pictures, backbone, fractions=[0.01, 0.02]), tmp_path / "study")


def test_test_part_without_a_class_fails_before_the_first_fit(pictures: VolumeStore, tmp_path: Path) -> None:
    """AUROC of one class is undefined; the study found out when everything was fitted, by a traceback."""
    first = pictures.labels["volume_id"][:60].tolist()  # pyright: ignore[reportOptionalSubscript]
    shutil.copytree(pictures.folder, tmp_path / "store")
    index = pd.read_parquet(tmp_path / "store" / "index.parquet")
    sick = index["volume_id"].map(dict(zip(pictures.labels["volume_id"], pictures.labels["blob"], strict=True))) == 1  # pyright: ignore[reportOptionalSubscript]
    index["split"] = np.where(sick & index["volume_id"].isin(first), "test", "train")
    index.to_parquet(tmp_path / "store" / "index.parquet")
    config = study_config(VolumeStore(tmp_path / "store"), views={"policy": "xray", "size": [24, 24]})
    with pytest.raises(DataError, match="lacks a case of class '0'"):
        run_study(config, tmp_path / "study")
    assert not (tmp_path / "study" / "fits").exists()


def test_embedding_is_that_of_the_backbone(pictures: VolumeStore, backbone: Path) -> None:
    loaded = load_backbone(backbone)
    windows = training_windows(loaded.views, pictures)
    ours = embed_rows(lambda images: loaded(images).pooled, pictures, [5, 2], windows, loaded.views)
    for place, row in enumerate((5, 2)):
        volume: Volume = pictures.read(row)
        display = Volume((volume.array * 255).round().astype(np.uint8), volume.affine, "xray", "display", "picture")
        assert ours[place] == pytest.approx(loaded.embed(display).pooled[0].numpy(), abs=5e-2)


def test_what_is_not_finite_is_refused_and_never_scored(pictures: VolumeStore, backbone: Path) -> None:
    """A network that says NaN of everything would rank by the order of the rows."""
    loaded = load_backbone(backbone)
    windows = training_windows(loaded.views, pictures)
    with pytest.raises(UserError, match="not finite for any scan"):
        embed_rows(lambda images: loaded(images).pooled * np.nan, pictures, [5, 2], windows, loaded.views)
    spoilt = iter([1.0, np.nan])
    with pytest.raises(DataError, match=r"store rows \[2\]"):
        embed_rows(lambda images: loaded(images).pooled * next(spoilt), pictures, [5, 2], windows, loaded.views, batch=1)


def test_report_without_words_makes_no_pair(pictures: VolumeStore) -> None:
    reports = pictures.reports
    assert reports is not None
    store = SimpleNamespace(index=pictures.index, reports=reports.assign(text=[" ", *reports["text"][1:]]))
    assert len(study_cases([store], RetrievalTask())) == len(study_cases([pictures], RetrievalTask())) - 1  # pyright: ignore[reportArgumentType]


def test_label_words_join_by_volume_or_patient(pictures: VolumeStore) -> None:
    assert label_words(pictures.index, pictures.labels, "blob")[:4] == ["", "", "1", "1"]
    by_patient = pd.DataFrame({"patient_key": ["p1", "p2"], "stage": ["II", "I"]})
    assert label_words(pictures.index, by_patient, "stage")[:6] == ["", "", "II", "II", "I", "I"]


def test_settings_on_the_page_hold_no_absolute_path(pictures: VolumeStore, backbone: Path) -> None:
    views = {"policy": "/home/someone/policies/mine.yaml", "size": [24, 24]}
    shown = shown_settings(study_config(pictures, backbone, recipe="/home/someone/recipes/mine.yaml", views=views))
    assert shown["recipe"] == "recipes/mine.yaml" and shown["views"]["policy"] == "policies/mine.yaml"
    assert "/home/" not in json.dumps(shown) and shown_settings(study_config(pictures, recipe="ct"))["recipe"] == "ct"


def test_equal_pixels_under_two_names_are_one_person(pictures: VolumeStore) -> None:
    index = pictures.index.assign(near_duplicate_group=0)
    index.loc[index["volume_id"] == "v010", "pixel_hash"] = index.loc[index["volume_id"] == "v021", "pixel_hash"].item()
    index.loc[index["volume_id"].isin(["v030", "v041"]), "near_duplicate_group"] = 1
    store = SimpleNamespace(index=index, labels=pictures.labels)
    cases = study_cases([store], ClassificationTask(label="blob"))  # pyright: ignore[reportArgumentType]
    assert cases.cases.people is not None
    people = dict(zip(cases.volume.tolist(), cases.cases.people.tolist(), strict=True))
    assert people["v010"] == people["v011"] == people["v020"] == people["v021"] and people["v030"] == people["v041"]
    assert len(set(people.values())) == len(set(cases.cases.patient.tolist())) - 2


def test_labels_that_are_long_numbers_stay_apart(pictures: VolumeStore) -> None:
    """Six digits made one class of two SNOMED codes, and an hour of a date in days."""
    codes = pd.DataFrame({"patient_key": ["p0", "p1", "p2"], "code": [363406005, np.nan, 363406006], "day": [45123.567, 1e300, 0.1]})
    assert label_words(pictures.index, codes, "code")[:6:2] == ["363406005", "", "363406006"]
    assert label_words(pictures.index, codes, "day")[:6:2] == ["45123.567", str(int(1e300)), "0.1"]
    assert label_words(pictures.index, codes.assign(code=[True, False, -0.0]), "code")[:6:2] == ["1", "0", "0"]


def test_retrieval_study(pictures: VolumeStore, tmp_path: Path) -> None:
    run = image_text_run(tmp_path / "run", pictures)
    config = study_config(pictures, inits={"convirt": str(run)}, task={"name": "retrieval"}, modes=["retrieval"])
    headline = run_study(config, tmp_path / "study").headline
    assert "chance would be" in headline["sentence"]
    summary = pd.read_csv(tmp_path / "study" / "summary.csv").set_index("metric")
    assert 0 <= summary.loc["image_to_text_recall_at_5", "mean"] <= 1
    choice = json.loads(pd.read_csv(tmp_path / "study" / "results.csv")["choice"].iloc[0])
    assert choice["chance_image_to_text_recall_at_5"] == pytest.approx(5 / 30)


def test_retrieval_needs_a_run_that_read_text(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="retrieval"):
        run_study(study_config(pictures, backbone, task={"name": "retrieval"}, modes=["retrieval"]), tmp_path / "study")
