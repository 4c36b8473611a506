"""Errors of a quantity: as their formulas say, in all and by quarters, and never the value of a single case in a word."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medcl.evaluation.agreement import MOST_DOTS, dots, errors, look_at_quantity, quarters
from medcl.evaluation.quantity import ValuePredictions
from medcl.evaluation.statistics import resample_patients

TRUTH = np.random.default_rng(0).normal(60, 12, 600)
PATIENT = np.arange(600) // 2
RESAMPLES = resample_patients(PATIENT, 400, 0)


def _fits(bias: float, spread: float) -> list[ValuePredictions]:
    return [ValuePredictions(TRUTH + np.random.default_rng(seed).normal(bias, spread, 600), TRUTH) for seed in range(1, 4)]


def test_errors_are_their_formulas_and_hold_what_was_planted() -> None:
    fits = _fits(2.0, 5.0)
    found = errors(fits, np.ones(600, bool), RESAMPLES)
    gaps = [fit.value - fit.truth for fit in fits]
    assert found["error"][0] == pytest.approx(np.mean(gaps), rel=1e-4)
    assert found["off"][0] == pytest.approx(np.mean(np.abs(gaps)), rel=1e-4)
    assert found["high"][0] == pytest.approx(np.mean([gap.mean() + 1.96 * gap.std() for gap in gaps]), rel=1e-4)
    for name, true in {"error": 2.0, "low": 2 - 1.96 * 5, "high": 2 + 1.96 * 5}.items():
        _, low, high = found[name]
        assert low < true < high and high - low < 4, name


def test_quarters_hold_equally_many_and_name_only_the_edges_between_them() -> None:
    found = quarters(TRUTH)
    assert [int(own.sum()) for own in found.values()] == [150] * 4 and np.any(list(found.values()), axis=0).all()
    assert all(f"{TRUTH[own].mean():.3g}" not in found for own in found.values())
    ends = {f"{end:.3g}" for end in (TRUTH.min(), TRUTH.max())}
    assert not ends & set(" ".join(found).split())
    assert list(quarters(np.zeros(5))) == ["0 and above"], "all alike"


def test_quarters_and_dots_of_a_quantity_far_from_zero_stay_apart() -> None:
    """Years: three digits called all quarters alike, and one hid the other; four digits put every case on the first of January."""
    years = np.random.default_rng(2).uniform(2012, 2016, 400)
    assert [int(own.sum()) for own in quarters(years).values()] == [100] * 4
    assert list(quarters(years)) == ["below 2013", "2013 to 2014", "2014 to 2015", "2015 and above"]
    assert np.array(dots(ValuePredictions(years, years)))[:, 0] == pytest.approx(np.sort(years), abs=6e-3)


def test_close_up_is_plain_and_short() -> None:
    content = look_at_quantity({"one": _fits(0, 1), "two": _fits(3, 1)}, PATIENT, RESAMPLES)
    assert [row["cases"] for row in content["classes"]] == [600, 150, 150, 150, 150]
    assert len(json.dumps(content, allow_nan=False)) < 30_000
    shown = dots(_fits(0, 1)[0])
    assert len(shown) == MOST_DOTS and shown[0][0] == pytest.approx(TRUTH.min(), rel=1e-3)
