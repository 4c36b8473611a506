"""DICOM headers between the two passes: read in a child, kept as text, taken up again by whoever reads the series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medcl.ingest.dicom import is_picture
from medcl.ingest.dicom_frames import read_frames
from medcl.ingest.dicom_header import Frame, quiet_pydicom
from medcl.ingest.journal import key_of
from medcl.ingest.ledger import Refused
from medcl.ingest.plain import from_text, schema_of, to_text
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import Met
from medcl.ingest.workers import give_time


@dataclass(frozen=True, slots=True)
class Brief:
    """What planning needs of a file. reason, detail: why it is not used. series: its series' UID (of a refused file only
    where the refusal leaves a hole in it). who: names patient and series, the most that one volume can span.
    """

    reason: str = ""
    detail: str = ""
    series: str = ""
    who: str = ""
    picture: bool = False


@dataclass(frozen=True)
class Frames:
    """The frames of one file."""

    frames: tuple[Frame, ...]


SCHEMA = schema_of(Brief) + schema_of(Frames)


def read_headers(files: Sequence[Met], config: IngestConfig) -> list[str]:
    """One text per DICOM file: a brief and its frames. Never raises."""
    with quiet_pydicom():
        return [_text_of(met, config) for met in files]


def dead_headers(files: Sequence[Met]) -> list[str]:
    """The same for files that killed their reader."""
    return [as_text(Brief("decoder_died")) for _ in files]


def brief_of(text: str) -> Brief:
    """The brief alone, without building the frames."""
    return from_text(Brief, text.split("\t", 1)[0])


def frames_of(texts: Iterable[str]) -> list[Frame]:
    """The frames of some files, by relative path and number."""
    frames = [frame for text in texts for frame in from_text(Frames, text.split("\t", 1)[1]).frames]
    return sorted(frames, key=lambda one: (one.header.relative, one.number))


def _text_of(met: Met, config: IngestConfig) -> str:
    try:
        give_time(os.path.getsize(met.path))
        frames = read_frames(met.path, met.relative, config)
    except Refused as refusal:
        return as_text(Brief(refusal.reason, refusal.detail, refusal.series))
    except PermissionError:
        return as_text(Brief("no_permission"))
    except Exception as error:  # one bad file must not stop the others; the code says that this one is ours
        known = isinstance(error, OSError | RecursionError)
        return as_text(Brief("unreadable" if known else "internal", type(error).__name__))
    patient = frames[0].header.patient
    who = key_of(patient.id, patient.name, patient.birth_date, patient.study, patient.series)
    return as_text(Brief(series=patient.series, who=who, picture=is_picture(frames[0])), frames)


def as_text(brief: Brief, frames: Sequence[Frame] = ()) -> str:
    """What is kept of one file: the brief, a tab, its frames."""
    return f"{to_text(brief)}\t{to_text(Frames(tuple(frames)))}"
