"""The leak guard: no test patient, and no test image, may have been in a backbone's pretraining set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.export.backbone import TRAINING_ITEMS
from medcl.foundation.errors import DataError

SHOWN = 10


@dataclass(frozen=True)
class LeakReport:
    """What was checked. checked, unknown: names of inits; patients, images: how many of the test set were met."""

    checked: tuple[str, ...]
    unknown: tuple[str, ...]
    patients: int
    images: int

    @property
    def sentence(self) -> str:
        """For the page."""
        if not self.checked and not self.unknown:
            return "no initialisation was pretrained."
        parts = []
        if self.checked:
            met = (
                f"{self.patients} test patients and {self.images} test images were"
                if self.patients or self.images
                else "no test patient and no test image was"
            )
            parts.append(f"{met} in the pretraining sets of {', '.join(self.checked)}.")
        if self.unknown:
            parts.append(f"{', '.join(self.unknown)} says nothing of what it was pretrained on, so a leak cannot be ruled out.")
        return " ".join(parts)


def check_leaks(backbones: dict[str, Path], patient: np.ndarray, pixel_hash: np.ndarray, transductive: bool) -> LeakReport:
    """Meet the test set (keys and pixel hashes of its cases) with what each backbone folder says it was trained on.

    Patient keys are keyed per DATA folder, so across data sets only equal pixels can show a leak. Raises DataError
    (exit 3) listing what was met, unless the study is transductive.
    """
    import pandas as pd

    checked, unknown, lines = [], [], []
    patients: set[str] = set()
    images: set[str] = set()
    for name, folder in backbones.items():
        if not (folder / TRAINING_ITEMS).is_file():
            unknown.append(name)
            continue
        items = pd.read_parquet(folder / TRAINING_ITEMS)
        own_patients = set(items["patient_key"].astype(str)) & set(patient)
        own_images = set(items["pixel_hash"].astype(str)) & set(pixel_hash)
        checked.append(name)
        patients |= own_patients
        images |= own_images
        if own_patients or own_images:
            lines.append(
                f"{name}: {len(own_patients)} test patients ({_shown(own_patients)}), {len(own_images)} test images ({_shown(own_images)})"
            )
    if lines and not transductive:
        raise DataError(
            "leak: the test set was pretrained on.\n"
            + "\n".join(lines)
            + "\nPretrain without it (pretraining leaves split 'test' out by default; `splits: [train]` leaves 'val' out too), "
            "or set transductive: true, which the page's title then says"
        )
    return LeakReport(tuple(checked), tuple(unknown), len(patients), len(images))


def _shown(found: Sequence[str] | set[str]) -> str:
    shown = ", ".join(sorted(found)[:SHOWN])
    return shown + (", ..." if len(found) > SHOWN else "")
