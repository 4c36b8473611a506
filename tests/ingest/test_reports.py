"""Reports from Excel and DICOM, days instead of dates, and what is counted of them."""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medcl.foundation.errors import UserError
from medcl.foundation.files import read_card
from medcl.ingest import Data, IngestConfig, ingest, open_data
from medcl.ingest.dicom_report import read_report
from medcl.ingest.privacy import Hasher, day_of, study_days
from medcl.ingest.settings import Columns, ReportConfig
from medcl.ingest.tables import read_rows
from tests.ingest.scanner import base, phantom, series


def code(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99", meaning
    return Sequence([item])


def content(kind: str, name: str, relation: str = "CONTAINS", parts: list[Dataset] | None = None, **values: object) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType, item.ConceptNameCodeSequence = kind, relation, code(name)
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if parts:
        item.ContentSequence = Sequence(parts)
    return item


def measured(value: str, unit: str) -> Sequence:
    item = Dataset()
    item.NumericValue, item.MeasurementUnitsCodeSequence = value, code("unit")
    item.MeasurementUnitsCodeSequence[0].CodeValue = unit
    return Sequence([item])


def structured_report(path: Path, patient: str, study: str, sop: str = "88.11") -> Path:
    """A report by CANARYDOC on CANARYLAST, in two sections."""
    item = base("SR", patient, "2.25.900", f"2.25.901.{patient[-1]}")
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{sop}"
    item.StudyInstanceUID = study
    verifier = Dataset()
    verifier.VerifyingObserverName, verifier.VerifyingOrganization = "CANARYVERIFIER^JO", "CANARY Org"
    item.VerifyingObserverSequence = Sequence([verifier])
    findings = [
        content("TEXT", "Finding", TextValue="Nodule in the left lung, seen by canaryverifier."),
        content("NUM", "Diameter", MeasuredValueSequence=measured("7", "mm")),
    ]
    item.ContentSequence = Sequence(
        [
            content("PNAME", "Observer", "HAS OBS CONTEXT", PersonName="CANARYOBS^ER"),
            content("TEXT", "Organization", "HAS OBS CONTEXT", TextValue="CANARYORG"),
            content("CONTAINER", "Findings", parts=findings),
            content("CONTAINER", "Impression", parts=[content("TEXT", "Impression", TextValue="Small nodule of CANARYLAST.")]),
            content("PNAME", "Signed", PersonName="CANARYSIGN"),
            content("DATETIME", "When", DateTime="20210304"),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, item, enforce_file_format=True)
    return path


def test_a_structured_report_is_read_without_its_people(tmp_path: Path) -> None:
    report = read_report(str(structured_report(tmp_path / "sr.dcm", "MRN0001", "2.25.1")))
    assert report is not None
    assert report.text.splitlines() == [
        "Findings:", "Finding: Nodule in the left lung, seen by canaryverifier.", "Diameter: 7 mm", "Impression:",
        "Impression: Small nodule of CANARYLAST.",
    ]  # fmt: skip
    assert {"CANARYVERIFIER", "CANARYOBS", "CANARYDOC", "CANARYLAST"} <= set(report.names)
    assert read_report(str(structured_report(tmp_path / "dose.dcm", "MRN0001", "2.25.1", "88.67"))) is None


def test_structured_reports_join_their_study(tmp_path: Path) -> None:
    for number in (1, 2):
        series(tmp_path / "in" / str(number), phantom(4, seed=number), patient=f"MRN000{number}", uid=f"2.25.10{number}")
    structured_report(tmp_path / "in" / "sr" / "1.dcm", "MRN0001", "2.25.101.10007")
    structured_report(tmp_path / "in" / "sr" / "9.dcm", "MRN0009", "2.25.109.10007")
    summary = ingest(tmp_path / "in", tmp_path / "out", jobs=0)
    assert (summary.reports, summary.reasons) == (1, {"structured_report": 1})
    data = open_data(tmp_path / "out")
    assert data.ledger["reason"].value_counts().to_dict() == {"ok": 8, "report": 1, "structured_report": 1}
    assert data.reports is not None
    (report,) = data.reports.to_dict("records")
    assert report["impression"] == "Small nodule of [name]." and "Diameter: 7 mm" in report["findings"]
    assert "canary" not in json.dumps(report, default=list).lower()
    assert json.loads(report["sides"]) == {"left": [1]}
    table = tmp_path / "reports.csv"
    pd.DataFrame([{"accession": "ACC0001", "report": "The table has another text."}]).to_csv(table, index=False)
    ingest(tmp_path / "in", tmp_path / "out", reports=table, jobs=0)
    reports = open_data(tmp_path / "out").reports
    assert reports is not None and list(reports["text"]) == ["The table has another text."]


def test_real_structured_reports(real_data: Path) -> None:
    """One holds placeholders only, the other sentences in pieces."""
    empty, test = (read_report(str(real_data / "dicom_single" / "non_image" / name)) for name in ("reportsi.dcm", "test-SR.dcm"))
    assert empty is not None and "Enter text" in empty.text and "Last Name" in empty.names
    assert test is not None and "A mass of" in test.text and "Diameter: 3" in test.text
    assert "Riesmeier" not in test.text and {"Riesmeier", "Jörg"} <= set(test.names)


@pytest.mark.parametrize(
    ("before", "cell", "says"),
    [
        (b'<!DOCTYPE w [<!ENTITY a "%s">%s]>', b"<t>&i;</t>", "not readable as an Excel workbook"),
        (b"", b"<t>%s</t>" % (b"x" * 2**27), "far too large when it is unpacked"),
    ],
    ids=["entities", "zeros"],
)
def test_a_workbook_that_would_fill_the_memory(tmp_path: Path, before: bytes, cell: bytes, says: str) -> None:
    """Entities that name ten of the next each, and a sheet that is packed a thousandfold."""
    path, bomb = tmp_path / "reports.xlsx", tmp_path / "bomb.xlsx"
    pd.DataFrame({"patient": ["a"], "text": ["b"]}).to_excel(path, index=False)
    entities = b"".join(b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 10) for k in range(8))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "xl/worksheets/sheet1.xml":
                row = b'<row r="3"><c r="A3" t="inlineStr"><is>%s</is></c></row></sheetData>' % cell
                content = (before % (b"A" * 1000, entities) if before else b"") + content.replace(b"</sheetData>", row)
            target.writestr(name, content)
    with pytest.raises(UserError, match=says):
        read_rows(bomb, Columns(), ("text",), "--reports")


def test_excel_beside_csv(tmp_path: Path) -> None:
    rows = [
        {"Accession No": "00420", "Befund": "Größe; normal", "exam date": datetime.date(2021, 3, 4)},
        {"Accession No": "7", "Befund": None},
    ]
    pd.DataFrame(rows).to_excel(tmp_path / "reports.xlsx", index=False)
    table = read_rows(tmp_path / "reports.xlsx", Columns(text="Befund"), ("text",), "--reports")
    assert [table.cell(0, role) for role in ("accession", "text", "date")] == ["00420", "Größe; normal", "2021-03-04"]
    assert table.cell(1, "text") == ""
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(UserError, match="not readable as an Excel workbook"):
        read_rows(tmp_path / "broken.xlsx", Columns(), ("text",), "--reports")


def test_dates_become_days() -> None:
    written = ["20210304", "2021-03-04", "2021/03/04", "04.03.2021", "March 4, 2021", "4 March 2021", "2021-03-04 10:11:12"]
    assert {day_of(text) for text in written} == {datetime.date(2021, 3, 4).toordinal()}
    assert [day_of(text) for text in ("3/4/2021", "", "2021", "20211399")] == [None] * 4
    assert study_days([("a", "20210304"), ("b", ""), ("a", "20210301"), ("a", "x"), ("b", "20200101")]) == [3, None, 0, None, 0]


def cohort(tmp_path: Path, texts: list[str], config: IngestConfig | None = None) -> Data:
    """One study per text; the first two are of one patient, ten days apart."""
    rows = []
    for number, text in enumerate(texts):
        patient = f"MRN000{max(1, number)}"

        def change(dataset: Dataset, index: int, number: int = number) -> None:
            dataset.StudyInstanceUID, dataset.AccessionNumber = f"2.25.77.{number}", f"ACC{number}"
            dataset.StudyDate = "20210311" if number == 0 else "20210301"

        series(tmp_path / "in" / str(number), phantom(4, seed=number), patient=patient, uid=f"2.25.50{number}", change=change)
        rows.append({"accession": f"ACC{number}", "report": text})
    pd.DataFrame(rows).to_csv(tmp_path / "reports.csv", index=False)
    ingest(tmp_path / "in", tmp_path / "out", reports=tmp_path / "reports.csv", settings=config, jobs=0, key=b"k" * 32)
    return open_data(tmp_path / "out")


def test_days_from_the_first_study_stand_in_the_manifest(tmp_path: Path) -> None:
    data = cohort(tmp_path, ["One text about a lung.", "Another text on a heart.", "A third text of a bone."])
    days = {key: sorted(part) for key, part in data.manifest.groupby("patient_key")["study_day"]}
    hasher = Hasher(b"k" * 32)
    assert days == {hasher("patient", "MRN0001"): [0, 10], hasher("patient", "MRN0002"): [0]}


def test_normal_reports_that_say_the_same_are_counted(tmp_path: Path) -> None:
    normal = "Findings: Lungs are clear and the heart is of normal size. No effusion is seen.\nImpression: No acute finding."
    data = cohort(tmp_path, [normal, "Impression: Mass of the left lung, 12 mm.", normal.replace("seen.", "seen (2)."), normal])
    assert data.reports is not None
    assert sorted(data.reports["text_group"]) == [0, 1, 1, 1]
    counted = read_card(tmp_path / "out", "data")["report_flags"]
    assert counted == {"nearly_the_same": 3, "normal": 3, "normal_and_nearly_the_same": 3, "same_text_for_several_patients": 2}


def test_comparisons_leave_when_the_settings_say_so(tmp_path: Path) -> None:
    config = IngestConfig(reports=ReportConfig(drop_comparisons=True, language="de"))
    data = cohort(tmp_path, ["Compared to the prior CT unchanged. There is a nodule of the lung.", "Unchanged since 2019."], config)
    assert data.reports is not None
    (report,) = data.reports.to_dict("records")
    assert report["text"] == "There is a nodule of the lung."
    assert report["flags"] == ("other_language",)


def test_a_table_cannot_bring_words_of_its_own_into_the_manifest(tmp_path: Path) -> None:
    """Only words that medcl knows count as a modality."""
    from PIL import Image

    for k in range(2):
        picture = np.random.default_rng(k).integers(0, 255, (24, 30), dtype=np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"{k}.png")
    rows = [{"file": f"{k}.png", "modality": ["CR", "of John Doe"][k], "y": k} for k in range(2)]
    pd.DataFrame(rows).to_csv(tmp_path / "in" / "labels.csv", index=False)
    summary = ingest(tmp_path / "in", tmp_path / "out", labels=tmp_path / "in" / "labels.csv", jobs=0)
    assert summary.modalities == {"xray": 1, "unknown": 1}
