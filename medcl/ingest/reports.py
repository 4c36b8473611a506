"""Reports of tables and of DICOM to scrubbed texts with sections, sides and doubts, joined to the scans they describe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medcl.ingest.identifiers import PLAIN_WORDS
from medcl.ingest.privacy import Hasher
from medcl.ingest.records import Scan
from medcl.ingest.report_text import SECTIONS, doubts_of, is_normal, language_of, sections_of, without_comparisons
from medcl.ingest.scrubbing import scrub
from medcl.ingest.settings import ReportConfig
from medcl.ingest.sides import sides_by_sentence
from medcl.ingest.similar import groups_of_near
from medcl.ingest.tables import Table

_COLUMNS = ("report_id", "study_key", "text", *SECTIONS, "sides", "text_group", "language")


@dataclass(frozen=True)
class Report:
    """One report as it may be written; the scans (by their index) that it describes, and its private file if it has one."""

    report_id: str
    study_key: str
    text: str
    findings: str
    impression: str
    technique: str
    comparison: str
    sides: str
    language: str
    flags: tuple[str, ...]
    scans: tuple[int, ...]
    path: str = ""
    text_group: int = 0

    def row(self) -> dict[str, Any]:
        """The row of reports.parquet."""
        return {name: getattr(self, name) for name in _COLUMNS} | {"flags": list(self.flags)}


def join_reports(tables: Sequence[Table], scans: Sequence[Scan], hasher: Hasher, config: ReportConfig) -> list[Report]:
    """Scrub and section every report that belongs to a scan. Reports without a scan stay behind; the first table that has one counts.

    Joined by file, accession, study, and by patient where that patient has one report only.
    """
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, scan in enumerate(scans):
        places = ((number, _row_of(table, scan)) for number, table in enumerate(tables))
        found = next(((number, row) for number, row in places if row is not None), None)
        if found:
            members[found].append(index)
    patients_of_text: dict[str, set[str]] = defaultdict(set)
    for (number, row), joined in members.items():
        text = _whole_text(tables[number], row)
        patients_of_text[text.casefold()].update(scans[index].identity.patient for index in joined)
    reports = []
    for (number, row), joined in sorted(members.items()):
        text = _whole_text(tables[number], row)
        doubts = doubts_of(text, len(patients_of_text[text.casefold()]), config.language)
        if not {"empty", "git_lfs_pointer"} & set(doubts):
            reports.append(_report(tables[number], row, [scans[index] for index in joined], tuple(joined), doubts, hasher, config))
    reports = [report for report in reports if report.text]
    groups = groups_of_near([report.text for report in reports])
    return [replace(report, text_group=group) for report, group in zip(reports, groups, strict=True)]


def _row_of(table: Table, scan: Scan) -> int | None:
    rows = table.rows_for_file(scan.source.paths[0])
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


def _report(
    table: Table, row: int, scans: list[Scan], members: tuple[int, ...], doubts: list[str], hasher: Hasher, config: ReportConfig
) -> Report:
    first = scans[0].identity
    theirs = (*table.cell(row, "names").split("\n"), *table.names(row))
    known = known_words(scans) | {name for name in theirs if _may_be_a_name(name)}

    def cleaned(text: str) -> tuple[str, tuple[str, ...]]:
        return scrub(without_comparisons(text) if config.drop_comparisons else text, known)

    text, kinds = cleaned(_whole_text(table, row))
    sections = sections_of(text)
    findings = sections["findings"] or cleaned(table.cell(row, "findings"))[0]
    impression = sections["impression"] or cleaned(table.cell(row, "impression"))[0]
    normal = ["normal"] if is_normal(impression or text) else []
    return Report(
        report_id=hasher("report", first.patient, first.study, table.cell(row, "accession"), table.cell(row, "file"), str(row)),
        study_key=hasher("study", first.patient, first.study),
        text=text,
        findings=findings,
        impression=impression,
        technique=sections["technique"],
        comparison=sections["comparison"],
        sides=sides_by_sentence(text),
        language=language_of(text),
        flags=(*doubts, *normal, *(f"scrubbed_{kind}" for kind in kinds)),
        scans=members,
        path=table.cell(row, "path"),
    )


def known_words(scans: Sequence[Scan]) -> set[str]:
    """Names and ids of these scans' headers, less the words that reports use anyway."""
    words: set[str] = set()
    for scan in scans:
        identity = scan.identity
        words.update(part for name in identity.names for part in (name, *name.split()) if _may_be_a_name(part))
        words.update(one for one in (identity.patient, identity.accession, identity.study) if len(one) >= 4 and any(map(str.isdigit, one)))
    return words


def _may_be_a_name(word: str) -> bool:
    return len(word) >= 2 and word.lower() not in PLAIN_WORDS
