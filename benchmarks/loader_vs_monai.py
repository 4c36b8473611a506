"""The whole loader: medcl's two threads into a ring of buffers, beside MONAI's CacheDataset behind its DataLoader with two workers.

python -m benchmarks.loader_vs_monai [--rounds 5] [--steps 4] [--sides 96 64] [--out reports/views/loader_vs_monai.md]

Batches of four crops of made CT volumes (see view_arms.py), collated, ready for the network. Processor time of this process and its
children, interleaved; MONAI's workers are started once for each round, as for each epoch, and their start is part of it, as it is
for users; so rounds are given in steps. Wall times are shown too and mean little where others use the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import torch
from monai.data import DataLoader

from benchmarks import view_arms as arms
from medcl.loading.batches import Batches
from medcl.store.volume_store import VolumeStore

BATCH, WORKERS = 4, 2
Pass = Callable[[int, int], None]  # (round, steps)


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="CPU and wall milliseconds per crop of two whole loaders.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 64])
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    text = [
        f"{WORKERS} workers, {said.rounds} rounds of {said.steps} batches of {BATCH}, on a machine with other work on it: "
        "the ratios of CPU time count."
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = arms.write_scans(folder / "scans")
        store = arms.open_store(folder)
        for side in said.sides:
            found = {"medcl, store on disk": _ours(store, side), "MONAI CacheDataset + DataLoader": _monai(scans, side, said.steps)}
            text += ["", f"## {side} voxels", "", *_rows(_take_turns(found, said.rounds, said.steps))]
    print("\n".join(text))
    if said.out is not None:
        said.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def _ours(store: VolumeStore, side: int) -> Pass:
    batches = Batches(store, arms.maker_of(store, side), num_views=1, world_batch=BATCH, seed=0, workers=WORKERS)

    def go(turn: int, steps: int) -> None:
        for batch in batches.iterate(turn * steps, (turn + 1) * steps):
            assert batch.views[0].shape[0] == BATCH

    return go


def _monai(scans: list[dict[str, str]], side: int, steps: int) -> Pass:
    # Every item once in each epoch: enough items for a round.
    items = [scans[number % len(scans)] for number in range(steps * BATCH)]
    loader = DataLoader(arms.monai_cache(items, side), batch_size=BATCH, shuffle=True, num_workers=WORKERS)

    def go(turn: int, steps: int) -> None:
        for batch in loader:
            assert batch["image"].shape[0] == BATCH

    return go


def _take_turns(found: dict[str, Pass], rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU, wall) milliseconds per crop; the first round, which compiles and fills caches, is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, go in found.items():
            begin, wall = _processor_time(), time.perf_counter()
            go(turn, steps)
            if turn:
                spent = (_processor_time() - begin, time.perf_counter() - wall)
                times[name].append((spent[0] * 1000 / steps / BATCH, spent[1] * 1000 / steps / BATCH))
    return times


def _processor_time() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _rows(times: dict[str, list[tuple[float, float]]]) -> list[str]:
    own = [statistics.median(part) for part in zip(*next(iter(times.values())), strict=True)]
    rows = ["| arm | CPU ms per crop, median | ratio | wall ms per crop, median | ratio |", "|---|---|---|---|---|"]
    for name, seen in times.items():
        cpu, wall = (statistics.median(part) for part in zip(*seen, strict=True))
        rows.append(f"| {name} | {cpu:.1f} | {cpu / own[0]:.1f} | {wall:.1f} | {wall / own[1]:.1f} |")
    return rows


if __name__ == "__main__":
    main()
