"""Findings with gaps and quantities: draws, scores against scikit-learn and scipy, losses by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from medcl.evaluation.classes import Classes
from medcl.evaluation.findings import FindingPredictions, Findings
from medcl.evaluation.label_fraction import Cases, labelled_rows, refused
from medcl.evaluation.quantity import Quantity, ValuePredictions
from medcl.evaluation.scores import bounds
from medcl.evaluation.statistics import permutation_p
from medcl.evaluation.targets import Target

NAMES = ("common", "rare")


def _findings(cases: int = 300, seed: int = 0) -> Findings:
    rng = np.random.default_rng(seed)
    label = (rng.random((cases, 2)) < (0.4, 0.08)).astype(np.float32)
    label[rng.random((cases, 2)) < 0.2] = np.nan
    label[np.isnan(label).all(1)] = 0
    return Findings(label, NAMES)


def _cases(target: Target) -> Cases:
    count = len(target.label)
    return Cases(np.array([f"p{number // 2:04d}" for number in range(count)]), target.label, np.full(count, ""), *target.groups())


@pytest.mark.parametrize("target", [_findings(), Quantity(np.random.default_rng(1).gamma(2, size=300).astype(np.float32))])
def test_draws_are_nested_by_patient_and_stratified(target: Target) -> None:
    cases, train = _cases(target), np.arange(300)
    groups, _ = target.groups()
    assert groups is not None
    for draw in range(4):
        smaller: set[int] = set()
        for fraction in (0.1, 0.2, 0.5, 1.0):
            rows = labelled_rows(cases, train, fraction, draw, seed=0)
            assert smaller <= set(rows.tolist())
            assert set(cases.patient[rows]).isdisjoint(set(cases.patient[np.setdiff1d(train, rows)]))
            rarest = groups[:, np.argmin(groups.sum(0))]
            patients = len(set(cases.patient[rarest]))
            assert abs(len(set(cases.patient[rows][rarest[rows]])) - fraction * patients) <= 1
            smaller = set(rows.tolist())


def test_a_rare_finding_is_refused_by_name_with_what_it_needs() -> None:
    cases = _cases(_findings())
    (refusal,) = refused(cases, np.arange(300), [0.02, 0.5], draws=3, seed=0)
    assert refusal.fraction == 0.02 and refusal.reason == "fewer than 2 patients of 'rare'"
    assert not refused(cases, np.arange(300), [refusal.needed_patients / 150], 3, 0)
    assert refused(cases, np.arange(300), [(refusal.needed_patients - 1) / 150], 3, 0)


def test_quarters_of_a_quantity_with_one_common_value() -> None:
    groups, words = Quantity(np.array([0.0] * 70 + [1, 2, 3] * 10, dtype=np.float32)).groups()
    assert groups.sum(1).tolist() == [1] * 100
    assert groups.shape[1] == len(words) == len([count for count in groups.sum(0) if count])


def test_quarters_are_of_the_cases_that_are_drawn_from() -> None:
    """The training part of a small cohort may hold one patient of the lowest quarter of all: no study of it was possible."""
    target = Quantity(np.arange(40, dtype=np.float32))
    train = np.arange(9, 40)
    cases = Cases(np.array([f"p{number:02d}" for number in range(40)]), target.label, np.full(40, ""))
    of_all, of_train = (replace(cases, groups=groups, words=words) for groups, words in (target.groups(), target.groups(train)))
    assert [refusal.reason for refusal in refused(of_all, train, [1.0], 1, 0)] == ["fewer than 2 patients of the lowest quarter"]
    assert not refused(of_train, train, [0.3, 1.0], 3, 0)
    assert sorted(of_train.membership[train].sum(0).tolist()) == [7, 8, 8, 8]


def _said(target: Findings, seed: int = 3) -> FindingPredictions:
    rng = np.random.default_rng(seed)
    said = np.round(np.clip(0.5 + 0.2 * (np.nan_to_num(target.label) - 0.5) + 0.2 * rng.normal(size=target.label.shape), 0, 1), 1)
    return target.outcome(said, np.arange(300), np.arange(300))


def test_scores_of_findings_equal_scikit_learn() -> None:
    found = _said(_findings())
    weights = np.random.default_rng(1).integers(0, 4, size=(3, 300)).astype(float)
    ours = found.table().scores(weights)
    for row, weight in enumerate(weights):
        each = []
        for column, name in enumerate(NAMES):
            known = found.label[:, column] >= 0
            given = found.label[known, column], found.probabilities[known, column]
            roc = metrics.roc_auc_score(*given, sample_weight=weight[known])
            precision = metrics.average_precision_score(*given, sample_weight=weight[known])
            each.append((roc, precision, metrics.brier_score_loss(*given, sample_weight=weight[known])))
            assert (ours[f"auroc_{name}"][row], ours[f"auprc_{name}"][row]) == pytest.approx((roc, precision))
        assert [ours[name][row] for name in ("auroc", "auprc", "brier")] == pytest.approx(np.mean(each, axis=0))


def test_means_are_over_the_findings_that_are_defined() -> None:
    found = FindingPredictions(
        NAMES, np.array([[0.1, 0.5], [0.9, 0.5], [0.4, 0.5]]), np.array([[0, 0], [1, -1], [1, 0]]), np.array([0.6, 0.3])
    )
    scores = found.table().scores(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]))
    assert scores["auroc"][0] == scores["auroc_common"][0] == 1 and np.isnan(scores["auroc_rare"][0])
    assert np.isnan(scores["auroc"][1]), "no weighted case lacks the common finding"


def test_scores_of_a_quantity_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(50, 12, 200))
    found = ValuePredictions(np.round(truth + rng.normal(0, 9, 200)), truth)
    weights = rng.integers(0, 4, size=(3, 200))
    ours = found.table().scores(weights.astype(float))
    for row, weight in enumerate(weights):
        value, actual = np.repeat(found.value, weight), np.repeat(truth, weight)
        assert ours["r2"][row] == pytest.approx(metrics.r2_score(actual, value))
        assert ours["mae"][row] == pytest.approx(metrics.mean_absolute_error(actual, value))
        assert ours["rmse"][row] == pytest.approx(metrics.root_mean_squared_error(actual, value))
        assert ours["pearson"][row] == pytest.approx(stats.pearsonr(actual, value)[0])
        assert ours["spearman"][row] == pytest.approx(stats.spearmanr(actual, value)[0])


def test_scores_and_loss_of_a_quantity_do_not_depend_on_its_unit() -> None:
    """In m2/s a diffusion coefficient is 1e-9: R2 was undefined there, and a fine-tune learned nothing."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=60)
    value, weights = truth + 0.5 * rng.normal(size=60), rng.integers(0, 3, (2, 60)).astype(float)
    plain = ValuePredictions(value, truth).scores(weights)
    for unit in (1e-12, 1e6):
        other = ValuePredictions(value * unit, truth * unit).scores(weights)
        for name, expected in plain.items():
            assert other[name] == pytest.approx(expected * (unit if name in ("mae", "rmse") else 1), rel=1e-9), name
    rows = np.arange(60)
    outputs = torch.zeros(60, 1)
    for unit in (1e-9, 1.0):
        label = (truth * unit).astype(np.float32)
        assert Quantity(label).loss(rows, False)(outputs, torch.tensor(label)) == pytest.approx(1.0, abs=1e-3)
    assert np.isnan(ValuePredictions(value, np.full(60, 0.1)).scores(weights)["r2"]).all()


def test_a_constant_guess_is_worth_nothing() -> None:
    scores = ValuePredictions(np.full(4, 2.5), np.array([1.0, 2, 3, 4])).table().scores(np.ones((1, 4)))
    assert scores["r2"][0] == 0 and np.isnan(scores["spearman"][0])
    assert bounds("r2")[0] == -np.inf and bounds("mae") == (0, np.inf) and bounds("auroc_rare") == (0, 1)


@pytest.mark.parametrize("kind", ["findings", "values"])
def test_a_model_is_found_to_differ_from_a_worse_one_and_not_from_itself(kind: str) -> None:
    target, rng = _findings(), np.random.default_rng(5)
    truth = rng.normal(size=300)
    good = _said(target) if kind == "findings" else ValuePredictions(truth + 0.3 * rng.normal(size=300), truth)
    noise = rng.random((300, 2)) if kind == "findings" else rng.normal(size=300)
    bad = (
        FindingPredictions(NAMES, noise, good.label, good.prior) if isinstance(good, FindingPredictions) else ValuePredictions(noise, truth)
    )
    patient = np.array([f"p{number // 2}" for number in range(300)])
    name = "auroc" if kind == "findings" else "r2"
    assert permutation_p([good], [bad], patient, 300, 0)[name] < 0.02
    assert permutation_p([good], [good], patient, 300, 0)[name] == 1


def test_loss_of_findings_leaves_unknown_ones_out_and_balances() -> None:
    target = Findings(np.array([[1, np.nan], [0, 1], [0, 0], [0, 1]], dtype=np.float32), NAMES)
    rows = np.arange(4)
    assert target.shares(rows) == pytest.approx([0.25, 2 / 3])
    outputs, truth = torch.tensor([[1.0, 5.0], [-1.0, 0.5]]), torch.tensor(target.label[:2])
    plain = (np.log1p(np.exp(-1)) * 2 + np.log1p(np.exp(-0.5))) / 3
    assert target.loss(rows, balanced=False)(outputs, truth).item() == pytest.approx(plain)
    weighed = (np.log1p(np.exp(-1)) * (2 + 2 / 3) + 0.75 * np.log1p(np.exp(-0.5))) / 3
    assert target.loss(rows, balanced=True)(outputs, truth).item() == pytest.approx(weighed)


@pytest.mark.parametrize(
    "target", [Classes(np.array([0, 0, 0, 1]), ("a", "b")), Findings(np.array([[0.0], [0], [0], [1]], dtype=np.float32), ("a",))]
)
def test_a_head_that_learned_nothing_says_how_common_things_are(target: Target) -> None:
    said = target.activate(torch.zeros(2, target.width)).numpy()
    assert target.restored(said, np.arange(4), balanced=True)[0, -1] == pytest.approx(0.25)
    assert target.restored(said, np.arange(4), balanced=False)[0, -1] == pytest.approx(0.5)


def test_quantity_is_learned_in_spreads_and_said_in_its_unit() -> None:
    target = Quantity(np.array([40.0, 60, 80, 20], dtype=np.float32))
    rows = np.array([0, 1])
    assert target.loss(rows, True)(torch.tensor([[0.0], [2.0]]), torch.tensor([50.0, 60.0])).item() == pytest.approx(0.5)
    assert target.restored(np.array([[0.0], [2.0]]), rows, True).ravel().tolist() == [50, 70]


@pytest.mark.parametrize("target", [_findings(), Quantity(np.random.default_rng(1).normal(50, 9, 300).astype(np.float32))])
def test_neighbours_and_probe_see_what_is_plain_to_see(target: Target) -> None:
    rng = np.random.default_rng(0)
    told = np.nan_to_num(target.label, nan=0.5).reshape(300, -1)
    features = np.concatenate([(told - told.mean(0)) / told.std(0), 0.1 * rng.normal(size=(300, 3))], axis=1)
    rows, part = np.arange(200), np.arange(200, 300)
    chance = target.judge(target.vote(np.ones((200, 2)), rows, np.ones((100, 2))), rows, part)[0]
    for said in (target.vote(features[rows], rows, features[part]), list(target.probes(features[rows], rows))[-1][1](features[part])):
        assert said.shape == (100, target.width)
        assert target.judge(said, rows, part)[0] > chance + 0.4


def test_what_a_test_part_lacks_is_named() -> None:
    classes = Classes(np.array([0, 1, 0, 2]), ("a", "b", "rare"))
    assert classes.lacks(np.array([0, 1, 3])) == "" and "'rare'" in classes.lacks(np.array([0, 1, 2]))
    findings = Findings(np.array([[1, np.nan], [1, np.nan], [0, 1]], dtype=np.float32), NAMES)
    assert findings.lacks(np.arange(3)) == "" and "with and cases without" in findings.lacks(np.arange(2))
    quantity = Quantity(np.array([2, 2, 3], dtype=np.float32))
    assert quantity.lacks(np.arange(3)) == "" and "the same" in quantity.lacks(np.arange(2))


def test_cases_are_coloured_by_what_the_task_asks() -> None:
    findings = Findings(np.array([[1, np.nan], [0, 0], [0, np.nan]], dtype=np.float32), ("a", "b"))
    some, first, second = findings.colourings()
    assert some.code.tolist() == [1, 0, -1], "one finding is enough; none is only sure where all are known"
    assert (first.name, first.code.tolist(), second.code.tolist()) == ("a", [1, 0, 0], [-1, 0, -1])
    (quarters,) = Quantity(np.arange(8, dtype=np.float32)).colourings()
    assert quarters.code.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and len(quarters.values) == 4
