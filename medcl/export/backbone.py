"""The backbone folder: weights and a card, written whole, proven by loading them back, refused when altered."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import medcl
from medcl.encoders import Encoder, EncoderConfig
from medcl.export.proof import Proof, compare, count_matching, example_inputs
from medcl.foundation.config import Settings, validate
from medcl.foundation.errors import MedclError, UserError
from medcl.foundation.files import CARD, SCHEMA_VERSION, read_card, sha256_of_file, write_bytes, write_card, write_whole
from medcl.foundation.types import Features, Kind, Units
from medcl.store.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from medcl.foundation.types import Volume

NEXT = 'medcl embed {out} SCAN... --out embeddings.parquet, or medcl.load_backbone("{out}") in Python'
WEIGHTS = "weights.safetensors"
TRAINING_ITEMS = "training_items.parquet"


class Contract(Settings):
    """What a scan must be, and what is done to it, before the encoder sees it.

    modalities, kind, units, orientation: what is accepted, and how the axes run (those of the recipe).
    size: voxel grid the encoder was trained on (3D: x y z; 2D: rows columns). extent_mm: what that grid spans along
    the same axes; None for pictures, whose grid spans the whole picture. network_range: values the encoder sees.
    recipe: how the store was prepared, and how every scan to be embedded is.
    """

    modalities: tuple[str, ...]
    kind: Kind
    units: tuple[Units, ...]
    orientation: str
    size: tuple[int, ...]
    extent_mm: tuple[float, ...] | None
    network_range: tuple[float, float]
    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe, size: tuple[int, ...], extent_mm: tuple[float, ...] | None) -> Contract:
        """The contract that a store's recipe and the training views make together."""
        return cls(
            modalities=recipe.modalities,
            kind=recipe.kind,
            units=recipe.units,
            orientation=recipe.orientation,
            size=size,
            extent_mm=extent_mm,
            network_range=recipe.network_range,
            recipe=recipe,
        )

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """Millimetres between neighbouring voxels of the grid the encoder was trained on."""
        return None if self.extent_mm is None else tuple(extent / size for extent, size in zip(self.extent_mm, self.size, strict=True))

    def check(self, source: str) -> None:
        """Raise UserError where the fields for people and the recipe say different things."""
        if self != Contract.of(self.recipe, self.size, self.extent_mm):
            raise UserError(f"{source}: 'contract' contradicts its own recipe; take the backbone from its RUN again")


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from: what the card says to people and to the leak guard. No identifiers.

    method: its settings. steps, world_batch: how long it was trained. corpus: hash of the store's card. views: the
    resolved policy with its overrides. items: columns `patient_key`, `pixel_hash` of what was trained on.
    """

    method: Mapping[str, Any]
    steps: int
    world_batch: int
    corpus: str
    views: Mapping[str, Any]
    licence: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    items: pd.DataFrame | None = None


class Backbone(nn.Module):
    """A pretrained encoder with its card: `forward` takes prepared tensors, `embed` takes scans.

    Input of `forward`: (batch, channel, *space) in the contract's network range. Output: Features.
    """

    def __init__(self, encoder: Encoder, card: Mapping[str, Any], contract: Contract) -> None:
        super().__init__()
        self.encoder = encoder
        self.card = dict(card)
        self.contract = contract

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.encoder.dim

    def examples(self, count: int) -> list[Tensor]:
        """Made inputs of `count` different shapes that this backbone takes."""
        return example_inputs(self.encoder, self.contract.size, self.card["encoder"].get("in_channels", 1), count)

    def forward(self, image: Tensor) -> Features:
        """The encoder's features of prepared images."""
        return self.encoder(image)

    def embed(self, scan: str | Path | Volume | np.ndarray) -> Features:
        """Features of one scan, prepared as the contract says; what contradicts it is refused (see export/embed.py)."""
        from medcl.export.embed import embed_scan

        return embed_scan(self, scan)


def save_backbone(encoder: Encoder, config: Settings, folder: Path, *, contract: Contract, provenance: Provenance) -> Proof:
    """Write `weights.safetensors` and `card.json`, load them back, compare outputs, then move the folder into place.

    Called before the first training step too, so that a run that could not be exported never starts. Raises
    MedclError where the loaded encoder does not answer as the one in hand; the earlier folder then stays.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in encoder.state_dict().items()}
    _check_finite(tensors)
    write_bytes(partial / WEIGHTS, save(tensors))
    if provenance.items is not None:
        items = provenance.items.loc[:, ["patient_key", "pixel_hash"]].sort_values(by=["patient_key", "pixel_hash"], ignore_index=True)
        write_whole(partial / TRAINING_ITEMS, lambda path: items.to_parquet(path, index=False))
    _write_card(partial, tensors, config, contract, provenance, proof=None)
    proof = _prove(encoder, partial)
    _write_card(partial, tensors, config, contract, provenance, proof)
    replace_folder(partial, folder)
    return proof


def load_backbone(folder: str | Path) -> Backbone:
    """Load a backbone folder (or that of a run) on the CPU, in eval mode. Nothing is unpickled.

    Raises UserError where card or weights were altered, or do not fit each other.
    """
    folder = find_backbone(folder)
    card = read_card(folder, "backbone")
    if card.get("seal") != _seal(card):
        raise UserError(f"{folder / CARD}: 'seal' does not fit the rest: the card was altered; take the backbone from its RUN again")
    broken = [key for key in ("contract", "encoder", "files") if not isinstance(card.get(key), dict)]
    if broken or WEIGHTS not in card["files"]:
        raise UserError(
            f"{folder / CARD}: '{(broken or ['files'])[0]}' is not what a backbone's card holds; take the backbone from its RUN again"
        )
    for name, digest in card["files"].items():
        if Path(name).name != name or not (folder / name).is_file() or sha256_of_file(folder / name) != digest:
            raise UserError(f"{folder / name}: missing or altered (its SHA-256 is not the card's); take the backbone from its RUN again")
    source = str(folder / CARD)
    contract = validate(Contract, card["contract"], source)
    contract.check(source)
    encoder = build_encoder(card["encoder"], source)
    encoder.load_state_dict(_read_weights(folder / WEIGHTS, encoder))
    return Backbone(encoder.eval(), card, contract).eval()


def write(backbone: Backbone, source: Path, folder: Path) -> Proof:
    """Copy a backbone folder (the export target `backbone`), load the copy and compare."""
    for name in (*backbone.card["files"], CARD):
        shutil.copyfile(source / name, folder / name)
    return _prove(backbone.encoder, folder)


def find_backbone(folder: str | Path) -> Path:
    """The backbone folder itself, or the one inside a RUN."""
    folder = Path(folder)
    inside = folder / "backbone"
    return inside if not (folder / WEIGHTS).exists() and inside.is_dir() else folder


def build_encoder(settings: Mapping[str, Any], source: str) -> Encoder:
    """An encoder from its settings, without touching the random state of whoever asks."""
    holder = validate(_EncoderSettings, {"encoder": settings}, source)
    with torch.random.fork_rng(devices=[]):
        return holder.encoder.build()


def replace_folder(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


class _EncoderSettings(Settings):
    encoder: EncoderConfig  # type: ignore[valid-type]


def _write_card(
    folder: Path, tensors: Mapping[str, Tensor], config: Settings, contract: Contract, provenance: Provenance, proof: Proof | None
) -> None:
    names = [name for name in (WEIGHTS, TRAINING_ITEMS) if (folder / name).is_file()]
    items = provenance.items
    settings = config.model_dump(mode="json")
    content: dict[str, Any] = {
        "inputs": {"store": provenance.corpus},
        "settings": settings,
        "counts": {
            "tensors": len(tensors),
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "training_items": 0 if items is None else len(items),
            "training_patients": 0 if items is None else len(items["patient_key"].unique()),
        },
        "contract": contract.model_dump(mode="json"),
        "encoder": settings,
        "method": dict(provenance.method),
        "training": {"steps": provenance.steps, "world_batch": provenance.world_batch},
        "views": dict(provenance.views),
        "licence": provenance.licence,
        "metrics": {name: value if math.isfinite(value) else None for name, value in provenance.metrics.items()},
        "files": {name: sha256_of_file(folder / name) for name in names},
        "proof": None if proof is None else proof.to_card(),
    }
    content = json.loads(json.dumps(content))  # tuples become lists, as they will be when read
    head = {"schema_version": SCHEMA_VERSION, "kind": "backbone", "code_version": medcl.__version__}
    write_card(folder, "backbone", **content, seal=_seal({**head, **content}))


def _seal(card: Mapping[str, Any]) -> str:
    """SHA-256 over everything in the card but the seal itself: an accident or a slip of the editor is noticed."""
    content = {key: value for key, value in card.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_weights(path: Path, encoder: Encoder) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); take the backbone from its RUN again") from None
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in encoder.state_dict().items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} tensors do not fit the card's encoder, first '{name}': {found.get(name)}, expected {expected.get(name)}"
        )
    return tensors


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise MedclError(f"'{bad[0]}' and {len(bad) - 1} other tensors hold NaN or infinity: not saved")


def _prove(encoder: Encoder, folder: Path) -> Proof:
    """Compare the encoder in hand with what was just written, on the CPU, in eval mode."""
    loaded = load_backbone(folder)
    in_hand = copy.deepcopy(encoder).to("cpu").eval()
    loaded_tensors = count_matching(in_hand.state_dict(), loaded.encoder.state_dict())
    try:
        return compare("backbone", in_hand, loaded, loaded.examples(1), loaded=loaded_tensors, tolerance=0.0)
    except (ValueError, RuntimeError) as error:  # torch's own words: an axis that shrinks to nothing, say
        size = list(loaded.contract.size)
        raise UserError(
            f"views.size {size} does not suit encoder '{loaded.card['encoder'].get('name')}': {error}; take a larger size"
        ) from None
