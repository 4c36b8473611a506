"""The cases of a study: stores, labels, classes, splits; and who the labelled patients of every draw are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl.evaluation.classes import Classes
from medcl.evaluation.findings import Findings
from medcl.evaluation.fits import hash_of_array
from medcl.evaluation.label_fraction import Cases, Refusal, Splits, labelled_rows, refused, split_cases
from medcl.evaluation.quantity import Quantity
from medcl.evaluation.settings import ClassificationTask, MultilabelTask, RegressionTask, StudyConfig
from medcl.evaluation.targets import Target
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.files import CARD, hash_of_folder, read_card, write_text
from medcl.foundation.progress import Progress
from medcl.ingest.split import together
from medcl.loading.texts import report_of_rows, sentences
from medcl.store.prepare import prepare
from medcl.store.recipe import Recipe, recipe_hash
from medcl.store.volume_store import VolumeStore

if TYPE_CHECKING:
    import pandas as pd

STORES = "stores"
_NOT_LABELS = ("volume_id", "patient_key", "mask_id")
_OF_THE_MANIFEST = ("age_years", "sex")  # labels that every ingest knows
_COLUMNS = ("volume_id", "patient_key", "split", "pixel_hash")
_PARTS = ("train", "val", "test")


class Stores:
    """The data prepared by every recipe that an init asks for: a STORE as it is, or a DATA folder prepared into the study.

    alone: whether no other process may be preparing the same now.
    """

    def __init__(self, data: Path, study: Path, progress: Progress, alone: bool = True) -> None:
        self.data, self.study, self.progress, self.alone = data, study, progress, alone
        self.card = read_card(data, "store", "data")
        self._opened: dict[str, VolumeStore] = {}

    @property
    def own_recipe(self) -> Recipe | None:
        """The recipe of a STORE; None for a DATA folder."""
        return VolumeStore(self.data).recipe if self.card["kind"] == "store" else None

    def open(self, recipe: Recipe, who: str) -> VolumeStore:
        """The store of a recipe. Raises UserError where `data` is a store of another one."""
        name = recipe_hash(recipe)
        if name not in self._opened:
            self._opened[name] = self._make(recipe, name, who)
        return self._opened[name]

    def _make(self, recipe: Recipe, name: str, who: str) -> VolumeStore:
        if self.card["kind"] == "store":
            store = VolumeStore(self.data)
            if recipe_hash(store.recipe) != name:
                raise UserError(
                    f"data: {self.data} was prepared with recipe '{store.recipe.name}', not as init '{who}' was trained ('{recipe.name}'); "
                    "give the DATA folder, the study then prepares it for each init"
                )
            return store
        folder = self.study / STORES / name[:12]
        if not self.alone and not (folder / CARD).is_file():
            raise UserError(
                f"data: {self.data} must be prepared by one process before many begin: run the same line once with draws=1 and without "
                "--task (it tries the learning rates, too)"
            )
        prepare(self.data, folder, recipe, progress=self.progress)
        return VolumeStore(folder)


@dataclass(frozen=True)
class StudyCases:
    """The labelled cases that every store holds, in one order. volume: ids; classes: words for the class numbers, or the names
    of the findings; target: what is learned (nothing of single numbers for masks and reports); near_hash: perceptual
    hashes, empty where there is none.
    """

    volume: np.ndarray
    cases: Cases
    classes: tuple[str, ...]
    target: Target
    pixel_hash: np.ndarray
    near_hash: np.ndarray

    def __len__(self) -> int:
        return len(self.volume)

    def rows_of(self, store: VolumeStore) -> np.ndarray:
        """The row of every case in a store's index."""
        row_of = {volume: row for row, volume in enumerate(store.index["volume_id"])}
        return np.array([row_of[volume] for volume in self.volume], dtype=np.int64)


@dataclass(frozen=True)
class Draws:
    """The split, and the labelled training cases of each fraction and draw."""

    splits: Splits
    rows: Mapping[tuple[float, int], np.ndarray]
    fractions: tuple[float, ...]
    refused: tuple[Refusal, ...]

    @property
    def train(self) -> np.ndarray:
        """Cases that labels are drawn from."""
        return self.splits.rows("train")

    @property
    def val(self) -> np.ndarray:
        """Cases that choose."""
        return self.splits.rows("val")

    @property
    def test(self) -> np.ndarray:
        """Cases that are scored."""
        return self.splits.rows("test")


def study_cases(stores: Sequence[VolumeStore], task: Any) -> StudyCases:
    """The cases of a task that every one of the stores holds.

    Those with a label (multi-label: with any of them), a mask for segmentation, a report for retrieval.
    """
    words = [_words_of_rows(store, task) for store in stores]
    shared = set.intersection(*({volume for volume, said in own.items() if any(said)} for own in words))
    index = stores[0].index
    rows = [row for row, volume in enumerate(index["volume_id"]) if volume in shared]
    if not rows:
        raise DataError(_nothing(task))
    volume, patient, official, pixels = (np.array([str(index[name].iat[row]) for row in rows]) for name in _COLUMNS)
    near = np.array([str(index["near_hash"].iat[row]) if "near_hash" in index else "" for row in rows])
    target = _target_of(task, [words[0][name] for name in volume])
    groups, group_words = target.groups()
    alike = index["near_duplicate_group"].to_numpy()[rows] if "near_duplicate_group" in index else np.zeros(len(rows))
    people = _people(patient, pixels, {place: int(group) for place, group in enumerate(alike) if group > 0})
    cases = Cases(patient, target.label, np.where(np.isin(official, _PARTS), official, ""), groups, group_words, people)
    return StudyCases(volume, cases, getattr(target, "names", ()), target, pixels, near)


def _people(patient: np.ndarray, pixels: np.ndarray, near: Mapping[int, int]) -> np.ndarray:
    """The first key of all who share a picture or nearly so, for each case: the same in whatever order the cases come."""
    group, first = together(patient.tolist(), pixels.tolist(), near), {}
    for own, name in zip(group, patient.tolist(), strict=True):
        first[own] = min(first.get(own, name), name)
    return np.array([first[own] for own in group])


def _target_of(task: Any, said: list[tuple[str, ...]]) -> Target:
    """said: for every case the words of its labels, "" where one is unknown."""
    if isinstance(task, MultilabelTask):
        label = np.array([[_presence(name, word) for name, word in zip(task.labels, own, strict=True)] for own in said], dtype=np.float32)
        return Findings(label, task.labels)
    if isinstance(task, RegressionTask):
        return Quantity(np.array([_number(task.label, own[0]) for own in said], dtype=np.float32))
    words = [own[0] for own in said]
    classes: tuple[str, ...] = tuple(sorted(set(words), key=_as_number_first))
    if isinstance(task, ClassificationTask) and len(classes) < 2:
        raise DataError(f"task.label '{task.label}': every labelled case is '{words[0]}'; two classes are needed")
    code = {word: number for number, word in enumerate(classes)}
    return Classes(np.array([code[word] for word in words]), classes)


def _presence(label: str, word: str) -> float:
    known = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0, "": np.nan}
    if word.lower() not in known:
        raise UserError(f"task.labels '{label}': the value '{word}' says neither present nor absent; take 1, 0, or an empty cell (unknown)")
    return known[word.lower()]


def _number(label: str, word: str) -> float:
    value = _as_number_first(word)[0]
    if not np.isfinite(value):
        raise UserError(f"task.label '{label}': the value '{word}' is no number; leave the cell empty where it is unknown")
    return value


def draw(cases: StudyCases, config: StudyConfig) -> Draws:
    """Split, and draw every fraction. Raises DataError where no score of the test part is defined, or every fraction is refused."""
    splits = split_cases(cases.cases, config.split)
    lack = cases.target.lacks(splits.rows("test"))
    if lack:
        raise DataError(
            f"the test part ({len(splits.rows('test'))} cases) lacks {lack}; without it scores are not defined: label more test "
            "cases, or split otherwise (split.source, split.seed, split.test)"
        )
    train = splits.rows("train")
    groups, words = cases.target.groups(train)
    of_train = replace(cases.cases, groups=groups, words=words)
    too_small = tuple(refused(of_train, train, config.fractions, config.draws, config.seed))
    fractions = tuple(fraction for fraction in config.fractions if fraction not in {refusal.fraction for refusal in too_small})
    if not fractions:
        last = too_small[-1]
        raise DataError(
            f"every fraction is refused: {last.fraction:g} of the training patients is {last.num_patients}, with {last.reason}; "
            f"{last.needed_patients} are needed: label more patients, or ask for larger fractions"
        )
    rows = {
        (fraction, number): labelled_rows(of_train, train, fraction, number, config.seed)
        for fraction in fractions
        for number in range(config.draws)
    }
    return Draws(splits, rows, fractions, too_small)


def write_draws(folder: Path, cases: StudyCases, draws: Draws) -> str:
    """Write `splits.csv` (every case's part) and `draws.csv` (labelled patients); both hold keyed hashes. Returns their hash."""
    lines = [
        f"{volume},{patient},{part}" for volume, patient, part in zip(cases.volume, cases.cases.patient, draws.splits.name, strict=True)
    ]
    write_text(folder / "splits.csv", "\n".join(["volume_id,patient_key,split", *lines]) + "\n")
    drawn = [
        f"{fraction:g},{number},{patient}"
        for (fraction, number), rows in draws.rows.items()
        if fraction < 1
        for patient in sorted(set(cases.cases.patient[rows]))
    ]
    write_text(folder / "draws.csv", "\n".join(["fraction,draw,patient_key", *drawn]) + "\n")
    return hash_of_array(np.array([*lines, *drawn]))


def hash_of_store(store: VolumeStore) -> str:
    """The hash by which fits and caches name a store."""
    return hash_of_folder(store.folder)


def duplicates_across_parts(cases: StudyCases, splits: Splits) -> int:
    """Test cases whose pixels also are a training or validation case's."""
    test = splits.name == "test"
    return int(np.isin(cases.pixel_hash[test], cases.pixel_hash[~test]).sum())


def _words_of_rows(store: VolumeStore, task: Any) -> dict[str, tuple[str, ...]]:
    """volume_id -> the values of the task's labels as text, all "" where the case does not belong to the task."""
    volumes = [str(volume) for volume in store.index["volume_id"]]
    labels = task.labels if isinstance(task, MultilabelTask) else (task.label,) if hasattr(task, "label") else ()
    if labels:
        columns = [label_words(store.index, store.labels, label) for label in labels]
        return dict(zip(volumes, zip(*columns, strict=True), strict=True))
    if task.name == "segmentation":
        return {volume: ("outlined",) if store.has_mask(row) else ("",) for row, volume in enumerate(volumes)}
    texts = [""] * len(volumes) if store.reports is None else report_of_rows(store.index, store.reports)
    return {volume: ("paired",) if sentences(text) else ("",) for volume, text in zip(volumes, texts, strict=True)}


def label_words(index: pd.DataFrame, labels: pd.DataFrame | None, label: str) -> list[str]:
    """The label of every row of a store's index as text, "" where there is none. Whole numbers are written without a point.

    A column of the labels, or one that every manifest has: age_years, sex.
    """
    if labels is None or label not in labels.columns:
        if label in _OF_THE_MANIFEST and label in index.columns:
            return [_word(value) for value in index[label]]
        known = [] if labels is None else [str(name) for name in labels.columns if name not in _NOT_LABELS]
        raise UserError(f"task.label '{label}': the data have no such label; they have: {', '.join(known) or 'none'}")
    key = "volume_id" if "volume_id" in labels.columns else "patient_key"
    found = {name: _word(value) for name, value in zip(labels[key], labels[label], strict=True)}
    return [found.get(name, "") for name in index[key]]


def _word(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.15g}"
    return str(int(value)) if isinstance(value, int | float) else str(value).strip()


def _as_number_first(word: str) -> tuple[float, str]:
    try:
        return float(word), word
    except ValueError:
        return float("inf"), word


def _nothing(task: Any) -> str:
    wanted = {"segmentation": "mask", "retrieval": "report"}.get(task.name, "label")
    way_out = {"mask": "masks beside the images", "report": "--reports CSV", "label": "--labels CSV"}[wanted]
    return f"no case of the data has a {wanted} for this task; ingest again with {way_out}"
