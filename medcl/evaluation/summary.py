"""From finished fits to results.csv, summary.csv and the headline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcl.evaluation import delong, statistics
from medcl.evaluation.fits import Fit
from medcl.evaluation.learning_curve import Law, NoLaw, fit_law
from medcl.evaluation.scores import CHANCE, LOWER_IS_BETTER, Predictions, bounds
from medcl.evaluation.statistics import Estimate, Resamples, Saving
from medcl.foundation.files import safe_csv_cell, write_json, write_text
from medcl.foundation.progress import Progress, Silent

RESULTS = "results.csv"
SUMMARY = "summary.csv"
HEADLINE = "headline.json"
LAWS = "learning_curves.json"
DELONG = "delong"
NOT_REACHED = "not reached"
MODE_WORDS = {
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "finetune": "fine-tuning",
    "distill": "fine-tuning, then distillation",
    "frozen": "frozen encoder",
    "zeroshot": "zero-shot",
}
FULLEST_FIRST = ("finetune", "distill", "frozen", "linear", "knn")  # all modes that learn from labels

Group = tuple[str, str, float]


@dataclass(frozen=True)
class Plan:
    """What the summary must know of a study.

    inits, modes: in the order of the settings; reference: the init all are compared with; floor: the raw-pixel init,
    which is compared but makes no headline.
    """

    task: str
    metric: str
    inits: tuple[str, ...]
    modes: tuple[str, ...]
    fractions: tuple[float, ...]
    reference: str
    resamples: int
    seed: int
    floor: str = "pixels"


@dataclass(frozen=True)
class Summary:
    """All that was concluded. laws: the fitted learning curves, one for each mode and initialisation, or why there is none."""

    results: pd.DataFrame
    summary: pd.DataFrame
    headline: dict[str, Any]
    laws: list[dict[str, Any]]


def summarise(plan: Plan, fits: Sequence[Fit], patients: Mapping[str, np.ndarray], progress: Progress | None = None) -> Summary:
    """Conclude from the fits. patients: mode -> keys (test cases,), in the order of the outcomes of that mode's fits."""
    groups = grouped(plan, fits)
    resamples = {mode: statistics.resample_patients(patient, plan.resamples, plan.seed) for mode, patient in patients.items()}
    estimates: dict[Group, dict[str, Estimate]] = {}
    p_values: dict[Group, dict[str, float]] = {}
    for group in (progress or Silent()).track(groups, len(groups), "statistics"):
        estimates[group] = _estimates(groups[group], resamples[group[1]])
        p_values[group] = _p_values(plan, groups, group, patients[group[1]])
    summary = _summary_table(plan, estimates, p_values)
    headline = _retrieval_headline(plan, groups, estimates) if plan.task == "retrieval" else _headline(plan, estimates)
    return Summary(_results_table(plan, fits), summary, headline, _laws(plan, groups, estimates))


def write_summary(folder: Path, summary: Summary) -> None:
    """Write the four files, each whole."""
    write_text(folder / RESULTS, _csv(summary.results))
    write_text(folder / SUMMARY, _csv(summary.summary))
    write_json(folder / HEADLINE, summary.headline)
    write_json(folder / LAWS, summary.laws)


def _csv(table: pd.DataFrame) -> str:
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = [safe_csv_cell(str(cell)).replace("\r", " ") for cell in safe[name]]
    return safe.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def grouped(plan: Plan, fits: Iterable[Fit]) -> dict[Group, list[Fit]]:
    """The fits of each (init, mode, fraction) by draw, in the order of the plan."""
    found: dict[Group, list[Fit]] = {}
    for fit in fits:
        found.setdefault((fit.key.init, fit.key.mode, fit.key.fraction), []).append(fit)
    wanted = [(init, mode, fraction) for mode in plan.modes for init in plan.inits for fraction in plan.fractions]
    return {group: sorted(found[group], key=lambda fit: fit.key.draw) for group in wanted if group in found}


def _estimates(fits: list[Fit], resamples: Resamples) -> dict[str, Estimate]:
    once = [statistics.score_once(fit.outcome, resamples.patients.shape[1]) for fit in fits]
    often = [statistics.score(fit.outcome, resamples.patients) for fit in fits]
    return {
        name: statistics.estimate(np.array([scores[name] for scores in once]), np.stack([scores[name] for scores in often]), resamples)
        for name in once[0]
    }


def _p_values(plan: Plan, groups: Mapping[Group, list[Fit]], group: Group, patient: np.ndarray) -> dict[str, float]:
    init, mode, fraction = group
    others = groups.get((plan.reference, mode, fraction))
    if init == plan.reference or others is None or len(others) != len(groups[group]):
        return {}
    pair = [fit.outcome for fit in groups[group]], [fit.outcome for fit in others]
    return statistics.permutation_p(*pair, patient, plan.resamples, plan.seed) | _delong_p(*pair, patient)


def _delong_p(ones: Sequence[Any], others: Sequence[Any], patient: np.ndarray) -> dict[str, float]:
    """DeLong's p value of the AUROC as `delong`, where the test is valid; else nothing."""
    one, other = ones[0], others[0]
    if not isinstance(one, Predictions) or not delong.applies(one.probabilities, patient, len(ones)):
        return {}
    if min(np.bincount(one.label, minlength=2)) < 2:
        return {}
    return {DELONG: delong.compare_aurocs(one.probabilities[:, 1], other.probabilities[:, 1], one.label == 1).p_value}


def _laws(plan: Plan, groups: Mapping[Group, list[Fit]], estimates: Mapping[Group, Mapping[str, Estimate]]) -> list[dict[str, Any]]:
    """The learning curve of every initialisation and mode that learned from several fractions."""
    found = []
    lower = plan.metric in LOWER_IS_BETTER
    for mode in plan.modes:
        for init in plan.inits:
            own = [group for group in estimates if group[:2] == (init, mode)]
            if len(own) > 1:
                patients = np.array([np.mean([fit.num_patients for fit in groups[group]]) for group in own])
                law = fit_law(patients, [estimates[group][plan.metric] for group in own], 0.0 if lower else 1.0, not lower)
                found.append({"init": init, "mode": mode, **_content_of_law(law)})
    return found


def _content_of_law(law: Law | NoLaw) -> dict[str, Any]:
    content = {name: np.round(value, 6).tolist() if isinstance(value, np.ndarray) else value for name, value in vars(law).items()}
    return {"refused": content["reason"]} if isinstance(law, NoLaw) else content


def _results_table(plan: Plan, fits: Sequence[Fit]) -> pd.DataFrame:
    rows = []
    order = {name: place for place, name in enumerate(plan.inits)}, {name: place for place, name in enumerate(plan.modes)}
    for fit in sorted(fits, key=lambda fit: (order[1][fit.key.mode], order[0][fit.key.init], fit.key.fraction, fit.key.draw)):
        choice = json.dumps(dict(fit.choice), sort_keys=True) if fit.choice else ""
        for metric, value in statistics.score_once(fit.outcome, fit.outcome.num_cases).items():
            own = {"task": plan.task, "init": fit.key.init, "mode": fit.key.mode, "fraction": fit.key.fraction, "draw": fit.key.draw}
            counts = {"num_cases": fit.num_cases, "num_patients": fit.num_patients}
            rows.append({**own, **counts, "metric": metric, "value": value, "validation": fit.validation, "choice": choice})
    return pd.DataFrame(rows)


def _summary_table(
    plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]], p_values: Mapping[Group, Mapping[str, float]]
) -> pd.DataFrame:
    rows = []
    for (init, mode, fraction), numbers in estimates.items():
        reference = estimates.get((plan.reference, mode, fraction)) if init != plan.reference else None
        for metric, found in numbers.items():
            low, high = found.interval(*bounds(metric))
            row: dict[str, Any] = {"init": init, "mode": mode, "fraction": fraction, "metric": metric, "mean": found.mean}
            row |= {"low": low, "high": high, "difference": math.nan, "difference_low": math.nan, "difference_high": math.nan}
            if reference is not None and len(reference[metric].values) == len(found.values):
                apart = statistics.difference(found, reference[metric])
                apart_low, apart_high = apart.interval()
                row |= {"difference": apart.mean, "difference_low": apart_low, "difference_high": apart_high}
            own = p_values[init, mode, fraction]
            p_value, delong_p = own.get(metric, math.nan), own.get(DELONG, math.nan) if metric == "auroc" else math.nan
            row |= {"p_value": math.nan, "p_value_uncorrected": p_value, "p_value_delong": delong_p}
            rows.append({**row, "draws": len(found.values)})
    table = pd.DataFrame(rows)
    for _, part in table.groupby("metric", sort=False):
        table.loc[part.index, "p_value"] = statistics.holm(part["p_value_uncorrected"].to_numpy())
    return table


def _headline(plan: Plan, found: Mapping[Group, Mapping[str, Estimate]]) -> dict[str, Any]:
    estimates = {group: numbers for group, numbers in found.items() if group[1] in FULLEST_FIRST}
    without_labels = _zero_shot_sentences(plan, found)
    target_group = _target_group(plan, estimates)
    if target_group is None:
        sentences = without_labels or ["No initialisation could be compared with the reference."]
        return {"sentence": sentences[0], "sentences": sentences, "metric": plan.metric, "label_saving": {}}
    target = estimates[target_group][plan.metric]
    low, high = target.interval(*bounds(plan.metric))
    chance = CHANCE.get(plan.metric)
    learned = chance is None or low > chance
    few = next(((init, mode, fraction) for init, mode, fraction in sorted(estimates) if (init, mode) == target_group[:2]), target_group)
    lower_is_better = plan.metric in LOWER_IS_BETTER
    matter = few == target_group or statistics.is_better(target, estimates[few][plan.metric], lower_is_better)
    savings: dict[str, dict[str, Any]] = {}
    for init in plan.inits:
        for mode in plan.modes:
            own = [fraction for fraction in plan.fractions if (init, mode, fraction) in estimates]
            if init != plan.reference and own:
                curve = [estimates[init, mode, fraction][plan.metric] for fraction in own]
                saving = statistics.label_saving(np.array(own), curve, target, not lower_is_better)
                savings.setdefault(init, {})[mode] = _content_of(saving, target_group[2], learned and matter)
    reference = {"init": target_group[0], "mode": target_group[1], "fraction": target_group[2]}
    reference |= {"value": round(target.mean, 6), "low": round(low, 6), "high": round(high, 6), "above_chance": learned}
    reference["labels_matter"] = matter
    shown = {init: by_mode for init, by_mode in savings.items() if init != plan.floor}
    if not learned:
        first = _beyond_chance(plan, estimates, shown, reference)
    elif not matter:
        first = _whatever_the_labels(plan, estimates, shown, reference, few[2])
    else:
        first = _sentences(reference, shown, target_group[2])
    sentences = [*first, *without_labels, *_floor_sentences(plan, estimates, shown)]
    content = {"sentence": sentences[0], "sentences": sentences, "metric": plan.metric, "reference": reference}
    return {**content, "label_saving": savings}


def _retrieval_headline(plan: Plan, groups: Mapping[Group, list[Fit]], estimates: Mapping[Group, Mapping[str, Estimate]]) -> dict[str, Any]:
    sentences = []
    for group, numbers in estimates.items():
        found, chance = numbers[plan.metric], groups[group][0].choice[f"chance_{plan.metric}"]
        low, high = found.interval(0.0, 1.0)
        sentences.append(
            f"{group[0]} has the right report among its first five for {percent(found.mean)} [{_ends(low, high)}] of the images; "
            f"chance would be {percent(float(chance))}."
        )
    return {"sentence": sentences[0], "sentences": sentences, "metric": plan.metric, "label_saving": {}}


def _zero_shot_sentences(plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]]) -> list[str]:
    """What each run says of images with no label at all."""
    sentences = []
    for init, numbers in ((group[0], numbers) for group, numbers in estimates.items() if group[1] == "zeroshot"):
        found, (low, high) = numbers[plan.metric], numbers[plan.metric].interval(*bounds(plan.metric))
        doubt = "" if low > CHANCE[plan.metric] else ", no better than chance"
        value = f"{plan.metric.upper()} {found.mean:.3f} [{low:.3f}\u2013{high:.3f}]"
        sentences.append(f"{init} has {value} with no labels (zero-shot){doubt}.")
    return sentences


def _target_group(plan: Plan, estimates: Mapping[Group, Any]) -> Group | None:
    """The reference with all labels, trained in the fullest mode there is: what pretraining has to match."""
    for mode in FULLEST_FIRST:
        fractions = [fraction for init, own, fraction in estimates if init == plan.reference and own == mode]
        if fractions:
            return plan.reference, mode, max(fractions)
    return None


def _content_of(saving: Saving, most: float, earned: bool) -> str | dict[str, Any]:
    """A saving is claimed where 97.5% of the replicates meet, with fewer labels than it had, a target that took labels to reach."""
    if saving.fraction is None:
        return NOT_REACHED
    high: float | str = NOT_REACHED if math.isinf(saving.high) else round(saving.high, 6)
    low: float | str = NOT_REACHED if math.isinf(saving.low) else round(saving.low, 6)
    claimed = earned and saving.high < most
    return {"fraction": round(saving.fraction, 6), "low": low, "high": high, "at_most": saving.at_most, "claimed": claimed}


def _sentences(reference: Mapping[str, Any], savings: Mapping[str, Mapping[str, Any]], most: float) -> list[str]:
    """One per initialisation in plain words, the strongest first."""
    goal = f"{_start_words(reference)} reaches with {'all of them' if most == 1 else percent(most)}"
    ranked = []
    for init, by_mode in savings.items():
        found = {mode: saving for mode, saving in by_mode.items() if isinstance(saving, dict)}
        claimed = {mode: saving for mode, saving in found.items() if saving["claimed"]}
        if claimed:
            mode, saving = min(claimed.items(), key=lambda item: (item[1]["fraction"], item[1]["high"]))
            much = f"{'at most ' if saving['at_most'] else ''}{percent(saving['fraction'])} [{_range(saving)}]"
            ranked.append((saving["fraction"], f"{init} reaches with {much} of the labels what {goal} ({MODE_WORDS[mode]})."))
        elif found:
            mode, saving = min(found.items(), key=lambda item: item[1]["fraction"])
            much = f"{percent(saving['fraction'])} [{_range(saving)}]"
            ranked.append(
                (
                    2 + saving["fraction"],
                    f"{init} may save labels, but not for sure: it meets at {much} of the labels what {goal} ({MODE_WORDS[mode]}).",
                )
            )
        else:
            ranked.append((9.0, f"{init} does not reach, with any fraction of the labels, what {goal}."))
    return [sentence for _, sentence in sorted(ranked, key=lambda item: item[0])] or [f"Only {reference['init']} was studied."]


def _beyond_chance(
    plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]], inits: Iterable[str], reference: Mapping[str, Any]
) -> list[str]:
    """Where the reference learned nothing there is nothing to save labels on: who is above its interval, with how few labels."""
    scratch = f"{_start_words(reference, capital=True)} with {percent(reference['fraction'])} of the labels is no better than chance"
    found = [f"{scratch}: {plan.metric.upper()} {reference['value']:.3f} [{reference['low']:.3f}\u2013{reference['high']:.3f}]."]
    for init in inits:
        for fraction, mode in sorted((fraction, mode) for own, mode, fraction in estimates if own == init):
            value = estimates[init, mode, fraction][plan.metric]
            low, high = value.interval(*bounds(plan.metric))
            if plan.metric not in LOWER_IS_BETTER and low > reference["high"]:
                numbers = f"{value.mean:.3f} [{low:.3f}\u2013{high:.3f}]"
                found.append(f"{init} has {numbers} with {percent(fraction)} of the labels ({MODE_WORDS[mode]}).")
                break
    return found


def _whatever_the_labels(
    plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]], inits: Iterable[str], reference: Mapping[str, Any], few: float
) -> list[str]:
    """Where all labels do not surely help the reference, nobody surely saves any; how far each gets in the same mode."""
    mode, most = reference["mode"], reference["fraction"]
    said = {init: _value(plan, estimates, (init, mode, most)) for init in (reference["init"], *inits) if (init, mode, most) in estimates}
    least = _value(plan, estimates, (reference["init"], mode, few))
    scratch = f"{_start_words(reference, capital=True)} is not surely better with {percent(most)} of the labels than with {percent(few)}"
    metric = "Dice" if plan.metric == "dice" else plan.metric.upper()
    found = [f"{scratch}: {metric} {said.pop(reference['init'])} and {least}; no saving of labels can be told."]
    return [*found, *(f"{init} has {value} with {percent(most)} of the labels ({MODE_WORDS[mode]})." for init, value in said.items())]


def _value(plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]], group: Group) -> str:
    found = estimates[group][plan.metric]
    low, high = found.interval(*bounds(plan.metric))
    return f"{found.mean:.3f} [{low:.3f}\u2013{high:.3f}]"


def _floor_sentences(plan: Plan, estimates: Mapping[Group, Mapping[str, Estimate]], inits: Iterable[str]) -> list[str]:
    """Who does not clear the floor with all labels, in any mode: a backbone that does not has learned nothing of use."""
    most = max(fraction for _, _, fraction in estimates)  # of the plan's own fractions, retrieval has 1 whatever the labels
    floor = estimates.get((plan.floor, "linear", most))
    found = []
    for init in inits if floor else ():
        values = [estimates[init, mode, most][plan.metric].mean for mode in plan.modes if (init, mode, most) in estimates]
        if values and floor and max(values) < floor[plan.metric].mean:
            words = f"{init} stays below raw pixels with a linear probe at {percent(most)} of the labels"
            found.append(f"{words} ({max(values):.3f} against {floor[plan.metric].mean:.3f}).")
    return found


def _start_words(reference: Mapping[str, Any], capital: bool = False) -> str:
    words = (
        "training from scratch"
        if reference["init"] == "random" and reference["mode"] == "finetune"
        else f"{reference['init']} ({MODE_WORDS[reference['mode']]})"
    )
    return words[0].upper() + words[1:] if capital else words


def _range(saving: Mapping[str, Any]) -> str:
    return _ends(saving["low"], saving["high"])


def _ends(low: float | str, high: float | str) -> str:
    low_text = low if isinstance(low, str) else percent(low).removesuffix("%")
    return f"{low_text}–{high}" if isinstance(high, str) else f"{low_text}–{percent(high)}"


def percent(fraction: float) -> str:
    """A fraction as people write it: 1%, 8%, 0.5%, 12%, 0.02%."""
    value = 100 * fraction
    if 0 < value < 0.1:
        return f"{value:.2g}%"
    return f"{value:.0f}%" if value >= 10 or abs(value - round(value)) < 0.05 else f"{value:.1f}%"
