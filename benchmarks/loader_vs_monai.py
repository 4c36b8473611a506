"""Whole loaders on two cores, wall time: medcl's threads into a ring of buffers, beside MONAI's DataLoader and nnssl's augmenter.

python -m benchmarks.loader_vs_monai [--rounds 5] [--steps 4] [--sides 96 64] [--out reports/views/loader_vs_monai.md]

Batches of four scans with two views each, collated, ready for the network, of the volumes and with the steps of view_arms.py and
nnssl_arm.py. Two threads or two processes each, one thread in each. Every arm starts anew in every round, as for an epoch, and is
measured between two of its batches while it goes on making more, so that neither its start nor what it had made ahead is counted.
CPU time is that of all its processes. Where others use the machine, its ratio says more than that of the wall time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numba
import psutil
import torch
from monai.data import DataLoader

from benchmarks import nnssl_arm
from benchmarks import view_arms as arms
from medcl.loading.batches import Batches
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker

BATCH, WORKERS = 4, 2
BEFORE, AFTER = 2, 8  # batches that are made and not counted: the start, and what is made ahead
Stream = Callable[[int], Generator[object, None, None]]  # round -> batches


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="Wall and CPU milliseconds per crop of whole loaders.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 64])
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    packages = ("torch", "monai", "batchgenerators", "blosc2", "numba")
    text = [
        f"{WORKERS} workers each, {said.rounds} rounds of {said.steps} batches of {BATCH} scans with two views, arms interleaved, medians. "
        f"{platform.machine()}, {', '.join(f'{name} {version(name)}' for name in packages)}."
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = arms.write_scans(folder / "scans")
        store = arms.open_store(folder)
        for side in said.sides:
            found = {
                "medcl, store on disk": _ours(store, arms.maker_of(store, side), said.steps),
                "MONAI CacheDataset + DataLoader": _monai(scans, side, said.steps),
            }
            text += ["", f"## {side} voxels, policy `ct`", "", *_rows(_take_turns(found, said.rounds, said.steps))]
            found = {
                "medcl, store on disk": _ours(store, nnssl_arm.maker_of(store, side, folder), said.steps),
                "nnssl's store + batchgenerators": lambda _, side=side: nnssl_arm.batches(scans, side, folder, BATCH, WORKERS),
            }
            text += ["", f"## {side} voxels, nnssl's SimCLR views", "", *_rows(_take_turns(found, said.rounds, said.steps))]
    print("\n".join(text))
    if said.out is not None:
        said.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def _ours(store: VolumeStore, maker: ViewMaker, steps: int) -> Stream:
    batches = Batches(store, maker, num_views=2, world_batch=BATCH, seed=0, workers=WORKERS)
    count = BEFORE + steps + AFTER
    return lambda turn: batches.iterate(turn * count, (turn + 1) * count)


def _monai(scans: list[dict[str, str]], side: int, steps: int) -> Stream:
    # An epoch holds every item once: enough items for a round.
    items = [scans[number % len(scans)] for number in range((BEFORE + steps + AFTER) * BATCH)]
    loader = DataLoader(arms.monai_cache(items, side, views=2), batch_size=BATCH, shuffle=True, num_workers=WORKERS)

    def stream(_: int) -> Generator[object, None, None]:
        for batch in loader:
            assert batch["image"].shape[0] == 2 * BATCH
            yield batch

    return stream


def _take_turns(found: dict[str, Stream], rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) milliseconds per crop; the first round, which compiles and fills caches, is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, stream in found.items():
            with closing(stream(turn)) as batches:
                for _ in range(BEFORE):
                    next(batches)
                wall, spent = time.perf_counter(), _processor_time()
                for _ in range(steps):
                    next(batches)
                wall, spent = time.perf_counter() - wall, _processor_time() - spent
            if turn:
                times[name].append((wall * 1000 / (2 * steps * BATCH), spent * 1000 / (2 * steps * BATCH)))
    return times


def _processor_time() -> float:
    """Seconds of this process and of its children that live."""
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def _rows(times: dict[str, list[tuple[float, float]]]) -> list[str]:
    own = [statistics.median(part) for part in zip(*next(iter(times.values())), strict=True)]
    rows = ["| arm | wall ms per crop, median | of the rounds | ratio | CPU ms per crop, median | ratio |", "|---|---|---|---|---|---|"]
    for name, seen in times.items():
        wall, cpu = (statistics.median(part) for part in zip(*seen, strict=True))
        least, most = (choose(pair[0] for pair in seen) for choose in (min, max))
        rows.append(f"| {name} | {wall:.1f} | {least:.1f} - {most:.1f} | {wall / own[0]:.1f} | {cpu:.1f} | {cpu / own[1]:.1f} |")
    return rows


if __name__ == "__main__":
    main()
