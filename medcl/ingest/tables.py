"""The reports and labels CSV: which column is which, and which row belongs to which file, study or patient."""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medcl.foundation.errors import UserError
from medcl.ingest.growth import refuse_growth
from medcl.ingest.hints import Hint
from medcl.ingest.ledger import Refused
from medcl.ingest.naming import FileNames
from medcl.ingest.records import MODALITIES, Identity, modality_name
from medcl.ingest.settings import Columns

_LARGEST_TABLE = 2**30
_EXCEL = (".xlsx", ".xlsm")
# Looked for in this order, without regard to case, spaces, dashes and underscores.
_USUAL = {
    "file": ("file", "filename", "filepath", "path", "image", "imagefile", "imagepath", "imagename", "volumename", "dicompath"),
    "patient": ("patientid", "patient", "subjectid", "subject", "participantid", "pid", "mrn", "patientidentifier", "caseid"),
    "study": ("studyinstanceuid", "studyuid", "studyid", "study", "examid"),
    "accession": ("accessionnumber", "accession", "accessionno", "accno"),
    "text": ("report", "reporttext", "text", "fulltext", "reportcontent", "clinicalnotes", "note", "notes", "narrative"),
    "findings": ("findings", "findingstext", "findingsen"),
    "impression": ("impression", "impressions", "conclusion", "impressiontext", "impressionsen"),
    "split": ("split", "subset", "partition"),
    "modality": ("modality",),
    "sex": ("sex", "gender", "patientsex"),
    "age": ("age", "ageyears", "patientage"),
    "date": ("studydate", "examdate", "scandate", "acquisitiondate", "date", "acqtime"),
}
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


# Of a column's name in small letters without spaces: not of files, studies or sequences.
_NAMES_PEOPLE = re.compile(
    r"(?:patients?|subjects?|last|first|sur|given|family|middle|nach|vor|doctors?|physicians?)names?$|^(?:name|nom|prénom|prenom|nombre|apellidos?)$"
    r"|referrer|physician|radiologist|^arzt|ärztin$|zuweiser|befunder|médecin|medecin|médico|medico"
)
_WORDS_OF_A_NAME = re.compile(r"[\s,;^=]+")


@dataclass(frozen=True)
class Table:
    """A CSV as text cells. roles: role (file, patient, ...) -> column; the other columns may be labels."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    roles: dict[str, str]
    _by_role: dict[str, dict[str, list[int]]] = field(default_factory=dict, repr=False)

    def cell(self, row: int, role: str) -> str:
        """A cell by role; empty where the table has no such column."""
        column = self.roles.get(role)
        return self.rows[row][column] if column else ""

    def names(self, row: int) -> tuple[str, ...]:
        """The people that a row names in columns of their own (`PatientName`, `Zuweiser`, ...): to scrub, and to look for."""
        return tuple(word for column in self._name_columns for word in _WORDS_OF_A_NAME.split(self.rows[row][column]) if word)

    @cached_property
    def _name_columns(self) -> list[str]:
        return [name for name in self.columns if name not in self.roles.values() and _NAMES_PEOPLE.search(_plain(name))]

    def hint(self, row: int) -> Hint:
        """What a row says about its file."""
        age = _number(self.cell(row, "age"))
        return Hint(
            patient=self.cell(row, "patient"),
            study=self.cell(row, "study"),
            modality=_modality(self.cell(row, "modality")),
            split=_SPLITS.get(self.cell(row, "split").lower(), ""),
            sex=_sex(self.cell(row, "sex")),
            age_years=age,
            date=self.cell(row, "date"),
        )

    def meet(self, paths: Iterable[str]) -> None:
        """Say which files there are, before asking for their rows: a name that two of them have names neither."""
        if "file" in self.roles:
            self._file_names.meet(paths)

    def rows_for_file(self, path: str) -> list[int]:
        """Rows whose file column names this file, see FileNames."""
        return self._file_names.rows(path) if "file" in self.roles else []

    @cached_property
    def _file_names(self) -> FileNames:
        return FileNames([self.cell(row, "file") for row in range(len(self.rows))], self.path.parent)

    def rows_for(self, identity: Identity) -> tuple[str, list[int]]:
        """Rows for a scan that no file column names, by the closest role that matches: accession, study, then patient.

        Numbers are given twice, by two hospitals say: where rows of several patients have one, only this patient's count.
        """
        for role in ("accession", "study", "patient"):
            value = getattr(identity, role)
            if role in self.roles and value:
                found = self._of_one_patient(self._role_index(role).get(value, []), identity.patient)
                if found:
                    return role, found
        return "", []

    def _of_one_patient(self, rows: list[int], patient: str) -> list[int]:
        people = {self.cell(row, "patient") for row in rows}
        return rows if len(people) <= 1 else [row for row in rows if patient in _spellings("patient", self.cell(row, "patient"))]

    def _role_index(self, role: str) -> dict[str, list[int]]:
        if role not in self._by_role:
            index: dict[str, list[int]] = {}
            for row in range(len(self.rows)):
                for value in _spellings(role, self.cell(row, role)):
                    index.setdefault(value, []).append(row)
            self._by_role[role] = index
        return self._by_role[role]


def read_rows(path: str | Path, columns: Columns, needs: tuple[str, ...], setting: str) -> Table:
    """Read a CSV (comma, semicolon or tab; UTF-8 or Latin-1) or the first sheet of an Excel file. `needs`: roles of which it must
    have one.

    Raises UserError where the file is missing, is no table, or none of the needed columns is there.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file (given as {setting})")
    if path.stat().st_size > _LARGEST_TABLE:
        raise UserError(f"{path}: larger than 1 GiB; split it")
    names, rows = _sheet(path) if path.suffix.lower() in _EXCEL else _parse(path)
    roles = _roles(names, columns, path)
    if not any(role in roles for role in needs):
        raise UserError(
            f"{path}: no column for {' or '.join(needs)} among {', '.join(names) or '(no columns)'}; "
            f"name it in the settings, for example `columns: {{{needs[0]}: {names[0] if names else 'NAME'}}}`"
        )
    return Table(path, names, rows, roles)


def table_of(rows: Sequence[dict[str, str]]) -> Table:
    """A table made here, whose columns are named by their roles."""
    names = tuple(rows[0])
    return Table(Path(), names, tuple(rows), {name: name for name in names})


def _sheet(path: Path) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    import pandas as pd

    try:
        with zipfile.ZipFile(path) as workbook:
            refuse_growth(sum(part.file_size for part in workbook.infolist()), path.stat().st_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's warnings may quote cells
            sheet = pd.read_excel(path, dtype=str, keep_default_na=False)
    except Refused:
        raise UserError(f"{path}: becomes far too large when it is unpacked; export the sheet as CSV") from None
    except Exception:  # a broken workbook raises many kinds
        raise UserError(f"{path}: not readable as an Excel workbook; save it again, or export the sheet as CSV") from None
    names = tuple(str(name).strip() for name in sheet.columns)
    if not len(sheet):
        raise UserError(f"{path}: its first sheet is empty; put the table there")
    return names, tuple(dict(zip(names, map(_cell, row), strict=True)) for row in sheet.itertuples(index=False, name=None))


def _cell(content: object) -> str:
    """Dates of Excel are days: their midnight is no part of them."""
    return str(content).strip().removesuffix(" 00:00:00")


def _parse(path: Path) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise UserError(f"{path}: not a CSV (it holds zero bytes); export the sheet as CSV")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(line)]
    except csv.Error:
        raise UserError(f"{path}: not readable as CSV") from None
    if not lines:
        raise UserError(f"{path}: the table is empty")
    names = tuple(name.strip() for name in lines[0])
    rows = tuple({name: (line[at].strip() if at < len(line) else "") for at, name in enumerate(names)} for line in lines[1:])
    return names, rows


def _roles(names: tuple[str, ...], columns: Columns, path: Path) -> dict[str, str]:
    plain = {_plain(name): name for name in reversed(names)}
    roles: dict[str, str] = {}
    for role, usual in _USUAL.items():
        named = getattr(columns, role)
        if named is not None and named not in names:
            raise UserError(f"{path}: has no column '{named}' (settings: columns.{role}); its columns are {', '.join(names)}")
        found = named or next((plain[name] for name in usual if name in plain), None)
        if found:
            roles[role] = found
    return roles


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _spellings(role: str, value: str) -> tuple[str, ...]:
    """A patient `01` of the table is also BIDS' `sub-01`."""
    if not value:
        return ()
    return (value, f"sub-{value}") if role == "patient" and not value.startswith("sub-") else (value,)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("Yy "))
    except ValueError:
        return None


def _modality(text: str) -> str:
    """A cell may hold anything; a word that is no modality is not let into the manifest."""
    name = modality_name(text)
    return name if name in {"", "shape", *MODALITIES.values()} else "unknown"


def _sex(text: str) -> str:
    return {"f": "F", "female": "F", "w": "F", "m": "M", "male": "M", "o": "O", "other": "O"}.get(text.lower(), "")
