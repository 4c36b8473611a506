"""The embedding map and the sheet of neighbours of a study as the page needs them, coloured by what is known of the cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from medcl.reporting.figures import as_file, colour_of, css_colour, draw_map, not_shown, picture_uri, to_svg
from medcl.reporting.read_study import Study, thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNKNOWN = "not known"


def maps(study: Study) -> list[dict[str, Any]]:
    """The map once for all that tells cases apart: the task's own labels first, then groups of patients (scanner, site, sex, age)."""
    found = []
    for own in _colourings(study):
        panels = [
            {"name": init, "svg": to_svg(_draw(points, own), f"embedding of the test cases, {init}, by {own['name']}")}
            for init, points in _points(study).items()
        ]
        names = [(value, colour_of(1 + place)) for place, value in enumerate(own["values"])]
        names += [(own["rest"], colour_of(0))] if -1 in own["code"] else []
        found.append(
            {"name": own["name"], "panels": panels, "legend": [{"name": name, "colour": css_colour(colour)} for name, colour in names]}
        )
    return found if _points(study) else []


def map_figures(study: Study) -> Iterable[tuple[str, Figure]]:
    """The same figures, with a name for the file of each."""
    for number, own in enumerate(_colourings(study)):
        by = f"_by_{number}_{as_file(own['name'])}" if number else ""
        for init, points in _points(study).items():
            yield f"embedding_map_{init}{by}", _draw(points, own)


def _points(study: Study) -> dict[str, Any]:
    return {init: points for init, points in (study.map or {"inits": {}})["inits"].items() if init in study.inits}


def _draw(points: Mapping[str, Any], own: Mapping[str, Any]) -> Figure:
    return draw_map(points["x"], points["y"], own["code"], points["explained"])


def _colourings(study: Study) -> list[dict[str, Any]]:
    """Name, values and code of each; a study made before there were several knew the classes only."""
    task, shown = study.facts["task"], study.map or {}
    own = shown.get("by") or [{"name": "", "values": task["classes"], "code": shown.get("label", [])}]
    found = [{**one, "name": one["name"] or task.get("label", ""), "rest": _UNKNOWN} for one in own]
    return found + [{**one, "rest": f"{_UNKNOWN}, or a group too small to name"} for one in study.closeup.get("groupings", ())]


def neighbours(study: Study) -> list[dict[str, Any]]:
    """For each initialisation the rows of the sheet: a test case and the training cases found closest."""
    sheet = study.neighbours
    if not sheet or not sheet["pictures"]:
        return []
    pictures, crossed = {row: picture_uri(pixels) for row, pixels in thumbnails(sheet).items()}, not_shown()
    values = sheet.get("values", study.facts["task"]["classes"])

    def cell(row: int) -> dict[str, Any]:
        label = sheet["label"][str(row)]
        words = values[label] if label >= 0 else _UNKNOWN
        return {"uri": pictures.get(str(row), crossed), "label": words, "colour": css_colour(colour_of(1 + label))}

    return [
        {
            "name": name,
            "hides": any(str(row) not in pictures for row in (*sheet["queries"], *chain(*lists))),
            "rows": [
                {"query": cell(query), "found": [cell(row) for row in rows]} for query, rows in zip(sheet["queries"], lists, strict=True)
            ],
        }
        for name, lists in sheet["inits"].items()
        if name in study.inits
    ]
