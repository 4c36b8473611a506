"""Intervals cover, tests keep their level, the curve is inverted where it should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from medcl.evaluation import statistics
from medcl.evaluation.scores import Measured, Predictions
from medcl.evaluation.statistics import Estimate


def _study(rng: np.random.Generator, draws: int, patient_sd: float, draw_sd: float, effect: float = 0.0, own_sd: float = 0.1):
    """Two arms, `draws` fits each, 60 patients with two cases each; the truth is 0 and `effect`."""
    patient = np.repeat(np.arange(60), 2)
    of_patient, of_draw = rng.normal(0, patient_sd, (2, 60)), rng.normal(0, draw_sd, (2, draws))
    arms = [
        [of_patient[arm][patient] + of_draw[arm][draw] + rng.normal(0, own_sd, 120) + effect * arm for draw in range(draws)]
        for arm in (0, 1)
    ]
    return patient, [[Measured(("dice",), values[:, None]) for values in arm] for arm in arms]


def _estimate(outcomes: list[Measured], resamples: statistics.Resamples) -> Estimate:
    values = np.array([statistics.score_once(outcome, 120)["dice"] for outcome in outcomes])
    over_patients = np.stack([statistics.score(outcome, resamples.patients)["dice"] for outcome in outcomes])
    return statistics.estimate(values, over_patients, resamples)


@pytest.mark.parametrize("patient_sd, draw_sd, own_sd", [(1.0, 0.0, 0.1), (0.2, 0.3, 0.1), (1.0, 0.15, 0.1), (0.1, 0.0, 1.0)])
def test_intervals_cover_and_the_test_keeps_its_level(patient_sd: float, draw_sd: float, own_sd: float) -> None:
    """400 null studies: 95% intervals of the difference cover zero, p < 0.05 in about 5%; own_sd: what each fit errs by itself."""
    covered, rejected = [], []
    for number in range(400):
        patient, (one, other) = _study(np.random.default_rng(number), 5, patient_sd, draw_sd, own_sd=own_sd)
        resamples = statistics.resample_patients(patient, 300, number)
        low, high = statistics.difference(_estimate(one, resamples), _estimate(other, resamples)).interval()
        covered.append(low <= 0 <= high)
        rejected.append(statistics.permutation_p(one, other, patient, 300, number)["dice"] < 0.05)
    assert 0.925 <= np.mean(covered) <= 0.98
    assert 0.02 <= np.mean(rejected) <= 0.075


def test_case_level_bootstrap_would_be_too_narrow() -> None:
    """The warning: cases of one patient are not independent."""
    widths = []
    patient, (one, _) = _study(np.random.default_rng(0), 1, 1.0, 0.0)
    for key in (patient, np.arange(120)):
        low, high = _estimate(one, statistics.resample_patients(key, 500, 0)).interval()
        widths.append(high - low)
    assert widths[1] < 0.8 * widths[0]


def test_planted_effect_is_found() -> None:
    patient, (one, other) = _study(np.random.default_rng(0), 5, 0.3, 0.02, effect=0.3)
    resamples = statistics.resample_patients(patient, 300, 0)
    found = statistics.difference(_estimate(other, resamples), _estimate(one, resamples))
    assert found.interval()[0] > 0
    assert statistics.permutation_p(other, one, patient, 300, 0)["dice"] < 0.02


def test_what_each_draw_errs_alone_is_counted_once() -> None:
    """The covariance between draws decides: none of it, all of it, or the share by formula."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=20_000), rng.normal(size=(5, 20_000))
    assert statistics._shared(np.tile(common, (5, 1))) == pytest.approx(1.0)
    assert statistics._shared(own) < 0.2
    assert statistics._shared(common + own) == pytest.approx(np.sqrt(1 / (1 + 1 / 5)), abs=0.01)
    assert statistics._shared(own[:1]) == 1.0, "with one draw nothing else holds it"


def test_patients_are_resampled_whole() -> None:
    patient = np.array(["b", "a", "b", "c"])
    resamples = statistics.resample_patients(patient, 200, 5)
    assert np.array_equal(resamples.patients[:, 0], resamples.patients[:, 2])
    assert resamples.patients[:, [0, 1, 3]].sum(1).tolist() == [3] * 200
    again = statistics.resample_patients(patient, 200, 5)
    assert np.array_equal(resamples.patients, again.patients)


def test_bootstrap_interval_equals_scipy_where_there_is_one_draw() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=200)
    resamples = statistics.resample_patients(np.arange(200), 4000, 0)
    over_patients = statistics.score(Measured(("dice",), values[:, None]), resamples.patients)["dice"][None]
    low, high = statistics.estimate(np.array([values.mean()]), over_patients, resamples).interval()
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_draws_alone_give_students_interval() -> None:
    values = np.array([0.70, 0.74, 0.71, 0.78, 0.72])
    resamples = statistics.resample_patients(np.arange(3), 40_000, 1)
    low, high = statistics.estimate(values, np.repeat(values[:, None], 40_000, axis=1), resamples).interval()
    theirs = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(theirs, abs=0.008)


def test_permutation_of_one_draw_equals_scipy() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.normal(0.25, 1, 40), rng.normal(0, 1, 40)
    ours = statistics.permutation_p([Measured(("m",), one[:, None])], [Measured(("m",), other[:, None])], np.arange(40), 8000, 0)["m"]
    theirs = stats.permutation_test((one, other), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=8000, rng=0).pvalue
    assert ours == pytest.approx(theirs, abs=0.02)


def test_equal_predictions_are_no_difference() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 80)
    p = rng.random(80)
    predictions = [Predictions(np.stack([1 - p, p], 1), label, np.array([0.5, 0.5]))] * 3
    values = statistics.permutation_p(list(predictions), list(predictions), np.arange(80), 100, 0)
    assert set(values.values()) == {1.0}


def test_auroc_permutation_finds_the_better_model() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 120)
    outcomes = []
    for strength in (2.5, 0.0):
        p = 1 / (1 + np.exp(-(rng.normal(size=120) + strength * (label - 0.5))))
        outcomes.append([Predictions(np.stack([1 - p, p], 1), label, np.array([0.5, 0.5]))])
    assert statistics.permutation_p(*outcomes, np.arange(120), 400, 0)["auroc"] < 0.01


def test_holm_as_published() -> None:
    """Wikipedia's worked example of Holm-Bonferroni, and NaN left out of the count."""
    corrected = statistics.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))
    assert corrected[[0, 2, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(corrected[1])
    assert len(statistics.holm(np.array([]))) == 0


def _flat(value: float, replicates: np.ndarray | None = None) -> Estimate:
    return Estimate(np.array([value]), np.full(100, value) if replicates is None else replicates)


def test_saving_is_read_off_the_line_between_two_points() -> None:
    fractions = np.array([0.01, 0.1, 1.0])
    curve = [_flat(0.6), _flat(0.8), _flat(0.9)]
    saving = statistics.label_saving(fractions, curve, _flat(0.7))
    assert saving.fraction == pytest.approx(10**-1.5)
    assert (saving.low, saving.high) == pytest.approx((10**-1.5, 10**-1.5))
    assert statistics.label_saving(fractions, curve, _flat(0.91)).fraction is None
    at_once = statistics.label_saving(fractions, curve, _flat(0.5))
    assert at_once.fraction == 0.01 and at_once.at_most


def test_saving_where_lower_is_better() -> None:
    saving = statistics.label_saving(np.array([0.1, 1.0]), [_flat(6.0), _flat(2.0)], _flat(4.0), higher_is_better=False)
    assert saving.fraction == pytest.approx(10**-0.5)


def test_saving_interval_says_when_some_replicates_never_reach() -> None:
    replicates = np.linspace(0.5, 0.9, 100)
    saving = statistics.label_saving(np.array([0.1, 1.0]), [_flat(0.4), _flat(0.8)], _flat(0.7, replicates))
    assert saving.fraction is not None
    assert saving.high == np.inf


def test_a_lucky_bump_is_not_a_saving() -> None:
    curve = [_flat(0.85), _flat(0.6), _flat(0.7)]
    assert statistics.label_saving(np.array([0.01, 0.1, 1.0]), curve, _flat(0.8)).fraction is None


def test_isotonic_fit_equals_scikit_learn() -> None:
    curves = np.random.default_rng(0).normal(size=(6, 20))
    for column in range(20):
        theirs = IsotonicRegression().fit_transform(np.arange(6), curves[:, column])
        assert statistics._isotonic(curves)[:, column] == pytest.approx(theirs)
