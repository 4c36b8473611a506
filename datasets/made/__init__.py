"""A made cohort: what a hospital would hand over, invented from a seed, and built to be a fair test (see card.md)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["make"]


def make(
    out: str | Path, patients: int = 96, seed: int = 0, jobs: int = 2, *, xray_patients: int | None = None, mr_patients: int | None = None
) -> dict:
    """Write the cohort under `out`: ct/, xray/, mr/ and their tables. A pure function of everything but `jobs`.

    `patients`: people with chest CT. `xray_patients` (default: as many) have X-rays and reports; the first quarter of them are CT patients
    too. `mr_patients` (default: a quarter as many) have brain MR; a part
    with nobody in it is left out. Returns a dict: paths `ct, xray, mr, ct_labels, ct_reports, xray_labels,
    xray_reports, mr_labels` as strings, and `counts`. Raises FileExistsError where `out` already holds something.
    """
    from .write import write_cohort

    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give an empty or a new folder for the made cohort")
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "ct": patients,
        "xray": patients if xray_patients is None else xray_patients,
        "mr": patients // 4 if mr_patients is None else mr_patients,
    }
    return write_cohort(folder, {part: count for part, count in sizes.items() if count}, seed, jobs)
