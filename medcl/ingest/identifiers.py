"""What private/ remembers of the identifiers that were met, so that an audit can look for them elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medcl.ingest.collect import Collection
from medcl.ingest.hints import stem_of
from medcl.ingest.privacy import Hasher
from medcl.ingest.tables import Table

SHORTEST, FEWEST_DIGITS = 4, 5
_WORD = re.compile(r"[^\W_]+")
# Words of a patient's header that are also plain words of reports: never scrubbed as names.
PLAIN_WORDS = {
    "patient", "test", "phantom", "chest", "head", "heart", "lung", "left", "right", "normal", "small", "large", "male", "female", "none",
    "null", "unknown", "anonymous", "anonymized", "study", "series", "hospital", "clinic", "center", "centre", "university", "medical",
    "department", "radiology", "imaging", "made", "case", "subject", "research",
}  # fmt: skip


def identifier_rows(whole: Collection, tables: Sequence[Table], hasher: Hasher) -> list[dict[str, Any]]:
    """Rows of private/identifiers.parquet: each identifier once, with its kind and a keyed fingerprint to speak of it by."""
    found: dict[str, str] = {}
    for kind, value in _met(whole, tables):
        if value.strip():
            found.setdefault(value.strip(), kind)
    return [{"fingerprint": hasher("identifier", value), "kind": found[value], "value": value} for value in sorted(found)]


def _met(whole: Collection, tables: Sequence[Table]) -> Iterator[tuple[str, str]]:
    for scan in whole.scans:
        identity = scan.identity
        yield from (("name", name) for name in identity.names)
        yield from (("date", date) for date in (identity.date, identity.birth_date))
        for kind in ("patient", "accession", "study", "series"):
            yield from ((kind, part) for part in _parts(getattr(identity, kind)))
    for report in whole.reports:
        yield from (("name", name) for name in report.names)
        yield from ((kind, getattr(report, kind)) for kind in ("patient", "accession", "study"))
    for table in tables:
        yield from (("name", name) for row in range(len(table.rows)) for name in table.names(row))
        for role in ("patient", "accession", "study", "file"):
            if role in table.roles:
                yield from ((role, part) for row in range(len(table.rows)) for part in _parts(table.cell(row, role)))
    yield from (("file", part) for name in whole.names for part in _parts(name))


def _parts(name: str) -> list[str]:
    """Folder and file names of a path, without the suffix; any other value is its own only part."""
    return [stem_of(part) for part in re.split(r"[/\\#]", name) if part not in ("", ".", "..")]


def can_be_looked_for(kind: str, value: str, vocabulary: set[str]) -> bool:
    """Whether an identifier can be told from other text. Not so: fewer than four letters or five digits, and plain words.

    vocabulary: words in lower case that artefacts hold anyway.
    """
    words = [word.lower() for word in _WORD.findall(value)]
    digits = sum(map(str.isdigit, value))
    if len(value) < SHORTEST or (digits == len(value) and digits < FEWEST_DIGITS):
        return False
    strange = [word for word in words if not word.isdigit() and word not in vocabulary]
    if kind == "file":  # a folder may be called anything: only what looks like a number or like a person's name
        return (
            digits >= FEWEST_DIGITS or (len(words) > 1 and len(strange) == len(words)) or (digits > 0 and bool(strange) and len(value) > 7)
        )
    return bool(strange) or digits >= FEWEST_DIGITS


def words_of_medcl() -> set[str]:
    """Every word of medcl's own sources: what cannot be told from a leak where medcl writes it itself."""
    root = Path(__file__).resolve().parents[1]
    texts = (path.read_text(encoding="utf-8") for path in root.rglob("*") if path.suffix in (".py", ".html", ".css", ".yaml"))
    return PLAIN_WORDS | {word.lower() for text in texts for word in _WORD.findall(text)}
