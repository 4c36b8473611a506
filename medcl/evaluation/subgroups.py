"""Groups of patients that the data tell apart (sex, age band, scanner, site), and how each initialisation fares on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl.evaluation import statistics
from medcl.evaluation.scores import Predictions
from medcl.evaluation.statistics import Outcome, Resamples
from medcl.evaluation.study_data import label_words

if TYPE_CHECKING:
    from medcl.store.volume_store import VolumeStore

FEWEST_PATIENTS, FEWEST_OF_A_CLASS = 10, 5
_AGES = ((18, "under 18"), (40, "18-39"), (65, "40-64"), (float("inf"), "65 and over"))
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male", "o": "other", "other": "other"}
_ACQUIRED = {"field strength": ("field_strength_t", "T"), "tube voltage": ("kvp", "kV")}
_SEX_WORDS, _AGE_WORDS = ("sex", "gender"), ("age", "age_years", "age_band")
# Columns of the labels, beside the task's own, that name a group: what users call them, and what the page does.
_LABELS = {
    **dict.fromkeys(_SEX_WORDS, "sex"),
    **dict.fromkeys(_AGE_WORDS, "age"),
    **dict.fromkeys(("scanner", "manufacturer", "vendor", "model"), "scanner"),
    **dict.fromkeys(("site", "centre", "center"), "site"),
    **dict.fromkeys(("projection", "view"), "projection"),
    **dict.fromkeys(("ethnicity", "race"), "ethnicity"),
}


@dataclass(frozen=True)
class Grouping:
    """One way to tell test cases apart. values: the groups with at least ten patients; code: (cases,) place in `values`, -1 for the rest.

    small: how many groups have fewer patients, and are not named; unknown: cases of which it is not known.
    """

    name: str
    values: tuple[str, ...]
    code: np.ndarray
    small: int
    unknown: int


def groupings_of(store: VolumeStore, rows: np.ndarray, task_label: str = "") -> list[Grouping]:
    """Every grouping that a store knows of these rows, where it tells at least two groups apart.

    Sex, age and acquisition come from the index, the others (and these, where the index does not know) from label columns.
    """
    patient = store.index["patient_key"].astype(str).to_numpy()[rows]
    words = _from_labels(store, task_label) | _from_index(store)
    found = [_grouping(name, np.asarray(own, dtype=object)[rows], patient) for name, own in words.items()]
    return [grouping for grouping in found if len(grouping.values) + grouping.small > 1]


def _from_index(store: VolumeStore) -> dict[str, list[str]]:
    index = store.index
    found: dict[str, list[str]] = {}
    if "sex" in index:
        found["sex"] = [sex_word(value) for value in index["sex"]]
    if "age_years" in index:
        found["age"] = [age_band(value) for value in index["age_years"]]
    for name in ("scanner", "site"):
        if name in index:
            found[name] = ["" if value is None or value != value else str(value) for value in index[name]]
    if "sequence" in index:
        numbers = [json.loads(text) if isinstance(text, str) and text else {} for text in index["sequence"]]
        for name, (key, unit) in _ACQUIRED.items():
            found[name] = [f"{own[key]:g} {unit}" if isinstance(own.get(key), int | float) else "" for own in numbers]
    return {name: own for name, own in found.items() if any(own)}


def _from_labels(store: VolumeStore, task_label: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for column in () if store.labels is None else store.labels.columns:
        name = _LABELS.get(str(column).lower())
        if name is not None and column != task_label and name not in found:
            words = label_words(store.index, store.labels, str(column))
            change = {"sex": sex_word, "age": age_band}.get(name)
            found[name] = [change(word) for word in words] if change else words
    return found


def sex_word(value: Any) -> str:
    """female, male, other, or empty."""
    return _SEXES.get(str(value).strip().lower(), "")


def age_band(value: Any) -> str:
    """A broad band of years; words that are no number stand for themselves, nothing and what is no age are empty."""
    try:
        years = float(value)
    except (TypeError, ValueError):
        return "" if value is None else str(value)
    return next((words for end, words in _AGES if 0 <= years < end), "")


def _grouping(name: str, words: np.ndarray, patient: np.ndarray) -> Grouping:
    patients = {str(word): len(np.unique(patient[words == word])) for word in set(words) if word}
    values = sorted((word for word, count in patients.items() if count >= FEWEST_PATIENTS), key=_age_first)
    place = {word: number for number, word in enumerate(values)}
    code = np.array([place.get(str(word), -1) for word in words], dtype=np.int64)
    return Grouping(name, tuple(values), code, len(patients) - len(values), int((words == "").sum()))


def _age_first(word: str) -> tuple[int, str]:
    bands = [words for _, words in _AGES]
    return (bands.index(word) if word in bands else 0), word


def score_groups(
    grouping: Grouping, fits: Sequence[Outcome], metric: str, patient: np.ndarray, resamples: Resamples
) -> list[dict[str, Any]]:
    """How one initialisation fares on each group, and the gap to all other cases that are known; with 95% intervals.

    fits: outcomes, one per draw; metric: the number that the figures show, which is at most 1. A group is refused, with the
    reason, where the number would stand on too few patients.
    """
    rows = []
    for place, name in enumerate(grouping.values):
        inside = grouping.code == place
        outside = (grouping.code >= 0) & ~inside
        row: dict[str, Any] = {"group": name, "cases": int(inside.sum()), "patients": len(np.unique(patient[inside]))}
        reason = _too_few(fits[0], inside, patient)
        if reason:
            rows.append({**row, "refused": reason})
            continue
        own = _estimate(fits, inside, metric, resamples)
        row |= {"value": own.mean, "interval": list(own.interval(highest=1.0))}
        if not _too_few(fits[0], outside, patient):
            gap = statistics.difference(own, _estimate(fits, outside, metric, resamples))
            row |= {"gap": gap.mean, "gap_interval": list(gap.interval())}
        rows.append(row)
    return rows


def _estimate(fits: Sequence[Outcome], member: np.ndarray, metric: str, resamples: Resamples) -> statistics.Estimate:
    once = np.array([float(statistics.score(fit, member[None].astype(np.float64))[metric][0]) for fit in fits])
    often = np.stack([statistics.score(fit, resamples.patients * member)[metric] for fit in fits])
    return statistics.estimate(once, often, resamples)


def _too_few(outcome: Outcome, member: np.ndarray, patient: np.ndarray) -> str:
    if len(np.unique(patient[member])) < FEWEST_PATIENTS:
        return f"fewer than {FEWEST_PATIENTS} patients"
    if isinstance(outcome, Predictions):
        classes = range(outcome.probabilities.shape[1])
        if min(len(np.unique(patient[member & (outcome.label == own)])) for own in classes) < FEWEST_OF_A_CLASS:
            return f"fewer than {FEWEST_OF_A_CLASS} patients of a class"
    return ""
