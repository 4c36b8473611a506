"""`prepare` of CT series of 512 x 512 x 160 voxels, beside the decoding and the writing in it, with one process and with two.

python -m benchmarks.prepare_speed [--series 100] [--rounds 5] [--syntaxes uncompressed] [--out reports/store/prepare_speed.md]

Made DICOM series (80 MiB each, uncompressed) in the page cache, recipe `ct`. Decoding is what reading a volume again takes: headers,
pixels, rescale, stacking, and the hash that tells whether the files are still those that were ingested. Writing is compressing and
writing the prepared volumes, with their checksums. Both are timed inside the very run whose time is put over theirs, as the speed of a
shared machine changes within minutes. CPU time of one process for that ratio; wall time for one process and for two, in turns. The
first run of all, which loads and compiles, counts with the others. The syntaxes are those of ingest_speed.py.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.ingest_speed import SYNTAXES
from medcl.foundation.memory import keep_freed
from medcl.ingest.data import Data
from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from medcl.store import work
from medcl.store.prepare import prepare
from medcl.store.recipe import BUILT_IN
from tests.ingest.scanner import series

SHAPE, SPACING = (160, 512, 512), (0.8, 0.8, 2.0)
RECIPE = BUILT_IN["ct"]
PARTS = {"decode": (Data, "volume"), "standard": (work, "prepare_volume"), "write": (work, "write_array")}


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Time of prepare over decoding and writing.")
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--syntaxes", nargs="+", default=["uncompressed"], choices=list(SYNTAXES))
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    keep_freed()  # as the command line does
    x, y, z = SHAPE[::-1]
    text = [
        f"{said.series} made CT series of {x} x {y} x {z} voxels, {' x '.join(map(str, SPACING))} mm, recipe `ct` "
        f"({RECIPE.spacing_mm} mm, cut to the body), {said.rounds} rounds, seconds a series. {platform.machine()}, 2 cores.",
        "",
        "| syntax | decode | make standard | write | prepare, one process | over decode and write | wall, one process | two | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for syntax in said.syntaxes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            _write_series(folder / "raw", said.series, syntax)
            ingest(folder / "raw", folder / "data", settings=IngestConfig(), jobs=2)
            rounds = np.array([_round(folder) for _ in range(said.rounds)]) / said.series
        text += _rows(syntax, rounds)
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


def _round(folder: Path) -> list[float]:
    """CPU seconds of decoding, of making standard, of writing and of one process, and wall seconds of one process and of two."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*arguments)
            finally:
                spent[part] += time.process_time() - begin

        return call

    with ExitStack() as patched:
        for part, (place, name) in PARTS.items():
            patched.enter_context(patch.object(place, name, timed(part, getattr(place, name))))
        alone, wall = _prepared(folder, 1)
    return [*spent.values(), alone, wall, _prepared(folder, 2)[1]]


def _prepared(folder: Path, jobs: int) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    prepare(folder / "data", folder / "store", RECIPE, jobs=jobs)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    shutil.rmtree(folder / "store")
    return spent


def _rows(syntax: str, rounds: np.ndarray) -> list[str]:
    """The medians, of times and of the rounds' ratios, and under them the rounds' least and most."""
    decode, standard, write, alone, one, two = rounds.T
    columns = (decode, standard, write, alone, alone / (decode + write), one, two, one / two)
    medians = " | ".join(f"{np.median(column):.2f}" for column in columns)
    ends = " | ".join(f"{column.min():.2f} - {column.max():.2f}" for column in columns)
    return [f"| {syntax} | {medians} |", f"| its rounds | {ends} |"]


if __name__ == "__main__":
    main()
