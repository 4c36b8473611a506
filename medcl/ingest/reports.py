"""Report tables to scrubbed texts with sections and doubts, joined to the scans they describe."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medcl.ingest.privacy import Hasher, scrub
from medcl.ingest.records import Scan
from medcl.ingest.tables import Table

FEWEST_WORDS = 3
_SECTIONS = {
    "findings": ("findings", "finding", "befund", "befunde", "résultats", "resultats", "hallazgos"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "beurteilung", "zusammenfassung", "impresión",
                   "conclusión"),
    "other": ("technique", "comparison", "history", "indication", "clinical history", "clinical information", "exam", "examination",
              "technik", "vergleich", "indikation", "procedure", "recommendation", "recommendations", "addendum"),
}  # fmt: skip
_NAMES = "|".join(sorted({name for names in _SECTIONS.values() for name in names}, key=len, reverse=True))
# `Findings:`, `Findings -`, `Conclusion / Impression:` at the start of a line or sentence; in capitals or alone on its line
# a heading needs no colon.
_HEADING = re.compile(
    rf"(?:^|(?<=[\n.;]))[ \t]*(?:(?i:({_NAMES})(?:\s*[/&]\s*(?:{_NAMES}))?)[ \t]*(?::|[ \t][-–][ \t])"
    rf"|({_NAMES.upper()})(?=\s)|(?i:({_NAMES}))(?=\n))\s*"
)
_LANGUAGE_WORDS = {
    "en": {"the", "is", "and", "of", "no", "with", "are", "there", "in"},
    "de": {"der", "die", "und", "kein", "keine", "nicht", "mit", "ist", "im"},
    "fr": {"le", "la", "et", "pas", "de", "des", "est", "avec", "du"},
    "es": {"el", "la", "y", "no", "de", "los", "con", "se", "del"},
}
_MOJIBAKE = re.compile(r"Ã[\x80-\xbfŸ„…†‡‰Š‹ŒŽ•–—˜™š›œž]|Â[\x80-\xbf]|â€|�")
# Words of a patient's header that are also plain words of reports: never scrubbed as names.
PLAIN_WORDS = {
    "patient", "test", "phantom", "chest", "head", "heart", "lung", "left", "right", "normal", "small", "large", "male", "female", "none",
    "null", "unknown", "anonymous", "anonymized", "study", "series", "hospital", "clinic", "center", "centre", "university", "medical",
    "department", "radiology", "imaging", "made", "case", "subject", "research",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """One report as it may be written, and the scans (by their index) that it describes."""

    report_id: str
    study_key: str
    text: str
    findings: str
    impression: str
    language: str
    flags: tuple[str, ...]
    scans: tuple[int, ...]

    def row(self) -> dict[str, Any]:
        """The row of reports.parquet."""
        return {name: getattr(self, name) for name in ("report_id", "study_key", "text", "findings", "impression", "language")} | {
            "flags": list(self.flags)
        }


def join_reports(table: Table, scans: Sequence[Scan], hasher: Hasher) -> list[Report]:
    """Scrub and section every report that belongs to a scan. Reports without a scan stay behind.

    Joined by file, accession, study, and by patient where that patient has one report only.
    """
    scans_of_row: dict[int, list[int]] = defaultdict(list)
    for index, scan in enumerate(scans):
        row = _row_of(table, scan)
        if row is not None:
            scans_of_row[row].append(index)
    patients_of_text: dict[str, set[str]] = defaultdict(set)
    for row, members in scans_of_row.items():
        patients_of_text[_whole_text(table, row).casefold()].update(scans[index].identity.patient for index in members)
    reports = []
    for row, members in sorted(scans_of_row.items()):
        text = _whole_text(table, row)
        doubts = doubts_of(text, len(patients_of_text[text.casefold()]))
        if {"empty", "git_lfs_pointer"} & set(doubts):
            continue
        reports.append(_report(table, row, [scans[index] for index in members], tuple(members), doubts, hasher))
    return reports


def _row_of(table: Table, scan: Scan) -> int | None:
    rows = table.rows_for_file(scan.source.paths[0], scan.identity.file)
    role = "file"
    if not rows:
        role, rows = table.rows_for(scan.identity)
    rows = [row for row in rows if _whole_text(table, row)] if len(rows) > 1 else rows
    # Several reports for one patient: nothing says which scan each belongs to.
    return rows[0] if rows and (role != "patient" or len(rows) == 1) else None


def _whole_text(table: Table, row: int) -> str:
    text = table.cell(row, "text")
    if text:
        return text
    parts = [
        f"{heading}: {table.cell(row, role)}"
        for heading, role in (("Findings", "findings"), ("Impression", "impression"))
        if table.cell(row, role)
    ]
    return "\n".join(parts)


def _report(table: Table, row: int, scans: list[Scan], members: tuple[int, ...], doubts: list[str], hasher: Hasher) -> Report:
    first = scans[0].identity
    known = known_words(scans)
    text, kinds = scrub(_whole_text(table, row), known)
    sections = sections_of(text)
    findings = sections["findings"] or scrub(table.cell(row, "findings"), known)[0]
    impression = sections["impression"] or scrub(table.cell(row, "impression"), known)[0]
    flags = (*doubts, *(f"scrubbed_{kind}" for kind in kinds))
    name = hasher("report", first.patient, first.study, table.cell(row, "accession"), table.cell(row, "file"), str(row))
    return Report(name, hasher("study", first.patient, first.study), text, findings, impression, language_of(text), flags, members)


def known_words(scans: Sequence[Scan]) -> set[str]:
    """Names and ids of these scans' headers, less the words that reports use anyway."""
    words: set[str] = set()
    for scan in scans:
        identity = scan.identity
        words.update(part for name in identity.names for part in (name, *name.split()) if part.lower() not in PLAIN_WORDS)
        words.update(one for one in (identity.patient, identity.accession, identity.study) if len(one) >= 4 and any(map(str.isdigit, one)))
    return {word for word in words if len(word) >= 3}


def sections_of(text: str) -> dict[str, str]:
    """Findings and impression as far as headings mark them (English, German, French, Spanish)."""
    found = {"findings": "", "impression": "", "other": ""}
    marks = list(_HEADING.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        heading = (mark[1] or mark[2] or mark[3]).lower()
        section = next(name for name, headings in _SECTIONS.items() if heading in headings)
        body = text[mark.end() : following.start() if following else len(text)].strip()
        found[section] = f"{found[section]} {body}".strip()
    return found


def doubts_of(text: str, patients: int = 1) -> list[str]:
    """Stable codes of what makes a report doubtful."""
    doubts = []
    if text.startswith("version https://git-lfs"):
        doubts.append("git_lfs_pointer")
    words = len(re.findall(r"\w+", text))
    if words == 0:
        doubts.append("empty")
    elif words < FEWEST_WORDS:
        doubts.append("too_short")
    if _MOJIBAKE.search(text):
        doubts.append("mojibake")
    if patients > 1:
        doubts.append("same_text_for_several_patients")
    return doubts


def language_of(text: str) -> str:
    """en, de, fr or es by its commonest small words; empty where none stands out."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {language: sum(word in small for word in words) for language, small in _LANGUAGE_WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] >= max(2, 0.03 * len(words)) else ""
