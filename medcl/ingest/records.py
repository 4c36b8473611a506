"""What readers hand to the manifest: one record per volume, its private identity kept apart from its facts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medcl.foundation import geometry
from medcl.foundation.types import Volume
from medcl.ingest.duplicates import near_hash, pixel_hash
from medcl.ingest.ledger import Fate
from medcl.ingest.units import hu_doubts, sample

MODALITIES = {
    "CT": "ct", "MR": "mr", "PT": "pet", "PET": "pet", "NM": "nm", "CR": "xray", "DX": "xray", "RG": "xray", "XR": "xray",
    "MG": "mammography", "US": "ultrasound", "IVUS": "ultrasound", "XA": "angiography", "RF": "fluoroscopy", "MRI": "mr",
}  # fmt: skip


def modality_name(text: str) -> str:
    """medcl's lower-case name of a modality given as a DICOM code or in words; unknown words stay, lower-case."""
    return MODALITIES.get(text.strip().upper(), text.strip().lower())


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what a scan is, in the hospital's own words. Only its keyed hashes leave ingest.

    file: path relative to its source. stack: what the volumes of one time series share. names: words of the header to
    scrub from the report. date: of the study, YYYYMMDD.
    """

    patient: str
    study: str = ""
    series: str = ""
    accession: str = ""
    file: str = ""
    stack: str = ""
    volume: str = ""
    names: tuple[str, ...] = ()
    date: str = ""
    birth_date: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """How to read a volume again: kept in private/. detail: JSON-able."""

    reader: str
    paths: tuple[str, ...]
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header says that may leave: numbers and words of closed vocabularies."""

    body_part: str = ""
    sequence: dict[str, float] = field(default_factory=dict)
    time_index: int = 0
    age_years: float | None = None
    sex: str = ""
    scanner: str = ""
    split: str = ""
    label: tuple[float, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """One volume as read: where it came from, what it is, and (while in memory) the voxels."""

    identity: Identity
    source: Source
    facts: Facts
    shape: tuple[int, int, int]
    affine: np.ndarray
    modality: str
    units: str
    kind: str
    pixel_hash: str
    near_hash: str = ""
    volume: Volume | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return geometry.spacing_mm(self.affine)

    @property
    def orientation(self) -> str:
        return geometry.orientation(self.affine)

    def without_voxels(self) -> Scan:
        """The record alone, small enough to pass between processes."""
        return replace(self, volume=None)


@dataclass
class Outcome:
    """What one unit of work (a stack, a file) came to."""

    scans: list[Scan] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """A report of a DICOM file, with what joins it to its images. Private until it is scrubbed."""

    path: str
    patient: str
    study: str
    accession: str
    names: tuple[str, ...]
    text: str

    def row(self) -> dict[str, str]:
        """The row of a table of reports, by role."""
        return {"path": self.path, "patient": self.patient, "study": self.study, "accession": self.accession, "text": self.text} | {
            "names": "\n".join(self.names)
        }


def describe(volume: Volume, identity: Identity, source: Source, facts: Facts) -> Scan:
    """Make the record of a volume, with its hashes and the flags that its values raise."""
    shape = (int(volume.array.shape[0]), int(volume.array.shape[1]), int(volume.array.shape[2]))
    flags = tuple(sorted({*facts.flags, *value_flags(volume)}))
    facts = replace(facts, flags=flags)
    hashes = pixel_hash(volume), "" if "looks_like_labels" in flags else near_hash(volume)
    return Scan(identity, source, facts, shape, volume.affine, volume.modality, volume.units, volume.kind, *hashes, volume)


def value_flags(volume: Volume) -> set[str]:
    """Doubts that the values themselves raise, on at most about 200,000 of them.

    Those of `hu_doubts` for volumes in HU; `looks_like_labels`: at most 16 different whole numbers.
    """
    flags = set(hu_doubts(volume.array)) if volume.units == "HU" else set()
    values = sample(volume.array)
    if volume.kind == "volume" and len(np.unique(values[:20_000])) <= 16 and len(np.unique(values)) <= 16:
        flags.add("looks_like_labels")
    return flags
