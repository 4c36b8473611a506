"""Reading a box out of the store, beside blosc2 itself: what the store's own layer costs, what its checksums cost, what is read in vain.

python -m benchmarks.store_reads [--rounds 5] [--boxes 30] [--side 96] [--out reports/views/store_reads.md]

Random boxes out of made CT volumes of 256 x 256 x 160, one thread, arms interleaved, CPU time. "first touch": a store opened anew
for each box, so that every chunk is verified; later reads of the same chunk are not verified again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from benchmarks import view_arms as arms
from medcl.store.arrays import Box
from medcl.store.volume_store import VolumeStore

Job = tuple[int, Box]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="CPU milliseconds per box read from the store.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--boxes", type=int, default=30)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        arms.write_scans(folder / "scans")
        store = arms.open_store(folder)
        rng = np.random.default_rng(0)
        jobs = [(number % len(store), _box(rng, said.side)) for number in range(said.boxes)]
        text = "\n".join([_head(said), "", *_rows(_take_turns(store, jobs, said.rounds)), "", _waste(store, jobs, said.side)])
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def _box(rng: np.random.Generator, side: int) -> Box:
    x, y, z = (int(rng.integers(0, length - side + 1)) for length in arms.SHAPE)
    return (x, x + side), (y, y + side), (z, z + side)


def _open(store: VolumeStore, row: int) -> Any:
    reader: Any = blosc2  # its annotations are narrower than what it takes
    return reader.open(str(store.folder / store.index["file"].iat[row]), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def _touched(array: Any, box: Box, grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(start // step, (stop - 1) // step + 1) for (start, stop), step in zip(box, grid, strict=True))))


def _readers(store: VolumeStore) -> dict[str, Callable[[int, Box], object]]:
    handles = [_open(store, row) for row in range(len(store))]
    anew = VolumeStore(store.folder)

    def whole_chunks(row: int, box: Box) -> None:
        counts = [-(-length // step) for length, step in zip(handles[row].shape, handles[row].chunks, strict=True)]
        for x, y, z in _touched(handles[row], box, handles[row].chunks):
            handles[row].schunk.decompress_chunk((x * counts[1] + y) * counts[2] + z)

    def first_touch(row: int, box: Box) -> None:
        anew._arrays._open.clear()
        anew.read_raw(row, box)

    def opened_unverified(row: int, box: Box) -> None:
        anew._arrays._open.clear()
        anew._arrays.read(anew.index["file"].iat[row], box)

    return {
        "medcl, chunks verified before": store.read_raw,
        "blosc2's own slice": lambda row, box: handles[row][tuple(slice(*edge) for edge in box)],
        "blosc2, every touched chunk decompressed": whole_chunks,
        "medcl, first touch: opened and verified": first_touch,
        "medcl, opened, nothing verified": opened_unverified,
    }


def _take_turns(store: VolumeStore, jobs: list[Job], rounds: int) -> dict[str, list[float]]:
    found = _readers(store)
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, read in found.items():
            begin = time.process_time()
            for row, box in jobs:
                read(row, box)
            if turn:
                times[name].append((time.process_time() - begin) * 1000 / len(jobs))
    return times


def _head(said: argparse.Namespace) -> str:
    return (
        f"Boxes of {said.side} voxels, {said.rounds} rounds of {said.boxes}, interleaved, CPU time of one thread, "
        f"blosc2 {blosc2.__version__}, on a machine with other work on it: the ratios count."
    )


def _rows(times: dict[str, list[float]]) -> list[str]:
    own = statistics.median(times["blosc2, every touched chunk decompressed"])
    head = ["| arm | ms per box, median | of the rounds | over blosc2's chunks |", "|---|---|---|---|"]
    return head + [
        f"| {name} | {statistics.median(seen):.2f} | {min(seen):.2f} - {max(seen):.2f} | {statistics.median(seen) / own:.2f} |"
        for name, seen in times.items()
    ]


def _waste(store: VolumeStore, jobs: list[Job], side: int) -> str:
    """Bytes decoded and bytes read from the disk, over the bytes that the box holds."""
    decoded, read = [], []
    for row, box in jobs:
        array = _open(store, row)
        needed = side**3 * 2
        decoded.append(len(_touched(array, box, array.blocks)) * int(np.prod(array.blocks)) * 2 / needed)
        counts = [-(-length // step) for length, step in zip(array.shape, array.chunks, strict=True)]
        numbers = [(x * counts[1] + y) * counts[2] + z for x, y, z in _touched(array, box, array.chunks)]
        read.append(sum(len(array.schunk.get_chunk(number)) for number in numbers) / needed)
    return (
        f"Over the bytes a box holds: {statistics.mean(decoded):.2f} times are decoded (blocks), and {statistics.mean(read):.2f} times "
        f"are read from the disk when chunks are touched for the first time (whole chunks, compressed, for their checksums)."
    )


if __name__ == "__main__":
    main()
