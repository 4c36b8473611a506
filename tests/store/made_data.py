"""A stand-in for an opened DATA folder: the same attributes, volumes from memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from medcl.foundation import geometry
from medcl.foundation.types import Volume


@dataclass
class MadeData:
    """`manifest`, `volume`, `mask`, `labels`, `reports`, as `medcl.ingest.data.Data` has them."""

    volumes: dict[str, Volume]
    masks: dict[str, Volume] = field(default_factory=dict)
    labels: pd.DataFrame | None = None
    reports: pd.DataFrame | None = None
    flags: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        rows = [
            {
                "volume_id": key,
                "patient_key": f"p{number // 2}",
                "study_key": f"s{number}",
                "series_key": f"r{number}",
                "modality": volume.modality,
                "kind": volume.kind,
                "shape": list(volume.array.shape),
                "spacing_mm": list(volume.spacing_mm),
                "orientation": geometry.orientation(volume.affine) if volume.kind == "volume" else "",
                "units": volume.units,
                "age_years": 50.0,
                "sex": "F",
                "report_id": "",
                "split": "",
                "flags": self.flags.get(key, []),
                "pixel_hash": hashlib.sha256(volume.array.tobytes()).hexdigest()[:16],
            }
            for number, (key, volume) in enumerate(self.volumes.items())
        ]
        return pd.DataFrame(rows)

    def volume(self, volume_id: str) -> Volume:
        return self.volumes[volume_id]

    def mask(self, mask_id: str) -> Volume:
        return self.masks[mask_id]
