"""Draws are nested, stratified, by patient, and the same for whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcl.evaluation.label_fraction import Cases, SplitConfig, labelled_rows, refused, split_cases
from medcl.foundation.errors import DataError


def _cases(num_patients: int = 200, share: float = 0.3, official: str = "", seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    per_patient = rng.integers(1, 4, num_patients)
    patient = np.repeat([f"p{number:04d}" for number in range(num_patients)], per_patient)
    label = np.repeat((rng.random(num_patients) < share).astype(int), per_patient)
    return Cases(patient, label, np.full(len(patient), official))


def test_fractions_are_nested_and_by_patient() -> None:
    cases = _cases()
    train = np.arange(len(cases))[: len(cases) * 3 // 4]
    for draw in range(5):
        smaller: set[int] = set()
        for fraction in (0.02, 0.05, 0.1, 0.37, 0.5, 1.0):
            rows = set(labelled_rows(cases, train, fraction, draw, seed=3).tolist())
            assert smaller <= rows
            inside = set(cases.patient[sorted(rows)])
            assert rows == {row for row in train.tolist() if cases.patient[row] in inside}, "a patient is in whole or not at all"
            smaller = rows
        assert smaller == set(train.tolist())


def test_draws_differ_and_are_pure() -> None:
    cases = _cases()
    train = np.arange(len(cases))
    first, again = (labelled_rows(cases, train, 0.1, 0, seed=3) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, labelled_rows(cases, train, 0.1, 1, seed=3))
    assert not np.array_equal(first, labelled_rows(cases, train, 0.1, 0, seed=4))


def test_order_of_the_table_does_not_matter() -> None:
    cases = _cases()
    order = np.random.default_rng(1).permutation(len(cases))
    shuffled = Cases(cases.patient[order], cases.label[order], cases.official[order])
    train = np.arange(len(cases))
    one = set(cases.patient[labelled_rows(cases, train, 0.1, 2, seed=0)])
    two = set(shuffled.patient[labelled_rows(shuffled, train, 0.1, 2, seed=0)])
    assert one == two


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_classes_keep_their_share(fraction: float) -> None:
    cases = _cases(400)
    train = np.arange(len(cases))
    of_patient = dict(zip(cases.patient, cases.label, strict=True))
    positives = sum(of_patient.values())
    for draw in range(4):
        chosen = set(cases.patient[labelled_rows(cases, train, fraction, draw, seed=0)])
        assert len(chosen) == round(fraction * 400)
        assert abs(sum(of_patient[patient] for patient in chosen) - fraction * positives) <= 1


def test_too_small_a_fraction_is_refused_with_the_number_it_needs() -> None:
    cases = _cases(100, share=0.1)
    train = np.arange(len(cases))
    found = refused(cases, train, [0.01, 0.05, 0.5, 1.0], draws=3, seed=0)
    assert [refusal.fraction for refusal in found] == [0.01, 0.05]
    needed = found[0].needed_patients
    assert not refused(cases, train, [needed / 100], 3, 0)
    assert refused(cases, train, [(needed - 1) / 100], 3, 0)
    assert "class 1" in found[0].reason


def test_class_of_one_patient_is_always_refused() -> None:
    cases = Cases(np.array([f"p{n}" for n in range(10)]), np.array([1] + [0] * 9), np.full(10, ""))
    found = refused(cases, np.arange(10), [0.5, 1.0], draws=2, seed=0)
    assert [refusal.fraction for refusal in found] == [0.5, 1.0]
    assert found[0].needed_patients == 11


def test_patient_with_two_labels_counts_for_the_rarer() -> None:
    patient = np.array([f"p{n}" for n in range(20) for _ in (0, 1)])
    label = np.array([int(n < 4 and scan) for n in range(20) for scan in (0, 1)])
    cases = Cases(patient, label, np.full(40, ""))
    chosen = set(patient[labelled_rows(cases, np.arange(40), 0.5, 0, 0)])
    assert len(chosen & {"p0", "p1", "p2", "p3"}) == 2


def test_split_by_seed_cuts_no_patient_and_keeps_shares() -> None:
    cases = _cases(300)
    splits = split_cases(cases, SplitConfig())
    for part, share in (("val", 0.15), ("test", 0.25), ("train", 0.6)):
        rows = splits.rows(part)
        assert len(set(cases.patient[rows])) == pytest.approx(share * 300, abs=1)
        assert cases.label[rows].mean() == pytest.approx(cases.label.mean(), abs=0.06)
    assert not set(cases.patient[splits.rows("train")]) & set(cases.patient[splits.rows("test")])
    assert not np.array_equal(splits.name, split_cases(cases, SplitConfig(seed=1)).name)


def test_split_by_seed_does_not_cut_people_with_two_names() -> None:
    """Ingest keeps patients with equal pixels in one part; so does a study that splits again."""
    cases = _cases(300)
    twin = {f"p{number:04d}": f"p{number + 1:04d}" for number in range(0, 60, 2)}
    plain = split_cases(cases, SplitConfig())
    cut = replace(cases, people=np.array([twin.get(patient, patient) for patient in cases.patient.tolist()]))
    parts = {patient: part for patient, part in zip(cut.patient.tolist(), split_cases(cut, SplitConfig()).name.tolist(), strict=True)}
    names = set(cases.patient.tolist())
    pairs = [(one, other) for one, other in twin.items() if {one, other} <= names]
    assert len(pairs) == 30 and all(parts[one] == parts[other] for one, other in pairs)
    assert np.array_equal(split_cases(replace(cases, people=cases.patient), SplitConfig()).name, plain.name), "nobody else is moved"


def test_official_parts_are_kept() -> None:
    official = np.array(["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    cases = Cases(np.array([f"p{n}" for n in range(100)]), np.arange(100) % 2, official)
    assert np.array_equal(split_cases(cases, SplitConfig()).name, official)
    assert not np.array_equal(split_cases(cases, SplitConfig(source="seed")).name, official)


def test_official_validation_becomes_the_test_set_where_none_is_named() -> None:
    official = np.array(["train"] * 80 + ["val"] * 20)
    cases = Cases(np.array([f"p{n}" for n in range(100)]), np.arange(100) % 2, official)
    splits = split_cases(cases, SplitConfig())
    assert np.array_equal(splits.rows("test"), np.arange(80, 100))
    assert len(splits.rows("val")) == 12
    assert "test set here" in splits.origin


def test_patient_in_two_parts_fails() -> None:
    official = np.array(["train", "train", "val", "test", "test"])
    cases = Cases(np.array(["a", "b", "c", "d", "a"]), np.array([0, 1, 0, 1, 0]), official)
    with pytest.raises(DataError, match=r"a \(test and train\)"):
        split_cases(cases, SplitConfig())


def test_too_few_patients_to_split() -> None:
    cases = Cases(np.array(["a", "b"]), np.array([0, 1]), np.full(2, ""))
    with pytest.raises(DataError, match="too few to split"):
        split_cases(cases, SplitConfig())


def test_part_that_the_official_split_leaves_empty_is_no_want_of_patients() -> None:
    cases = Cases(np.array([f"p{n}" for n in range(80)]), np.arange(80) % 2, np.full(80, "test"))
    with pytest.raises(DataError, match=r"train part is empty: the split is the data's own .* split.source: seed"):
        split_cases(cases, SplitConfig())
