"""The corpus of faulty DICOM series through medcl and through other readers: how often right, refused, or wrong in silence.

python benchmarks/ingest_faults_vs_peers.py [--only medcl,SimpleITK] [--out reports/ingest/dicom_faults.md]

The corpus is that of the tests (tests/ingest/faults_*.py), each case with its truth, and the real series of MEDCL_TEST_DATA. Every reader
runs in a child process of its own, which is killed after 60 seconds for a case. Every reader gets the same flat folder and is used as its
documentation says: a folder in, all volumes that come out judged, values and places alike, whatever the order of axes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.ingest import faults_enhanced, faults_geometry, faults_mosaic, faults_pixels  # noqa: F401  (each fills the table)
from tests.ingest.faults import FAULTS, Fault, Known, judge

SECONDS = 60
Volumes = list[tuple[np.ndarray, np.ndarray]]
KINDS = {
    "readable": "one volume that can be read",
    "several": "several volumes in one series",
    "refuse": "must be refused",
    "real": "real series",
}


def with_medcl(folder: Path) -> Volumes:
    from medcl.ingest import read_scans

    return [(volume.array, volume.affine) for volume in read_scans(folder).volumes]


def with_simpleitk(folder: Path) -> Volumes:
    import SimpleITK as sitk  # noqa: N813  (its own custom)

    found = []
    for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        found.append((sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine))
    return found


def with_monai(folder: Path) -> Volumes:
    from monai.data.image_reader import PydicomReader

    reader = PydicomReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    return [(np.asarray(array), np.asarray(meta["affine"], dtype=np.float64))]


def with_dicom2nifti(folder: Path) -> Volumes:
    import dicom2nifti

    with tempfile.TemporaryDirectory() as out:
        dicom2nifti.convert_directory(str(folder), out, compression=False, reorient=False)
        return _niftis(Path(out))


def with_highdicom(folder: Path) -> Volumes:
    import highdicom

    by_series: dict[str, list[Any]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path, force=True)
        by_series[str(dataset.get("SeriesInstanceUID"))].append((path, dataset))
    found = []
    for members in by_series.values():
        if any("NumberOfFrames" in dataset for _, dataset in members):
            volumes = [highdicom.imread(path).get_volume() for path, _ in members]
        else:
            volumes = [highdicom.get_volume_from_series([dataset for _, dataset in members])]
        found += [(volume.array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine) for volume in volumes]
    return found


def with_dcm2niix(folder: Path) -> Volumes:
    import dcm2niix

    with tempfile.TemporaryDirectory() as out:
        said = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "%s_%d", "-o", out, str(folder)]
        subprocess.run(said, check=True, capture_output=True, timeout=SECONDS)
        # beside a tilted volume it writes a corrected one, named _Tilt: that one is what it advises to use
        return _niftis(Path(out), "*_Tilt*.nii") or _niftis(Path(out))


def _niftis(folder: Path, names: str = "*.nii") -> Volumes:
    found = []
    for path in sorted(folder.rglob(names)):
        image: Any = nib.load(path)
        array = image.get_fdata()
        found += [(part, image.affine) for part in ([array] if array.ndim == 3 else np.moveaxis(array, -1, 0))]
    return found


READERS: dict[str, tuple[Callable[[Path], Volumes], str]] = {
    "medcl": (with_medcl, ""),
    "SimpleITK": (with_simpleitk, "simpleitk"),
    "MONAI PydicomReader": (with_monai, "monai"),
    "dicom2nifti": (with_dicom2nifti, "dicom2nifti"),
    "highdicom": (with_highdicom, "highdicom"),
    "dcm2niix": (with_dcm2niix, "dcm2niix"),
}


class Child:
    """One reader in a process of its own, started again after a death or a stall."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: Any = None

    def read(self, folder: Path) -> Volumes | str:
        """Its volumes, or the word for how it ended without any: refused, died, stalled."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.name, theirs), daemon=True)
            self._process.start()
            theirs.close()
            self._pipe.recv()  # it has imported what it needs
        try:
            self._pipe.send(folder)
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            return self._stop("stalled")
        except (EOFError, OSError):
            return self._stop("died")

    def _stop(self, word: str) -> str:
        self._process.kill()
        self._process.join()
        self._process = None
        return word


def _serve(name: str, pipe: Any) -> None:
    import warnings

    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    with tempfile.TemporaryDirectory() as empty, suppress(Exception):
        READERS[name][0](Path(empty))
    pipe.send("ready")
    while True:
        folder = pipe.recv()
        try:
            answer: Volumes | str = READERS[name][0](folder)
        except Exception:  # whatever it raises, it did not return a wrong volume
            answer = "refused"
        pipe.send(answer)


def real_series(data: Path) -> Iterator[tuple[str, list[Path], list[Known]]]:
    """Name, files and truth: dcm2niix's own voxels for the CT (its converter is also judged by them), the headers for the MR."""
    folder = data / "dicom_series"
    head: Any = nib.load(folder / "reference_dcm2niix" / "ct_head_S2010.nii.gz")
    known = Known(np.asanyarray(head.dataobj).transpose(2, 1, 0).astype(np.float64), head.affine)
    yield "CT head", sorted((folder / "ct_head_phantom_philips" / "S2010").rglob("*")), [known]
    files = sorted(path for path in (folder / "ct_gantry_tilt_phantom_philips").rglob("*") if path.is_file())
    (stack,) = _by_orientation(files)
    yield "CT with gantry tilt", files, [stack]
    for number, patient in enumerate(sorted((folder / "scd_cardiac_localizers").glob("SCD*"))):
        files = sorted(path for path in patient.rglob("*") if path.is_file())
        yield f"cardiac MR {number + 1}, three orientations", files, _by_orientation(files)


def _by_orientation(files: list[Path]) -> list[Known]:
    """Stacks of plain slices, each placed by its own header alone."""
    parts: dict[tuple[float, ...], list[Any]] = defaultdict(list)
    for dataset in map(pydicom.dcmread, files):
        parts[tuple(round(float(number), 3) for number in dataset.ImageOrientationPatient)].append(dataset)
    return [_stack(slices) for slices in parts.values()]


def _stack(slices: list[Any]) -> Known:
    turn = np.array(slices[0].ImageOrientationPatient, dtype=float)
    slices = sorted(slices, key=lambda one: float(np.cross(turn[:3], turn[3:]) @ np.array(one.ImagePositionPatient, dtype=float)))
    first, last = (np.array(one.ImagePositionPatient, dtype=float) for one in (slices[0], slices[-1]))
    affine = np.eye(4)
    affine[:3, 0] = turn[:3] * float(slices[0].PixelSpacing[1])
    affine[:3, 1] = turn[3:] * float(slices[0].PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(slices) - 1), first
    scaled = [one.pixel_array * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0)) for one in slices]
    values = np.stack(scaled).astype(np.float64)
    return Known(values, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, field=_between(values, affine))


def _between(values: np.ndarray, affine: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The stack as a function of LPS places, linear within each slice (scipy): for who resamples a shear away."""
    from scipy.ndimage import map_coordinates

    def field(lps: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis((lps - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T, -1, 0)
        return map_coordinates(values, [np.rint(z), y, x], order=1, mode="nearest")

    return field


def main() -> None:
    """Run every case through every reader, print the table, and write it."""
    parser = argparse.ArgumentParser(description="Faulty DICOM series through medcl and other readers.")
    parser.add_argument("--only", default=",".join(READERS))
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    children = [Child(name) for name in said.only.split(",")]
    rows: list[tuple[str, str, list[str]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for index, (kind, name, files, known) in enumerate(_cases(Path(scratch))):
            folder = Path(scratch) / f"case{index}"
            folder.mkdir()
            for number, path in enumerate(files):
                shutil.copy(path, folder / f"{number:04d}")
            rows.append((kind, name, [_verdict(child.read(folder), known) for child in children]))
            print(name, *rows[-1][2], sep=" | ", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    text = _table([child.name for child in children], rows)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text + "\n", encoding="utf-8")


def _cases(scratch: Path) -> Iterator[tuple[str, str, list[Path], list[Known]]]:
    for index, case in enumerate(FAULTS):
        if case.kind in KINDS:
            known = case.write(scratch / f"made{index}")
            yield case.kind, case.name, _files(case, scratch / f"made{index}"), known
            shutil.rmtree(scratch / f"made{index}")
    if "MEDCL_TEST_DATA" in os.environ:
        for name, files, known in real_series(Path(os.environ["MEDCL_TEST_DATA"])):
            yield "real", name, [path for path in files if path.is_file()], known


def _files(case: Fault, folder: Path) -> list[Path]:
    """The case's files, by name: what a case says with its file names stays."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: str(path.relative_to(folder)))


def _verdict(answer: Volumes | str, known: list[Known]) -> str:
    if isinstance(answer, str):
        return "right" if not known and answer == "refused" else answer
    return judge(answer, known)


def _table(names: list[str], rows: list[tuple[str, str, list[str]]]) -> str:
    versions = [f"{name} {version(package)}" for name, (_, package) in READERS.items() if name in names and package]
    lines = [
        "# Faulty DICOM series through medcl and other readers",
        "",
        f"`python benchmarks/ingest_faults_vs_peers.py`: {len(rows)} cases, {', '.join(versions)}, pydicom {version('pydicom')}.",
        "",
        "*Wrong*: a volume came back whose voxels or places are not the truth, and nothing was raised. *Refused*: nothing came back",
        "although something should. *In part*: right as far as it goes, some volumes refused. *Died*, *stalled*: of its process.",
        "The corpus was made by medcl's authors for medcl's tests; where a reader is wrong only by leaving values in stored units, it",
        "is called wrong all the same.",
        "",
    ]
    for kind, title in KINDS.items():
        of_kind = [verdicts for this, _, verdicts in rows if this == kind]
        words = ["right", "in part", "refused", "wrong", "died", "stalled"]
        used = [word for word in words if any(word in verdicts for verdicts in of_kind)]
        lines += [f"## {title.capitalize()} ({len(of_kind)})", "", "| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
        for place, name in enumerate(names):
            lines.append(f"| {name} | " + " | ".join(str(sum(one[place] == word for one in of_kind)) for word in used) + " |")
        lines.append("")
    lines += ["## Case by case", "", "| case | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines += [f"| {name} | " + " | ".join(verdicts) + " |" for _, name, verdicts in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
