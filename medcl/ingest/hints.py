"""What names and tables say about a file before it is read: patient, study, modality, split."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from medcl.ingest.records import modality_name

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".img.gz", ".img", ".hdr.gz", ".hdr")
_ENTITY = re.compile(r"(?:^|_)(sub|ses)-([A-Za-z0-9+]+)")
# With a digit: a folder `sub-studies` is no subject.
_FOLDER_ENTITY = re.compile(r"(?:^|/)(sub|ses)-([A-Za-z+]*[0-9][A-Za-z0-9+]*)(?:/|$)")
_BIDS_MODALITY = {
    "ct": "ct", "pet": "pet", "T1w": "mr", "T2w": "mr", "T1rho": "mr", "T2star": "mr", "T2starw": "mr", "T1map": "mr", "T2map": "mr",
    "FLAIR": "mr", "PDw": "mr", "PDT2": "mr", "PD": "mr", "inplaneT1": "mr", "inplaneT2": "mr", "angio": "mr", "bold": "mr", "cbv": "mr",
    "sbref": "mr", "dwi": "mr", "epi": "mr", "asl": "mr", "m0scan": "mr", "MEGRE": "mr", "MESE": "mr", "UNIT1": "mr", "SWI": "mr",
    "MP2RAGE": "mr", "MPM": "mr", "VFA": "mr", "IRT1": "mr", "TB1DAM": "mr", "TB1EPI": "mr", "MTR": "mr", "MTS": "mr", "FLASH": "mr",
    "magnitude": "mr", "magnitude1": "mr", "magnitude2": "mr", "phase": "mr", "phase1": "mr", "phase2": "mr",
    "phasediff": "mr", "fieldmap": "mr",
}  # fmt: skip
_NO_MAGNITUDE = re.compile(r"(?:^|_)(?:part-(?:phase|imag|real)(?:_|$)|(?:phase[12]?|phasediff|fieldmap)$)")
_MASK_END = re.compile(r"(?:^|[_-])(?:seg|dseg|probseg|mask|masks|label|labels|segmentation|roi)$", re.I)
_MASK_START = re.compile(r"^(?:seg|mask|label|labels|segmentation)[_-]", re.I)
_MASK_INSIDE = re.compile(r"[_-](?:seg|dseg|mask)[_-]", re.I)
_MASK_FOLDERS = {"labelstr", "labelsts", "labels", "masks", "segmentations"}


@dataclass(frozen=True)
class Hint:
    """What is known about a file from its table row or name; empty where nothing is."""

    patient: str = ""
    study: str = ""
    modality: str = ""
    split: str = ""
    sex: str = ""
    age_years: float | None = None
    date: str = ""


def stem_of(path: str) -> str:
    """File name without its (double) suffix."""
    name = os.path.basename(path)
    lower = name.lower()
    for suffix in NIFTI_SUFFIXES:
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return os.path.splitext(name)[0]


def is_mask_name(path: str) -> bool:
    """Whether a NIfTI file's name or folder says that it is a mask (labelsTr/, *_seg, *_mask, label_*, ...)."""
    stem, folder = stem_of(path), os.path.basename(os.path.dirname(path))
    if stem.lower().startswith("image"):
        return False
    return folder.lower() in _MASK_FOLDERS or any(pattern.search(stem) for pattern in (_MASK_END, _MASK_START, _MASK_INSIDE))


def without_mask_words(path: str) -> str:
    """The stem with the words that mark a mask taken out: what it has in common with its image."""
    stem = _MASK_START.sub("", _MASK_END.sub("", stem_of(path)))
    return _MASK_INSIDE.sub("_", stem)


def is_no_magnitude(path: str) -> bool:
    """Whether a BIDS name says that the file holds a phase, a part of complex values or a field map: no picture of the body."""
    return bool(_NO_MAGNITUDE.search(stem_of(path)))


def from_name(relative: str) -> Hint:
    """BIDS entities: `sub-` becomes the patient, `sub-` + `ses-` the study, the last word the modality.

    Where the file's own name does not say it, its folders may. Any other file is its own patient: nothing in its name says
    that it shares one.
    """
    stem = stem_of(relative)
    folders = _FOLDER_ENTITY.findall(os.path.dirname(relative).replace(os.sep, "//"))
    entities = dict(folders) | dict(_ENTITY.findall(stem))
    modality = _BIDS_MODALITY.get(stem.rsplit("_", 1)[-1], "")
    if "sub" not in entities:
        return Hint(patient=os.path.join(os.path.dirname(relative), stem))
    patient = f"sub-{entities['sub']}"
    study = f"{patient}/ses-{entities['ses']}" if "ses" in entities else patient
    return Hint(patient=patient, study=study, modality=modality)


def laid_over(below: Hint, above: Hint) -> Hint:
    """`above` where it says something, else `below`."""
    chosen = {name: getattr(above, name) or getattr(below, name) for name in Hint.__dataclass_fields__ if name != "age_years"}
    chosen["modality"] = modality_name(chosen["modality"])
    return Hint(**chosen, age_years=above.age_years if above.age_years is not None else below.age_years)
