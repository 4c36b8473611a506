"""The leak guard: no test patient, and no test image, may have been in a backbone's pretraining set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.export.backbone import TRAINING_ITEMS, UNKNOWN
from medcl.foundation.errors import DataError
from medcl.foundation.files import CARD, read_json
from medcl.ingest.duplicates import near_any
from medcl.ingest.manifest import read_parquet

SHOWN = 10
# The share of a test set that may look like a pretraining image by chance; see reports/ingest/duplicates.md.
FALSE_ALARMS = 0.01
# Distance to the nearest over that to the second nearest (Lowe 2004, section 7.1), below which one stands out: reports/ingest/likeness.md.
STANDS_OUT = 0.5
_CHUNK = 8_000_000  # correlations held at once


@dataclass(frozen=True)
class Scored:
    """What the guard knows of each test case: patient key, pixel hash, perceptual hash (empty where there is none)."""

    patient: np.ndarray
    pixel_hash: np.ndarray
    near_hash: np.ndarray


@dataclass(frozen=True)
class LeakReport:
    """What was checked. checked, unknown: names of inits; patients, images: how many of the test set were met; near: how
    many more test images look like one that was.
    """

    checked: tuple[str, ...]
    unknown: tuple[str, ...]
    patients: int
    images: int
    near: int = 0

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
        if self.near:
            parts.append(f"{self.near} more test images look like one of them: another guise of it, or a chance likeness; look at them.")
        if self.unknown:
            parts.append(f"{', '.join(self.unknown)} says nothing of what it was pretrained on, so a leak cannot be ruled out.")
        return " ".join(parts)


@dataclass(frozen=True)
class _Met:
    """What of the test set one backbone was trained on."""

    patients: set[str]
    images: set[str]
    near: set[str]

    def is_leak(self, images: int) -> bool:
        """Any patient or image; or more likenesses among `images` than chance gives."""
        return bool(self.patients or self.images or len(self.near) > FALSE_ALARMS * images)


def check_leaks(backbones: dict[str, Path], test: Scored, transductive: bool) -> LeakReport:
    """Meet the test set with what each backbone folder says it was trained on.

    Patient keys are keyed per DATA folder, so across data sets only equal or nearly equal pixels can show a leak. Raises
    DataError (exit 3) listing what was met, unless the study is transductive; likenesses alone are an error where they
    are more than 1% of the test images, and are told on the page in any case.
    """
    checked, unknown, lines = [], [], []
    total = _Met(set(), set(), set())
    for name, folder in backbones.items():
        if not (folder / TRAINING_ITEMS).is_file():
            unknown.append(name)
            continue
        met = _meet(folder / TRAINING_ITEMS, test)
        checked.append(name)
        if _began_unknown(folder):
            unknown.append(f"what {name} began with")
        total = _Met(total.patients | met.patients, total.images | met.images, total.near | met.near)
        if met.is_leak(len(test.pixel_hash)):
            lines.append(
                f"{name}: {len(met.patients)} test patients ({_shown(met.patients)}), {len(met.images)} test images "
                f"({_shown(met.images)}), {len(met.near)} near-duplicates ({_shown(met.near)})"
            )
    if lines and not transductive:
        raise DataError(
            "leak: the test set was pretrained on.\n"
            + "\n".join(lines)
            + "\nPretrain without it (pretraining leaves split 'test' out by default; `splits: [train]` leaves 'val' out too), "
            "or set transductive: true, which the page's title then says"
        )
    return LeakReport(tuple(checked), tuple(unknown), len(total.patients), len(total.images), len(total.near - total.images))


def _began_unknown(folder: Path) -> bool:
    return (folder / CARD).is_file() and read_json(folder / CARD).get("initial") == UNKNOWN


def _meet(path: Path, test: Scored) -> _Met:
    items = read_parquet(path)
    images = set(items["pixel_hash"].astype(str)) & set(test.pixel_hash)
    others = [str(value) for value in items["near_hash"]] if "near_hash" in items else []
    alike = near_any([str(value) for value in test.near_hash], others)
    return _Met(set(items["patient_key"].astype(str)) & set(test.patient), images, set(test.pixel_hash[alike]) - images)


def _shown(found: Sequence[str] | set[str]) -> str:
    shown = ", ".join(sorted(found)[:SHOWN])
    return (shown + (", ..." if len(found) > SHOWN else "")) or "none"


def lookalikes(pictures: np.ndarray, patient: np.ndarray, test: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """Test cases that look like one other case and like no second one: (test case, other case), in the order of `test`.

    pictures: (cases, pixels), small and whole; they are compared by correlation, so that brightness and contrast do not count. patient:
    (cases,) keys; the second nearest is of another patient than the nearest. Whatever is unlike or alike in a corpus, a copy stands out by
    this ratio: no threshold need be known. It finds what has no perceptual hash (pictures under 32 pixels), re-windowed and re-scaled; a
    copy that lost a tenth of its field looks like many. A few in a thousand stand out by chance, so this is told and never refused.
    """
    from medcl.evaluation.knn import unit_length

    if len(others) < 2:
        return []
    small = unit_length(pictures - pictures.mean(1, keepdims=True)).astype(np.float32)
    found, rows = [], max(1, _CHUNK // len(others))
    for start in range(0, len(test), rows):
        some = test[start : start + rows]
        apart = 1 - small[some] @ small[others].T
        nearest = apart.argmin(1)
        least = apart[np.arange(len(some)), nearest]
        apart[patient[others][None] == patient[others[nearest]][:, None]] = np.inf
        stands_out = least < STANDS_OUT * apart.min(1)
        found += [(int(some[place]), int(others[nearest[place]])) for place in np.flatnonzero(stands_out)]
    return found
