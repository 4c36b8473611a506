"""Groups come from what the store keeps, small ones stay unnamed, and gaps are what they are."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from medcl.evaluation.scores import Measured, Predictions, score_classification, table_of
from medcl.evaluation.statistics import resample_patients
from medcl.evaluation.subgroups import Grouping, age_band, groupings_of, score_groups, sex_word

CASES = 80


def _store(**columns: Any) -> Any:
    index = pd.DataFrame({"volume_id": [f"v{case}" for case in range(CASES)], "patient_key": [f"p{case // 2}" for case in range(CASES)]})
    labels = columns.pop("labels", None)
    if labels is not None:
        labels = pd.DataFrame({"volume_id": index["volume_id"], **labels})
    return cast(Any, SimpleNamespace(index=index.assign(**columns), labels=labels))


def test_groups_of_the_index_and_of_label_columns() -> None:
    case = np.arange(CASES)
    field = [json.dumps({"field_strength_t": 1.5 if number % 4 < 2 else 3.0}) for number in case]
    labels = {"Vendor": np.where(case < 40, "one", "two"), "finding": case % 2, "View": np.where(case < 6, "ap", "pa")}
    store = _store(sex=np.where(case < 30, "F", "M"), age_years=np.where(case < 40, 30.0, 70.0), sequence=field, labels=labels)
    found = {grouping.name: grouping for grouping in groupings_of(store, case, "finding")}
    assert set(found) == {"sex", "age", "field strength", "scanner", "projection"}, "the task's own label is no group"
    assert found["age"].values == ("18-39", "65 and over") and found["field strength"].values == ("1.5 T", "3 T")
    assert found["sex"].values == ("female", "male") and found["sex"].code[[0, 79]].tolist() == [0, 1]
    assert found["projection"].values == ("pa",) and found["projection"].small == 1, "three patients are not named"


def test_what_tells_nobody_apart_is_left_out() -> None:
    assert groupings_of(_store(sex="", age_years=np.nan, sequence="{}"), np.arange(CASES)) == []
    assert groupings_of(_store(sex="F"), np.arange(CASES)) == []


@pytest.mark.parametrize("value, band", [(0, "under 18"), ("17", "under 18"), (18.0, "18-39"), (64.9, "40-64"), (89, "65 and over")])
def test_age_bands(value: Any, band: str) -> None:
    assert age_band(value) == band


def test_words_and_gaps() -> None:
    assert age_band("inf") == age_band(-1) == "", "no age, and no traceback at the end of a study"
    assert age_band(None) == age_band(float("nan")) == sex_word("") == sex_word("unknown") == ""
    assert sex_word(" Female") == "female" and sex_word("M") == "male"


def _predictions(skill: np.ndarray, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.arange(len(skill)) // 2 % 2
    p = 1 / (1 + np.exp(-(skill * (label - 0.5) * 3 + rng.normal(size=len(skill)))))
    return Predictions(np.stack([1 - p, p], 1), label, np.array([0.5, 0.5]))


def test_scores_of_a_group_are_those_of_its_cases_alone() -> None:
    patient = np.repeat(np.arange(100), 2)
    code = (np.arange(200) >= 80).astype(int)
    fits = [_predictions(np.where(code == 0, 2.0, 0.2), seed) for seed in range(3)]
    rows = score_groups(Grouping("site", ("a", "b"), code, 0, 0), fits, "auroc", patient, resample_patients(patient, 200, 0))
    alone = []
    for fit in fits:
        part = Predictions(fit.probabilities[:80], fit.label[:80], fit.prior)
        alone.append(score_classification(table_of(part), np.ones((1, 80)))["auroc"][0])
    assert rows[0]["value"] == pytest.approx(np.mean(alone)) and (rows[0]["patients"], rows[0]["cases"]) == (40, 80)
    assert rows[0]["gap"] == pytest.approx(rows[0]["value"] - rows[1]["value"]) == pytest.approx(-rows[1]["gap"])
    assert rows[0]["gap_interval"][0] > 0, "the planted gap is found"
    assert rows[0]["interval"][0] <= rows[0]["value"] <= rows[0]["interval"][1]


def test_a_group_without_enough_of_a_class_is_refused_with_the_reason() -> None:
    patient = np.arange(200)
    fit = _predictions(np.ones(200), 0)
    code = np.where(fit.label == 0, 0, 1)
    code[np.flatnonzero(fit.label == 1)[:3]] = 0
    rows = score_groups(Grouping("site", ("a", "b"), code, 0, 0), [fit], "auroc", patient, resample_patients(patient, 100, 0))
    assert [row["refused"] for row in rows] == ["fewer than 5 patients of a class"] * 2


def test_measured_cases_have_groups_too() -> None:
    patient = np.arange(60)
    values = np.where(patient < 30, 0.9, 0.7)[:, None]
    rows = score_groups(
        Grouping("sex", ("female", "male"), (patient >= 30).astype(int), 0, 0),
        [Measured(("dice",), values)],
        "dice",
        patient,
        resample_patients(patient, 100, 0),
    )
    assert rows[0]["value"] == pytest.approx(0.9) and rows[0]["gap"] == pytest.approx(0.2)
