"""Share of a step's time that training waits for data: `medcl pretrain` of each config for a few steps, as it stands.

python benchmarks/data_waiting.py CONFIG... [--steps 16] [--out reports/training/data_waiting.md]

From a folder in which the stores of the configs lie (`data/...`, as the card of each data set makes them). The steps are logged by
four; the first, which starts threads and compiles, is not counted. Wall time: a busy machine counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

EVERY = 4


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Waiting for data.")
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    text = "\n".join(
        [
            "# Waiting for data",
            "",
            f"`benchmarks/data_waiting.py`: `medcl pretrain` of each config, {said.steps} steps; share of the time of {EVERY} steps each",
            f"that was waited for data, the first step left out. {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}.",
            "",
            "| config | waiting |",
            "|---|---|",
            *(f"| `{config}` | {', '.join(f'{share:.1%}' for share in waiting(config, said.steps))} |" for config in said.configs),
        ]
    )
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def waiting(config: Path, steps: int) -> list[float]:
    """The shares that the run logs, without its first step."""
    with tempfile.TemporaryDirectory() as folder:
        changed = [f"training.num_steps={steps}", f"training.log_every={EVERY}", "training.probe_every=100000"]
        line = [sys.executable, "-m", "medcl", "pretrain", str(config), *changed, "--out", f"{folder}/run", "--quiet"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["waiting_share"] for line in lines if "waiting_share" in line and line["step"] >= EVERY]


if __name__ == "__main__":
    main()
