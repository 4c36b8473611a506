"""Zero-shot: softmax against a loop, a planted run that knows the answer, settings that do not fit, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from medcl.evaluation.retrieval import ImageTextModel
from medcl.evaluation.settings import ClassificationTask, MultilabelTask, StudyConfig
from medcl.evaluation.study import run_study
from medcl.evaluation.zero_shot import probabilities, questions
from medcl.foundation.errors import DataError, UserError
from medcl.reporting.page import write_study_page
from medcl.reporting.read_study import curve_panels, read_study
from medcl.store.volume_store import VolumeStore
from tests.evaluation.made_stores import PICTURE_ENCODER, image_text_run, picture_backbone, study_config

PROMPTS = {"0": ["Clear lungs.", "Nothing is seen."], "1": ["There is left nodule <b>."]}
TASK = {"name": "classification", "label": "blob", "prompts": PROMPTS}


@pytest.fixture(scope="module")
def run(pictures: VolumeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_text_run(tmp_path_factory.mktemp("runs") / "run", pictures)


def _tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    return pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "summary.csv"), json.loads((folder / "headline.json").read_text())


def _values(folder: Path) -> dict[str, float]:
    results = _tables(folder)[0]
    return dict(zip(results["metric"], results["value"], strict=True))


def test_probabilities_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    images, *prompts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (rng.normal(size=(n, 5)) for n in (4, 1, 3, 2)))
    said = probabilities(images, prompts, 0.2)
    for case, image in enumerate(images):
        means = [own.mean(0) for own in prompts]
        weights = [np.exp(image @ mean / np.linalg.norm(mean) / 0.2) for mean in means]
        assert said[case] == pytest.approx(np.array(weights) / sum(weights))


def test_classes_are_asked_in_the_order_of_their_numbers() -> None:
    task = ClassificationTask(label="stage", prompts={"II": ("two",), "I": ("one", "first")})
    assert questions(task, ("I", "II")) == [[("one", "first"), ("two",)]]
    findings = MultilabelTask(labels=("a", "b"), prompts={"b": {"1": ("b",), "0": ("no b",)}, "a": {"0": ("no a",), "1": ("a",)}})
    assert questions(findings, ("a", "b")) == [[("no a",), ("a",)], [("no b",), ("b",)]]


def test_prompts_that_nobody_reads_are_refused(pictures: VolumeStore) -> None:
    with pytest.raises(ValidationError, match="only mode 'zeroshot' reads them"):
        StudyConfig(data=pictures.folder, task=TASK, inits={"random": {"name": "resnet"}}, modes=("linear",))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({**PROMPTS, "2": ["x"]}, r"task\.prompts: '2' is no class of 'blob'; there are '0', '1'"),
        ({"0": ["x"]}, r"task\.prompts: '1' has no sentence"),
        ({}, r"task\.prompts: mode 'zeroshot' asks with sentences.*for example"),
        ({"0": [], "1": ["x"]}, "task.prompts"),
        ({"0": [" "], "1": ["x"]}, "task.prompts"),
    ],
)
def test_prompts_that_do_not_fit_are_named(pictures: VolumeStore, run: Path, tmp_path: Path, prompts: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        task = {**TASK, "prompts": prompts}
        run_study(study_config(pictures, inits={"convirt": str(run)}, task=task, modes=["zeroshot"]), tmp_path / "study")


def test_a_finding_needs_both_answers(pictures: VolumeStore, run: Path, tmp_path: Path) -> None:
    task = {"name": "multilabel", "labels": ["blob"], "prompts": {"blob": {"1": ["left nodule"]}}}
    with pytest.raises(UserError, match=r"task\.prompts\.blob: '0' has no sentence"):
        run_study(study_config(pictures, inits={"convirt": str(run)}, task=task, modes=["zeroshot"]), tmp_path / "study")


def test_it_needs_a_run_that_read_text_and_a_task_of_classes(pictures: VolumeStore, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'zeroshot' needs an init that read reports"):
        run_study(study_config(pictures, backbone, task=TASK, modes=["zeroshot"]), tmp_path / "study")
    with pytest.raises(UserError, match="'zeroshot' is not for regression"):
        study_config(pictures, backbone, task={"name": "regression", "label": "contrast"}, modes=["zeroshot"])


def test_a_leak_is_found(pictures: VolumeStore, tmp_path: Path) -> None:
    folder = image_text_run(tmp_path / "run", pictures)
    items = pd.DataFrame({name: pictures.index[name] for name in ("patient_key", "pixel_hash")})
    for path in (folder / "backbone").iterdir():
        path.unlink()
    picture_backbone(folder / "backbone", items, seed=1, method="convirt")
    with pytest.raises(DataError, match="leak"):
        run_study(study_config(pictures, inits={"convirt": str(folder)}, task=TASK, modes=["zeroshot"]), tmp_path / "study")


def test_alone_it_takes_no_label_and_goes_on(pictures: VolumeStore, run: Path, tmp_path: Path) -> None:
    config = study_config(pictures, inits={"convirt": str(run)}, task=TASK, modes=["zeroshot"])
    run_study(config, tmp_path, before_card=write_study_page)
    results, summary, headline = _tables(tmp_path)
    assert set(results["fraction"]) == {0} and set(results["num_cases"]) == {0} and len(set(results["draw"])) == 1
    assert {"auroc", "auprc", "balanced_accuracy", "f1", "brier", "ece"} == set(summary["metric"])
    assert "with no labels (zero-shot)" in headline["sentence"] and headline["label_saving"] == {}
    assert json.loads(results["choice"].iloc[0]) == {"prompts": 3, "temperature": 0.1}
    page = (tmp_path / "page.html").read_text()
    assert "There is left nodule &lt;b&gt;." in page and "Nothing is seen." in page and "against the number of labels" not in page
    # other prompts ask anew in the same folder
    task = {**TASK, "prompts": {**PROMPTS, "0": ["Old fracture."]}}
    run_study(config.model_copy(update={"task": ClassificationTask.model_validate(task)}), tmp_path)
    assert _tables(tmp_path)[0]["value"].tolist() != results["value"].tolist()


def test_beside_curves_neither_it_nor_retrieval_is_a_point_of_them(pictures: VolumeStore, run: Path, tmp_path: Path) -> None:
    inits = {"random": PICTURE_ENCODER.model_dump(), "convirt": str(run)}
    task = {"name": "classification", "label": "blob"}
    config = study_config(pictures, inits=inits, task=task, modes=["linear"], fractions=[0.3, 1.0], floor=False)
    run_study(config, tmp_path / "study")
    before = _tables(tmp_path / "study")
    more = {"modes": ("linear", "zeroshot", "retrieval"), "task": ClassificationTask.model_validate(TASK)}
    run_study(config.model_copy(update=more), tmp_path / "study", before_card=write_study_page)
    results, summary, headline = _tables(tmp_path / "study")
    assert headline["label_saving"] == before[2]["label_saving"]
    assert [words for words in headline["sentences"] if "zero-shot" not in words] == before[2]["sentences"]
    assert len(headline["sentences"]) == len(before[2]["sentences"]) + 1
    for now, then in ((results, before[0]), (summary, before[1])):
        pd.testing.assert_frame_equal(now.query("mode == 'linear'").reset_index(drop=True), then)
    panels = curve_panels(read_study(tmp_path / "study"))
    assert list(panels) == ["linear"] and list(panels["linear"].ticks) == [0.3, 1.0] and not panels["linear"].ticks[1.0].endswith("\n0")
    page = (tmp_path / "study" / "page.html").read_text()
    assert page.count("<h3>zero-shot</h3>") == 0 and "With no labels: zero-shot" in page


def test_findings_are_present_by_a_softmax_over_both(pictures: VolumeStore, run: Path, tmp_path: Path) -> None:
    prompts = {"device": {"0": ["No device."], "1": ["Small device."]}, "blob": PROMPTS}
    task = {"name": "multilabel", "labels": ["blob", "device"], "prompts": prompts}
    run_study(study_config(pictures, inits={"convirt": str(run)}, task=task, modes=["zeroshot"]), tmp_path, before_card=write_study_page)
    found = _values(tmp_path)
    assert found["auroc"] == pytest.approx((found["auroc_blob"] + found["auroc_device"]) / 2, abs=1e-5)
    turned = {**task, "prompts": {**prompts, "blob": {"0": PROMPTS["1"], "1": PROMPTS["0"]}}}
    run_study(study_config(pictures, inits={"convirt": str(run)}, task=turned, modes=["zeroshot"]), tmp_path)
    again = _values(tmp_path)
    assert again["auroc_blob"] == pytest.approx(1 - found["auroc_blob"], abs=1e-5) and again["auroc_device"] == found["auroc_device"]


def test_a_run_that_knows_is_right(pictures: VolumeStore, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures.labels is not None
    label = dict(zip(pictures.labels["volume_id"], pictures.labels["blob"], strict=True))
    known = np.array([label[volume] for volume in pictures.index["volume_id"]])
    axes = np.eye(2)
    monkeypatch.setattr(ImageTextModel, "embed_images", lambda self, store, rows, maker: axes[known[rows].astype(int)])
    monkeypatch.setattr(ImageTextModel, "embed_reports", lambda self, texts: axes[[int("nodule" in text) for text in texts]])
    run_study(study_config(pictures, inits={"convirt": str(run)}, task=TASK, modes=["zeroshot"]), tmp_path)
    found = _values(tmp_path)
    assert found["auroc"] == found["balanced_accuracy"] == found["f1"] == 1
