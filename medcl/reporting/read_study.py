"""A STUDY folder as the page needs it."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcl.evaluation.facts import CLOSEUP, FACTS, MAP, NEIGHBOURS
from medcl.evaluation.scores import CHANCE, LOWER_IS_BETTER
from medcl.evaluation.summary import FULLEST_FIRST, HEADLINE, LAWS, MODE_WORDS, RESULTS, SUMMARY, percent
from medcl.foundation.errors import UserError
from medcl.foundation.files import read_json
from medcl.reporting.figures import FLOOR, Curve, CurvePanel, colour_of

METRIC_WORDS: dict[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
    "dice": "Dice",
    "hd95_mm": "95% Hausdorff distance (mm)",
    "surface_dice": "surface Dice",
    "r2": "R²",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "pearson": "Pearson's r",
    "spearman": "Spearman's rho",
}

_IN_A_UNIT = ("mae", "rmse")

DIRECTIONS = {"image_to_text": "image → report", "text_to_image": "report → image"}
RECALL_AT = (1, 5, 10)
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Everything a page shows. facts: see medcl.evaluation.facts; results, summary: rows of the tables, numbers as floats.

    map, neighbours, closeup, laws: None or empty where the study has none, or was made before they were.
    """

    folder: Path
    facts: Mapping[str, Any]
    results: list[Row]
    summary: list[Row]
    headline: Mapping[str, Any]
    map: Mapping[str, Any] | None
    neighbours: Mapping[str, Any] | None
    closeup: Mapping[str, Any]
    laws: Sequence[Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Named after the task; a transductive study says so wherever it is named."""
        return self.facts["title"] + (" (transductive)" if self.facts["transductive"] else "")

    @property
    def metric(self) -> str:
        """The number that the figures show."""
        return self.facts["metric"]

    @property
    def inits(self) -> list[str]:
        """Initialisations in the order of the settings, those that were fitted."""
        fitted = {row["init"] for row in self.summary}
        return [name for name in self.facts["inits"] if name in fitted]

    @property
    def modes(self) -> list[str]:
        """Modes that learn from labels, in the order of the settings, those that were fitted."""
        fitted = {row["mode"] for row in self.summary} & set(FULLEST_FIRST)
        return [name for name in self.facts["modes"] if name in fitted]


def read_study(folder: Path) -> Study:
    """Read what `run_study` wrote; the card is not needed, since the page is written before it."""
    folder = Path(folder)
    if not (folder / FACTS).is_file():
        raise UserError(f"{folder}: not a STUDY folder (no {FACTS}); run `medcl evaluate` again, it goes on where it stopped")
    shown, near, closeup, laws = (
        read_json(folder / name) if (folder / name).is_file() else None for name in (MAP, NEIGHBOURS, CLOSEUP, LAWS)
    )
    facts, headline = read_json(folder / FACTS), read_json(folder / HEADLINE)
    return Study(folder, facts, _rows(folder / RESULTS), _rows(folder / SUMMARY), headline, shown, near, closeup or {}, laws or [])


def _rows(path: Path) -> list[Row]:
    words = {"task", "init", "mode", "metric", "choice"}
    with open(path, encoding="utf-8", newline="") as handle:
        return [{name: cell if name in words else float(cell or "nan") for name, cell in row.items()} for row in csv.DictReader(handle)]


def _of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def colours(study: Study) -> dict[str, str]:
    """Colour of every initialisation: grey for the reference, sand for the raw-pixel floor."""
    answer, place = {}, 1
    for name in study.inits:
        if name == study.facts["reference"]:
            answer[name] = colour_of(0)
        elif study.facts["inits"][name]["kind"] == "pixels":
            answer[name] = FLOOR
        else:
            answer[name] = colour_of(place)
            place += 1
    return answer


def curve_panels(study: Study) -> dict[str, CurvePanel]:
    """One figure per mode, all with the same axes."""
    own = [row for row in _of(study.summary, metric=study.metric) if row["mode"] in study.modes]
    if not own:
        return {}
    limits = _limits(study, own)
    ticks = {fraction: f"{percent(fraction)}\n{_patients(study, fraction)}" for fraction in sorted({row["fraction"] for row in own})}
    target = study.headline.get("reference", {}).get("value")
    return {
        mode: CurvePanel(_curves(study, mode), METRIC_WORDS.get(study.metric, study.metric), ticks, limits, target, _meets(study, mode))
        for mode in study.modes
    }


def _curves(study: Study, mode: str) -> list[Curve]:
    chosen, curves = colours(study), []
    for name in study.inits:
        points = sorted(_of(study.summary, metric=study.metric, mode=mode, init=name), key=lambda row: row["fraction"])
        dots = [(row["fraction"], row["value"]) for row in _of(study.results, metric=study.metric, mode=mode, init=name)]
        if points:
            numbers = ([row[column] for row in points] for column in ("fraction", "mean", "low", "high"))
            floor, law = study.facts["inits"][name]["kind"] == "pixels", _law(study, name, mode, points[-1]["fraction"])
            curves.append(Curve(name, chosen[name], *numbers, dots=dots, floor=floor, law=law))
    return curves


def _law(study: Study, init: str, mode: str, most: float) -> tuple[Sequence[float], ...]:
    """Fractions, line and band of a fitted curve; () where none was fitted."""
    own = next((law for law in study.laws if (law["init"], law["mode"]) == (init, mode) and "line" in law), None)
    return () if own is None else ([most * n / own["n"][-1] for n in own["n"]], own["line"], own["low"], own["high"])


def laws(study: Study) -> list[dict[str, Any]]:
    """Rows of the table of fitted curves: what twice the labels would bring, or why no curve was fitted."""
    chosen, rows = colours(study), []
    for law in study.laws:
        row = {"mode": MODE_WORDS.get(law["mode"], law["mode"]), "init": law["init"], "colour": chosen[law["init"]]}
        if "refused" in law:
            rows.append({**row, "refused": law["refused"]})
        else:
            value, low, high = law["twice"]
            now = {"now": number(law["line"][-1]), "twice": number(value), "interval": interval(low, high)}
            rows.append({**row, **now, "ceiling": number(law["ceiling"]), "rate": f"{law['rate']:.2f}"})
    return rows


def _meets(study: Study, mode: str) -> dict[str, float]:
    found = {name: by_mode.get(mode) for name, by_mode in study.headline["label_saving"].items()}
    return {name: saving["fraction"] for name, saving in found.items() if isinstance(saving, dict) and saving["claimed"]}


def _limits(study: Study, own: list[Row]) -> tuple[float, float]:
    fits = [row["value"] for row in _of(study.results, metric=study.metric) if row["mode"] in study.modes]
    numbers = np.array(fits + [row[end] for row in own for end in ("low", "high")])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    margin = 0.04 * max(high - low, 0.02)
    return low - margin, high + margin if study.metric in LOWER_IS_BETTER else min(high + margin, 1.003)


def _patients(study: Study, fraction: float) -> str:
    return f"{int(min(row['num_patients'] for row in _of(study.results, fraction=fraction) if row['mode'] in study.modes)):,}"


def comparison(study: Study) -> list[dict[str, Any]]:
    """Rows of the comparison table, one per mode, fraction and initialisation, in reading order."""
    order = {name: place for place, name in enumerate(study.inits)}
    rows = []
    for mode in study.modes:
        own = _of(study.summary, metric=study.metric, mode=mode)
        rows += [_compared(study, row) for row in sorted(own, key=lambda row: (row["fraction"], order[row["init"]]))]
    return rows


def _compared(study: Study, row: Row) -> dict[str, Any]:
    fits = _of(study.results, metric=study.metric, mode=row["mode"], fraction=row["fraction"])
    cases = sorted({int(fit["num_cases"]) for fit in fits})
    return {
        "mode": MODE_WORDS.get(row["mode"], row["mode"]),
        "fraction": percent(row["fraction"]),
        "patients": f"{int(fits[0]['num_patients']):,}",
        "cases": f"{cases[0]:,}" if len(cases) == 1 else f"{cases[0]:,}–{cases[-1]:,}",
        "init": row["init"],
        "colour": colours(study)[row["init"]],
        "value": number(row["mean"]),
        "interval": interval(row["low"], row["high"]),
        "difference": number(row["difference"], signed=True),
        "difference_interval": interval(row["difference_low"], row["difference_high"], signed=True),
        "p": _p(row["p_value"]),
        "delong": _p(row.get("p_value_delong", math.nan)),
        "sure": row["p_value"] < 0.05,
    }


def savings(study: Study) -> list[dict[str, Any]]:
    """Rows of the label-saving table: one per initialisation, a cell per mode."""
    chosen, rows = colours(study), []
    for name in study.inits:
        if name in study.headline["label_saving"]:
            cells = [_saving(study.headline["label_saving"][name].get(mode)) for mode in study.modes]
            rows.append({"init": name, "colour": chosen[name], "cells": cells})
    return rows


def _saving(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        return {"text": found or "not studied", "interval": "", "claimed": False}
    low, high = (end if isinstance(end, str) else percent(end) for end in (found["low"], found["high"]))
    return {
        "text": ("≤ " if found["at_most"] else "") + percent(found["fraction"]),
        "interval": f"{low} – {high}",
        "claimed": found["claimed"],
    }


def retrieval(study: Study) -> list[dict[str, Any]]:
    """Rows of the retrieval table: init and direction, a cell of recall, interval and chance for each k."""
    chosen, rows = colours(study), []
    for name in study.inits:
        own = {row["metric"]: row for row in _of(study.summary, mode="retrieval", init=name)}
        choices = [json.loads(row["choice"]) for row in _of(study.results, mode="retrieval", init=name)[:1]]
        for direction, words in DIRECTIONS.items() if own else ():
            cells = [_recall(own[f"{direction}_recall_at_{k}"], choices[0]) for k in RECALL_AT]
            rows.append({"init": name, "colour": chosen[name], "direction": words, "cells": cells})
    return rows


def zero_shot(study: Study) -> list[dict[str, Any]]:
    """Rows of the zero-shot table: as in the comparison, beside chance."""
    own = {row["init"]: row for row in _of(study.summary, metric=study.metric, mode="zeroshot")}
    return [{**_compared(study, own[name]), "chance": number(CHANCE[study.metric])} for name in study.inits if name in own]


def prompts(study: Study) -> list[dict[str, Any]]:
    """What was asked: a row for every answer, of classes or of each finding, with its sentences."""
    task = study.facts["task"]
    asked = task.get("prompts", {})
    if task["name"] == "multilabel":
        asked = {f"{name} {answer}": sentences for name, own in asked.items() for answer, sentences in own.items()}
    else:
        asked = {f"{task['label']} {name}": sentences for name, sentences in asked.items()}
    return [{"answer": answer, "sentences": sentences} for answer, sentences in asked.items()]


def _recall(row: Row, chances: Mapping[str, float]) -> dict[str, str]:
    ends = f"{percent(row['low']).removesuffix('%')}–{percent(row['high'])}"
    return {"value": percent(row["mean"]), "interval": f"[{ends}]", "chance": percent(chances[f"chance_{row['metric']}"])}


def all_numbers(study: Study) -> tuple[list[str], list[dict[str, Any]]]:
    """Every metric of every point with classes or quantities: names, and rows of mean and interval."""
    points = [row for row in study.summary if row["mode"] in (*study.modes, "zeroshot")]
    metrics: list[str] = list(dict.fromkeys(row["metric"] for row in points))
    rows = []
    for init, mode, fraction in dict.fromkeys((row["init"], row["mode"], row["fraction"]) for row in points):
        own = {row["metric"]: row for row in _of(study.summary, init=init, mode=mode, fraction=fraction)}
        cells = [
            f"{number(own[metric]['mean'], tiny=metric in _IN_A_UNIT)} "
            f"{interval(own[metric]['low'], own[metric]['high'], tiny=metric in _IN_A_UNIT)}"
            for metric in metrics
        ]
        rows.append({"init": init, "mode": MODE_WORDS.get(mode, mode), "fraction": percent(fraction), "cells": cells})
    return [metric_words(metric) for metric in metrics], rows


def metric_words(metric: str) -> str:
    """What a number is called; of one finding or structure with its name: `dice_2` is Dice, 2."""
    if metric in METRIC_WORDS:
        return METRIC_WORDS[metric]
    whole = next((name for name in METRIC_WORDS if metric.startswith(f"{name}_")), "")
    return f"{METRIC_WORDS[whole]}, {metric[len(whole) + 1 :]}" if whole else metric


def thumbnails(neighbours: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Small grey pictures by row of the store."""
    side = neighbours["side"]
    pictures = neighbours["pictures"].items()
    return {row: np.frombuffer(base64.b64decode(text), np.uint8).reshape(side, side) for row, text in pictures}


def number(value: float, signed: bool = False, tiny: bool = False) -> str:
    """A score as people read it; empty where it is undefined. tiny: it is in a quantity's own unit, in which all may be far below 1."""
    if math.isnan(value):
        return ""
    if tiny and 0 < abs(value) < 0.01:
        return f"{value:{'+' if signed else ''}.3g}".replace("-", "−")
    digits = 3 if abs(value) < 10 else 1
    value = round(value, digits) + 0.0  # never a minus before zero
    return f"{value:+.{digits}f}".replace("-", "−") if signed else f"{value:.{digits}f}"


def interval(low: float, high: float, signed: bool = False, tiny: bool = False) -> str:
    """Two ends in brackets; empty where one is undefined."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low, signed, tiny)}, {number(high, signed, tiny)}]"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
