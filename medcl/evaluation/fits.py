"""Finished fits on disk: one whole file each, reused only where everything it depended on is the same."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from medcl.evaluation.findings import FindingPredictions
from medcl.evaluation.quantity import ValuePredictions
from medcl.evaluation.scores import Measured, Outcome, Outlined, Predictions
from medcl.foundation.errors import UserError
from medcl.foundation.files import read_json, write_json

FITS = "fits"


@dataclass(frozen=True, order=True)
class FitKey:
    """Which fit of a study: an initialisation, a mode, a fraction of the labels, a draw."""

    init: str
    mode: str
    fraction: float
    draw: int

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.init}-{self.mode}-{self.fraction:g}-{self.draw}.json"


@dataclass(frozen=True)
class Fit:
    """One finished fit. num_cases, num_patients: labelled ones it was trained on. choice: what validation chose,
    and with which score; outcome: what it said about the test cases."""

    key: FitKey
    num_cases: int
    num_patients: int
    outcome: Outcome
    choice: Mapping[str, float | str] = field(default_factory=dict)
    validation: float = float("nan")


class FitFolder:
    """The `fits/` folder of a study."""

    def __init__(self, study: Path) -> None:
        self.folder = Path(study) / FITS

    def load(self, key: FitKey, basis: str) -> Fit | None:
        """The finished fit, or None where there is none, it is broken or stands on another basis (see `basis_of`), or says less than fits
        say now.
        """
        path = self.folder / key.file
        if not path.is_file():
            return None
        try:
            content = read_json(path)
        except UserError:
            return None  # one broken file need not cost the others: it is fitted again
        if content.get("basis") != basis or not _is_whole(content["outcome"]):
            return None
        validation = content["validation"]
        return Fit(
            key,
            content["num_cases"],
            content["num_patients"],
            _outcome_of(content["outcome"]),
            content["choice"],
            float("nan") if validation is None else validation,
        )

    def save(self, fit: Fit, basis: str) -> Fit:
        """Write it, whole or not at all; returns it as `load` would, so that a resumed study cannot differ."""
        content = {
            "init": fit.key.init,
            "mode": fit.key.mode,
            "fraction": fit.key.fraction,
            "draw": fit.key.draw,
            "basis": basis,
            "num_cases": fit.num_cases,
            "num_patients": fit.num_patients,
            "validation": None if np.isnan(fit.validation) else fit.validation,
            "choice": dict(fit.choice),
            "outcome": _content_of(fit.outcome),
        }
        write_json(self.folder / fit.key.file, content)
        loaded = self.load(fit.key, basis)
        assert loaded is not None
        return loaded


def basis_of(**parts: Any) -> str:
    """One hash over everything a fit depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def hash_of_array(array: np.ndarray) -> str:
    """SHA-256 over type, shape and values."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


# What an outcome is on disk: names in words, all else as arrays.
_KINDS: dict[str, type] = {
    "measured": Measured,
    "outlined": Outlined,
    "predictions": Predictions,
    "findings": FindingPredictions,
    "values": ValuePredictions,
}


def _is_whole(content: Mapping[str, Any]) -> bool:
    return {own.name for own in fields(_KINDS[content["kind"]])} == content.keys() - {"kind"}


def _content_of(outcome: Outcome) -> dict[str, Any]:
    kind = next(name for name, cls in _KINDS.items() if type(outcome) is cls)
    parts = {name: list(part) if name == "names" else pack(part) for name, part in vars(outcome).items()}
    return {"kind": kind, **parts}


def _outcome_of(content: Mapping[str, Any]) -> Outcome:
    parts = {name: tuple(part) if name == "names" else unpack(part) for name, part in content.items() if name != "kind"}
    return _KINDS[content["kind"]](**parts)


def pack(array: np.ndarray) -> dict[str, Any]:
    """Numbers as JSON: 32 bits each, or, of uint8, what is left of them when squeezed."""
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return {"type": "|u1", "shape": list(array.shape), "zlib": base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()}
    array = array.astype("<f4" if array.dtype.kind == "f" else "<i4")
    return {"type": array.dtype.str, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def unpack(content: Mapping[str, Any]) -> np.ndarray:
    """The array again: float64, int64 or uint8."""
    if "zlib" in content:
        return np.frombuffer(zlib.decompress(base64.b64decode(content["zlib"])), dtype=np.uint8).reshape(content["shape"])
    array = np.frombuffer(base64.b64decode(content["base64"]), dtype=np.dtype(content["type"]))
    return array.reshape(content["shape"]).astype(np.float64 if array.dtype.kind == "f" else np.int64)
