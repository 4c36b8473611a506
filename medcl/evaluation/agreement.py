"""How what was said of a quantity agrees with the truth: errors and their limits, in all and by quarters, and the dots of one fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from medcl.evaluation import statistics
from medcl.evaluation.quantity import ValuePredictions
from medcl.evaluation.statistics import Resamples

MOST_DOTS = 400


def look_at_quantity(outcomes: Mapping[str, Sequence[ValuePredictions]], patient: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    """The close-up of one quantity: rows of cases (all, then the quarters of the truth), and for every init its errors and dots."""
    truth = next(iter(outcomes.values()))[0].truth
    rows = {"all": np.ones(len(truth), dtype=bool), **quarters(truth)}
    counts = [{"name": name, "cases": int(own.sum()), "patients": len(np.unique(patient[own]))} for name, own in rows.items()]
    inits = {
        init: {"dots": dots(fits[0]), "classes": [errors(fits, own, resamples) for own in rows.values()]} for init, fits in outcomes.items()
    }
    return {"name": "", "classes": counts, "inits": inits}


def quarters(truth: np.ndarray) -> dict[str, np.ndarray]:
    """Words -> which cases (cases,) bool; the words name the edges between quarters, never the least or the most of a case."""
    edges = np.unique(np.quantile(truth, (0.25, 0.5, 0.75)))
    place = np.searchsorted(edges, truth, side="right")
    ends = next(words for digits in range(3, 18) if len(set(words := [_plain(edge, digits) for edge in edges])) == len(edges))
    words = [f"below {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), f"{ends[-1]} and above"]
    return {name: place == number for number, name in enumerate(words) if (place == number).any()}


def _plain(value: float, digits: int) -> str:
    """So many digits that count, and no power of ten where none is needed."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def errors(fits: Sequence[ValuePredictions], member: np.ndarray, resamples: Resamples) -> dict[str, list[float]]:
    """Of the cases of `member`, said minus true: `error` (mean), `off` (mean of its size), `low` and `high`, the limits within which
    95% of the errors would lie if they were normal (mean and 1.96 standard deviations; Bland and Altman 1986). Each as [mean over
    draws, low, high] with 95% intervals over patients and draws.
    """
    weights = np.concatenate([np.ones((1, len(member))), resamples.patients])[:, member]
    by_fit = [_errors((fit.value - fit.truth)[member], weights) for fit in fits]
    found = {}
    for name in by_fit[0]:
        values = np.stack([own[name] for own in by_fit])
        estimate = statistics.estimate(values[:, 0], values[:, 1:], resamples)
        found[name] = [float(f"{value:.6g}") for value in (estimate.mean, *estimate.interval(0.0 if name == "off" else -np.inf))]
    return found


def _errors(error: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    total = weights.sum(1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)

    middle = mean(error)
    apart = 1.96 * np.sqrt(np.maximum(mean(error**2) - middle**2, 0))
    return {"error": middle, "off": mean(np.abs(error)), "low": middle - apart, "high": middle + apart}


def dots(fit: ValuePredictions) -> list[list[float]]:
    """[true, said] of at most 400 cases, evenly over the order of the truth, to four digits of what the cases differ by."""
    most, apart = float(np.abs(fit.truth).max()), float(np.ptp(fit.truth))
    digits = 4 + (max(0, int(np.log10(most / apart))) if apart > 0 else 0)
    order = np.argsort(fit.truth, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, MOST_DOTS).astype(int))]
    return [[float(f"{value:.{digits}g}") for value in pair] for pair in zip(fit.truth[chosen], fit.value[chosen], strict=True)]
