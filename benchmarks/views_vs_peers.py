"""CPU milliseconds per augmented CT crop: medcl from its store on disk, beside MONAI, TorchIO and nnU-Net's store with batchgeneratorsv2.

python -m benchmarks.views_vs_peers [--rounds 5] [--crops 6] [--sides 96 64] [--out reports/views/views_vs_peers.md]

The arms (see view_arms.py) take turns within every round, one thread each, and what is counted is processor time, so that a busy
neighbour slows none of them by name. Medians and means of the rounds: rare costly steps make medians jump. The last table has
elastic bending in every crop. Peers get more than users have where that is simpler: TorchIO's volumes lie decoded in memory.
Peak memory is what an arm's process (one thread) needs at its worst while it makes crops, beyond what it holds between two of them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numba
import torch

from benchmarks import view_arms as arms

STEPS = "{name: crop}, {name: rotation, probability: 0.5}, {name: scale, probability: 0.5}, {name: elastic}"


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description="CPU milliseconds per augmented CT crop, beside peers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crops", type=int, default=6)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 64])
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    packages = ("torch", "monai", "torchio", "batchgeneratorsv2", "blosc2", "numba")
    text = [
        f"CPU time, one thread, {said.rounds} rounds of {said.crops} crops, arms interleaved, on a machine with other work on it: "
        f"the ratios count, not the milliseconds. {platform.machine()}, {', '.join(f'{name} {version(name)}' for name in packages)}."
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = arms.write_scans(folder / "scans")
        store = arms.open_store(folder)
        for side in said.sides:
            found = {
                "medcl, store on disk": arms.medcl_arm(store, side),
                "MONAI CacheDataset, volumes in memory": arms.monai_cache_arm(scans, side),
                "MONAI PersistentDataset": arms.monai_persistent_arm(scans, side, folder),
                "TorchIO, volumes in memory, patch first": arms.torchio_arm(scans, side),
                "nnU-Net's store + batchgeneratorsv2": arms.nnunet_arm(scans, side, folder),
            }
            text += ["", f"## {side} voxels", "", table(take_turns(found, said.rounds, said.crops), _peaks(found, said.crops))]
        side, bent = said.sides[0], folder / "bent.yaml"
        bent.write_text(f"name: bent\nmodality: ct\nsteps: [{STEPS}]\n")
        found = {
            "medcl, store on disk": arms.medcl_arm(store, side, str(bent)),
            "nnU-Net's store + batchgeneratorsv2": arms.nnunet_arm(scans, side, folder, elastic=True),
        }
        times = take_turns(found, said.rounds, said.crops)
        text += ["", f"## {side} voxels, every crop bent (medcl: geometry only)", "", table(times, _peaks(found, said.crops))]
    print("\n".join(text))
    if said.out is not None:
        said.out.write_text("\n".join(text) + "\n", encoding="utf-8")


def take_turns(found: dict[str, arms.Arm], rounds: int, crops: int) -> dict[str, list[float]]:
    """CPU milliseconds per crop of every arm in every round; the first round, which compiles and fills caches, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, crop in found.items():
            begin = time.process_time()
            for number in range(crops):
                crop(turn * crops + number)
            if turn:
                times[name].append((time.process_time() - begin) * 1000 / crops)
    return times


def _peaks(found: dict[str, arms.Arm], crops: int) -> list[float]:
    return [peak_mib(crop, crops) for crop in found.values()]


def peak_mib(crop: arms.Arm, crops: int) -> float:
    """MiB that this process holds at most while it makes crops, beyond what it holds before them. Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    for number in range(crops):
        crop(number)
    return (_memory_kib("VmHWM") - before) / 1024


def _memory_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def table(times: dict[str, list[float]], peaks: list[float]) -> str:
    """One row per arm; ratios are over the first arm. peaks: MiB of each."""
    own = next(iter(times.values()))
    median, mean = statistics.median(own), statistics.mean(own)
    rows = [
        f"| {name} | {statistics.median(seen):.1f} | {statistics.mean(seen):.1f} | {min(seen):.1f} - {max(seen):.1f} "
        f"| {statistics.median(seen) / median:.1f} | {statistics.mean(seen) / mean:.1f} | {peak:.0f} |"
        for (name, seen), peak in zip(times.items(), peaks, strict=True)
    ]
    head = [
        "| arm | ms per crop, median | mean | of the rounds | ratio of medians | of means | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
