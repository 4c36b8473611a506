"""A MONAI bundle: MONAI's own network, and medcl's own preparation in its scripts, so it runs where medcl is not installed."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import medcl
from medcl.encoders import MonaiForm
from medcl.export.backbone import Backbone
from medcl.export.model_card import model_card
from medcl.export.monai_into import write_into
from medcl.export.monai_network import bundle_expression, describe
from medcl.export.monai_transforms import transforms, write_scripts
from medcl.export.proof import Proof, compare, count_matching
from medcl.foundation.files import write_bytes, write_json, write_text

NEXT = "python -m monai.bundle run --config_file {out}/configs/inference.json --bundle_root {out} --image scan.nii.gz; {out}/docs/README.md"
OPTIONS = ("into",)
TOLERANCE = 1e-5
_USE = """```
python -m monai.bundle run --config_file configs/inference.json --bundle_root . --image scan.nii.gz --output embedding.npy
```

or, in Python, `monai.bundle.load(NAME, bundle_dir=WHERE, workflow_type="inference")` for the network alone. In configs/inference.json,
`preprocessing` gives a scan as the network saw it (one volume, for pipelines of your own) and `windows` what medcl embeds of it; both
need SciPy and Numba, and NiBabel (NIfTI) or Pillow (pictures) to read. A DICOM series goes through `medcl convert` first."""
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def write(backbone: Backbone, source: Path, folder: Path, into: str | None = None) -> Proof:
    """Write configs/, models/model.pt and docs/; MONAI's own parser builds the network and loads it for the comparison.

    model.pt is what MONAI asks for: a state dict that `torch.load(..., weights_only=True)` reads. into: a segmentation network of MONAI's,
    whose state dict is written instead of a bundle (see export/monai_into.py).
    """
    if into is not None:
        return write_into(backbone, into, folder)
    network = describe(backbone.encoder, "monai")
    write_json(folder / "configs" / "inference.json", {**_inference(network), **transforms(backbone.contract.recipe)})
    write_scripts(backbone.views, folder / "scripts")
    write_json(folder / "configs" / "metadata.json", _metadata(backbone))
    write_text(folder / "docs" / "README.md", model_card(backbone.card, _USE))
    weights = io.BytesIO()
    torch.save(backbone.encoder.state_dict(), weights)
    write_bytes(folder / "models" / "model.pt", weights.getvalue())
    loaded = _load(folder)
    matching = count_matching(backbone.encoder.state_dict(), loaded.state_dict())
    return compare("monai", backbone.encoder, loaded, backbone.examples(3), loaded=matching, tolerance=TOLERANCE)


def _inference(network: MonaiForm) -> dict[str, Any]:
    return {
        "imports": ["$import monai", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_body": {"_target_": network.target, **network.arguments},
        "network_def": bundle_expression(network),
        "network": "$@network_def.to(@device)",
        "image": "scan.nii.gz",
        "output": "embedding.npy",
        "embedding": {"_target_": "scripts.preparation.embed", "network": "@network", "windows": "$@windows({'image': @image})['image']"},
        "run": [
            "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True))",
            "$numpy.save(@output, @embedding)",
        ],
    }


def _metadata(backbone: Backbone) -> dict[str, Any]:
    import monai
    import numpy

    contract, card = backbone.card["contract"], backbone.card
    low, high = contract["network_range"]
    image = {
        "type": "image",
        "format": ", ".join(contract["units"]),
        "modality": ", ".join(contract["modalities"]),
        "num_channels": card["encoder"].get("in_channels", 1),
        "spatial_shape": contract["size"],
        "dtype": "float32",
        "value_range": [low, high],
        "is_patch_data": contract["kind"] == "volume",
        "channel_def": {"0": "image"},
    }
    embedding = {
        "type": "embedding",
        "format": "embedding",
        "num_channels": backbone.dim,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "embedding"},
    }
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by medcl {medcl.__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": numpy.__version__,
        "required_packages_version": {"scipy": version("scipy"), "numba": version("numba"), "nibabel": version("nibabel")},
        "name": "medcl backbone",
        "task": "embedding of medical images",
        "description": f"Encoder pretrained by {card['method'].get('name')}; its contract is under medcl_contract",
        "authors": "whoever trained it",
        "copyright": card["licence"],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": embedding}},
        "medcl_contract": contract,
    }


def _load(folder: Path) -> torch.nn.Module:
    """The network as MONAI builds and fills it."""
    with _quiet_monai():
        from monai.bundle import ConfigParser, verify_net_in_out

        inference, metadata = str(folder / "configs" / "inference.json"), str(folder / "configs" / "metadata.json")
        verify_net_in_out(net_id="network_def", meta_file=metadata, config_file=inference, device="cpu")
        parser = ConfigParser(json.loads(Path(inference).read_text(encoding="utf-8")))
        network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", map_location="cpu", weights_only=True), strict=True)
    return network.eval()


@contextmanager
def _quiet_monai() -> Iterator[None]:
    """MONAI logs every step and warns that bundles run code; this one we have just written ourselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
