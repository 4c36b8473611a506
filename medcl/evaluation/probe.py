"""A quick look at a backbone while it learns: nearest neighbours on a small fixed sample of the store."""

from __future__ import annotations

import numpy as np
import torch

from medcl.encoders import Encoder
from medcl.evaluation.knn import knn_probabilities
from medcl.foundation.errors import UserError
from medcl.foundation.geometry import rows_and_columns
from medcl.foundation.randomness import generator
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker

MOST = 256
BATCH = 32


class Probe:
    """Called with an encoder: balanced accuracy of kNN between two halves of the patients, each at most 256 scans.

    Only scans that are learned from anyway are looked at: no test scan, and nothing is chosen by what it says. Classes
    are the values of the label column. Raises UserError where the store has no such label, or only one patient with it.
    """

    def __init__(self, store: VolumeStore, maker: ViewMaker, label: str, rows: np.ndarray) -> None:
        self.store, self.maker = store, maker
        names = _label_of_rows(store, label)
        rows = np.array([row for row in rows if names[row]])
        classes, label_of = np.unique([names[row] for row in rows], return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"probe_label '{label}': the scans to learn from hold {len(classes)} of its classes; at least 2 are needed")
        order = generator(0, "probe").permutation(len(rows))
        rows, label_of = rows[order], label_of[order]
        patient = store.index["patient"].to_numpy()[rows]
        self._classes = len(classes)
        side = patient % 2
        if np.ptp(side) == 0:  # labelled patients of even numbers alone, say: every second of them
            side = np.unique(patient, return_inverse=True)[1] % 2
        if np.ptp(side) == 0:
            raise UserError(f"probe_label '{label}': the scans to learn from that have it are of one patient; at least 2 are needed")
        halves = [np.flatnonzero(side == half)[:MOST] for half in (0, 1)]
        (self._bank, self._bank_label), (self._query, self._query_label) = ((rows[half], label_of[half]) for half in halves)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """`balanced_accuracy`, chance being one over the number of classes."""
        bank, query = self._embed(encoder, self._bank), self._embed(encoder, self._query)
        voted = knn_probabilities(bank, self._bank_label, query, self._classes).argmax(1)
        hits = voted == self._query_label
        return {"balanced_accuracy": float(np.mean([hits[self._query_label == found].mean() for found in np.unique(self._query_label)]))}

    def _embed(self, encoder: Encoder, rows: np.ndarray) -> np.ndarray:
        device = next(encoder.parameters()).device
        parts = []
        for start in range(0, len(rows), BATCH):
            images = torch.from_numpy(np.stack([self._image(row) for row in rows[start : start + BATCH]]))
            images = rows_and_columns(images) if self.maker.flat else images
            parts.append(encoder(images.unsqueeze(1).contiguous().to(device)).pooled.float().cpu().numpy())
        return np.concatenate(parts)

    def _image(self, row: int) -> np.ndarray:
        windows = self.maker.windows(self.store.shape(row), self.store.affine(row))
        return self.maker.render(self.store, row, windows[len(windows) // 2])


def _label_of_rows(store: VolumeStore, label: str) -> list[str]:
    """The label of every row as text, "" where there is none."""
    labels = store.labels
    if labels is None or label not in labels.columns:
        known = [] if labels is None else [str(name) for name in labels.columns if name not in ("volume_id", "patient_key", "mask_id")]
        raise UserError(f"probe_label '{label}': the store has no such label; it has: {', '.join(known) or 'none'}")
    key = "volume_id" if "volume_id" in labels.columns else "patient_key"
    known = labels[label].notna()
    found = {name: str(value) for name, value in zip(labels.loc[known, key], labels.loc[known, label], strict=True)}
    return [found.get(name, "") for name in store.index[key]]
