"""CPU time of ingest's two passes over DICOM, beside plain pydicom: headers, then pixels for each transfer syntax.

python benchmarks/ingest_speed.py [--rounds 7] [--out reports/ingest/speed.md]

The arms take turns within every round; the median of their ratios counts, so a busy neighbour slows both. CPU time of all processes, not
wall time: divided by the number of jobs it is what a machine with as many idle cores would take. Files lie in the page cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pydicom
from pydicom.pixels import apply_modality_lut

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from medcl.ingest.dicom import voxels
from medcl.ingest.dicom_frames import read_frames
from medcl.ingest.dicom_series import group, stacks
from medcl.ingest.headers import dead_headers, read_headers
from medcl.ingest.planning import HEADERS_PER_TASK
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import Met
from medcl.ingest.workers import Workers
from tests.ingest.faults_pixels import JPEG, JPEG8, RLE, encoded, through
from tests.ingest.scanner import Change, series

CONFIG = IngestConfig()
SYNTAXES: dict[str, Change | None] = {
    "uncompressed": None,
    "RLE": lambda dataset, _: dataset.compress(RLE),
    "JPEG lossless": encoded(JPEG + "70", through(*JPEG8, lossless=True, bitspersample=16, predictor=1)),
    "JPEG-LS": encoded(JPEG + "80", through("imagecodecs", "jpegls_encode")),
    "JPEG 2000": encoded(JPEG + "90", through("imagecodecs", "jpeg2k_encode", level=0, codecformat="j2k")),
}


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="CPU time of ingest's passes over DICOM beside plain pydicom.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    lines = [
        "# Speed of ingest beside plain pydicom",
        "",
        f"`python benchmarks/ingest_speed.py --rounds {said.rounds}`: medians of {said.rounds} interleaved rounds, CPU ms per file in",
        f"all processes, 512 x 512 CT slices of 16 bits, pydicom {version('pydicom')}, python {platform.python_version()},",
        f"{platform.machine()}.",
        "",
        "| pass | medcl | pydicom | ratio |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = _real_files() or sorted(series(Path(folder) / "headers", _slices(128)).iterdir())
        for jobs in (0, 2):
            with Workers(jobs) as workers:
                ours = _headers(files, workers)
                ours()  # starts the processes
                where = f"{jobs} processes" if jobs else "in this process"
                lines.append(
                    _row(f"headers, {where}", ours, lambda: _loop(files), len(files), said.rounds, children=bool(jobs), workers=workers)
                )
                print(lines[-1], flush=True)
        for name, change in SYNTAXES.items():
            planes = _slices(8).astype(np.uint16 if change else np.int16)
            files = sorted(series(Path(folder) / name, planes, change=change).iterdir())
            lines.append(
                _row(f"decode, {name}", lambda files=files: _decode(files), lambda files=files: _pydicom(files), len(files), said.rounds)
            )
            print(lines[-1], flush=True)
    lines += [
        "",
        "Headers (of the real CT and MR series, where they are at hand): `read_headers` as ingest calls it, against a loop of",
        "`pydicom.dcmread(stop_before_pixels=True)` in one process. To reach 0.8 times the loop's rate per job the ratio must stay under",
        "1.25. Decode: header, pixels, rescale and stacking of a series, against",
        "`dcmread`, `pixel_array`, `apply_modality_lut` and `numpy.stack`, with the plugins that pydicom chooses; to be within 1.15.",
    ]
    text = "\n".join(lines)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text + "\n", encoding="utf-8")


def _real_files() -> list[Path]:
    """CT and MR slices of the real series, whose headers are as long as scanners write them; none without MEDCL_TEST_DATA."""
    folder = Path(os.environ.get("MEDCL_TEST_DATA", "/nowhere")) / "dicom_series"
    others = ("DIRFILE", ".nii", ".csv")
    return sorted(path for path in folder.rglob("*") if path.is_file() and not any(word in path.name for word in others))


def _slices(count: int) -> np.ndarray:
    """(count, 512, 512) int16: a smooth body with the noise of a scanner."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x**2 + 1.5 * y**2 < 0.8, 1060 + 200 * np.sin(9 * x) * np.cos(7 * y), 24)
    return np.stack([np.clip(body + rng.normal(0, 12, body.shape), 0, 4095) for _ in range(count)]).astype(np.int16)


def _headers(files: list[Path], workers: Workers) -> Callable[[], object]:
    met = [Met(str(path), path.name, "dicom") for path in files]
    tasks = [tuple(met[at : at + HEADERS_PER_TASK]) for at in range(0, len(met), HEADERS_PER_TASK)]
    return lambda: list(workers.work(partial(read_headers, config=CONFIG), tasks, dead_headers))


def _loop(files: list[Path]) -> None:
    for path in files:
        pydicom.dcmread(path, stop_before_pixels=True)


def _decode(files: list[Path]) -> np.ndarray:
    frames = [frame for path in files for frame in read_frames(str(path), path.name, CONFIG)]
    (members,) = group(frames)
    (stack,), _ = stacks(members, lambda _: b"")
    return voxels(stack)


def _pydicom(files: list[Path]) -> np.ndarray:
    planes = [(dataset, dataset.pixel_array) for dataset in map(pydicom.dcmread, files)]
    return np.stack([apply_modality_lut(plane, dataset) for dataset, plane in planes])


def _row(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    count: int,
    rounds: int,
    *,
    children: bool = False,
    workers: Workers | None = None,
) -> str:
    pairs = [(_cpu(ours, count, workers if children else None), _cpu(theirs, count)) for _ in range(rounds)]
    mine, plain = (statistics.median(part) for part in zip(*pairs, strict=True))
    return f"| {name} | {mine:.2f} | {plain:.2f} | {statistics.median(one / other for one, other in pairs):.2f} |"


def _cpu(work: Callable[[], object], count: int, workers: Workers | None = None) -> float:
    """CPU milliseconds per file."""
    before = time.process_time() + _of_children(workers)
    work()
    return (time.process_time() + _of_children(workers) - before) * 1000 / count


def _of_children(workers: Workers | None) -> float:
    children = [] if workers is None else psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children)


if __name__ == "__main__":
    main()
