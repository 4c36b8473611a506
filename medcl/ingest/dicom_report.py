"""DICOM structured reports to plain text with headings: what is said of the images, and nothing of who said it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from medcl.ingest.dicom_header import quiet_pydicom
from medcl.ingest.ledger import Refused
from medcl.ingest.records import Written

# Basic Text, Enhanced, Comprehensive, Comprehensive 3D, Extensible. Dose and CAD reports are tables of numbers, not texts.
_WITH_TEXT = tuple(f"1.2.840.10008.5.1.4.1.1.88.{end}" for end in ("11", "22", "33", "34", "35"))
# Not observer, patient, device, procedure nor modifiers: what the report says, not in which circumstances.
_SAID = {"CONTAINS", "HAS PROPERTIES", "INFERRED FROM", "SELECTED FROM", ""}
_DEEPEST, _MOST_ITEMS, _MOST_BYTES = 16, 5000, 2**24
_PEOPLE = ("PatientName", "OtherPatientNames", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "PhysiciansOfRecord",
           "NameOfPhysiciansReadingStudy", "InstitutionName")  # fmt: skip


def read_report(path: str) -> Written | None:
    """The text of a structured report; None where it holds none. Raises Refused for a file that cannot be read."""
    with quiet_pydicom():
        try:
            dataset = pydicom.dcmread(path, defer_size=_MOST_BYTES)
            if str(dataset.get("SOPClassUID", "")) not in _WITH_TEXT:
                return None
            lines = list(_lines(dataset))
            names = tuple(sorted(_names(dataset)))
        except Exception as error:  # pydicom raises many kinds on a broken file
            raise Refused("unreadable", type(error).__name__) from None
        if not any(said for said, _ in lines):
            return None
        text = "\n".join(line for _, line in lines)
        patient, study, accession = (str(dataset.get(name, "") or "") for name in ("PatientID", "StudyInstanceUID", "AccessionNumber"))
    return Written(path, patient, study, accession, names, text)


def _lines(item: Dataset, depth: int = 0) -> Iterator[tuple[bool, str]]:
    """(whether it is free text, line) of every content item that says something, containers as headings."""
    if depth > _DEEPEST:
        return
    for part in list(item.get("ContentSequence") or ())[:_MOST_ITEMS]:
        if str(part.get("RelationshipType", "")).upper() not in _SAID:
            continue
        line = _line(part)
        if line:
            yield part.get("ValueType") == "TEXT", line
        yield from _lines(part, depth + 1)


def _line(part: Dataset) -> str:
    kind, name = str(part.get("ValueType", "")).upper(), _meaning(part, "ConceptNameCodeSequence")
    if kind == "CONTAINER":
        return f"{name}:" if name else ""
    value = {"TEXT": _text, "NUM": _number, "CODE": _code}.get(kind, _nothing)(part)
    return f"{name}: {value}" if name and value else value


def _text(part: Dataset) -> str:
    return " ".join(str(part.get("TextValue", "") or "").split())


def _number(part: Dataset) -> str:
    measured = list(part.get("MeasuredValueSequence") or ())
    if not measured or measured[0].get("NumericValue") is None:
        return ""
    units = list(measured[0].get("MeasurementUnitsCodeSequence") or ())
    unit = str(units[0].get("CodeValue", "")) if units else ""
    return f"{measured[0].NumericValue} {'' if unit == '1' else unit}".strip()


def _code(part: Dataset) -> str:
    return _meaning(part, "ConceptCodeSequence")


def _nothing(part: Dataset) -> str:
    """Names, dates, UIDs and references of images are not read."""
    return ""


def _meaning(part: Dataset, sequence: str) -> str:
    codes = list(part.get(sequence) or ())
    return str(codes[0].get("CodeMeaning", "") or "").strip() if codes else ""


def _names(dataset: Any, depth: int = 0) -> Iterator[str]:
    """Words of every person's name in the header and of those who observed, verified or took part."""
    for keyword in _PEOPLE if depth == 0 else ():
        yield from _words(dataset.get(keyword))
    for element in dataset if depth <= _DEEPEST else ():
        if element.VR == "PN":
            yield from _words(element.value)
        elif element.VR == "SQ":
            for item in element.value:
                yield from _names(item, depth + 1)


def _words(value: Any) -> Iterator[str]:
    for name in [value] if value is None or isinstance(value, str | PersonName) else value:
        yield from (word for part in str(name or "").replace("=", "^").split("^") for word in (part.strip(), *part.split()) if word)
