"""Studies and runs on one page, for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medcl.evaluation.facts import FACTS
from medcl.evaluation.summary import MODE_WORDS, percent
from medcl.foundation.errors import UserError
from medcl.foundation.files import CARD, read_card, write_text
from medcl.foundation.pages import render_page
from medcl.reporting import read_maps, read_runs, read_study
from medcl.reporting.figures import colour_of, css_colour, draw_curves, draw_lines, to_svg, write_figure
from medcl.reporting.read_closeup import closeup_content, closeup_figures, outline_figures
from medcl.reporting.read_runs import FIGURE_WORDS, Run
from medcl.reporting.read_study import METRIC_WORDS, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "page.html"
_OWN = ("label_efficiency_", "embedding_map_", "reliability_", "agreement_", "hardest_")  # how names of a study's figures begin


def write_study_page(folder: Path) -> Path:
    """Write `figures/` (PNG, SVG, PDF) and `page.html` into a STUDY folder; returns the page's path. The card need not be there yet."""
    study = read_study.read_study(Path(folder))
    figures, written = study.folder / "figures", set()
    for name, figure in _figures(study):
        write_figure(figure, figures / name)
        written.add(name)
    for path in list(figures.iterdir()) if figures.is_dir() else ():
        if path.name.startswith(_OWN) and path.stem not in written:
            path.unlink(missing_ok=True)  # of an earlier state of the study
    page = study.folder / PAGE
    write_text(page, render_page("medcl.reporting", "study.html", title=study.title, study=_study_content(study)))
    return page


def _figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Every figure of the study, with a name for its files."""
    for mode, panel in read_study.curve_panels(study).items():
        yield f"{_OWN[0]}{mode}", draw_curves(panel)
    yield from read_maps.map_figures(study)
    points = study.closeup.get("points", ())
    for point in points:
        at = "" if point is points[-1] else f"_at_{point['fraction']:g}"
        for name, (_, figure) in closeup_figures(study, point).items():
            yield f"{name}{at}", figure
    yield from outline_figures(study).items()


def write_report(folders: Sequence[Path], out: Path) -> None:
    """One page from any number of RUN and STUDY folders: each study, then the runs side by side.

    Raises UserError for a folder that is neither, or a study that is not whole.
    """
    if not folders:
        raise UserError("RUN_OR_STUDY: give at least one folder that pretrain or evaluate made")
    studies, runs = [], []
    for folder in {folder.resolve(): folder for folder in map(Path, folders)}.values():  # the same one twice is shown once
        if (folder / FACTS).is_file():
            read_card(folder, "study")
            studies.append(read_study.read_study(folder))
        else:
            runs.append(folder)
    named = [read_runs.read_run(folder, name) for folder, name in zip(runs, _names(runs), strict=True)]
    content = {"studies": [_study_content(study) for study in studies], "runs": _runs_content(named) if named else None}
    write_text(Path(out), render_page("medcl.reporting", "report.html", title=_report_title(studies, named), **content))


def _study_content(study: Study) -> dict[str, Any]:
    """All that the study's part of a page says, as plain words and finished figures."""
    metric_names, numbers = read_study.all_numbers(study)
    chosen, compared = read_study.colours(study), read_study.comparison(study)
    kinds = {name: study.facts["inits"][name]["kind"] for name in study.inits}
    return {
        "title": study.title,
        "facts": study.facts,
        "metric": METRIC_WORDS.get(study.metric, study.metric),
        "sentences": study.headline.get("sentences", [study.headline["sentence"]]),
        "reference": study.headline.get("reference"),
        "reference_words": _reference_words(study),
        "legend": [{"name": name, "colour": css_colour(chosen[name]), "floor": kinds[name] == "pixels"} for name in study.inits],
        "panels": [{"mode": MODE_WORDS.get(mode, mode), "svg": svg} for mode, svg in _curve_svgs(study).items()],
        "modes": [MODE_WORDS.get(mode, mode) for mode in study.modes],
        "savings": [{**row, "colour": css_colour(row["colour"])} for row in read_study.savings(study)],
        "comparison": [{**row, "colour": css_colour(row["colour"])} for row in compared],
        "delong": any(row["delong"] for row in compared),
        "laws": [{**row, "colour": css_colour(row["colour"])} for row in read_study.laws(study)],
        "fitted": any("line" in law for law in study.laws),
        "closeup": closeup_content(study),
        "cases_differ": any(row["cases"] != row["patients"] for row in compared),
        "retrieval": [{**row, "colour": css_colour(row["colour"])} for row in read_study.retrieval(study)],
        "zero_shot": [{**row, "colour": css_colour(row["colour"])} for row in read_study.zero_shot(study)],
        "prompts": read_study.prompts(study),
        "recall_at": read_study.RECALL_AT,
        "refused": [_refusal(refusal) for refusal in study.facts["refused"]],
        "maps": read_maps.maps(study),
        "neighbours": read_maps.neighbours(study),
        "metric_names": metric_names,
        "numbers": numbers,
        "inits": [_provenance(name, study.facts["inits"][name], css_colour(chosen[name])) for name in study.inits],
        "settings": yaml.safe_dump(study.facts["settings"], sort_keys=False, allow_unicode=True),
    }


def _curve_svgs(study: Study) -> dict[str, str]:
    words = METRIC_WORDS.get(study.metric, study.metric)
    panels = read_study.curve_panels(study).items()
    return {
        mode: to_svg(draw_curves(panel), f"{words} against the labelled fraction, {MODE_WORDS.get(mode, mode)}") for mode, panel in panels
    }


def _reference_words(study: Study) -> str:
    reference = study.headline.get("reference")
    if not reference:
        return ""
    return f"{reference['init']}, {MODE_WORDS.get(reference['mode'], reference['mode'])}, {percent(reference['fraction'])} of the labels"


def _refusal(refusal: Mapping[str, Any]) -> dict[str, Any]:
    fraction = refusal["needed_fraction"]
    steps = 1000 if fraction < 0.1 else 100  # of what `percent` writes: rounded down, it would be refused again
    needs = (
        f"{refusal['needed_patients']:,} patients ({percent(math.ceil(steps * fraction - 1e-9) / steps)})"
        if fraction <= 1
        else "more labelled patients than there are"
    )
    return {"fraction": percent(refusal["fraction"]), "patients": refusal["num_patients"], "needs": needs, "reason": refusal["reason"]}


def _provenance(name: str, init: Mapping[str, Any], colour: str) -> dict[str, Any]:
    """What an initialisation is: pairs of words for the page."""
    pairs = [(words, init.get(key)) for key, words in _INIT_WORDS.items()]
    shown = [
        (words, json.dumps(value) if isinstance(value, dict | list) else f"{value:,}" if isinstance(value, int) else str(value))
        for words, value in pairs
        if value
    ]
    return {"name": name, "colour": colour, "words": init["words"], "pairs": shown, "overrides": dict(init.get("overrides") or {})}


_INIT_WORDS = {
    "method": "method",
    "steps": "steps",
    "world_batch": "batch",
    "training_items": "pretraining scans",
    "training_patients": "pretraining patients",
    "dim": "embedding length",
    "input": "input",
    "policy": "view policy",
    "licence": "licence",
    "weights": "sha256 of the weights",
    "corpus": "pretraining store",
}


def _runs_content(runs: Sequence[Run]) -> dict[str, Any]:
    colours = {run.name: colour_of(1 + place) for place, run in enumerate(runs)}
    panels = {section: [_run_panel(runs, name, colours) for name in names] for section, names in read_runs.sections_of(runs).items()}
    rows = [read_runs.overview(run) for run in runs]
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) for row in rows)]
    table = [
        {"name": run.name, "colour": css_colour(colours[run.name]), "cells": [row.get(name, "") for name in columns]}
        for run, row in zip(runs, rows, strict=True)
    ]
    settings = [{"name": run.name, "yaml": yaml.safe_dump(read_runs.shown_config(run), sort_keys=False)} for run in runs]
    return {
        "headline": read_runs.headline_of(runs),
        "columns": columns,
        "table": table,
        "panels": panels,
        "settings": settings,
        "unfinished": [run.name for run in runs if not (run.folder / CARD).is_file()],
        "collapsed": [run.name for run in runs if any(record.get("collapse/collapsed") for record in run.records)],
    }


def _run_panel(runs: Sequence[Run], figure: str, colours: Mapping[str, str]) -> dict[str, str]:
    lines = {run.name: run.series(figure) for run in runs if run.series(figure)[0]}
    words = FIGURE_WORDS.get(figure, figure.replace("/", ": ").replace("_", " "))
    return {"name": words, "svg": to_svg(draw_lines(lines, colours), f"{words} over the steps")}


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of the folders above them as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-depth:]) if names.count(name) > 1 else name for own, name in zip(parts, names, strict=True)]
    return names


def _report_title(studies: Sequence[Study], runs: Sequence[Run]) -> str:
    parts = [study.title for study in studies] + [run.name for run in runs]
    return ", ".join(parts)
