"""The close-up says what scikit-learn says, keeps patients whole, and names nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics

from medcl.evaluation.closeup import class_numbers, confusion, hardest_cases, look_closer, reliability
from medcl.evaluation.findings import FindingPredictions
from medcl.evaluation.fits import Fit, FitKey
from medcl.evaluation.quantity import ValuePredictions
from medcl.evaluation.scores import Measured, Predictions
from medcl.evaluation.statistics import resample_patients
from tests.made_study import made_fits, made_groupings, made_plan

PATIENT = np.repeat(np.arange(150), 2)
RESAMPLES = resample_patients(PATIENT, 200, 0)


def _fits(classes: int, draws: int = 3) -> list[Predictions]:
    fits = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        label = np.arange(300) // 2 % classes
        logits = rng.normal(size=(300, classes)) + np.eye(classes)[label]
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        fits.append(Predictions(p, label, np.full(classes, 1 / classes)))
    return fits


@pytest.mark.parametrize("classes", [2, 3])
def test_class_numbers_and_confusion_equal_scikit_learn(classes: int) -> None:
    fits = _fits(classes)
    found, table = class_numbers(fits, RESAMPLES), np.array(confusion(fits))
    said = [fit.probabilities.argmax(1) for fit in fits]
    label = fits[0].label
    assert table == pytest.approx(np.mean([metrics.confusion_matrix(label, own) for own in said], axis=0), abs=1e-3)
    for own in range(classes):
        expected = {
            "auroc": [metrics.roc_auc_score(label == own, fit.probabilities[:, own]) for fit in fits],
            "sensitivity": [metrics.recall_score(label == own, one == own) for one in said],
            "specificity": [metrics.recall_score(label != own, one != own) for one in said],
            "precision": [metrics.precision_score(label == own, one == own) for one in said],
        }
        for name, values in expected.items():
            mean, low, high = found[own][name]
            assert mean == pytest.approx(np.mean(values), abs=1e-5), name
            assert low < mean < high


def test_reliability_of_calibrated_predictions_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    fit = Predictions(np.stack([1 - p, p], 1), (rng.random(4000) < p).astype(int), np.array([0.5, 0.5]))
    patient = np.arange(4000)
    bins = reliability([fit], patient, resample_patients(patient, 300, 0))
    assert len(bins) == 10 and sum(own["share"] for own in bins) == pytest.approx(1)
    assert all(own["low"] <= own["happened"] <= own["high"] for own in bins)
    assert sum(own["low"] <= own["said"] <= own["high"] for own in bins) >= 8
    true = [metrics.accuracy_score(fit.label[rows], np.ones(rows.sum())) for rows in (p < np.quantile(p, 0.1),)]
    assert bins[0]["happened"] == pytest.approx(true[0], abs=1e-6)
    boastful = Predictions(np.stack([1 - p**0.25, p**0.25], 1), fit.label, fit.prior)
    assert all(own["high"] < own["said"] for own in reliability([boastful], patient, resample_patients(patient, 300, 0))[:8])


def test_too_few_patients_have_no_reliability_and_equal_predictions_one_bin() -> None:
    fit = _fits(2)[0]
    few = Predictions(fit.probabilities[:100], fit.label[:100], fit.prior)
    assert reliability([few], PATIENT[:100], resample_patients(PATIENT[:100], 100, 0)) == []
    same = Predictions(np.full((300, 2), 0.5), fit.label, fit.prior)
    assert len(reliability([same], PATIENT, RESAMPLES)) == 1


def test_hardest_cases_are_of_different_patients_and_worst_first() -> None:
    fits = _fits(2)
    found = hardest_cases({"one": fits, "two": fits[:1]}, "auroc", PATIENT, most=5)
    cases = [one["case"] for one in found]
    assert len({PATIENT[case] for case in cases}) == 5
    merit = [np.mean(list(one["inits"].values())) for one in found]
    assert merit == sorted(merit) and merit[0] < 0.25
    assert found[0]["truth"] == fits[0].label[cases[0]]


def test_hardest_measured_cases_skip_those_without_a_value() -> None:
    values = np.array([[0.9], [np.nan], [0.2], [0.5]])
    found = hardest_cases({"one": [Measured(("dice",), values)]}, "dice", np.arange(4), most=2)
    assert [one["case"] for one in found] == [2, 3] and found[0]["truth"] is None


def test_each_finding_is_a_question_to_those_of_whom_it_is_known() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(-1, 2, (300, 2))
    p = np.clip(0.3 + 0.3 * label + rng.normal(0, 0.2, label.shape), 0, 1)
    fit = FindingPredictions(("one", "other"), p, label, np.array([0.5, 0.2]))
    plan = made_plan(inits=("random",), modes=("linear",), fractions=(1.0,), task="multilabel")
    fits = [Fit(FitKey("random", "linear", 1.0, 0), 9, 9, fit)]
    (point,) = look_closer(plan, fits, {"linear": PATIENT}, [])["points"]
    for column, part in enumerate(point["parts"]):
        known = label[:, column] >= 0
        assert part["name"] == fit.names[column] and sum(row["cases"] for row in part["classes"]) == known.sum()
        said = p[known, column] > fit.prior[column]
        found = part["inits"]["random"]
        assert found["confusion"] == metrics.confusion_matrix(label[known, column], said).tolist()
        assert found["classes"][1]["sensitivity"][0] == pytest.approx(metrics.recall_score(label[known, column], said), abs=1e-5)
        assert len(found["reliability"]) >= 3


def test_hardest_of_findings_and_of_a_quantity() -> None:
    label = np.array([[1, 0], [1, -1], [0, 1]])
    fit = FindingPredictions(("a", "b"), np.array([[0.9, 0.2], [0.4, 0.9], [0.9, 0.3]]), label, np.array([0.5, 0.5]))
    found = hardest_cases({"one": [fit]}, "auroc", np.arange(3), most=2)
    assert [(one["case"], one["truth"], one["inits"]["one"]) for one in found] == [(2, [1], 0.2), (1, [0], 0.4)]
    values = ValuePredictions(np.array([50.0, 71.0, 20.0]), np.array([52.0, 60.0, 21.0]))
    (worst,) = hardest_cases({"one": [values]}, "r2", np.arange(3), most=1)
    assert worst == {"case": 1, "truth": 60.0, "inits": {"one": 71.0}}, "what was said stands beside the truth"


def test_content_is_plain_and_holds_no_patient() -> None:
    plan = made_plan(modes=("knn", "linear"))
    fits, patients = made_fits(plan)
    content = look_closer(plan, fits, patients, made_groupings())
    text = json.dumps(content, allow_nan=False)
    assert content["mode"] == "linear" and [point["fraction"] for point in content["points"]] == list(plan.fractions)
    assert not any(f'"{key}"' in text for key in set(patients["linear"]))
    assert [grouping["name"] for grouping in content["groupings"]] == ["sex", "age", "scanner"]


def test_retrieval_has_no_closeup() -> None:
    plan = made_plan(modes=("knn",))
    assert look_closer(plan, [], {"knn": np.array([])}, []) == {}
