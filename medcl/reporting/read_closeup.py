"""The close-up of a study as the page needs it: calibration, classes, confusion, subgroups, the cases found hardest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medcl.evaluation.summary import MODE_WORDS, percent
from medcl.reporting.figures import colour_of, css_colour, draw_map, draw_reliability, picture_uri, to_svg
from medcl.reporting.read_study import METRIC_WORDS, Study, colours, interval, number, thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASS_NUMBERS = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "precision": "precision"}
MOST_CLASSES = 12


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
        "class_numbers": list(CLASS_NUMBERS.values()),
        "groupings": [_grouping(study, grouping) for grouping in closeup["groupings"]],
        "hardest": _hardest(study),
        "hardest_by": "the probability given to the truth" if closeup["points"] else METRIC_WORDS.get(study.metric, study.metric),
    }


def reliability_figures(study: Study, point: Mapping[str, Any]) -> dict[str, Figure]:
    """A reliability diagram for every initialisation of one point that has enough patients for one."""
    chosen, classes = colours(study), study.facts["task"]["classes"]
    words = (f"probability given to {classes[1]}", f"share that is {classes[1]}") if len(classes) == 2 else ("confidence", "share right")
    bins = {init: own["reliability"] for init, own in point["inits"].items() if init in chosen}
    return {init: draw_reliability(own, chosen[init], words) for init, own in bins.items() if own}


def grouped_maps(study: Study) -> list[dict[str, Any]]:
    """The embedding map once more for every grouping of the test cases, coloured by it."""
    found = []
    for grouping in study.closeup.get("groupings", ()) if study.map else ():
        panels = [
            {
                "name": init,
                "svg": to_svg(draw_map(own["x"], own["y"], grouping["code"], own["explained"]), f"{init}, by {grouping['name']}"),
            }
            for init, own in (study.map or {})["inits"].items()
            if init in study.inits
        ]
        names = [(value, colour_of(1 + place)) for place, value in enumerate(grouping["values"])]
        names += [("not known, or a group too small to name", colour_of(0))] if -1 in grouping["code"] else []
        legend = [{"name": name, "colour": css_colour(colour)} for name, colour in names]
        found.append({"name": grouping["name"], "panels": panels, "legend": legend})
    return found


def _point(study: Study, point: Mapping[str, Any]) -> dict[str, Any]:
    chosen, classes = colours(study), study.facts["task"]["classes"]
    inits = {init: own for init, own in point["inits"].items() if init in chosen}
    rows = []
    for place, (name, counts) in enumerate(zip(classes, point["classes"], strict=True)):
        for init, own in inits.items():
            cells = [_cell(own["classes"][place][key]) for key in CLASS_NUMBERS]
            first = init == next(iter(inits))
            row = {"class": name if first else "", "counts": counts if first else None, "init": init, "cells": cells}
            rows.append({**row, "colour": css_colour(chosen[init])})
    tables = [
        {"init": init, "colour": css_colour(chosen[init]), "rows": _confusion(classes, own["confusion"])} for init, own in inits.items()
    ]
    figures = reliability_figures(study, point)
    return {
        "fraction": percent(point["fraction"]),
        "panels": [{"name": init, "svg": to_svg(figure, f"reliability, {init}")} for init, figure in figures.items()],
        "classes": rows,
        "names": classes,
        "confusion": tables if len(classes) <= MOST_CLASSES else [],
    }


def _cell(numbers: Sequence[float | None]) -> dict[str, str]:
    value, low, high = map(_float, numbers)
    return {"value": number(value), "interval": interval(low, high)}


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, row in zip(classes, counts, strict=True):
        total = max(sum(row), 1e-9)
        rows.append(
            {"name": name, "cells": [{"text": f"{count:.1f}".removesuffix(".0"), "share": round(count / total, 3)} for count in row]}
        )
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
    closeup, chosen = study.closeup, colours(study)
    if not closeup.get("pictures"):
        return []
    pictures = {case: picture_uri(pixels) for case, pixels in thumbnails(closeup).items()}
    task = study.facts["task"]
    return [
        {
            "uri": pictures[str(found["case"])],
            "truth": "" if found["truth"] is None else f"{task['label']} {task['classes'][found['truth']]}",
            "colour": css_colour(colour_of(0 if found["truth"] is None else 1 + found["truth"])),
            "said": list(_said(found["inits"], chosen)),
        }
        for found in closeup["hardest"]
    ]


def _said(inits: Mapping[str, float], chosen: Mapping[str, str]) -> Iterable[dict[str, str]]:
    for init, value in inits.items():
        if init in chosen:
            yield {"init": init, "colour": css_colour(chosen[init]), "text": f"{value:.2f}"}
