"""`medcl export RUN --to csv`: the weights of a small encoder as one table for people."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from medcl.export.backbone import Backbone
from medcl.export.proof import Proof, compare, count_matching

NEXT = "open {out}/weights.csv"


def write(backbone: Backbone, source: Path, folder: Path) -> Proof:
    """Write weights.csv (name, shape, values), read it again and compare."""
    with open(folder / "weights.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        for name, tensor in backbone.encoder.state_dict().items():
            rows.writerow([name, *tensor.shape, "", *(value.hex() for value in tensor.flatten().tolist())])
    loaded = _read(folder / "weights.csv")

    def answer(image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(backbone.encoder, loaded, (image,)).pooled

    matching = count_matching(backbone.encoder.state_dict(), loaded)
    return compare("csv", backbone.encoder, answer, backbone.examples(3), loaded=matching, tolerance=1e-6)


def _read(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    with open(path, newline="") as handle:
        for name, *cells in csv.reader(handle):
            gap = cells.index("")
            values = torch.tensor([float.fromhex(cell) for cell in cells[gap + 1 :]])
            found[name] = values.reshape([int(length) for length in cells[:gap]])
    return found
