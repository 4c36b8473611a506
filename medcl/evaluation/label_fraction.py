"""Which patients train, validate and test, and which few of the training patients are labelled in each draw.

Both are pure functions of a seed: patients are put in one order per draw, and a fraction is a prefix of that order.
So the 1% is inside the 5% by construction, and every initialisation gets the same patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medcl.foundation.config import Settings
from medcl.foundation.errors import DataError
from medcl.foundation.randomness import generator

LEAST_PER_CLASS = 2


class SplitConfig(Settings):
    """Where train, validation and test come from.

    source: `official` keeps the data's own `split` column where it has one; `seed` always splits by patient.
    val, test: share of the patients, where a part has to be made. seed: another number, another split of the same data.
    """

    source: Literal["official", "seed"] = "official"
    val: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.25, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test is {self.val + self.test:g}, which leaves no patient to train on")
        return self


@dataclass(frozen=True)
class Cases:
    """One row per case of a task.

    patient: keys. label: class numbers 0.. (all 0 for masks); or, where `groups` are given, whatever the task says of a case.
    official: '' or a split's name. groups: (cases, groups) bool, what every draw is stratified by and must hold two patients
    of each; by default one for each class. words: what a refusal calls them. people: as `patient`, one key for patients who share a
    picture, or nearly: one person under two names, for all that anyone can tell.
    """

    patient: np.ndarray
    label: np.ndarray
    official: np.ndarray
    groups: np.ndarray | None = None
    words: tuple[str, ...] = ()
    people: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def membership(self) -> np.ndarray:
        """(cases, groups) bool."""
        return self.groups if self.groups is not None else np.eye(int(self.label.max()) + 1, dtype=bool)[self.label]

    def word(self, group: int) -> str:
        """What a refusal calls a group."""
        return self.words[group] if self.words else f"class {group}"


@dataclass(frozen=True)
class Splits:
    """name: `train`, `val` or `test` of every case. origin: one sentence for the page."""

    name: np.ndarray
    origin: str

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of one part."""
        return np.flatnonzero(self.name == part)


@dataclass(frozen=True)
class Refusal:
    """A fraction that cannot be drawn: what it holds and how much it would need."""

    fraction: float
    num_patients: int
    needed_patients: int
    needed_fraction: float
    reason: str


def split_cases(cases: Cases, config: SplitConfig) -> Splits:
    """Give every case a part, never cutting a patient in two.

    Official parts are kept. Where the data name a validation but no test part, theirs becomes the test set; a missing
    validation part is taken from the training patients. What is made here does not cut `people` either. Raises DataError (exit 3)
    where a patient is in two official parts or a part ends up empty.
    """
    people = cases if cases.people is None else replace(cases, patient=cases.people)
    official = cases.official.astype(str)
    has = {part for part in ("train", "val", "test") if (official == part).any()}
    if config.source == "seed" or not has - {"train"}:
        parts = _by_seed(people, config)
        origin = f"by patient with seed {config.seed}: validation {config.val:.0%}, test {config.test:.0%} of the patients"
    else:
        parts, origin = _keep_official(people, has, config)
    _refuse_cut_patients(cases, parts)
    for part in ("train", "val", "test"):
        if not (parts == part).any():
            raise DataError(f"the {part} part is empty: {_why_empty(cases, origin)}")
    return Splits(parts, origin)


def _why_empty(cases: Cases, origin: str) -> str:
    if origin.startswith("by patient"):
        return f"{len(np.unique(cases.patient))} labelled patients are too few to split; label more scans"
    return f"the split is {origin}, and none of the labelled cases is left for it; set split.source: seed, or correct the split column"


def _by_seed(cases: Cases, config: SplitConfig) -> np.ndarray:
    order = _stratified_order(cases, np.arange(len(cases)), config.seed, "split", 0)
    num_test, num_val = round(config.test * len(order)), round(config.val * len(order))
    part_of = dict.fromkeys(order, "train")
    part_of.update(dict.fromkeys(order[num_test : num_test + num_val], "val"))
    part_of.update(dict.fromkeys(order[:num_test], "test"))
    return np.array([part_of[patient] for patient in cases.patient])


def _keep_official(cases: Cases, has: set[str], config: SplitConfig) -> tuple[np.ndarray, str]:
    parts = np.where(np.isin(cases.official.astype(str), list(has)), cases.official.astype(str), "train")
    origin = "the data's own train, validation and test parts"
    if "test" not in has:
        parts = np.where(parts == "val", "test", parts)
        origin = "the data name no test part: their validation part is the test set here"
    if not (parts == "val").any():
        rows = np.flatnonzero(parts == "train")
        order = _stratified_order(cases, rows, config.seed, "split", 0)
        chosen = set(order[: max(1, round(config.val * len(order)))])
        parts = np.where((parts == "train") & np.isin(cases.patient, list(chosen)), "val", parts)
        origin += f", and validation is {config.val:.0%} of their training patients (seed {config.seed})"
    return parts, origin


def _refuse_cut_patients(cases: Cases, parts: np.ndarray) -> None:
    seen: dict[str, set[str]] = {}
    for patient, part in zip(cases.patient, parts, strict=True):
        seen.setdefault(patient, set()).add(part)
    cut = sorted(patient for patient, found in seen.items() if len(found) > 1)
    if cut:
        shown = ", ".join(f"{patient} ({' and '.join(sorted(seen[patient]))})" for patient in cut[:5])
        raise DataError(f"{len(cut)} patients are in two parts of the split: {shown}; correct the split column, or set split.source: seed")


def labelled_rows(cases: Cases, train: np.ndarray, fraction: float, draw: int, seed: int) -> np.ndarray:
    """Rows of the training cases that are labelled at this fraction in this draw; a pure function of its arguments.

    train: rows of the training part. Nested: the rows of a smaller fraction are among those of a larger one.
    """
    order = _stratified_order(cases, train, seed, "label_fraction", draw)
    chosen = set(order[: num_labelled(len(order), fraction)])
    return train[np.array([patient in chosen for patient in cases.patient[train]], dtype=bool)]


def num_labelled(num_patients: int, fraction: float) -> int:
    """How many patients a fraction is."""
    return max(1, int(fraction * num_patients + 0.5))


def refused(cases: Cases, train: np.ndarray, fractions: Sequence[float], draws: int, seed: int) -> list[Refusal]:
    """The fractions that hold fewer than two patients of some group in some draw, with the number they would need."""
    orders = [_stratified_order(cases, train, seed, "label_fraction", draw) for draw in range(draws)]
    needed, rarest = max(_needed(cases, train, order) for order in orders)
    total = len(orders[0])
    found = []
    for fraction in fractions:
        count = num_labelled(total, fraction)
        if count < needed:
            reason = f"fewer than {LEAST_PER_CLASS} patients of {rarest}" if rarest else f"fewer than {LEAST_PER_CLASS} patients"
            found.append(Refusal(fraction, count, min(needed, total + 1), needed / total, reason))
    return found


def _needed(cases: Cases, train: np.ndarray, order: list[str]) -> tuple[int, str]:
    """Shortest prefix of the order with enough patients of every group, and the group that decided ('' where only one)."""
    position = {patient: place for place, patient in enumerate(order, start=1)}
    membership = cases.membership
    answer = (0, "")
    for group, members in enumerate(membership[train].T):
        places = sorted({position[patient] for patient in cases.patient[train][members]})
        needed = places[LEAST_PER_CLASS - 1] if len(places) >= LEAST_PER_CLASS else len(order) + 1
        answer = max(answer, (needed, cases.word(group) if membership.shape[1] > 1 else ""))
    return answer


def _stratified_order(cases: Cases, rows: np.ndarray, seed: int, purpose: str, draw: int) -> list[str]:
    """All patients of the rows in an order of which every prefix is stratified by label.

    A patient belongs to the rarest group among the own cases. Within a group the order is random, and the k-th of n
    patients stands at (k + 1/2) / n: prefixes then share out the groups as Webster's (Sainte-Laguë's) rule does,
    which never takes a seat back when the house grows, hence nested.
    """
    strata = _rarest_group(cases, rows)
    placed: list[tuple[float, int, str]] = []
    for stratum in sorted(set(strata.values())):
        members = sorted(patient for patient, own in strata.items() if own == stratum)
        shuffled = generator(seed, purpose, draw, stratum).permutation(len(members))
        placed += [((place + 0.5) / len(members), stratum, members[member]) for place, member in enumerate(shuffled)]
    return [patient for _, _, patient in sorted(placed)]


def _rarest_group(cases: Cases, rows: np.ndarray) -> dict[str, int]:
    membership = cases.membership[rows]
    rarest_first = np.argsort(membership.sum(0), kind="stable")
    place = np.argmax(membership[:, rarest_first], axis=1)
    best: dict[str, int] = {}
    for patient, found in zip(cases.patient[rows].tolist(), place.tolist(), strict=True):
        best[patient] = min(best.get(patient, found), found)
    return {patient: int(rarest_first[found]) for patient, found in best.items()}
