"""What memory a step takes, and what saving it costs: the whole batch, in pieces, computed anew, both; on the CPU.

python benchmarks/step_memory.py [--side 48] [--batch 16] [--out reports/training/step_memory.md]

SimCLR and AdamW. Each arm is a process of its own that makes two steps: memory is its highest resident size less that before the first
step (Linux), time the processor's of the second step, one thread. Gradients of every arm are held against those of the first. The ResNet-18
is of width 32 with a stem of 3 voxels, the ViT of width 192 with patches of 8 voxels. About two minutes of one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medcl.encoders import ResNetConfig, ViTConfig, build_seeded
from medcl.foundation.types import Batch
from medcl.methods import SimCLRConfig
from medcl.training import TrainingConfig
from medcl.training.launch import Place
from medcl.training.loop import Run
from medcl.training.network import NetworkConfig

ARMS = {"whole": (1, False), "pieces: 4": (4, False), "recompute": (1, True), "pieces: 4, recompute": (4, True)}


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Memory of a step.")
    parser.add_argument("--side", type=int, default=48, help="voxels of a view's side")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    text = measure(said.side, said.batch)
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def measure(side: int, batch: int, names: tuple[str, ...] = ("ResNet-18", "ViT")) -> str:
    """The report."""
    rows = [row for name in names for row in _rows(name, side, batch)]
    return "\n".join(
        [
            "# Memory of a step",
            "",
            f"SimCLR, {batch} scans with two views of {side} voxels a side, float32, one thread of a CPU ({platform.machine()}), torch "
            f"{torch.__version__}; `benchmarks/step_memory.py`. Apart: largest difference of a gradient, over the largest gradient.",
            "",
            "| encoder (3D) | training | MiB | of the whole batch's | s | of the whole batch's | apart |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _encoder(name: str, side: int) -> ResNetConfig | ViTConfig:
    return (
        ResNetConfig(depth=18, width=32, stem_kernel=3) if name == "ResNet-18" else ViTConfig(size=(side,) * 3, patch=8, width=192, heads=3)
    )


def _rows(encoder: str, side: int, batch: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _alone(Path(folder) / str(number), encoder, side, batch, *arm) for number, (name, arm) in enumerate(ARMS.items())}
    whole = found["whole"]
    largest = max(float(gradient.abs().max()) for gradient in whole["gradients"].values())
    rows = []
    for name, arm in found.items():
        apart = max(float((arm["gradients"][key] - gradient).abs().max()) for key, gradient in whole["gradients"].items()) / largest
        shares = f"{arm['mib'] / whole['mib']:.2f} | {arm['seconds']:.2f} | {arm['seconds'] / whole['seconds']:.2f}"
        rows.append(f"| {encoder} | {name} | {arm['mib']:,.0f} | {shares} | {apart:.0e} |")
    return rows


def _alone(path: Path, *arguments: Any) -> dict:
    child = multiprocessing.get_context("fork").Process(target=_steps, args=(path, *arguments))
    child.start()
    child.join()
    return torch.load(path)


def _steps(path: Path, name: str, side: int, batch: int, pieces: int, anew: bool) -> None:
    torch.set_num_threads(1)
    encoder = build_seeded(_encoder(name, side), seed=0)
    method = build_seeded(SimCLRConfig(), encoder, seed=0)
    config = TrainingConfig(num_steps=2, world_batch=batch, pieces=pieces, network=NetworkConfig(recompute=anew))
    run = Run(method, config, Place(torch.device("cpu")), ())
    noise = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(batch, 1, side, side, side, generator=noise) for _ in range(2))
    held = Batch(views, torch.arange(batch), torch.arange(batch))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run.step(0, held)
    gradients = {name: value.grad.clone() for name, value in method.named_parameters() if value.grad is not None}
    start = time.process_time()
    run.step(1, held)
    seconds = time.process_time() - start
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    torch.save({"gradients": gradients, "mib": mib, "seconds": seconds}, path)


if __name__ == "__main__":
    main()
