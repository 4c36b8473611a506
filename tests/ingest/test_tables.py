"""Reports and labels: joined to the right scan, sectioned, scrubbed, doubted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from medcl.foundation.errors import UserError
from medcl.ingest import Data, IngestConfig, ingest, open_data
from medcl.ingest.labels import label_columns
from medcl.ingest.naming import FileNames
from medcl.ingest.privacy import Hasher, cap_age
from medcl.ingest.report_text import doubts_of, language_of, sections_of
from medcl.ingest.scrubbing import scrub
from medcl.ingest.settings import Columns
from medcl.ingest.tables import read_rows
from tests.ingest.scanner import phantom, series


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("Findings: Clear lungs. Impression: Normal.", "Clear lungs.", "Normal."),
        ("FINDINGS Clear lungs.\nIMPRESSION 1. Normal.", "Clear lungs.", "1. Normal."),
        ("TECHNIQUE: CT.\nFindings - Clear lungs.\nConclusion / Impression: Normal.", "Clear lungs.", "Normal."),
        ("Befund: Freie Lunge. Beurteilung: Unauffällig.", "Freie Lunge.", "Unauffällig."),
        ("Hallazgos: nada. Conclusión: normal.", "nada.", "normal."),
        ("The findings are unremarkable and the impression is good.", "", ""),
        ("Findings: First.\nRecommendation: CT.\nAddendum: Late.", "First.", ""),
    ],
)  # fmt: skip
def test_sections(text: str, findings: str, impression: str) -> None:
    found = sections_of(text)
    assert (found["findings"], found["impression"]) == (findings, impression)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Seen by Dr. Smith today.", "Seen by [name] today."),
        ("Prof. van der Berg and Mrs Anna Müller agree.", "[name] and [name] agree."),
        ("Compared to 2021-03-04 and 3/4/21.", "Compared to [date] and [date]."),
        ("On March 4, 2021 and 4 Mar 2021 and Jan 2020.", "On [date] and [date] and [date]."),
        ("Call 555-123-4567 or +49 30 1234567.", "[phone] or [phone]."),
        ("MRN: 00123456, accession A1234567.", "[id], [id]."),
        ("Mail a.b@clinic.org or https://x.org/y.", "Mail [email] or [url]"),
        ("UID 1.2.840.113619.2.55 noted.", "UID [id] noted."),
        ("Signed by Jane Doe", "Signed by [name]"),
        ("Lives at 12 Baker Street.", "Lives at [address]"),
    ],
)
def test_scrubbing(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "A 12 mm nodule at T10-12, 3.5 x 2.1 x 4.0 cm, 120 HU; may 3 weeks later be 12.45-13.4 mm.",
        "In this case 3 nodules. Series 4, image 112. ETT 2 cm above the carina. MS plaques. Grade 2/3, 10/12 ribs.",
        "The patient is 64 years old. Right upper lobe 1234 mm3.",
    ],
)
def test_findings_are_not_scrubbed(text: str) -> None:
    assert scrub(text) == (text, ())


def test_known_words_are_scrubbed() -> None:
    clean, kinds = scrub("ZAPHOD's chest; zaphod beeblebrox (MRN0042)", ["Zaphod", "Beeblebrox", "MRN0042"])
    assert clean == "[name]'s chest; [name] [name] ([name])"
    assert kinds == ("name",)


def test_doubts() -> None:
    assert doubts_of("version https://git-lfs.github.com/spec/v1\noid sha256:abc") == ["git_lfs_pointer"]
    assert doubts_of("  ") == ["empty"]
    assert doubts_of("Normal chest.") == ["too_short"]
    assert doubts_of("GroÃŸe Lunge ist frei hier") == ["mojibake"]
    assert doubts_of("The lungs are clear.", patients=2) == ["same_text_for_several_patients"]
    assert doubts_of("The lungs are clear.") == []


def test_language() -> None:
    assert language_of("There is no effusion and the heart is normal in size") == "en"
    assert language_of("Kein Erguss, und die Lunge ist frei, nicht verdichtet") == "de"
    assert language_of("Pas de lésion, le coeur est normal et la plèvre est libre") == "fr"
    assert language_of("Lungs clear") == ""


def test_ages_are_capped() -> None:
    assert [cap_age(age) for age in (95.0, 89.0, 0.5, None, -1.0, 400.0)] == [89.0, 89.0, 0.5, None, None, None]


def test_hashes_need_the_key_and_keep_purposes_apart() -> None:
    one, other = Hasher(b"1" * 32), Hasher(b"2" * 32)
    assert one("patient", "A") == one("patient", "A") != other("patient", "A")
    assert one("patient", "A") != one("study", "A")
    assert len(one("patient", "A")) == 20


def csv_file(folder: Path, rows: list[dict[str, object]], name: str = "table.csv", **options: object) -> Path:
    pd.DataFrame(rows).to_csv(folder / name, index=False, **options)  # type: ignore[call-overload]
    return folder / name


def test_label_columns_leave_out_what_identifies(tmp_path: Path) -> None:
    rows = [
        {"patient_id": f"P{k}", "PatientName": "A", "finding": "ab"[k % 2], "score": k / 7, "mrn_number": 10_000_000 + k,
         "read_by": ["Dr. Ada", "Dr. Bob"][k % 2], "Reader": "ab"[k % 2], 
         "scan_date": "2020-01-01", "seen": ["2020-01-01", "2020-01-02"][k % 2], "comment": "ab"[k % 2], "constant": 1, "free": f"text {k}",
         "Pathology": "xyz"[k % 3]}
        for k in range(40)
    ]  # fmt: skip
    table = read_rows(csv_file(tmp_path, rows), Columns(), ("patient",), "--labels")
    assert label_columns(table, None) == ("finding", "score", "Pathology")
    assert label_columns(table, ("free",)) == ("free",)
    with pytest.raises(UserError, match="has no column 'nope'"):
        label_columns(table, ("nope",))


def test_label_columns_of_four_languages_leave_out_what_identifies(tmp_path: Path) -> None:
    names = "zip PLZ city Ort initials Arzt Ärztin Zuweiser Médecin médico nom prénom apellidos Geburtsjahr yob Fallnummer SSN"
    names += " Krankenhaus Straße case_no"
    rows = [
        {"patient_id": f"P{k // 2}", **dict.fromkeys(names.split(), [10115, 80331][k % 2]), "age_at_scan": 60 + k, "Alter": 60 + k}
        | {
            "bone_age": 12 * (k // 2),
            "duodenum": k % 2,
            "age_group": "ab"[k % 2],
            "stage": k % 3,
            "number_of_nodules": k % 4,
            "Diagnose": "ab"[k % 2],
        }
        for k in range(40)
    ]
    table = read_rows(csv_file(tmp_path, rows), Columns(), ("patient",), "--labels")
    assert label_columns(table, None) == ("bone_age", "duodenum", "age_group", "stage", "number_of_nodules", "Diagnose")
    assert label_columns(table, ("age_at_scan",)) == ("age_at_scan",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_csv_dialects(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows: list[dict[str, object]] = [{"File Name": "a.png", "Befund": 'Größe, "normal"; frei'}]
    table = read_rows(csv_file(tmp_path, rows, sep=delimiter, encoding=encoding), Columns(text="Befund"), ("text",), "--reports")
    assert table.cell(0, "text") == 'Größe, "normal"; frei'
    assert table.cell(0, "file") == "a.png"


def test_a_wrong_table_is_explained(tmp_path: Path) -> None:
    path = csv_file(tmp_path, [{"x": 1}])
    with pytest.raises(UserError, match=r"no column for text among x; name it in the settings"):
        read_rows(path, Columns(), ("text",), "--reports")
    with pytest.raises(UserError, match=r"has no column 'y' \(settings: columns\.text\)"):
        read_rows(path, Columns(text="y"), ("text",), "--reports")
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.csv", Columns(), ("text",), "--reports")


def cohort(folder: Path) -> Path:
    """Three patients, one CT each; MRN0001's accession is ACC0001 and so on."""
    for number in (1, 2, 3):
        series(folder / str(number), phantom(4, seed=number), patient=f"MRN000{number}", uid=f"2.25.10{number}")
    return folder


def ingested(tmp_path: Path, **options: object) -> Data:
    ingest(cohort(tmp_path / "in"), tmp_path / "out", jobs=0, key=b"k" * 32, **options)  # type: ignore[arg-type]
    return open_data(tmp_path / "out")


@pytest.mark.parametrize("column", ["AccessionNumber", "PatientID", "StudyInstanceUID"])
def test_reports_join_by_every_key(tmp_path: Path, column: str) -> None:
    values = {"AccessionNumber": "ACC000{}", "PatientID": "MRN000{}", "StudyInstanceUID": "2.25.10{}.10007"}[column]
    rows: list[dict[str, object]] = [
        {column: values.format(k), "report": f"Findings: finding number {k} is seen. Impression: {k}."} for k in (3, 1, 9)
    ]
    data = ingested(tmp_path, reports=csv_file(tmp_path, rows))
    hasher = Hasher(b"k" * 32)
    texts = {} if data.reports is None else dict(zip(data.reports["report_id"], data.reports["text"], strict=True))
    by_patient = dict(zip(data.manifest["patient_key"], data.manifest["report_id"], strict=True))
    assert len(texts) == 2
    for k in (1, 3):
        assert f"number {k} " in texts[by_patient[hasher("patient", f"MRN000{k}")]]
    assert by_patient[hasher("patient", "MRN0002")] == ""


def test_two_reports_of_one_patient_are_not_guessed_apart(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"PatientID": "MRN0001", "report": f"Report text number {k}."} for k in (1, 2)]
    data = ingested(tmp_path, reports=csv_file(tmp_path, rows))
    assert data.reports is None
    assert set(data.manifest["report_id"]) == {""}


def test_names_of_the_header_leave_the_report(tmp_path: Path) -> None:
    text = "CANARYLAST, CanaryFirst was seen by CANARYDOC at CANARY Hospital. MRN0001, ACC0001. No effusion."
    data = ingested(tmp_path, reports=csv_file(tmp_path, [{"accession": "ACC0001", "report": text}]))
    assert data.reports is not None
    row = data.reports.iloc[0]
    assert "canary" not in row["text"].lower()
    assert "0001" not in row["text"]
    assert "No effusion." in row["text"]
    assert "scrubbed_name" in row["flags"]


@pytest.mark.parametrize(
    ("said", "encoding"),
    [("ISO_IR 101", "iso8859_2"), ("ISO_IR 192", "utf-8"), ("ISO_IR 100", "utf-8"), ("ISO 2022 IR 6\\ISO 2022 IR 101", "")],
)
def test_names_are_read_in_the_alphabet_that_the_header_says(tmp_path: Path, said: str, encoding: str) -> None:
    content = "Dvořák^Zdeněk".encode(encoding) if encoding else b"Dvo\x1b-B\xf8\xe1k^Zden\x1b-B\xeck"

    def change(dataset: Dataset, _: int) -> None:
        dataset[0x00100010] = RawDataElement(Tag(0x00100010), "PN", len(content), content, 0, False, True)
        dataset.SpecificCharacterSet = said.split("\\")

    series(tmp_path / "in", phantom(4), change=change)
    table = csv_file(tmp_path, [{"accession": "ACC0001", "report": "Findings: Dvořák was seen; Zdeněk too. No effusion."}])
    ingest(tmp_path / "in", tmp_path / "out", reports=table, jobs=0)
    reports = open_data(tmp_path / "out").reports
    assert reports is not None
    assert reports["text"].tolist() == ["Findings: [name] was seen; [name] too. No effusion."]


def test_names_in_columns_of_a_table_leave_its_reports_and_are_looked_for(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 1)
    row: dict[str, object] = {"file": "in/a.png", "Patient Name": "QUILL, Jo^Ann", "Zuweiser": "Prof. Umbra", "series_name": "Effusion"}
    table = csv_file(tmp_path, [row | {"report": "Findings: quill and Umbra agree; Ann, too. No effusion at all."}])
    ingest(tmp_path / "in", tmp_path / "out", reports=table, jobs=0)
    reports = open_data(tmp_path / "out").reports
    assert reports is not None
    assert reports["text"].tolist() == ["Findings: [name] and [name] agree; [name], too. No effusion at all."]
    known = pd.read_parquet(tmp_path / "out" / "private" / "identifiers.parquet")
    assert {"QUILL", "Ann", "Umbra"} <= set(known.loc[known["kind"] == "name", "value"])


def test_none_is_a_class_among_words_and_nothing_among_numbers(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"PatientID": f"MRN000{k}", "lesion": word, "grade": number}
        for k, word, number in ((1, "none", "1"), (2, "None", "none"), (3, "benign", "2"))
    ]
    labels = ingested(tmp_path, labels=csv_file(tmp_path, rows), settings=IngestConfig(label_columns=("lesion", "grade"))).labels
    assert labels is not None
    assert sorted(labels["lesion"]) == ["None", "benign", "none"]
    assert sorted(labels["grade"].dropna()) == [1.0, 2.0]


def test_labels_by_folder_and_patient(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"file": f"in/{k}", "nodule": k % 2, "side": "LR"[k % 2]} for k in (1, 2)]
    rows.append({"file": "in/7", "nodule": 1, "side": "L"})
    data = ingested(tmp_path, labels=csv_file(tmp_path, rows))
    assert data.labels is not None
    assert len(data.labels) == 2
    merged = data.manifest.merge(data.labels, on="volume_id").set_index("patient_key")
    hasher = Hasher(b"k" * 32)
    assert merged.loc[hasher("patient", "MRN0001"), ["nodule", "side"]].tolist() == [1.0, "R"]
    assert merged.loc[hasher("patient", "MRN0002"), ["nodule", "side"]].tolist() == [0.0, "L"]


def test_a_split_of_the_table_is_kept_and_a_torn_patient_is_an_error(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"patient": f"MRN000{k}", "y": k % 2, "split": part} for k, part in ((1, "training"), (2, "Valid"), (3, "test"))
    ]
    data = ingested(tmp_path, labels=csv_file(tmp_path, rows))
    hasher = Hasher(b"k" * 32)
    parts = dict(zip(data.manifest["patient_key"], data.manifest["split"], strict=True))
    assert [parts[hasher("patient", f"MRN000{k}")] for k in (1, 2, 3)] == ["train", "val", "test"]


def picture(path: Path, seed: int, side: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side + 6), dtype=np.uint8)).save(path)
    return path


def test_pictures_with_a_table(tmp_path: Path) -> None:
    for k in range(4):
        picture(tmp_path / "in" / "images" / f"{k}.png", k)
    picture(tmp_path / "in" / "raw" / "0.png", 9)
    rows: list[dict[str, object]] = [
        {
            "image": f"images/{k}.png",
            "patientid": k // 2,
            "finding": "ab"[k % 2],
            "clinical_notes": f"The note number {k}.",
            "age": 95,
            "sex": "f",
        }
        for k in range(4)
    ]
    table = csv_file(tmp_path / "in", rows)
    summary = ingest(tmp_path / "in", tmp_path / "out", reports=table, labels=table, settings=IngestConfig(modality="xray"), jobs=0)
    assert (summary.pictures, summary.patients, summary.reports) == (4, 2, 4)
    assert summary.reasons == {"not_in_table": 1}
    data = open_data(tmp_path / "out")
    assert set(data.manifest["age_years"]) == {89.0}
    assert set(data.manifest["sex"]) == {"F"}
    assert data.manifest["orientation"].notna().all()
    shapes = {data.volume(name).array.shape for name in data.manifest["volume_id"]}
    assert shapes == {(30, 24, 1)}


def test_real_notes(real_data: Path, tmp_path: Path) -> None:
    table = real_data / "cxr_notes" / "manifest.csv"
    summary = ingest(real_data / "cxr_notes", tmp_path, reports=table, labels=table, jobs=0)
    assert (summary.pictures, summary.patients, summary.reports) == (159, 97, 159)
    assert summary.reasons == {"not_in_table": 9, "duplicate_volume": 1}
    data = open_data(tmp_path)
    assert data.labels is not None
    assert "finding_group" in data.labels.columns
    assert not {"url", "doi", "location", "date", "orig_filename", "license", "image", "patientid"} & set(data.labels.columns)
    assert data.manifest.groupby("patient_key")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("values", "files", "expected"),
    [
        (["images/p1/a.png", "images/p2/a.png"], ["p1/a.png", "p2/a.png", "p3/a.png"], [[0], [1], []]),
        (["p1/a.png"], ["p1/a.png", "p2/a.png"], [[0], []]),
        (["a.png"], ["p1/a.png", "p2/a.png"], [[], []]),
        (["a.png", "a.png"], ["p1/a.png"], [[0, 1]]),
        (["p1/a.png", "p2/a.png"], ["a.png"], [[]]),
        (["case"], ["images/case.nii.gz", "labelsTr/case.nii.gz", "case.png"], [[0], [0], [0]]),
        (["1.2.1", "1.2.2"], ["1.2.1.dcm", "1.2.2.png", "1.2.dcm"], [[0], [1], []]),
        (["/old/p1/a.nii", "\\\\old\\p2\\a.nii"], ["p1/a.nii.gz", "p2/a.nii.gz"], [[0], [1]]),
    ],
)
def test_a_row_belongs_to_the_one_file_that_it_names(values: list[str], files: list[str], expected: list[list[int]]) -> None:
    names = FileNames(values, Path("/nowhere"))
    names.meet(f"/data/{name}" for name in files)
    assert [names.rows(f"/data/{name}") for name in files] == expected


def test_a_table_that_lies_elsewhere_gives_every_patient_their_own_report(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    for k in (1, 2, 3):
        picture(tmp_path / "in" / f"p{k}" / "image.png", k)
        rows.append({"file": f"images/p{k}/image.png", "patient": f"P{k}", "report": f"The report of patient {k} it is."})
    (tmp_path / "elsewhere").mkdir()
    table = csv_file(tmp_path / "elsewhere", rows)
    ingest(tmp_path / "in", tmp_path / "out", reports=table, settings=IngestConfig(modality="xray"), jobs=0, key=b"k" * 32)
    data = open_data(tmp_path / "out")
    assert data.reports is not None
    texts = dict(zip(data.reports["report_id"], data.reports["text"], strict=True))
    hasher = Hasher(b"k" * 32)
    found = {row.patient_key: texts[row.report_id] for row in data.manifest.itertuples()}
    assert found == {hasher("patient", f"P{k}"): f"The report of patient {k} it is." for k in (1, 2, 3)}


def test_an_accession_that_two_patients_have_is_told_apart_by_the_patient(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"PatientID": patient, "accession": "ACC0001", "report": f"The report of {which} patient it is.", "y": k}
        for k, (patient, which) in enumerate((("OTHER", "another"), ("MRN0001", "this")))
    ]
    table = csv_file(
        tmp_path, [*rows, {"PatientID": "X", "accession": "ACC0002", "y": 0}, {"PatientID": "Z", "accession": "ACC0002", "y": 0}]
    )
    data = ingested(tmp_path, reports=table, labels=table)
    assert data.reports is not None
    assert data.reports["text"].tolist() == ["The report of this patient it is."]
    assert data.labels is not None
    assert data.labels["y"].tolist() == [1.0]
