"""What each YAML may say, and the checks that need more than one section or the data itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from medcl.encoders import EncoderConfig
from medcl.foundation import config
from medcl.foundation.config import Settings
from medcl.foundation.errors import UserError
from medcl.loading.texts import report_of_rows
from medcl.methods import Method, MethodConfig
from medcl.store.volume_store import VolumeStore
from medcl.training.loop import TrainingConfig
from medcl.training.watchers import WatchConfig
from medcl.views.policy import ViewsConfig

if TYPE_CHECKING:
    from medcl.evaluation.study import StudyConfig


class PretrainConfig(Settings):
    """`medcl pretrain CONFIG.yaml`: what to learn from, which network, by which method, from which views, how long.

    store: folder made by `medcl prepare`. splits: which rows of it are learned from; rows without a split always are.
    initial: a `backbone/` folder whose weights the encoder starts from. watch: when a run counts as collapsed, and which trackers are told.
    probe_label: column of the store's labels that the online kNN probe watches (never trained on).
    """

    store: Path
    encoder: EncoderConfig  # type: ignore[valid-type]
    method: MethodConfig  # type: ignore[valid-type]
    views: ViewsConfig
    training: TrainingConfig
    watch: WatchConfig = Field(default_factory=WatchConfig)
    splits: tuple[str, ...] = ("train", "val")
    initial: Path | None = None
    probe_label: str | None = None
    licence: str = Field("unstated; ask whoever trained it", description="what the card says about use of the weights")


Overrides = Iterable[str] | Mapping[str, Any]


def load_pretrain(path: Path | str, overrides: Overrides = ()) -> PretrainConfig:
    """Read, override, validate and cross-check a pretraining YAML. Raises UserError naming key and way out."""
    settings = config.load(PretrainConfig, path, overrides)
    dims = len(settings.views.size)
    if settings.encoder.spatial_dims != dims:
        raise UserError(
            f"{path}: encoder.spatial_dims is {settings.encoder.spatial_dims} but views.size has {dims} numbers; "
            "give one number per dimension"
        )
    return settings


def views_to_make(settings: PretrainConfig, method: Method) -> int:
    """How many views of each scan a method gets: its own, and the local ones. Raises UserError where it cannot use them."""
    local = settings.views.local
    if local is None:
        return method.num_views
    if not method.uses_local:
        raise UserError(f"views.local: method.name '{settings.method.name}' does not compare local views; remove them, or take swav")
    if not method.backbone.any_size:
        raise UserError(
            f"views.local: encoder.name '{settings.encoder.name}' takes views of one size only; take resnet, densenet or segresnet"
        )
    return method.num_views + settings.views.num_local


def check_views(settings: PretrainConfig, method: Method) -> None:
    """Raise UserError where the encoder cannot take the views, before anything is written: it is shown an empty one of each size."""
    views, name = settings.views, settings.encoder.name
    channels = getattr(settings.encoder, "in_channels", 1)
    if channels != 1:
        raise UserError(f"encoder.in_channels: {channels}, but a scan of a store is one grey channel; leave it out")
    sizes = {"views.size": views.size} | ({"views.local.size": views.local.size} if views.local else {})
    method.backbone.eval()
    for key, size in sizes.items():
        try:
            with torch.no_grad():
                method.backbone(torch.zeros(1, 1, *size))
        except (ValueError, RuntimeError) as error:  # the encoder's words, or torch's: an axis that shrinks to nothing, say
            raise UserError(f"{key} {list(size)} does not suit encoder '{name}': {str(error).splitlines()[0]}; take another size") from None
    method.backbone.train()


def load_study(path: Path | str, overrides: Overrides = ()) -> StudyConfig:
    """Read, override and validate a study YAML."""
    from medcl.evaluation.study import StudyConfig

    return config.load(StudyConfig, path, overrides)


def rows_to_learn_from(settings: PretrainConfig, store: VolumeStore, needs_text: bool) -> list[int]:
    """Rows of the store's index that pretraining uses: right split, one of each pixel hash, with a report if needed."""
    told = np.arange(len(store.index))
    if needs_text:
        if store.reports is None:
            raise UserError(
                f"{settings.store}: method.name '{settings.method.name}' needs reports and this store has none; ingest with --reports CSV"
            )
        told = np.flatnonzero([bool(text.strip()) for text in report_of_rows(store.index, store.reports)])
    # Of equal scans the first one that has what is needed: the copy without a report may come first.
    index = store.index.iloc[told]
    use = index["split"].isin(["", *settings.splits]) & ~index["pixel_hash"].duplicated()
    rows = told[use.to_numpy()].tolist()
    if len(rows) < 2:
        raise UserError(f"{settings.store}: {len(rows)} scans to learn from with splits {list(settings.splits)}; at least 2 are needed")
    return rows
