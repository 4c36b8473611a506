"""What a study writes beside its numbers: `study.json`, the embedding map, the sheet of neighbours, the close-up."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import medcl
from medcl.evaluation.closeup import look_closer
from medcl.evaluation.fits import Fit, pack
from medcl.evaluation.knn import nearest
from medcl.evaluation.leaks import FALSE_ALARMS, lookalikes
from medcl.evaluation.linear import STRENGTHS, principal_components
from medcl.evaluation.outlines import SIDE, labels_there, middle_slice, upright
from medcl.evaluation.scores import Outlined
from medcl.evaluation.settings import ClassificationTask, MultilabelTask, RegressionTask, SegmentationTask, StudyConfig, WeightsConfig
from medcl.evaluation.study_data import StudyCases, duplicates_across_parts
from medcl.evaluation.subgroups import groupings_of
from medcl.evaluation.summary import FULLEST_FIRST
from medcl.evaluation.targets import Colouring
from medcl.foundation.files import hash_of_folder, write_json
from medcl.foundation.geometry import rows_and_columns
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker

if TYPE_CHECKING:
    from medcl.evaluation.study import OpenStudy

FACTS = "study.json"
MAP = "embedding_map.json"
NEIGHBOURS = "neighbours.json"
CLOSEUP = "closeup.json"
THUMBNAIL = 72
_LIBRARIES = ("torch", "numpy", "scipy", "monai")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"medcl": medcl.__version__, "python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def embedding_map(embeddings: Mapping[str, np.ndarray], train: np.ndarray, shown: np.ndarray, by: Sequence[Colouring]) -> dict[str, Any]:
    """Test cases on the two leading components of the training cases, for every initialisation.

    embeddings: name -> (rows, dim); train, shown: rows; by: colourings of all rows.
    """
    colours = [{"name": own.name, "values": list(own.values), "code": own.code[shown].tolist()} for own in by]
    content: dict[str, Any] = {"by": colours, "inits": {}}
    for name, rows in embeddings.items():
        mean, directions = principal_components(rows[train], 2)
        if directions.shape[1] == 2:
            centred = np.asarray(rows[shown], dtype=np.float64) - mean
            spread = np.var(np.asarray(rows[train], dtype=np.float64) - mean, axis=0).sum()
            explained = [float(np.var((rows[train] - mean) @ direction) / spread) for direction in directions.T]
            x, y = ((centred @ direction).round(4).tolist() for direction in directions.T)
            content["inits"][name] = {"x": x, "y": y, "explained": explained}
    return content


def neighbour_sheet(
    embeddings: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray, by: Colouring, *, queries: int = 4, neighbours: int = 5
) -> dict[str, Any]:
    """For a few test cases (the colouring's values in turn) the training cases that each initialisation holds closest.

    by: a colouring of all rows. Pictures are added by `add_pictures`.
    """
    by_class = [test[by.code[test] == own] for own in range(len(by.values))]
    asked = [int(rows[place]) for place in range(queries) for rows in by_class if place < len(rows)][:queries]
    found = {name: train[nearest(rows[train], rows[asked], neighbours)].tolist() for name, rows in embeddings.items()}
    shown = sorted({*asked, *(row for lists in found.values() for one in lists for row in one)})
    label = {str(row): int(by.code[row]) for row in shown}
    return {"queries": asked, "inits": found, "label": label, "values": list(by.values), "side": THUMBNAIL, "pictures": {}}


def write_what_encoders_see(study: OpenStudy) -> None:
    """The map and the sheet of neighbours, where the study has frozen embeddings; else those of an earlier state of it go."""
    if not {"knn", "linear"} & set(study.config.modes):
        for name in (MAP, NEIGHBOURS):
            (study.out / name).unlink(missing_ok=True)
        return
    shown = {init.name: study.embeddings(init) for init in study.inits if init.kind != "pixels"}
    first, by, (train, test) = study.inits[0], study.cases.target.colourings(), (study.draws.train, study.draws.test)
    write_json(study.out / MAP, embedding_map(shown, train, test, by))
    sheet = neighbour_sheet(shown, train, test, by[0])
    add_pictures(sheet, first.store, first.maker, study.cases.rows_of(first.store))
    write_json(study.out / NEIGHBOURS, sheet)


def add_pictures(sheet: dict[str, Any], store: VolumeStore, maker: ViewMaker, rows: np.ndarray) -> None:
    """Put a small grey picture of every case shown into a sheet: the whole field, of volumes the middle axial slice.

    rows: the store's row of every case. A scan that may have text burned in gets no picture.
    """
    for case in sheet["label"]:
        row = int(rows[int(case)])
        if not store.may_hold_text(row):
            put_picture(sheet, int(case), _picture(store, maker, row))


def _picture(store: VolumeStore, maker: ViewMaker, row: int) -> np.ndarray:
    view = maker.render(store, row, maker.whole(store.shape(row), store.affine(row)))
    return rows_and_columns(view) if maker.flat else upright(view[:, :, view.shape[2] // 2 :])


def study_closeup(study: OpenStudy, fits: Sequence[Fit]) -> dict[str, Any]:
    """What `closeup.json` holds: see `look_closer`; with small pictures of the hardest cases, and no key of any of them.

    A scan that may have text burned in gets no picture.
    """
    first, test = study.inits[0], study.draws.test
    rows = study.cases.rows_of(first.store)
    groupings = groupings_of(first.store, rows[test], getattr(study.config.task, "label", ""))
    content = look_closer(study.plan, fits, study.patients, groupings)
    outlined = [fit for fit in fits if isinstance(fit.outcome, Outlined) and _is_shown(fit, content)]
    sheet: dict[str, Any] = {"side": SIDE if outlined else THUMBNAIL, "pictures": {}}
    for found in content.get("hardest", ()):
        row = int(rows[test[found["case"]]])
        if first.store.may_hold_text(row):
            continue
        if outlined:
            picture, found["outlines"] = _outlines(study, outlined, found["case"], row)
        else:
            picture = _picture(first.store, first.maker, row)
        put_picture(sheet, found["case"], picture)
    return content | sheet if content else {}


def _is_shown(fit: Fit, content: Mapping[str, Any]) -> bool:
    return fit.key.mode == content["mode"] and fit.key.fraction == content["fraction"] and fit.key.draw == 0


def _outlines(study: OpenStudy, fits: Sequence[Fit], case: int, row: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The slice that is shown of a case, and its structures there: in truth, and as each initialisation outlined them in the first draw."""
    first = study.inits[0]
    truth = first.store.mask(row)
    assert truth is not None
    truth = np.where(np.isin(truth, study.numbers), truth, 0)
    view = middle_slice(first.maker, first.store, row, truth > 0)
    said = {fit.key.init: pack(fit.outcome.said[case]) for fit in fits if isinstance(fit.outcome, Outlined)}
    return upright(first.maker.render(first.store, row, view)), {"truth": pack(labels_there(truth, view)), "said": said}


def put_picture(sheet: dict[str, Any], case: int, picture: np.ndarray) -> None:
    """Add one picture (rows, columns) of a case."""
    sheet["pictures"][str(case)] = base64.b64encode(thumbnail(picture, sheet["side"]).tobytes()).decode()


def thumbnail(picture: np.ndarray, side: int = THUMBNAIL) -> np.ndarray:
    """A square uint8 picture: centred on black, contrast stretched between the 1st and 99th percentile."""
    from scipy.ndimage import zoom

    low, high = np.percentile(picture, (1, 99))
    scaled = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    factor = side / max(scaled.shape)
    small = np.asarray(zoom(scaled, factor, order=1, grid_mode=True, mode="nearest"))[:side, :side]
    square = np.zeros((side, side))
    top, left = ((side - length) // 2 for length in small.shape)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return (255 * np.clip(square, 0, 1)).astype(np.uint8)


def study_facts(study: OpenStudy) -> dict[str, Any]:
    """What the page says beside the numbers: task, parts of the split, inits, protocol, settings, versions, hashes."""
    config, cases, draws = study.config, study.cases, study.draws
    alike = _lookalikes(study)
    parts: dict[str, Any] = {"origin": draws.splits.origin}
    for part in ("train", "val", "test"):
        parts[part] = _part_facts(cases, draws.splits.rows(part))
    return {
        "title": _title(config, study.numbers),
        "task": {**config.task.model_dump(mode="json"), "classes": list(cases.classes), "numbers": list(study.numbers)},
        "metric": config.metric,
        "reference": config.reference,
        "transductive": config.transductive,
        "parts": parts,
        "refused": [asdict(refusal) for refusal in draws.refused],
        "notes": _notes(study, alike),
        "inits": {init.name: init.facts() for init in study.inits},
        "modes": list(config.modes),
        "protocol": {"draws": config.draws, "resamples": config.resamples, "lines": _protocol(config)},
        "leaks": study.leaks.sentence + ("" if alike is None else f" {_likeness(len(alike))}"),
        "lookalikes": [[str(cases.volume[one]), str(cases.volume[other])] for one, other in alike or ()],
        "settings": shown_settings(config),
        "versions": versions(),
        "hashes": {"data": hash_of_folder(config.data), "splits and draws": study.draws_hash},
    }


def shown_settings(config: StudyConfig) -> dict[str, Any]:
    """The settings without absolute paths: what lies above the last two folders is nobody's business."""
    content = config.model_dump(mode="json")
    content["data"] = shown_path(config.data)
    if config.recipe:
        content["recipe"] = shown_path(Path(config.recipe))
    if config.views:
        content["views"]["policy"] = shown_path(Path(config.views.policy))
    for name, given in config.inits.items():
        if isinstance(given, Path):
            content["inits"][name] = shown_path(given)
        elif isinstance(given, WeightsConfig):
            content["inits"][name]["weights"] = shown_path(given.weights)
    return content


def shown_path(path: Path) -> str:
    """A path for a page: as given, or the last two folders of an absolute one."""
    return str(Path(*path.parts[-2:])) if path.is_absolute() else str(path)


def _part_facts(cases: StudyCases, rows: np.ndarray) -> dict[str, Any]:
    per_class = [int(count) for count in cases.cases.membership[rows].sum(0)]
    return {"cases": len(rows), "patients": len(np.unique(cases.cases.patient[rows])), "per_class": per_class}


def _title(config: StudyConfig, numbers: tuple[int, ...]) -> str:
    if config.title:
        return config.title
    if isinstance(config.task, ClassificationTask | RegressionTask):
        return config.task.label
    if isinstance(config.task, MultilabelTask):
        return ", ".join(config.task.labels)
    if isinstance(config.task, SegmentationTask):
        return f"segmentation of structure{'s' if len(numbers) > 1 else ''} {', '.join(str(number) for number in numbers)}"
    return "image and report retrieval"


def _lookalikes(study: OpenStudy) -> list[tuple[int, int]] | None:
    """Test cases that stand out beside one training or validation case, other pixels; None in a study without the raw-pixel floor."""
    floor = next((init for init in study.inits if init.kind == "pixels"), None)
    if floor is None:
        return None
    cases, splits = study.cases, study.draws.splits
    others = np.flatnonzero(splits.name != "test")
    found = lookalikes(study.embeddings(floor), cases.cases.patient, splits.rows("test"), others)
    return [(one, other) for one, other in found if cases.pixel_hash[one] != cases.pixel_hash[other]]


def _likeness(count: int) -> str:
    if not count:
        return "No test case looks like one training or validation case and like no second one."
    return (
        f"{count} test case{'s look' if count > 1 else ' looks'} like one training or validation case and like no second one, as a copy "
        "with another window or resolution would, and as a few in a thousand do by chance; study.json lists the pairs."
    )


def _notes(study: OpenStudy, alike: Sequence[tuple[int, int]] | None) -> list[str]:
    notes = [_likeness(len(alike))] if alike and len(alike) > FALSE_ALARMS * len(study.draws.test) else []
    twins = duplicates_across_parts(study.cases, study.draws.splits)
    if twins:
        notes.append(f"{twins} test case{'s have' if twins > 1 else ' has'} the very pixels of a training or validation case.")
    task = study.config.task
    asked = task.labels if isinstance(task, MultilabelTask) else (getattr(task, "label", None),)
    told = [init.name for init in study.inits if init.first is not None and init.first.label in asked]
    if told:
        notes.append(f"{', '.join(told)} was told the answer: it learned the study's own label from every training case, so it saves none.")
    if study.leaks.unknown:
        notes.append(f"{', '.join(study.leaks.unknown)} does not say what it was pretrained on, so a leak cannot be ruled out.")
    return notes


def _protocol(config: StudyConfig) -> list[str]:
    """How each mode was fitted, in words."""
    finetune = config.finetune
    rates = ", ".join(f"{rate:g}" for rate in finetune.learning_rates)
    views = "views as the pretraining policy allows" if finetune.views == "policy" else "no augmentation"
    budget = (
        f"{finetune.num_steps} steps of at most {finetune.batch} cases, {views}, the head alone for the first {finetune.head_share:.0%}; "
        f"learning rate ({rates}) chosen by validation at the first draw of each fraction, the step by validation in every fit."
    )
    probe = "ridge" if isinstance(config.task, RegressionTask) else "logistic"
    lines = {
        "knn": "Nearest neighbours: 20, cosine, votes weighted with temperature 0.07, on frozen embeddings.",
        "linear": f"Linear probe: {probe} regression on standardised frozen embeddings, {len(STRENGTHS)} strengths, validation chooses.",
        "finetune": f"Fine-tuning: {budget}",
        "distill": "Distillation: from the same start a student learns what the fine-tuned network says of every training image, labelled "
        f"or not, for as long again; temperature {finetune.distill.temperature:g}, weight of the labels {finetune.distill.label_share:g}.",
        "frozen": f"Frozen encoder: only the decoder learns; {budget}",
        "zeroshot": "Zero-shot: no label is used. Each answer is the mean of its sentences' embeddings at unit length; softmax of "
        "their cosine with the image over the temperature of the pretraining; decisions count every class the same.",
        "retrieval": "Retrieval: each report by the mean of its sentences' embeddings, among all reports of the test set.",
    }
    chosen = [lines[mode] for mode in config.modes]
    if set(config.modes) & set(FULLEST_FIRST):
        chosen.append("Validation cases are labelled at every fraction; they choose settings and are never trained on.")
    return chosen
