"""A Hugging Face model folder: config, safetensors, model card; loads offline, with medcl or without."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

from medcl import encoders
from medcl.encoders import MonaiForm, ResEncUNetEncoder
from medcl.export.backbone import WEIGHTS, Backbone
from medcl.export.model_card import model_card
from medcl.export.monai_network import describe, description
from medcl.export.proof import Proof, compare, count_matching
from medcl.foundation.files import write_json, write_text

NEXT = "hf upload YOUR_NAME/YOUR_MODEL {out}, or load it offline: see {out}/README.md"
TOLERANCE = 1e-5
_USE = """```python
from load_backbone import load                 # the file beside this one; needs torch, monai and safetensors

network = load(".")                            # (batch, channel, *space) -> (batch, dim)
```"""


def write(backbone: Backbone, source: Path, folder: Path) -> Proof:
    """Write config.json, model.safetensors, README.md and load_backbone.py; the last one loads them for the comparison."""
    config = {
        "model_type": "medcl",
        "monai": description(_form(backbone, folder)),
        "medcl": {key: backbone.card[key] for key in ("encoder", "contract")},
    }
    write_json(folder / "config.json", config)
    shutil.copyfile(source / WEIGHTS, folder / "model.safetensors")
    shutil.copyfile(Path(__file__).with_name("monai_load.py"), folder / "load_backbone.py")
    write_text(folder / "README.md", _head(backbone.card) + model_card(backbone.card, _USE))
    loaded = runpy.run_path(str(folder / "load_backbone.py"))["load"](folder)
    matching = count_matching(backbone.encoder.state_dict(), loaded.state_dict())
    return compare("huggingface", backbone.encoder, loaded, backbone.examples(3), loaded=matching, tolerance=TOLERANCE)


def _form(backbone: Backbone, folder: Path) -> MonaiForm:
    """MONAI's form; nnU-Net's encoder, which MONAI has no class for, brings its own file along."""
    encoder = backbone.encoder
    if not isinstance(encoder, ResEncUNetEncoder):
        return describe(encoder, "huggingface")
    shutil.copyfile(Path(encoders.__file__).with_name("resenc_network.py"), folder / "resenc_network.py")
    return MonaiForm("resenc_network.ResidualEncoder", encoder.arguments, output="maps")


def _head(card: dict[str, Any]) -> str:
    """What the Hub reads: YAML between two lines of dashes."""
    tags = "".join(f"- {tag}\n" for tag in ("medical-imaging", "contrastive-learning", *card["contract"]["modalities"]))
    return f"---\nlibrary_name: medcl\nlicense: other\nlicense_name: see-below\npipeline_tag: feature-extraction\ntags:\n{tags}---\n\n"
