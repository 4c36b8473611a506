"""The close-up of a study as the page needs it: calibration, classes, confusion, errors, subgroups, the cases found hardest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medcl.evaluation.fits import unpack
from medcl.evaluation.summary import MODE_WORDS, percent
from medcl.reporting.figures import (
    as_file,
    colour_of,
    css_colour,
    draw_agreement,
    draw_outlines,
    draw_reliability,
    not_shown,
    picture_uri,
    to_svg,
)
from medcl.reporting.read_study import METRIC_WORDS, Study, colours, interval, number, thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "error": "mean error",
    "off": "mean absolute error",
    "low": "lower limit",
    "high": "upper limit",
}
_SIGNED = ("error", "low", "high")
_IN_A_UNIT = ("error", "off", "low", "high")
MOST_CLASSES = 12
_MERITS = {
    "classification": "the probability given to the truth",
    "multilabel": "the probability given to the truth, mean over the known findings",
    "regression": "the distance from the truth",
}


def closeup_content(study: Study) -> dict[str, Any] | None:
    """All that the page says of the close-up, as plain words and finished figures; None for a study without one."""
    closeup = study.closeup
    if not closeup:
        return None
    most = closeup["points"][-1]["fraction"] if closeup["points"] else max(row["fraction"] for row in study.summary)
    return {
        "mode": MODE_WORDS.get(closeup["mode"], closeup["mode"]),
        "most": percent(most),
        "metric": METRIC_WORDS.get(study.metric, study.metric),
        "points": [_point(study, point) for point in closeup["points"]],
        "groupings": [_grouping(study, grouping) for grouping in closeup["groupings"]],
        "hardest": _hardest(study),
        "hardest_by": _MERITS.get(study.facts["task"]["name"], METRIC_WORDS.get(study.metric, study.metric)),
    }


def closeup_figures(study: Study, point: Mapping[str, Any]) -> dict[str, tuple[str, Figure]]:
    """Name for a file -> title and figure, of one point. Classes: a reliability diagram for every initialisation; findings: one for each
    of them with all initialisations; a quantity: what was said against the truth. None where there are too few patients.
    """
    chosen, found = colours(study), {}
    for place, part in enumerate(_parts(point), start=1):
        inits = {init: own for init, own in part["inits"].items() if init in chosen}
        if part["name"]:
            bins = {chosen[init]: own["reliability"] for init, own in inits.items() if own["reliability"]}
            if bins:
                name = f"reliability_{place}_{as_file(part['name'])}"
                found[name] = part["name"], draw_reliability(bins, _reliability_words(study))
            continue
        for init, own in inits.items():
            if own.get("dots"):
                limits = {name: _float(own["classes"][0][name][0]) for name in ("error", "low", "high")}
                drawn = draw_agreement(own["dots"], limits, chosen[init], study.facts["task"]["label"])
                found[f"agreement_{init}"] = init, drawn
            elif own.get("reliability"):
                found[f"reliability_{init}"] = init, draw_reliability({chosen[init]: own["reliability"]}, _reliability_words(study))
    return found


def _parts(point: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What was asked; a study made before there were several asked for classes only."""
    return point.get("parts", [{"name": "", **point}])


def _reliability_words(study: Study) -> tuple[str, str]:
    task = study.facts["task"]
    if task["name"] == "multilabel":
        return "probability given to it", "share that has it"
    classes = task["classes"]
    return (f"probability given to {classes[1]}", f"share that is {classes[1]}") if len(classes) == 2 else ("confidence", "share right")


def _point(study: Study, point: Mapping[str, Any]) -> dict[str, Any]:
    chosen, task = colours(study), study.facts["task"]
    parts = [{**part, "inits": {init: own for init, own in part["inits"].items() if init in chosen}} for part in _parts(point)]
    rows = [row for part in parts for row in _part_rows(study, part)]
    first = next(iter(parts[0]["inits"].values()))
    tables = []
    if "confusion" in first and not parts[0]["name"] and len(task["classes"]) <= MOST_CLASSES:
        tables = [(init, _confusion(task["classes"], own["confusion"])) for init, own in parts[0]["inits"].items()]
    figures = closeup_figures(study, point)
    return {
        "fraction": percent(point["fraction"]),
        "panels": [{"name": title, "svg": to_svg(figure, f"{name.split('_')[0]}, {title}")} for name, (title, figure) in figures.items()],
        "subject": "finding" if parts[0]["name"] else task["label"],
        "columns": [NUMBERS[key] for key in first["classes"][0]],
        "rows": rows,
        "names": task["classes"],
        "inits": [{"name": init, "colour": css_colour(chosen[init])} for init in parts[0]["inits"]],
        "confusion": [{"init": init, "colour": css_colour(chosen[init]), "rows": table} for init, table in tables],
    }


def _part_rows(study: Study, part: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Row by row, each initialisation: of classes and of ranges of a quantity all, of a finding that it is there."""
    chosen = colours(study)
    names = [part["name"]] * 2 if part["name"] else [counts.get("name") for counts in part["classes"]]
    for place, counts in enumerate(part["classes"]):
        if part["name"] and place == 0:
            continue
        for number_of_init, (init, own) in enumerate(part["inits"].items()):
            under = _counted(own["confusion"]) if part["name"] else {}
            cells = [
                {**_cell(numbers, key in _SIGNED, key in _IN_A_UNIT), "under": under.get(key, "")}
                for key, numbers in own["classes"][place].items()
            ]
            opens = {"name": names[place] or study.facts["task"]["classes"][place], "counts": counts}
            shown = {"name": "", "counts": None} if number_of_init else opens
            yield {**shown, "init": init, "colour": css_colour(chosen[init]), "cells": cells}


def _counted(confusion: Sequence[Sequence[float]]) -> dict[str, str]:
    """Of those that have a finding, how many were said to; and of those that do not."""
    (cleared, alarms), (missed, found) = confusion
    return {
        "sensitivity": f"{_count(found)} of {_count(found + missed)} found",
        "specificity": f"{_count(alarms)} false alarms of {_count(alarms + cleared)}",
    }


def _count(cases: float) -> str:
    return f"{cases:.1f}".removesuffix(".0")


def _cell(numbers: Sequence[float | None], signed: bool, tiny: bool) -> dict[str, str]:
    value, low, high = map(_float, numbers)
    return {"value": number(value, signed, tiny), "interval": interval(low, high, signed, tiny)}


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, row in zip(classes, counts, strict=True):
        total = max(sum(row), 1e-9)
        rows.append({"name": name, "cells": [{"text": _count(count), "share": round(count / total, 3)} for count in row]})
    return rows


def _grouping(study: Study, grouping: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table of one grouping: group by group, each initialisation."""
    chosen = colours(study)
    inits = {init: rows for init, rows in grouping["inits"].items() if init in chosen}
    rows = []
    for place in range(len(grouping["values"])):
        for number_of_init, (init, own) in enumerate(inits.items()):
            found = own[place]
            row = {"group": "" if number_of_init else found["group"], "cases": found["cases"], "patients": found["patients"], "init": init}
            rows.append({**row, "colour": css_colour(chosen[init]), **_scored(found)})
    return {"name": grouping["name"], "rows": rows, "small": grouping["small"], "unknown": grouping["unknown"]}


def _scored(found: Mapping[str, Any]) -> dict[str, str]:
    if "refused" in found:
        return {"refused": found["refused"]}
    (low, high), gap = map(_float, found["interval"]), found.get("gap")
    gap_low, gap_high = map(_float, found.get("gap_interval", (None, None)))
    return {
        "refused": "",
        "value": number(_float(found["value"])),
        "interval": interval(low, high),
        "gap": "" if gap is None else number(gap, signed=True),
        "gap_interval": interval(gap_low, gap_high, signed=True),
    }


def _hardest(study: Study) -> list[dict[str, Any]]:
    closeup = study.closeup
    if not closeup.get("pictures"):
        return []
    pictures, crossed = {case: picture_uri(pixels) for case, pixels in thumbnails(closeup).items()}, not_shown()
    drawn = outline_figures(study)
    return [
        {
            "uri": pictures.get(str(found["case"]), crossed),
            "hidden": str(found["case"]) not in pictures,
            **_truth(study, found["truth"]),
            "said": list(_said(study, found["inits"])),
        }
        | {"svg": to_svg(drawn[name], "truth and outlines on one slice") if (name := f"hardest_{place}") in drawn else ""}
        for place, found in enumerate(closeup["hardest"], start=1)
    ]


def outline_figures(study: Study) -> dict[str, Figure]:
    """Name for a file -> the outlines of one of the hardest cases; {} where nothing is outlined."""
    chosen, pictures = colours(study), thumbnails(study.closeup) if study.closeup.get("pictures") else {}
    found = {}
    for place, own in enumerate(study.closeup.get("hardest", ()), start=1):
        if "outlines" in own:
            said = {chosen[init]: unpack(labels) for init, labels in own["outlines"]["said"].items() if init in chosen}
            found[f"hardest_{place}"] = draw_outlines(pictures[str(own["case"])], unpack(own["outlines"]["truth"]), said)
    return found


def _truth(study: Study, truth: Any) -> dict[str, str]:
    """What a case really is, in words, and the colour of its class."""
    task, place = study.facts["task"], 0
    words = ""
    if task["name"] == "classification":
        words, place = f"{task['label']} {task['classes'][truth]}", 1 + truth
    elif task["name"] == "multilabel":
        words = ", ".join(task["classes"][finding] for finding in truth) or "none of them"
    elif task["name"] == "regression":
        words = f"{task['label']} {truth:g}"
    return {"truth": words, "colour": css_colour(colour_of(place))}


def _said(study: Study, inits: Mapping[str, float]) -> Iterable[dict[str, str]]:
    chosen, in_a_unit = colours(study), study.facts["task"]["name"] == "regression"
    for init, value in inits.items():
        if init in chosen:
            long = abs(value) >= 1 or (in_a_unit and abs(value) < 0.01)
            yield {"init": init, "colour": css_colour(chosen[init]), "text": f"{value:.4g}" if long else f"{value:.2f}"}
