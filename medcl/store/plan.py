"""What `prepare` will do: which volumes share a pool, and how much disk, memory and time it will take."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl.store.arrays import TINY_VOXELS
from medcl.store.recipe import Recipe
from medcl.store.standard import BAD_SCAN, predicted_shape, prepare_volume

if TYPE_CHECKING:
    import pandas as pd

_POOLED_ITEMS = 256


@dataclass(frozen=True)
class Task:
    """One unit of work, whole or not done: a volume with a file of its own, or a pool of small ones."""

    number: int
    rows: tuple[int, ...]
    pooled: bool


@dataclass(frozen=True)
class Estimate:
    """What preparing will take. disk_bytes: the store; memory_bytes: all processes at once; seconds: wall clock.

    failed: ids of the volumes that were tried and could not be prepared.
    """

    disk_bytes: int
    memory_bytes: int
    seconds: float
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        disk, memory = self.disk_bytes / 2**20, self.memory_bytes / 2**20
        found = f"; of those tried, not usable: {', '.join(self.failed)}" if self.failed else ""
        return f"about {disk:,.0f} MiB of disk, {memory:,.0f} MiB of memory, {max(1, round(self.seconds / 60))} min{found}"


def shapes_after(manifest: pd.DataFrame, recipe: Recipe) -> list[tuple[int, int, int]]:
    """Shape of every prepared volume, told from the manifest alone (a body crop makes it smaller)."""
    columns = (manifest["shape"], manifest["spacing_mm"], manifest["orientation"])
    return [
        predicted_shape(tuple(int(n) for n in shape), tuple(float(n) for n in spacing), str(orientation), recipe)
        for shape, spacing, orientation in zip(*columns, strict=True)
    ]


def plan_tasks(manifest: pd.DataFrame, recipe: Recipe, done: Collection[int] = (), first: int = 0) -> list[Task]:
    """Large volumes one by one, tiny ones in pools of 256, in the order of the manifest. A function of its input.

    done: rows to leave out. first: number of the first task.
    """
    tiny = {row: int(np.prod(shape)) <= TINY_VOXELS for row, shape in enumerate(shapes_after(manifest, recipe)) if row not in done}
    groups = [((row,), False) for row, small in tiny.items() if not small]
    small_rows = [row for row, small in tiny.items() if small]
    groups += [(tuple(small_rows[at : at + _POOLED_ITEMS]), True) for at in range(0, len(small_rows), _POOLED_ITEMS)]
    return [Task(number, rows, pooled) for number, (rows, pooled) in enumerate(groups, first)]


def estimate(data: Any, recipe: Recipe, jobs: int) -> Estimate:
    """Prepare up to three volumes without writing them, and reckon from there."""
    manifest = data.manifest
    out_voxels = np.array([np.prod(shape) for shape in shapes_after(manifest, recipe)], dtype=float)
    in_voxels = np.array([np.prod([int(n) for n in shape]) for shape in manifest["shape"]], dtype=float)
    seconds, share, total = 0.0, 1.0, 0.0
    measured_in, measured_out, predicted_out = 0.0, 0.0, 0.0
    failed: list[str] = []
    order = np.argsort(in_voxels, kind="stable")
    for row in sorted({int(order[len(order) // 4]), int(order[len(order) // 2]), int(order[-1])}):
        started, volume_id = time.perf_counter(), str(manifest["volume_id"].iat[row])
        try:
            prepared = prepare_volume(data.volume(volume_id), recipe)
        except BAD_SCAN:
            failed.append(volume_id)
            continue
        seconds += time.perf_counter() - started
        measured_in += in_voxels[row]
        measured_out += prepared.array.size
        predicted_out += out_voxels[row]
    if measured_in:
        total = seconds * float(in_voxels.sum()) / measured_in / max(1, jobs)
        share = measured_out / predicted_out
    bytes_per_voxel = 0.45 * np.dtype(recipe.storage()[0]).itemsize
    largest = float(in_voxels.max(initial=0))
    return Estimate(int(out_voxels.sum() * share * bytes_per_voxel), int(jobs * (largest * 14 + 250 * 2**20)), total, tuple(failed))
