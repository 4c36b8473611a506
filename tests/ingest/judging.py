"""Judges what became of a damaged scan: refused with a code, or exactly what its own bytes say. Anything else is a defect."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.foundation.types import Volume
from medcl.ingest import IngestConfig, read_scans
from medcl.ingest.ledger import REASONS, LedgerEntry
from tests.ingest.mutants import Mutant, Seed
from tests.ingest.plain_reading import Plane, dicom_planes, nifti_meaning, picture_values

CONFIG = IngestConfig(tilt="keep", keep_derived=True, keep_localizers=True, units="arbitrary")
MOST_SECONDS, MOST_MIB = 10.0, 1024.0


@dataclass(frozen=True)
class Verdict:
    """problem: empty where the mutant ended as it must. seconds: of CPU. mib: memory beyond what the process held before."""

    name: str
    reasons: tuple[str, ...]
    problem: str
    seconds: float
    mib: float


def try_out(mutant: Mutant) -> Verdict:
    """Read one mutant in this process and judge it."""
    folder = Path(tempfile.mkdtemp())
    try:
        mutant.write(folder / "in")
        before, start = _fresh_peak(), time.process_time()
        reading = read_scans(folder / "in", CONFIG)
        seconds, mib = time.process_time() - start, _peak() - before
        problem = judge(mutant, reading.volumes, reading.ledger) or _too_much(seconds, mib)
        return Verdict(mutant.name, tuple(sorted({one.reason for one in reading.ledger})), problem, seconds, mib)
    finally:
        shutil.rmtree(folder)


def died(mutant: Mutant) -> Verdict:
    """The verdict on one that killed its process."""
    return Verdict(mutant.name, ("decoder_died",), "killed the process", 0.0, 0.0)


def _too_much(seconds: float, mib: float) -> str:
    if seconds > MOST_SECONDS:
        return f"took {seconds:.1f} s"
    return f"took {mib:.0f} MiB" if mib > MOST_MIB else ""


def _fresh_peak() -> float:
    """MiB that this process holds now, from where its peak counts on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def judge(mutant: Mutant, volumes: Sequence[Volume], ledger: Sequence[LedgerEntry]) -> str:
    """What is wrong with this outcome; empty where nothing is."""
    fates = {Path(one.path).name: one.reason for one in ledger}
    if sorted(fates) != sorted(mutant.files):
        return "a file is missing from the ledger"
    wrong = [reason for reason in fates.values() if reason == "internal" or reason not in REASONS]
    if wrong:
        return f"ledger says {wrong[0]}"
    used = [name for name in mutant.files if fates[name] == "ok"]
    if bool(used) != bool(volumes):
        return "used files and volumes do not go together"
    if not volumes:
        return ""
    if mutant.seed.kind == "nifti":
        return _judge_nifti(mutant, volumes)
    return _judge_pictures(mutant, volumes) if mutant.seed.kind == "picture" else _judge_planes(mutant, used, volumes)


def _meaning(mutant: Mutant, name: str, read: Callable[[bytes], list]) -> list:
    """What the damaged file says; where it says nothing clear, what it said before the damage."""
    try:
        with np.errstate(all="ignore"):
            return read(mutant.files[name])
    except Exception:  # the plain readers check nothing: whatever they raise, the file is not clear
        return read(mutant.seed.files[name])


def _judge_nifti(mutant: Mutant, volumes: Sequence[Volume]) -> str:
    def read(content: bytes) -> list:
        array, affine = nifti_meaning(content, mutant.files.get("a.img"))
        return [(array[..., time], affine) for time in range(array.shape[3])]

    expected = _meaning(mutant, mutant.seed.target, read)
    if len(expected) != len(volumes):
        return f"{len(volumes)} volumes for {len(expected)}"
    for volume, (array, affine) in zip(volumes, expected, strict=True):
        if not _same(volume.array, array) or not np.allclose(volume.affine, affine, rtol=1e-4, atol=1e-4):
            return "silently wrong voxels or affine"
    return ""


def _judge_pictures(mutant: Mutant, volumes: Sequence[Volume]) -> str:
    expected = _meaning(mutant, mutant.seed.target, picture_values)
    if len(expected) != len(volumes):
        return f"{len(volumes)} pictures for {len(expected)}"
    return "" if all(_same(volume.array[..., 0], values) for volume, values in zip(volumes, expected, strict=True)) else "silently wrong"


def _judge_planes(mutant: Mutant, used: Sequence[str], volumes: Sequence[Volume]) -> str:
    """Every slice of every volume is a slice of a used file, at the place which that file gives it; and all are there."""
    planes = [plane for name in used for plane in _meaning(mutant, name, dicom_planes)]
    count = sum(volume.array.shape[2] for volume in volumes)
    if count != len(planes):
        return f"{count} slices for {len(planes)}"
    for volume in volumes:
        for index in range(volume.array.shape[2]):
            place = volume.affine @ np.array([0, 0, index, 1.0])
            if not any(_is_that_slice(plane, volume, index, place) for plane in planes):
                return "silently wrong slice"
    return ""


def _is_that_slice(plane: Plane, volume: Volume, index: int, place: np.ndarray) -> bool:
    steps = (plane.along_columns, volume.affine[:3, 0]), (plane.along_rows, volume.affine[:3, 1])
    corner = float(np.linalg.norm(place[:3] - plane.corner))
    lengths = [float(np.linalg.norm(own - given)) * side for (own, given), side in zip(steps, plane.values.shape, strict=True)]
    return max(corner, *lengths) <= 0.15 and _same(volume.array[..., index], plane.values)


def _same(read: np.ndarray, meant: np.ndarray) -> bool:
    return read.shape == meant.shape and bool(np.allclose(read.astype(np.float64), meant, rtol=1e-5, atol=1e-3))


def is_intact(seed: Seed) -> str:
    """Why an undamaged seed would be judged wrong; empty where it is read as it must be."""
    verdict = try_out(Mutant(seed.name, seed, seed.files))
    return verdict.problem or ("" if verdict.reasons == ("ok",) else f"reasons {verdict.reasons}")
