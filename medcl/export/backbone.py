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
from medcl.export.cohort import count_cohort
from medcl.export.model_card import LIMITS, model_card
from medcl.export.proof import Proof, compare, count_matching, example_inputs
from medcl.foundation.config import Settings, validate
from medcl.foundation.errors import MedclError, UserError
from medcl.foundation.files import (
    CARD,
    SCHEMA_VERSION,
    read_card,
    read_json,
    sha256_of_file,
    write_bytes,
    write_card,
    write_text,
    write_whole,
)
from medcl.foundation.types import Features, Kind, Units
from medcl.ingest.manifest import read_parquet
from medcl.store.recipe import Recipe
from medcl.views.batched import ViewMaker
from medcl.views.policy import LocalViewsConfig, Policy, ViewsConfig

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from medcl.foundation.types import Volume

NEXT = 'medcl embed {out} SCAN... --out embeddings.parquet, or medcl.load_backbone("{out}") in Python'
WEIGHTS = "weights.safetensors"
_INSIDE = "backbone"  # of a RUN
TRAINING_ITEMS = "training_items.parquet"
README = "README.md"
UNKNOWN = "unknown"  # a card's `initial`, where the training began with weights that do not say what they were trained on
_USE = """```python
import medcl

backbone = medcl.load_backbone(".")            # an nn.Module; nothing is unpickled
features = backbone.embed("scan.nii.gz")       # .pooled (1, dim), .dense; refuses what breaks the contract
```"""
ITEM_COLUMNS = ("patient_key", "pixel_hash", "near_hash")


class ResolvedViews(Settings):
    """What `ViewMaker.resolved` says: the training's views, written out; enough to make them again."""

    policy: Policy
    size: tuple[int, ...]
    extent_mm: tuple[float, float, float] | str
    overlap: float
    paired: bool
    overrides: dict[str, str]
    local: LocalViewsConfig | None = None

    def maker(self, recipe: Recipe) -> ViewMaker:
        """The view maker of the training. Raises UserError where policy and recipe do not fit together."""
        content = {"policy": self.policy.name, "size": self.size, "overlap": self.overlap, "allow": self.overrides, "local": self.local}
        return ViewMaker(validate(ViewsConfig, content, "views"), recipe, self.paired, self.policy)


class Contract(Settings):
    """What a scan must be, and what is done to it, before the encoder sees it.

    modalities, kind, units, orientation: what is accepted, and how the axes run (those of the recipe).
    size: voxel grid the encoder was trained on (3D: x y z; 2D: rows columns). extent_mm: what that grid spans, x y z;
    None where that differs from scan to scan (whole pictures, or a recipe that keeps the scan's own spacing).
    network_range: values the encoder sees. recipe: how the store was prepared, and how every scan to be embedded is.
    """

    modalities: tuple[str, ...]
    kind: Kind
    units: tuple[Units, ...]
    orientation: str
    size: tuple[int, ...]
    extent_mm: tuple[float, float, float] | None
    network_range: tuple[float, float]
    recipe: Recipe

    @classmethod
    def of(cls, recipe: Recipe, views: ResolvedViews) -> Contract:
        """The contract that a store's recipe and the resolved training views make together."""
        return cls(
            modalities=recipe.modalities,
            kind=recipe.kind,
            units=recipe.units,
            orientation=recipe.orientation,
            size=views.size,
            extent_mm=None if isinstance(views.extent_mm, str) else views.extent_mm,
            network_range=recipe.network_range,
            recipe=recipe,
        )


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from: what the card says to people and to the leak guard. No identifiers.

    method: its settings. steps, world_batch: how long it was trained. corpus: hash of the store's card. items: the rows of the store's
    index that were trained on; their `patient_key`, `pixel_hash` and, where known, `near_hash` are kept for the leak guard, the rest
    is counted. initial: of weights that this training began with, the same columns (see `items_of`), which are kept for the guard too;
    None where they say nothing of it, empty where there were none.
    """

    method: Mapping[str, Any]
    steps: int
    world_batch: int
    corpus: str
    licence: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    items: pd.DataFrame | None = None
    initial: pd.DataFrame | None = field(default_factory=lambda: _no_items())


class Backbone(nn.Module):
    """A pretrained encoder with its card: `forward` takes prepared tensors, `embed` takes scans.

    views: makes what the encoder was trained on, un-augmented too (`whole`, `windows`).

    Input of `forward`: (batch, channel, *space) in the contract's network range. Output: Features.
    """

    def __init__(self, encoder: Encoder, card: Mapping[str, Any], contract: Contract, views: ViewMaker) -> None:
        super().__init__()
        self.encoder = encoder
        self.card = dict(card)
        self.contract = contract
        self.views = views

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.encoder.dim

    def examples(self, count: int, fixed: bool = False) -> list[Tensor]:
        """Made inputs of `count` different shapes that this backbone takes; fixed: all of the contract's own grid."""
        return example_inputs(self.encoder, self.contract.size, self.card["encoder"].get("in_channels", 1), count, fixed=fixed)

    def forward(self, image: Tensor) -> Features:
        """The encoder's features of prepared images."""
        return self.encoder(image)

    def embed(self, scan: str | Path | Volume | np.ndarray) -> Features:
        """Features of one scan, prepared as the contract says; what contradicts it is refused (see export/embed.py)."""
        from medcl.export.embed import embed_scan

        return embed_scan(self, scan)


def save_backbone(encoder: Encoder, config: Settings, folder: Path, *, views: ViewMaker, provenance: Provenance) -> Proof:
    """Write `weights.safetensors`, the card as JSON and as README.md, load them back, compare outputs, then move the folder into place.

    views: those of the training; with their recipe they are the contract. Called before the first training step too, so
    that a run that could not be exported never starts. Raises UserError where the encoder does not take their size,
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
        items = _seen(provenance.items, provenance.initial)
        write_whole(partial / TRAINING_ITEMS, lambda path: items.to_parquet(path, index=False))
    _write_card(partial, tensors, config, views, provenance, None)
    proof = _prove(encoder, partial)
    _write_card(partial, tensors, config, views, provenance, proof)
    replace_folder(partial, folder)
    return proof


def _no_items() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=["patient_key", "pixel_hash"])


def _seen(items: pd.DataFrame, before: pd.DataFrame | None) -> pd.DataFrame:
    """Items of this training and of the one before, each once, in an order of their own."""
    import pandas as pd

    parts = [part.loc[:, [name for name in ITEM_COLUMNS if name in part]] for part in (items, before) if part is not None and len(part)]
    return pd.concat(parts).fillna("").drop_duplicates().sort_values(by=["patient_key", "pixel_hash"], ignore_index=True)


def items_of(initial: Path | None) -> pd.DataFrame | None:
    """What weights were trained on, what they began with included; None where nothing says so.

    initial: a backbone folder or a file in it, or a checkpoint of a RUN; None is no weights, and nothing that they were trained on.
    """
    if initial is None:
        return _no_items()
    folder = initial if initial.is_dir() else initial.parent
    folder = folder.parent.parent / _INSIDE if folder.parent.name == "checkpoints" else folder
    known = (folder / CARD).is_file() and read_json(folder / CARD).get("initial") != UNKNOWN
    return read_parquet(folder / TRAINING_ITEMS) if known and (folder / TRAINING_ITEMS).is_file() else None


def load_backbone(folder: str | Path) -> Backbone:
    """Load a backbone folder (or that of a run) on the CPU, in eval mode. Nothing is unpickled.

    Raises UserError where card or weights were altered, or do not fit each other.
    """
    folder = find_backbone(folder)
    card = read_card(folder, "backbone")
    check_seal(folder, card, again="take the backbone from its RUN again")
    broken = [key for key in ("contract", "encoder", "views", "files") if not isinstance(card.get(key), dict)]
    if broken or WEIGHTS not in card["files"]:
        raise UserError(
            f"{folder / CARD}: '{(broken or ['files'])[0]}' is not what a backbone's card holds; take the backbone from its RUN again"
        )
    for name, digest in card["files"].items():
        if Path(name).name != name or not (folder / name).is_file() or sha256_of_file(folder / name) != digest:
            raise UserError(f"{folder / name}: missing or altered (its SHA-256 is not the card's); take the backbone from its RUN again")
    source = str(folder / CARD)
    contract = validate(Contract, card["contract"], source)
    views = validate(ResolvedViews, card["views"], source)
    if contract != Contract.of(contract.recipe, views):
        raise UserError(f"{source}: 'contract' contradicts its own recipe and views; take the backbone from its RUN again")
    encoder = build_encoder(card["encoder"], source)
    encoder.load_state_dict(_read_weights(folder / WEIGHTS, encoder))
    return Backbone(encoder, card, contract, views.maker(contract.recipe)).eval()


def write(backbone: Backbone, source: Path, folder: Path) -> Proof:
    """Copy a backbone folder (the export target `backbone`), load the copy and compare."""
    for name in (*backbone.card["files"], CARD):
        shutil.copyfile(source / name, folder / name)
    return _prove(backbone.encoder, folder)


def find_backbone(folder: str | Path) -> Path:
    """The backbone folder itself, or the one inside a RUN. Raises UserError where that is not finished: it holds random weights."""
    folder = Path(folder)
    inside = folder / _INSIDE
    if not (folder / WEIGHTS).exists() and inside.is_dir():
        folder = inside
    run = folder.parent
    if folder.name == _INSIDE and (run / "config.yaml").is_file() and not (run / CARD).is_file():
        raise UserError(
            f"{run}: this run is not finished, and its backbone holds the weights it began with; let the same `medcl pretrain` line go on "
            "to its end, or begin a shorter run (training.num_steps)"
        )
    return folder


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
    folder: Path, tensors: Mapping[str, Tensor], config: Settings, views: ViewMaker, provenance: Provenance, proof: Proof | None
) -> None:
    names = [name for name in (WEIGHTS, TRAINING_ITEMS) if (folder / name).is_file()]
    items, resolved = provenance.items, views.resolved()
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
        "cohort": {} if items is None else count_cohort(items),
        "contract": Contract.of(views.recipe, validate(ResolvedViews, resolved, "views")).model_dump(mode="json"),
        "encoder": settings,
        "method": dict(provenance.method),
        "training": {"steps": provenance.steps, "world_batch": provenance.world_batch},
        "views": resolved,
        "licence": provenance.licence,
        "must_not_be_used_for": list(LIMITS),
        "metrics": {name: value if math.isfinite(value) else None for name, value in provenance.metrics.items()},
        "files": {name: sha256_of_file(folder / name) for name in names},
        **({"initial": UNKNOWN} if provenance.initial is None else {}),
        "proof": None if proof is None else proof.to_card(),
    }
    write_text(folder / README, model_card(content, _USE))
    content["files"][README] = sha256_of_file(folder / README)
    write_sealed_card(folder, "backbone", content)


def write_sealed_card(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write a card that holds a SHA-256 of itself. content: what `write_card` takes."""
    content = json.loads(json.dumps(content))  # tuples become lists, as they will be when read
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "code_version": medcl.__version__}
    write_card(folder, kind, **content, seal=_seal({**head, **content}))


def check_seal(folder: Path, card: Mapping[str, Any], again: str) -> None:
    """Raise UserError where a sealed card was altered. again: the way out."""
    if card.get("seal") != _seal(card):
        raise UserError(f"{folder / CARD}: 'seal' does not fit the rest: the card was altered; {again}")


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
