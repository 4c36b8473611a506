"""`prepare` of CT series of 512 x 512 x 160 voxels, beside the decoding and the writing in it, with one process and with two.

python -m benchmarks.prepare_speed [--series 100] [--rounds 1] [--syntaxes uncompressed] [--out reports/store/prepare_speed.md]

Made DICOM series (80 MiB each, uncompressed) in the page cache, recipe `ct`. Decoding is what reading a volume again takes: headers,
pixels, rescale, stacking, and the hash that tells whether the files are still those that were ingested. Writing is compressing and
writing the prepared volumes, with their checksums. CPU time of one process, for the ratio; wall time for two against one, which
means little where others use the machine, or where the processes' start (some seconds) is not small beside their work. The
syntaxes are those of ingest_speed.py.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.ingest_speed import SYNTAXES
from medcl.ingest.data import Data, open_data
from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from medcl.store.arrays import write_array
from medcl.store.prepare import prepare
from medcl.store.recipe import BUILT_IN
from medcl.store.standard import prepare_volume
from medcl.store.volume_store import VolumeStore
from tests.ingest.scanner import series

SHAPE, SPACING = (160, 512, 512), (0.8, 0.8, 2.0)
RECIPE = BUILT_IN["ct"]
Spent = tuple[float, float]  # CPU and wall seconds


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Time of prepare over decoding and writing.")
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--syntaxes", nargs="+", default=["uncompressed"], choices=list(SYNTAXES))
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    x, y, z = SHAPE[::-1]
    text = [
        f"{said.series} made CT series of {x} x {y} x {z} voxels, {' x '.join(map(str, SPACING))} mm, recipe `ct` "
        f"({RECIPE.spacing_mm} mm, cut to the body), {said.rounds} rounds, medians of seconds a series. {platform.machine()}.",
        "",
        "| syntax | decode | resample, clip | write | prepare, one process | over decode and write | wall, one process | two | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for syntax in said.syntaxes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            _write_series(folder / "raw", said.series, syntax)
            ingest(folder / "raw", folder / "data", settings=IngestConfig(), jobs=2)
            data = open_data(folder / "data")
            prepare_volume(data.volume(data.manifest["volume_id"].iat[0]), RECIPE)  # compiles, where nothing was prepared before
            shares = [_round(data, folder) for _ in range(said.rounds)]
        text.append(_row(syntax, [[part / said.series for part in share] for share in shares]))
    print("\n".join(text))
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def _write_series(folder: Path, count: int, syntax: str) -> None:
    """A smooth body with the noise of a scanner, moved by some voxels from one series to the next."""
    rng, change = np.random.default_rng(0), SYNTAXES[syntax]
    z, y, x = np.ogrid[-1:1:160j, -1:1:512j, -1:1:512j]
    body = np.where(x**2 + 1.5 * y**2 < 0.8, 1060 + 200 * np.sin(9 * x + 3 * z) * np.cos(7 * y), 24)
    volume = np.clip(body + rng.normal(0, 12, SHAPE), 0, 4095).astype(np.uint16 if change else np.int16)
    for number in range(count):
        moved = np.roll(volume, number % 50 - 25, axis=2)
        moved[0, 0, 0] = number
        where = {"patient": f"P{number:04d}", "uid": f"2.25.{1000 + number}", "spacing": SPACING, "change": change}
        series(folder / f"{number:04d}", moved, **where)


def _round(data: Data, folder: Path) -> list[float]:
    """CPU seconds of decoding, of arithmetic, of writing and of one process, and wall seconds of one process and of two."""
    one, two = folder / "one", folder / "two"
    decode = arithmetic = 0.0
    for volume_id in data.manifest["volume_id"]:
        begin = time.process_time()
        volume = data.volume(volume_id)
        middle = time.process_time()
        prepare_volume(volume, RECIPE)
        decode, arithmetic = decode + middle - begin, arithmetic + time.process_time() - middle
    alone = _spent(lambda: prepare(folder / "data", one, RECIPE, jobs=1))
    store = VolumeStore(one)
    write = sum(_spent(partial(write_array, folder / "written.b2nd", store.read_raw(row)[0]))[0] for row in range(len(store)))
    together = _spent(lambda: prepare(folder / "data", two, RECIPE, jobs=2))
    shutil.rmtree(one)
    shutil.rmtree(two)
    return [decode, arithmetic, write, *alone, together[1]]


def _spent(work: Callable[[], object]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def _row(syntax: str, shares: list[list[float]]) -> str:
    decode, arithmetic, write, alone, one, two = (statistics.median(part) for part in zip(*shares, strict=True))
    seconds = " | ".join(f"{part:.2f}" for part in (decode, arithmetic, write, alone, alone / (decode + write), one, two, one / two))
    return f"| {syntax} | {seconds} |"


if __name__ == "__main__":
    main()
