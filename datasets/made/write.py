"""Lays the cohort on disk as a hospital would hand it over; each patient is written alone: the same bytes for any number of jobs."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from medcl.foundation.side_by_side import begin_child

from .brain import make_brain
from .chance import balanced, generator, number, uid
from .chest import make_chest
from .dicom_files import Stored, ct_series, localizer, origin_mm, radiograph
from .findings import LABELS, Finding, chest_findings, grow, incidental_findings, label_table
from .people import Person, Visit, draw_person, draw_visit, num_studies
from .reports import write_report
from .spoil import extra_files, flaw_of, holed
from .xray import make_xray


@dataclass(frozen=True)
class Task:
    """One patient of one part (ct, mr, xray)."""

    out: str
    seed: int
    part: str
    index: int
    present: dict[str, bool]


def write_cohort(out: Path, sizes: dict[str, int], seed: int, jobs: int) -> dict:
    """Write every part and its tables under `out`. Returns where things are and how many there are."""
    tasks = [task for part, count in sizes.items() for task in _tasks(out, seed, part, count, sizes["ct"])]
    rows = [row for rows in _run(tasks, jobs) for row in rows]
    made: dict = {part: str(out / part) for part in sizes}
    for part in sizes:
        made |= _tables(out, part, [row for row in rows if row["part"] == part])
    (out / "canaries.txt").write_text("".join(f"{word}\n" for word in sorted({word for row in rows for word in row["canaries"]})))
    made["counts"] = {part: {"patients": count, "studies": sum(row["part"] == part for row in rows)} for part, count in sizes.items()}
    return made


def _tasks(out: Path, seed: int, part: str, count: int, num_ct: int) -> Iterator[Task]:
    """The first quarter of the X-ray patients are CT patients too, with the same findings; all others are other people."""
    if part == "mr":
        flags = balanced(seed, "mr label lesions", count, 0.5)
        yield from (Task(str(out), seed, part, 20_000 + k, {"lesions": bool(flags[k])}) for k in range(count))
        return
    table, ct_table = label_table(seed, part, count), label_table(seed, "ct", num_ct)
    shared = min(count, num_ct) // 4 if part == "xray" else 0
    for k in range(count):
        both = k < shared
        present = {label: bool((ct_table if both else table)[label][k]) for label in LABELS}
        yield Task(str(out), seed, part, k if both or part == "ct" else 10_000 + k, present)


def _run(tasks: list[Task], jobs: int) -> Iterator[list[dict]]:
    if jobs <= 1:
        return iter([write_patient(task) for task in tasks])
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=begin_child) as pool:
        return iter(list(pool.map(write_patient, tasks, chunksize=8)))


def write_patient(task: Task) -> list[dict]:
    """All files of one patient; one row per study for the tables."""
    writers: dict[str, Callable[[Task, Person, int], dict]] = {"ct": _write_ct, "mr": _write_mr, "xray": _write_xray}
    person = draw_person(task.seed, task.index)
    return [writers[task.part](task, person, study) for study in range(num_studies(task.seed, task.part, task.index))]


def _write_ct(task: Task, person: Person, study: int) -> dict:
    seed, visit = task.seed, draw_visit(task.seed, person, "ct", study)
    draw = generator(seed, "ct files", task.index, study)
    findings = grow(chest_findings(seed, "ct", task.index, task.present), 1.0 + 0.3 * study)
    chest = make_chest(seed, task.index, study, findings)
    stored = _STORED[int(draw.integers(len(_STORED)))]
    files = ct_series(seed, visit, chest.hu, chest.spacing_mm, stored, reverse=bool(draw.random() < 0.4))
    names = _names(draw, len(files))
    flaw = flaw_of(draw, task.index) if study == 0 else ""
    extra = extra_files(flaw, files, names)
    folder = Path("ct") / f"{person.name.replace('^', '_')}_{person.patient_id}" / f"{visit.date}_CT_CHEST"
    root = Path(task.out)
    _write(root / folder / "001_SCOUT", {"SC000001.dcm": localizer(seed, visit, chest.hu, chest.spacing_mm)})
    _write(root / folder / "002_AXIAL", dict(zip(names, files, strict=True)) | extra)
    if flaw == "hole":
        key = (task.index, study)
        lacking = holed(files, names, uid(seed, "ct series", *key, 2), uid(seed, "ct series", *key, 3))
        _write(root / folder / "003_AXIAL", lacking)
    mask = _nifti(chest.mask.transpose(2, 1, 0), mask_affine(chest.hu.shape, chest.spacing_mm))
    _write(root / folder / "002_AXIAL", {"findings_mask.nii.gz": mask})
    return _row(task, visit, findings, str(folder / "002_AXIAL"), uid(seed, "ct study", task.index, study), "CT")


def _write_xray(task: Task, person: Person, study: int) -> dict:
    seed, visit = task.seed, draw_visit(task.seed, person, "xray", study)
    draw = generator(seed, "xray files", task.index, study)
    findings = chest_findings(seed, "xray", task.index, task.present) + incidental_findings(seed, task.index)
    findings = grow(findings, 1.0 + 0.3 * study)
    picture, spacing = make_xray(seed, task.index, study, findings)
    inverted, implicit = bool(draw.random() < 0.3), bool(draw.random() < 0.3)
    data = radiograph(seed, visit, picture, spacing, "DX" if draw.random() < 0.5 else "CR", inverted, implicit)
    folder, name = Path("xray") / f"{person.family}_{person.patient_id}", f"{visit.accession}.dcm"
    _write(Path(task.out) / folder, {name: data})
    return _row(task, visit, findings, str(folder / name), uid(seed, "xray study", task.index, study), "XR")


def _write_mr(task: Task, person: Person, study: int) -> dict:
    visit = draw_visit(task.seed, person, "mr", study)
    array, spacing = make_brain(task.seed, task.index, study, task.present["lesions"])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(array.shape, spacing, strict=True)]
    subject, session = f"sub-{task.index - 20_000 + 1:03d}", f"ses-{study + 1:02d}"
    folder, stem = Path("mr") / subject / session / "anat", f"{subject}_{session}_T1w"
    side = {"Modality": "MR", "MagneticFieldStrength": 1.5, "RepetitionTime": 2.3, "EchoTime": 0.003, "FlipAngle": 9}
    side |= {"PatientName": visit.person.name, "AcquisitionDateTime": f"{visit.date}T{visit.time}", "ProtocolName": "t1_mprage"}
    files = {f"{stem}.nii.gz": _nifti(np.round(array).astype(np.int16), affine), f"{stem}.json": json.dumps(side, indent=1).encode()}
    _write(Path(task.out) / folder, files)
    return _row(task, visit, (), str(folder / f"{stem}.nii.gz"), "", "MR") | {"subject": subject}


_STORED = (Stored(), Stored(), Stored(), Stored(1.0, 0.0), Stored(0.5, -1024.0), Stored(1.0, -1024.0, padding=-2000))


def mask_affine(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """NIfTI affine (RAS+) of an (x, y, z) array that lies on the DICOM grid of `origin_mm`."""
    x, y, z = origin_mm(shape, spacing_mm)
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
    affine[:3, 3] = [-x, -y, z]
    return affine


def _row(task: Task, visit: Visit, findings: tuple[Finding, ...], file: str, study_uid: str, modality: str) -> dict:
    person = visit.person
    draw = generator(task.seed, f"{task.part} report", task.index, visit.study)
    salutation = f"Patient: {person.name.replace('^', ', ')}, {person.patient_id}, {visit.date}" if draw.random() < 0.08 else ""
    return {
        "part": task.part,
        "file": file,
        "study": study_uid,
        "patient": person.patient_id,
        "accession": visit.accession,
        "text": write_report(findings, draw, modality, salutation) if findings else "",
        "labels": {label: int(flag) for label, flag in task.present.items()} | _amounts(findings),
        "age": min(visit.age_years, 89),
        "sex": person.sex,
        "canaries": [person.family, person.patient_id, visit.accession, person.phone, *([study_uid] if study_uid else [])],
    }


def _amounts(findings: tuple[Finding, ...]) -> dict:
    """Side and size of the labelled findings; empty where absent."""
    by_kind = {finding.kind: asdict(finding) for finding in findings}
    if not by_kind:
        return {}
    nodules, fluid, heart = (by_kind.get(label, {}) for label in LABELS)
    return {
        "normal": int(not (nodules or fluid or heart)),
        "nodule_size_mm": nodules.get("size_mm", ""),
        "nodule_count": nodules.get("count", ""),
        "effusion_side": fluid.get("side", ""),
        "effusion_ml": fluid.get("volume_ml", ""),
        "heart_extra_ml": heart.get("volume_ml", ""),
    }


def _tables(out: Path, part: str, rows: list[dict]) -> dict[str, str]:
    """The CSV files of a part, sorted by study or file name so that their order tells nothing."""
    made = {f"{part}_labels": str(out / f"{part}_labels.csv")}
    rows = sorted(rows, key=lambda row: (row["study"], row["file"]))
    keys = [{"file": row["file"]} | ({"study": row["study"], "patient": row["patient"]} if row["study"] else {}) for row in rows]
    pd.DataFrame([key | row["labels"] for key, row in zip(keys, rows, strict=True)]).to_csv(made[f"{part}_labels"], index=False)
    if part == "mr":
        _bids(out / part, rows)
        return made
    made[f"{part}_reports"] = str(out / f"{part}_reports.csv")
    columns = [
        {"accession": row["accession"], "study": row["study"], "patient": row["patient"], "report_text": row["text"]} for row in rows
    ]
    pd.DataFrame(columns).to_csv(made[f"{part}_reports"], index=False)
    return made


def _bids(folder: Path, rows: list[dict]) -> None:
    people = {row["subject"]: {"participant_id": row["subject"], "age": row["age"], "sex": row["sex"]} for row in rows}
    pd.DataFrame([people[name] for name in sorted(people)]).to_csv(folder / "participants.tsv", sep="\t", index=False)
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "Made brains", "BIDSVersion": "1.8.0", "DatasetType": "raw"}, indent=1)
    )


def _names(draw: np.random.Generator, count: int) -> list[str]:
    """File names in slice order, in shuffled order, or without meaning or ending."""
    style, order = int(draw.integers(3)), draw.permutation(count)
    if style == 0:
        return [f"IM{k + 1:06d}.dcm" for k in range(count)]
    if style == 1:
        return [f"IM{k + 1:06d}.dcm" for k in order]
    start = int(draw.integers(10**6))
    return ["I" + number(start, "name", int(k), digits=9) for k in order]


def _nifti(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A .nii.gz without a time stamp, so that the same array gives the same bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    target = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0, compresslevel=4) as packed:
        packed.write(image.to_bytes())
    return target.getvalue()


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
