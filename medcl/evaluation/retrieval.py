"""Image to report and report to image: how often the right one is among the first few, beside chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from medcl.encoders import EncoderConfig
from medcl.encoders import tokenizer as tokens
from medcl.evaluation.embed import embed_rows, training_windows
from medcl.evaluation.knn import unit_length
from medcl.evaluation.scores import Measured
from medcl.foundation.config import Settings, read_yaml, validate
from medcl.foundation.errors import UserError
from medcl.loading.texts import report_of_rows, sentences
from medcl.methods import MethodConfig
from medcl.methods.convirt import ConVIRT
from medcl.store.volume_store import VolumeStore
from medcl.training.checkpoint import TENSORS, newest
from medcl.views.batched import ViewMaker

FIRST = (1, 5, 10)
_BATCH = 64


@dataclass(frozen=True)
class Retrieved:
    """Recall of every pair and direction. measured: (pairs, numbers) of 0 and 1; chance: expected value of each number."""

    measured: Measured
    chance: Mapping[str, float]


class _RunSettings(Settings):
    """The parts of a run's config.yaml that its networks are built from."""

    encoder: EncoderConfig  # type: ignore[valid-type]
    method: MethodConfig  # type: ignore[valid-type]


class ImageTextModel:
    """Both towers of an image-text run, as its newest checkpoint holds them.

    run: the RUN folder (or its `backbone/`). Raises UserError where the run was not trained on reports.
    """

    def __init__(self, run: Path, device: torch.device | None = None) -> None:
        run = Path(run)
        run = run.parent if run.name == "backbone" and not (run / "config.yaml").is_file() else run
        content = read_yaml(run / "config.yaml")
        settings = validate(_RunSettings, {name: content.get(name) for name in ("encoder", "method")}, str(run / "config.yaml"))
        method = settings.method.build(settings.encoder.build())
        if not isinstance(method, ConVIRT):
            raise UserError(f"{run}: method '{settings.method.name}' reads no text, so it cannot tell what one says; give a convirt run")
        checkpoint = newest(run / "checkpoints")
        if checkpoint is None:
            raise UserError(f"{run}: has no checkpoint; run `medcl pretrain` again, it goes on where it stopped")
        part = "method."
        tensors = load_file(checkpoint / TENSORS)
        method.load_state_dict({name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)})
        self.device = device or torch.device("cpu")
        self.method = method.eval().to(self.device)
        self.tokenizer = tokens.load(run / "tokenizer.json")
        self.length = settings.method.text.length
        self.temperature: float = settings.method.temperature

    def embed_images(self, store: VolumeStore, rows: np.ndarray, maker: ViewMaker) -> np.ndarray:
        """(rows, dim) unit vectors: the projected embedding, mean over windows."""
        windows = training_windows(maker, store)
        return unit_length(embed_rows(self.method.encode_image, store, rows, windows, maker, device=self.device))

    def embed_reports(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) unit vectors: the mean over a report's sentences, each as in training."""
        parts = [sentences(text) for text in texts]
        flat = [sentence for own in parts for sentence in own]
        found = []
        with torch.inference_mode():
            for start in range(0, len(flat), _BATCH):
                text = self.tokenizer.encode(flat[start : start + _BATCH], self.length)
                moved = type(text)(text.ids.to(self.device), text.mask.to(self.device))
                found.append(self.method.encode_text(moved).float().cpu().numpy())
        rows = np.concatenate(found)
        ends = np.cumsum([len(own) for own in parts])
        return unit_length(np.stack([rows[end - len(own) : end].mean(0) for own, end in zip(parts, ends, strict=True)]))


def retrieve_from_run(run: Path, store: VolumeStore, rows: np.ndarray, maker: ViewMaker, device: torch.device | None = None) -> Retrieved:
    """Retrieval among the given rows of a store, each with its report."""
    assert store.reports is not None
    model = ImageTextModel(run, device)
    bodies = report_of_rows(store.index, store.reports)
    texts = [bodies[int(row)] for row in rows]
    distinct = sorted(set(texts))
    text_of = np.array([distinct.index(text) for text in texts])
    return retrieve(model.embed_images(store, rows, maker), model.embed_reports(distinct), text_of)


def retrieve(images: np.ndarray, texts: np.ndarray, text_of: np.ndarray, first: Sequence[int] = FIRST) -> Retrieved:
    """Recall among the first k. images: (n, dim), texts: (m, dim), all different; text_of: (n,) the text of every image.

    Image to text: the image's own report is among the first k texts. Text to image: some image of the report is among
    the first k images. Equal similarities count against the model, and so does one that is not a number. Chance is that of a random order.
    """
    similarity = unit_length(images) @ unit_length(texts).T
    own = similarity[np.arange(len(images)), text_of]
    rank_of_text = (~(similarity < own[:, None])).sum(1) - 1
    best = np.array([similarity[text_of == text, text].max() if (text_of == text).any() else np.inf for text in range(len(texts))])
    of_report = text_of[:, None] == np.arange(len(texts))[None, :]
    rank_of_image = (~(np.where(of_report, -np.inf, similarity) < best[None, :])).sum(0)[text_of]
    names, columns, chance = [], [], {}
    images_of = np.bincount(text_of, minlength=len(texts))[text_of]
    for direction, ranks in (("image_to_text", rank_of_text), ("text_to_image", rank_of_image)):
        for k in first:
            name = f"{direction}_recall_at_{k}"
            names.append(name)
            columns.append(ranks < k)
            chance[name] = min(1.0, k / len(texts)) if direction == "image_to_text" else _chance_of_any(len(images), images_of, k)
    return Retrieved(Measured(tuple(names), np.stack(columns, axis=1).astype(np.float64)), chance)


def _chance_of_any(total: int, own: np.ndarray, k: int) -> float:
    """Mean chance that one of `own` images is among k drawn from `total`."""
    k = min(k, total)
    return float(np.mean([1 - comb(total - int(count), k) / comb(total, k) for count in own]))
