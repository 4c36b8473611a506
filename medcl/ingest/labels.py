"""Label tables and npz labels to one row per volume; columns that could identify someone are left out."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from medcl.foundation.errors import UserError
from medcl.ingest.records import Scan
from medcl.ingest.scrubbing import scrub
from medcl.ingest.tables import Table

MOST_CLASSES = 32
_MISSING = {"", "nan", "na", "n/a", "null", "?"}
_PRIVATE_WORDS = {
    "name", "names", "date", "birth", "dob", "id", "ids", "uid", "uri", "url", "doi", "file", "path", "address", "phone", "mail", "email",
    "location", "hospital", "institution", "physician", "doctor", "radiologist", "time", "license", "licence", "note", "notes", "text",
    "report", "comment", "comments",
    "reader", "operator", "technologist", "technician", "referrer", "consultant", "nurse", "author",
    "mode", "orig", "original", "xywh", "scale", "offset", "width", "height",
    "zip", "postcode", "plz", "city", "town", "village", "street", "county", "ort", "wohnort", "stadt", "strasse", "ville", "rue",
    "ciudad", "calle", "domicilio", "direccion", "initials", "initialen", "yob", "geb", "ssn", "mrn", "ward", "room",
    "bed", "zimmer", "bett", "clinic", "clinique", "hopital", "clinica", "arzt", "arztin",
    "zuweiser", "befunder", "untersucher", "medecin", "medico", "nom",
    "prenom", "nombre", "dossier",
}  # fmt: skip
_PRIVATE_PARTS = re.compile(
    r"name|birth|phone|address|hospital|physician|radiologist|instituti|uid|date$|^date|filepath|comment|(?:number|nummer|nr)$"
    r"|(?:^|[\W_])(?:no|num|numero)\.?$"
    r"|geburt|naissance|nacimiento|adress|telef|apellid|postal|zipcode|krankenhaus|klinik|datum|fecha",
    re.IGNORECASE,
)
_AGE_WORDS, _OLDEST_TOLD, _NOBODY_IS_OLDER = {"age", "alter", "edad"}, 89, 150
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LOOKS_PRIVATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|@|https?:|\d{6,}")

Value = float | str


def label_columns(table: Table, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """The columns to keep: those chosen, else those that look like labels (few classes or numbers, nothing identifying)."""
    if chosen is not None:
        missing = [name for name in chosen if name not in table.columns]
        if missing:
            raise UserError(
                f"{table.path}: has no column '{missing[0]}' (settings: label_columns); its columns are {', '.join(table.columns)}"
            )
        return chosen
    taken = set(table.roles.values())
    return tuple(name for name in table.columns if name and name not in taken and _looks_like_a_label(table, name))


def _looks_like_a_label(table: Table, name: str) -> bool:
    plain = _without_accents(name)
    words = {word.lower() for word in _WORD.findall(plain)}
    if _PRIVATE_PARTS.search(plain) or _PRIVATE_WORDS & words:
        return False
    missing = _missing_words(table, name)
    values = [row[name] for row in table.rows if row[name].lower() not in missing]
    distinct = set(values)
    numbers = [_as_number(value) for value in distinct]
    if len(distinct) < 2:
        return False
    if all(number is not None for number in numbers):
        # Many whole numbers, none twice, are counters or record numbers; large ones are dates or record numbers.
        whole = [number for number in numbers if number is not None and number.is_integer()]
        if _AGE_WORDS & words and _OLDEST_TOLD < max(number for number in numbers if number is not None) <= _NOBODY_IS_OLDER:
            return False
        return max(whole, default=0) < 1e6 and not (len(whole) == len(distinct) == len(values) > 20)
    if any(_LOOKS_PRIVATE.search(value) or len(value) > 64 or scrub(value)[1] for value in distinct):
        return False
    return len(distinct) <= min(MOST_CLASSES, max(2, len(values) * 2 // 3))


def _missing_words(table: Table, name: str) -> set[str]:
    """What stands for nothing in a column. `none` does among numbers; among words, such as benign and malignant, it is one of them."""
    more = _MISSING | {"none"}
    are_numbers = all(_as_number(row[name]) is not None for row in table.rows if row[name].lower() not in more)
    return more if are_numbers else _MISSING


def _without_accents(name: str) -> str:
    """`Médecin` as `Medecin`: tables are written in four languages, and not always with their letters."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter)).replace("ß", "ss")


def join_labels(table: Table, scans: Sequence[Scan], columns: Sequence[str]) -> dict[int, dict[str, Value]]:
    """Index of a scan -> its labels; joined by file, accession, study or patient.

    Where several rows belong to one scan, a column counts only if they agree.
    """
    joined: dict[int, dict[str, Value]] = {}
    missing = {name: _missing_words(table, name) for name in columns}
    for index, scan in enumerate(scans):
        rows = table.rows_for_file(scan.source.paths[0]) or table.rows_for(scan.identity)[1]
        values: dict[str, Value] = {}
        for name in columns:
            found = {table.rows[row][name] for row in rows if table.rows[row][name].lower() not in missing[name]}
            if len(found) == 1:
                values[name] = found.pop()
        if values:
            joined[index] = values
    return _numbers_where_all_are(joined, columns)


def npz_labels(scans: Sequence[Scan], name: str) -> dict[int, dict[str, Value]]:
    """Labels that came with the item: `name`, or `name_0`, `name_1`, ... where there are several."""
    joined: dict[int, dict[str, Value]] = {}
    for index, scan in enumerate(scans):
        label = scan.facts.label
        if len(label) == 1:
            joined[index] = {name: label[0]}
        elif label:
            joined[index] = {f"{name}_{place}": value for place, value in enumerate(label)}
    return joined


def merged(*parts: dict[int, dict[str, Value]]) -> dict[int, dict[str, Value]]:
    """Rows of several sources, later ones over earlier ones."""
    result: dict[int, dict[str, Value]] = defaultdict(dict)
    for part in parts:
        for index, values in part.items():
            result[index].update(values)
    return dict(result)


def _numbers_where_all_are(joined: dict[int, dict[str, Value]], columns: Sequence[str]) -> dict[int, dict[str, Value]]:
    for name in columns:
        values = [row[name] for row in joined.values() if name in row]
        numbers = [_as_number(str(value)) for value in values]
        if values and all(number is not None for number in numbers):
            for row in joined.values():
                if name in row:
                    row[name] = float(row[name])
    return joined


def _as_number(text: str) -> float | None:
    lower = text.lower()
    if lower in ("true", "false"):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
