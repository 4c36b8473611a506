"""The truth table of odd NIfTI files through medcl, nibabel, SimpleITK, TorchIO and MONAI: right, refused, said, or wrong in silence.

python benchmarks/ingest_nifti_vs_peers.py [--out reports/ingest/nifti.md]

The files are those of tests/ingest/nifti_cases.py, written byte by byte, each with what it means or that nobody can know.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import resource
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medcl.ingest import IngestConfig, read_scans
from tests.ingest.nifti_cases import CASES, Case

# Whole files that a general reader may well return, and that are no scan to learn from.
_NO_SCAN = {"not_finite", "blank", "complex_values", "colour", "dimensions"}
RIGHT, SAID, REFUSED, SILENT = "right", "said", "refused", "**silent**"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EXPECTED_FLAGS = {"modality_unknown", "looks_like_labels"}
_MOST_BYTES = 12 * 2**30
Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Read every file with every reader, print, and write the table."""
    parser = argparse.ArgumentParser(description="Odd NIfTI files through medcl and four other readers.")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    peers: dict[str, Read] = {"nibabel": _nibabel, "SimpleITK": _simpleitk, "TorchIO": _torchio, "MONAI": _monai}
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = case.write(Path(folder) / "in")
            rows.append([case.name, _ours(path.parent, case), *(_judge(case, read, path) for read in peers.values())])
    text = _table(["medcl", *peers], rows)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text + "\n", encoding="utf-8")


def _ours(folder: Path, case: Case) -> str:
    reading = read_scans(folder, IngestConfig(units="arbitrary"))
    if not reading.volumes:
        return f"{REFUSED}: {next(one.reason for one in reading.ledger if one.reason != 'ok')}"
    flags = {flag for found in reading.flags for flag in found} - _EXPECTED_FLAGS
    array = np.stack([volume.array for volume in reading.volumes], axis=-1)
    is_right = case.array is not None and _matches(case, array, reading.volumes[0].affine)
    if flags and (is_right or case.array is None):
        return f"{SAID}: {', '.join(sorted(flags))}"
    return RIGHT if is_right else SILENT


def _judge(case: Case, read: Read, path: Path) -> str:
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            array, affine = read(path)
    except Exception:  # whatever a reader raises, it has said that something is wrong
        return "error" if case.array is not None else REFUSED
    return RIGHT if case.array is not None and _matches(case, array, affine) else SILENT


@contextlib.contextmanager
def _quiet():
    """ITK writes its complaints to C's stderr."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _matches(case: Case, array: np.ndarray, affine: np.ndarray) -> bool:
    assert case.array is not None and case.affine is not None
    meant = case.array.reshape(*case.array.shape[:3], -1)
    if array.size != meant.size or array.shape[:3] != meant.shape[:3]:
        return False
    array = array.reshape(meant.shape)
    return bool(np.allclose(array.astype(np.float64), meant, rtol=1e-5, atol=1e-3) and np.allclose(affine, case.affine, atol=1e-3))


def _nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib

    image = nib.load(path)  # type: ignore[attr-defined]
    return np.asanyarray(image.dataobj), image.affine  # type: ignore[attr-defined]


def _simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    size = image.GetDimension()
    affine = np.eye(4)
    turn = np.array(image.GetDirection()).reshape(size, size)[:3, :3]
    affine[:3, :3] = turn * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return sitk.GetArrayFromImage(image).T, _LPS_TO_RAS @ affine


def _torchio(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import torchio as tio

    image = tio.ScalarImage(path)
    return np.moveaxis(image.data.numpy(), 0, -1), np.asarray(image.affine)


def _monai(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True, dtype=None)(str(path))
    return image.numpy(), image.affine.numpy()  # type: ignore[union-attr]


def _table(readers: list[str], rows: list[list[str]]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("nibabel", "SimpleITK", "torchio", "monai"))
    meant = {case.name for case in CASES if case.array is not None}
    lines = [
        f"# {len(CASES)} odd NIfTI files through five readers",
        "",
        f"Made by `benchmarks/ingest_nifti_vs_peers.py`; {versions}.",
        f"For {len(meant)} files it is certain what they mean: *right* is that array and affine, *error* an exception. The others are",
        "damaged or contradict themselves: *refused* is an exception (medcl: the code in its ledger). *said*: read, with the doubt written",
        "into the manifest. *silent*: an array came back, nothing was raised, and it is wrong or cannot be known to be right. Warnings",
        "that a reader only prints are not counted. The last row leaves out files that are whole and merely no scan (NaN, blank, flat,",
        "complex, colour): a general reader may well return those.",
        "",
        f"| of {len(CASES)} | {' | '.join(readers)} |",
        "|---" * (len(readers) + 1) + "|",
    ]
    tallies = [Counter(row[place + 1].split(":")[0] for row in rows) for place in range(len(readers))]
    for kind in (RIGHT, SAID, REFUSED, "error", SILENT):
        lines.append(f"| {kind.strip('*')} | {' | '.join(str(tally[kind]) for tally in tallies)} |")
    whole = {case.name for case in CASES if case.code in _NO_SCAN}
    strict = [str(sum(row[place + 1] == SILENT and row[0] not in whole for row in rows)) for place in range(len(readers))]
    lines.append(f"| silent, damaged or contradictory files alone | {' | '.join(strict)} |")
    lines += ["", f"| file | {' | '.join(readers)} |", "|---" * (len(readers) + 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    main()
