"""What a study compares: for each init the encoder, how scans are shown to it, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcl.encoders import Encoder, build_seeded
from medcl.evaluation.fits import basis_of
from medcl.evaluation.given import Given, read_weights
from medcl.evaluation.settings import PIXELS, StudyConfig, SupervisedConfig, WeightsConfig
from medcl.evaluation.study_data import Stores
from medcl.export.backbone import Backbone, find_backbone, load_backbone
from medcl.foundation.config import Settings
from medcl.foundation.errors import UserError
from medcl.foundation.types import Features
from medcl.store.recipe import Recipe, load_recipe, recipe_hash
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker


@dataclass(frozen=True)
class Initialisation:
    """One init. encoder: None for raw pixels. folder: where the leak guard asks; None where nothing foreign was learned from.

    backbone: medcl's own; given: other weights; None for random ones. first: what these are still to be trained on.
    """

    name: str
    encoder: Settings | None
    backbone: Backbone | None
    folder: Path | None
    maker: ViewMaker
    store: VolumeStore
    given: Given | None = None
    first: SupervisedConfig | None = None

    @property
    def kind(self) -> str:
        """backbone, weights, supervised, random or pixels."""
        if self.given is not None:
            return self.given.kind
        return "pixels" if self.encoder is None else "random" if self.backbone is None else "backbone"

    @property
    def weights(self) -> str:
        """Names the weights: their SHA-256, or the settings that random ones are drawn for."""
        if self.backbone is not None:
            return self.backbone.card["files"]["weights.safetensors"]
        if self.given is not None:
            return self.given.digest
        return basis_of(encoder=None if self.encoder is None else self.encoder.model_dump(mode="json"))

    def build(self, seed: int, draw: int | None = None) -> Encoder:
        """A new encoder in eval mode: the known weights, and random ones of their own for every (seed, draw)."""
        assert self.encoder is not None
        purpose = "study encoder" if draw is None else f"study encoder {draw}"
        encoder = build_seeded(self.encoder, seed=seed, purpose=purpose)
        if self.backbone is not None:
            encoder.load_state_dict(self.backbone.encoder.state_dict())
        if self.given is not None:
            encoder.load_state_dict(self.given.state, strict=False)
        return encoder.eval()

    def basis(self, seed: int) -> dict[str, Any]:
        """Everything about this init that a fit depends on."""
        own = {"weights": self.weights, "views": self.maker.resolved(), "recipe": self.maker.recipe.model_dump(mode="json")}
        return own if self.backbone is not None else {**own, "seed": seed}

    def facts(self) -> dict[str, Any]:
        """What the page says of it."""
        size = " × ".join(str(length) for length in self.maker.config.size)
        shown = {"kind": self.kind, "input": f"{size} voxels, recipe {self.maker.recipe.name}", "policy": self.maker.policy.name}
        if self.backbone is None:
            words = self.given.words if self.given else "random weights"
            whole = f"{_network(self.encoder)}, {words}" if self.encoder else "raw pixels, 50 principal components, linear probe"
            return {**shown, "words": whole, **({"weights": self.weights} if self.given else {})}
        card = self.backbone.card
        method = card["method"].get("name", "unknown method")
        more = {"method": method, **card["training"], "training_items": card["counts"]["training_items"], "licence": card["licence"]}
        more |= {"training_patients": card["counts"]["training_patients"], "corpus": card["inputs"].get("store", "")}
        more |= {"dim": self.backbone.dim, "weights": self.weights, "overrides": card["views"].get("overrides", {})}
        return {**shown, "words": f"{_network(self.encoder)}, pretrained by {method}", **more}


class PixelEncoder(Encoder):
    """The raw-pixel floor as an encoder: pooled are the voxels themselves."""

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        self.dim, self.spatial_dims, self.channels, self.stride, self.any_size = dim, spatial_dims, (), 1, False

    def forward(self, image: torch.Tensor) -> Features:
        """(batch, channel, *space) -> pooled (batch, voxels)."""
        return Features(image.flatten(1), ())


def initialisations(config: StudyConfig, stores: Stores) -> list[Initialisation]:
    """All inits of a study, in the order of the settings, `pixels` last where the floor is asked for.

    Random weights see scans as the first backbone does, or as `recipe` and `views` of the settings say.
    """
    backbones = {name: load_backbone(given) for name, given in config.inits.items() if isinstance(given, Path)}
    recipe, maker = _shared_view(config, backbones, stores)

    def shared(name: str, encoder: Any, **more: Any) -> Initialisation:
        if encoder is not None:
            _check_dims(name, encoder, maker)
        return Initialisation(
            **{"backbone": None, "folder": None, "maker": maker, "store": stores.open(recipe, name), **more}, name=name, encoder=encoder
        )

    found = []
    for name, given in config.inits.items():
        if isinstance(given, Path):
            backbone = backbones[name]
            own, store = _encoder_settings(backbone, given), stores.open(backbone.contract.recipe, name)
            found.append(Initialisation(name, own, backbone, find_backbone(given), backbone.views, store))
        elif isinstance(given, WeightsConfig):
            found.append(shared(name, given.encoder, given=read_weights(given), folder=given.weights.parent))
        elif isinstance(given, SupervisedConfig):
            found.append(shared(name, given.encoder, first=given))
        else:
            found.append(shared(name, given))
    if config.floor and "linear" in config.modes:
        found.append(shared(PIXELS, None))
    return found


def _shared_view(config: StudyConfig, backbones: Mapping[str, Backbone], stores: Stores) -> tuple[Recipe, ViewMaker]:
    first = next(iter(backbones.values()), None)
    if config.views is None and first is not None:
        if config.recipe and recipe_hash(load_recipe(config.recipe)) != recipe_hash(first.contract.recipe):
            who = next(name for name in config.inits if name in backbones)
            raise UserError(
                f"recipe: scans are shown as init '{who}' was trained, so another would do nothing; leave it out, or give views, too"
            )
        return first.contract.recipe, first.views
    recipe = load_recipe(config.recipe) if config.recipe else stores.own_recipe or (first.contract.recipe if first else None)
    if config.views is None or recipe is None:
        missing = "views" if config.views is None else "recipe"
        raise UserError(
            f"'{missing}' is missing: with no backbone among the inits, the study must say how scans are shown, for example "
            "recipe: ct and views: {policy: ct, size: [64, 64, 64]}"
        )
    return recipe, ViewMaker(config.views, recipe)


def _encoder_settings(backbone: Backbone, given: Path) -> Settings:
    from medcl.encoders import EncoderConfig
    from medcl.foundation.config import validate

    class Holder(Settings):
        """Lets one encoder be validated."""

        encoder: EncoderConfig  # type: ignore[valid-type]

    return validate(Holder, {"encoder": backbone.card["encoder"]}, str(given)).encoder


def _check_dims(name: str, encoder: Any, maker: ViewMaker) -> None:
    dims = 2 if maker.flat else 3
    if encoder.spatial_dims != dims:
        raise UserError(f"inits.{name}.spatial_dims is {encoder.spatial_dims}, but scans are shown in {dims} dimensions; set it to {dims}")


def _network(encoder: Settings | None) -> str:
    content = {} if encoder is None else encoder.model_dump()
    depth = f"-{content['depth']}" if "depth" in content else ""
    width = f", width {content['width']}" if content.get("width", 64) != 64 else ""
    name = {"resnet": "ResNet"}.get(content.get("name", ""), content.get("name", ""))
    return f"{name}{depth}, {content.get('spatial_dims', '')}D{width}"
