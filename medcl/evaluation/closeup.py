"""A study seen from near, in its fullest mode: calibration, classes, confusion, errors, subgroups, and the cases found hardest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medcl.evaluation import statistics
from medcl.evaluation.agreement import look_at_quantity
from medcl.evaluation.findings import FindingPredictions, mean_of_defined
from medcl.evaluation.fits import Fit
from medcl.evaluation.quantity import ValuePredictions
from medcl.evaluation.scores import Measured, Predictions, ranking, table_of
from medcl.evaluation.statistics import Outcome, Resamples
from medcl.evaluation.subgroups import Grouping, score_groups
from medcl.evaluation.summary import FULLEST_FIRST, Plan, grouped

MOST_RESAMPLES = 1000
BINS, PATIENTS_PER_BIN, FEWEST_BINS = 10, 20, 3
HARDEST = 8


def look_closer(plan: Plan, fits: Sequence[Fit], patients: Mapping[str, np.ndarray], groupings: Sequence[Grouping]) -> dict[str, Any]:
    """What `closeup.json` holds; {} for a study without a mode that learns from labels.

    patients: mode -> keys (test cases,); groupings: of the test cases. `points`: one for each fraction, with a part for each thing
    asked: the class, each finding, or the quantity; none for outlines.
    """
    groups = grouped(plan, fits)
    mode = next((mode for mode in FULLEST_FIRST if (plan.reference, mode) in {group[:2] for group in groups}), None)
    if mode is None:
        return {}
    patient = patients[mode]
    resamples = statistics.resample_patients(patient, min(plan.resamples, MOST_RESAMPLES), plan.seed)
    fractions = sorted({fraction for _, own, fraction in groups if own == mode})
    outcomes = {
        fraction: {init: [fit.outcome for fit in groups[init, mode, fraction]] for init in plan.inits if (init, mode, fraction) in groups}
        for fraction in fractions
    }
    most = outcomes[fractions[-1]]
    content = {
        "mode": mode,
        "fraction": fractions[-1],
        "points": [{"fraction": fraction, "parts": parts} for fraction, parts in _parts(outcomes, patient, resamples) if parts],
        "groupings": [
            {"name": grouping.name, "values": list(grouping.values), "code": grouping.code.tolist(), "small": grouping.small}
            | {"unknown": grouping.unknown}
            | {"inits": {init: score_groups(grouping, own, plan.metric, patient, resamples) for init, own in most.items()}}
            for grouping in groupings
        ],
        "hardest": hardest_cases(most, plan.metric, patient),
    }
    return _plain(content)


def _plain(content: Any) -> Any:
    """Numbers that are undefined or without bound as None: JSON has none of them."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def _parts(
    outcomes: Mapping[float, Mapping[str, Sequence[Any]]], patient: np.ndarray, resamples: Resamples
) -> Iterable[tuple[float, list[dict[str, Any]]]]:
    for fraction, own in outcomes.items():
        first = next(iter(own.values()))[0]
        if isinstance(first, Predictions):
            yield fraction, [_look_at_classes("", own, patient, resamples)]
        elif isinstance(first, FindingPredictions):
            yield fraction, [_look_at_finding(place, own, patient, resamples) for place in range(len(first.names))]
        else:
            yield fraction, [look_at_quantity(own, patient, resamples)] if isinstance(first, ValuePredictions) else []


def _look_at_finding(place: int, outcomes: Mapping[str, Sequence[Any]], patient: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    first = next(iter(outcomes.values()))[0]
    known, _ = first.single(place)
    asked = {init: [fit.single(place)[1] for fit in own] for init, own in outcomes.items()}
    return _look_at_classes(first.names[place], asked, patient[known], replace(resamples, patients=resamples.patients[:, known]))


def _look_at_classes(name: str, outcomes: Mapping[str, Sequence[Any]], patient: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    label = next(iter(outcomes.values()))[0].label
    members = [label == own for own in range(next(iter(outcomes.values()))[0].probabilities.shape[1])]
    counts = [{"cases": int(member.sum()), "patients": len(np.unique(patient[member]))} for member in members]
    inits = {
        init: {"reliability": reliability(own, patient, resamples), "classes": class_numbers(own, resamples), "confusion": confusion(own)}
        for init, own in outcomes.items()
    }
    return {"name": name, "classes": counts, "inits": inits}


def reliability(fits: Sequence[Predictions], patient: np.ndarray, resamples: Resamples) -> list[dict[str, float]]:
    """What was said and what happened, in bins that hold equally many predictions of all draws together.

    Two classes: the probability of the higher one; more: of the most probable one, and whether it was right. Intervals are over
    patients. [] where there are too few of them for three bins of twenty.
    """
    count = min(BINS, len(np.unique(patient)) // PATIENTS_PER_BIN)
    if count < FEWEST_BINS:
        return []
    pairs = [_said_and_happened(fit) for fit in fits]
    said, happened = (np.stack(part) for part in zip(*pairs, strict=True))
    edges = np.unique(np.quantile(said, np.linspace(0, 1, count + 1)[1:-1]))
    place = np.searchsorted(edges, said, side="right")
    bins = []
    for number in range(len(edges) + 1):
        inside = place == number
        if inside.any():
            weight, hits = inside.mean(0), (inside * happened).mean(0)
            often = np.divide(
                resamples.patients @ hits, resamples.patients @ weight, where=resamples.patients @ weight > 0, out=_undefined(resamples)
            )
            low, high = statistics.quantiles(often)
            bins.append(
                {"said": said[inside].mean(), "happened": hits.sum() / weight.sum(), "low": low, "high": high, "share": inside.mean()}
            )
    return [{name: round(float(value), 6) for name, value in own.items()} for own in bins]


def _undefined(resamples: Resamples) -> np.ndarray:
    return np.full(len(resamples), np.nan)


def _said_and_happened(fit: Predictions) -> tuple[np.ndarray, np.ndarray]:
    if fit.probabilities.shape[1] == 2:
        return fit.probabilities[:, 1], (fit.label == 1).astype(np.float64)
    return fit.probabilities.max(1), (fit.probabilities.argmax(1) == fit.label).astype(np.float64)


def class_numbers(fits: Sequence[Predictions], resamples: Resamples) -> list[dict[str, list[float]]]:
    """For each class, against the rest: AUROC, sensitivity, specificity, precision; each as [mean over draws, low, high]."""
    weights = np.concatenate([np.ones((1, resamples.patients.shape[1]), np.float32), resamples.patients])
    by_fit = [_numbers_of_classes(fit, weights.astype(np.float64)) for fit in fits]
    found = []
    for own in range(len(by_fit[0])):
        row = {}
        for name in by_fit[0][own]:
            values = np.stack([fit[own][name] for fit in by_fit])
            estimate = statistics.estimate(values[:, 0], values[:, 1:], resamples)
            row[name] = [round(value, 6) for value in (estimate.mean, *estimate.interval(0.0, 1.0))]
        found.append(row)
    return found


def _numbers_of_classes(fit: Predictions, weights: np.ndarray) -> list[dict[str, np.ndarray]]:
    table, rows = table_of(fit), []
    for own in range(fit.probabilities.shape[1]):
        is_own, said = table.label == own, table.decision == own
        shares = {"sensitivity": (is_own & said, is_own), "specificity": (~is_own & ~said, ~is_own), "precision": (is_own & said, said)}
        rows.append({"auroc": ranking(table.ranks[:, own], is_own, weights)[0]})
        rows[-1] |= {name: _share(weights @ part, weights @ whole) for name, (part, whole) in shares.items()}
    return rows


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def confusion(fits: Sequence[Predictions]) -> list[list[float]]:
    """Cases of each class (row) by what was said of them (column): mean over draws, by the decisions of the balanced accuracy."""
    classes = fits[0].probabilities.shape[1]
    table = np.zeros((classes, classes))
    for fit in fits:
        np.add.at(table, (fit.label, table_of(fit).decision), 1 / len(fits))
    return table.round(3).tolist()


def hardest_cases(outcomes: Mapping[str, Sequence[Outcome]], metric: str, patient: np.ndarray, most: int = HARDEST) -> list[dict[str, Any]]:
    """The test cases that all initialisations together find hardest, one for each patient; `case` counts the test cases from 0.

    By the probability given to the truth (of findings: the mean over those that are known), by the distance from it (its value in
    `inits` is then that of what was said), or by what was measured on the case; means over draws. truth: the class, the findings that are
    there, or the quantity.
    """
    merits = {init: np.mean([_merit(outcome, metric, len(patient)) for outcome in own], axis=0) for init, own in outcomes.items()}
    merit = np.mean(list(merits.values()), axis=0)
    chosen: dict[str, int] = {}
    for case in np.argsort(merit, kind="stable"):
        if np.isfinite(merit[case]) and len(chosen) < most:
            chosen.setdefault(str(patient[case]), int(case))
    first = next(iter(outcomes.values()))[0]
    if isinstance(first, ValuePredictions):
        merits = {
            init: np.mean([outcome.value for outcome in own if isinstance(outcome, ValuePredictions)], axis=0)
            for init, own in outcomes.items()
        }
    return [
        {"case": case, "truth": _truth_of(first, case), "inits": {init: float(f"{values[case]:.4g}") for init, values in merits.items()}}
        for case in chosen.values()
    ]


def _truth_of(outcome: Outcome, case: int) -> Any:
    if isinstance(outcome, Predictions):
        return int(outcome.label[case])
    if isinstance(outcome, FindingPredictions):
        return np.flatnonzero(outcome.label[case] == 1).tolist()
    return float(f"{outcome.truth[case]:.4g}") if isinstance(outcome, ValuePredictions) else None


def _merit(outcome: Outcome, metric: str, cases: int) -> np.ndarray:
    """(cases,) higher is better, NaN where a case has none."""
    if isinstance(outcome, Predictions):
        return outcome.probabilities[np.arange(len(outcome.label)), outcome.label]
    if isinstance(outcome, FindingPredictions):
        given = np.where(outcome.label == 1, outcome.probabilities, 1 - outcome.probabilities)
        return mean_of_defined(np.where(outcome.label >= 0, given, np.nan).T)
    if isinstance(outcome, ValuePredictions):
        return -np.abs(outcome.value - outcome.truth)
    if isinstance(outcome, Measured) and metric in outcome.names:
        return outcome.values[:, outcome.names.index(metric)]
    return np.full(cases, np.nan)
