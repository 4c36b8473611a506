"""What a person does with the example plugin, in a process that finds it installed: prepare, pretrain from YAML, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import medcl_example
import numpy as np

import medcl
from medcl import cli
from medcl.export.targets import targets
from medcl.foundation.errors import UserError
from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.store.prepare import prepare_data
from medcl.store.recipe import load_recipe
from tests.store.made_data import MadeData

CONFIG = """
store: {folder}/store
encoder: {{name: patch_mean, spatial_dims: 2, width: 8}}
method: {{name: align_uniform, t: 1.5}}
views: {{policy: {files}/policy.yaml, size: [32, 32]}}
training: {{num_steps: 3, world_batch: 4, precision: fp32, workers: 1, checkpoint_every: 3}}
"""


def main(folder: Path) -> None:
    """Every kind of addition, used once; prints what came of each."""
    files = Path(medcl_example.__file__).parent
    draw = np.random.default_rng(0)
    pictures = {str(number): draw.integers(0, 255, (48, 40, 1)).astype(np.uint8) for number in range(6)}
    volumes = {name: Volume(array, np.eye(4), "oct", "display", "picture") for name, array in pictures.items()}
    prepare_data(MadeData(volumes), "hash", folder / "store", load_recipe(files / "recipe.yaml"), jobs=1, progress=Silent())
    config = folder / "oct.yaml"
    config.write_text(CONFIG.format(folder=folder, files=files))
    run = medcl.pretrain(config, out=folder / "run")
    card = medcl.load_backbone(run.backbone).card
    (folder / "flip.yaml").write_text((files / "policy.yaml").read_text() + "  - {name: flip_up_down}\n")
    found = {
        "method": card["method"],
        "encoder": card["encoder"],
        "augmentation": card["views"]["policy"]["steps"][-1],
        "modality": [card["contract"]["modalities"], _refusal(config, folder / "flip.yaml")],
        "export": targets()["csv"],
    }
    print(json.dumps(found))
    sys.argv = ["medcl", "export", str(run.folder), "--to", "csv", "--out", str(folder / "csv")]
    cli.main()


def _refusal(config: Path, policy: Path) -> str:
    try:
        medcl.pretrain(config, {"views.policy": str(policy)}, out=policy.parent / "other")
    except UserError as refusal:
        return str(refusal)
    return "not refused"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
