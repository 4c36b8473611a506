"""Report texts: scrubbed by rules in four languages, cut into sections, their sides found, near copies grouped."""

from __future__ import annotations

import json

import pytest

from medcl.ingest.report_text import doubts_of, is_normal, sections_of, without_comparisons
from medcl.ingest.scrubbing import scrub
from medcl.ingest.sides import sides_by_sentence, sides_of
from medcl.ingest.similar import groups_of_near


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        # names near titles, before degrees, after `signed by`
        ("Seen by Prof. Dr. med. Müller-Lüdenscheidt.", "Seen by [name]."),
        ("Frau Anna Schmidt und Herrn Weber gesehen.", "[name] und [name] gesehen."),
        ("M. Dupont et Mme Le Goff vus.", "[name] et [name] vus."),
        ("El Dr. García López y la Sra. de la Fuente.", "El [name] y la [name]."),
        ("Befundet von: Jana Richter", "Befundet von: [name]"),
        ("Validé par Jean Martin", "Validé par [name]"),
        ("Firmado por: Lucía Ortega", "Firmado por: [name]"),
        ("Electronically signed by: DOE, JANE", "Electronically signed by: [name]"),
        ("John A. Smith, MD", "[name], MD"),
        ("Patient: DOE, JANE", "Patient: [name]"),
        # dates
        ("Voraufnahme vom 3. März 2021 und 04.03.21.", "Voraufnahme vom [date] und [date]."),
        ("Scanner du 4 février 2020, puis en août 2021.", "Scanner du [date], puis en [date]."),
        ("TC del 5 de marzo de 2019 y enero de 2020.", "TC del [date] y [date]."),
        ("CT of 03/2020.", "CT of [date]."),
        ("A 93-year-old woman, 91 ans, 95 años, 90jährig.", "A [age]-year-old woman, [age] ans, [age] años, [age]jährig."),
        (
            "94 F, aged 95, age: 97. Alter: 93, Patientin, 93 J. Edad: 95.",
            "[age] F, aged [age], age: [age]. Alter: [age], Patientin, [age] J. Edad: [age].",
        ),
        (
            "CT 12-Mar-2021, 14MAR2021, dated 3/14; VU vom 12.03., born 1931.",
            "CT [date], [date], dated [date]; VU vom [date], born [date].",
        ),
        # names in capitals, in none, without a space, with more between title and name
        ("DISCUSSED WITH DR SMITH. SEEN BY DR. JANE DOE", "DISCUSSED WITH DR [name]. SEEN BY [name]"),
        ("told dr. smith, Dr.Müller, Mr. d'Angelo and nurse Kelly", "told [name], [name], [name] and nurse Kelly"),
        ("Told to nurse Kelly. Communicated to Jane Doe, RN", "Told to nurse [name]. Communicated to [name], RN"),
        ("Dr. med. univ. Anna Berger, Dra. María de los Ángeles", "[name], [name]"),
        ("Firmado: Ana Pérez. D. Juan Pérez", "Firmado: [name]. D. [name]"),
        # phone numbers
        ("Tel.: 030/1234567, Durchwahl 4711-22", "[phone], [phone]"),
        ("Tél. 01 23 45 67 89", "Tél. [phone]"),
        ("Rappeler le 06.12.34.56.78", "Rappeler le [phone]"),
        ("Tfno: 912 345 678", "Tfno: [phone]"),
        # identifiers
        ("Pat.-Nr. 4711, Fallnummer: 0815", "[id], [id]"),
        ("N° de dossier 12345", "[id]"),
        ("NHC: 998877, DNI 12345678Z", "[id], [id]"),
        ("SSN 123-45-6789 and case AB12345X.", "SSN [id] and case [id]."),
        # addresses and places
        ("Wohnt Hauptstraße 12, 10115 Berlin.", "Wohnt [address], [address]."),
        ("Habite 12, rue de la Paix, 75002 Paris.", "Habite [address], [address]."),
        ("Vive en Calle Mayor 3.", "Vive en [address]."),
        ("Moved to Boston, MA 02115.", "Moved to [address]."),
        ("Images from Saint Elsewhere Hospital.", "Images from [place]."),
        ("Zuweisung Klinikum Neustadt.", "Zuweisung [place]."),
    ],
)
def test_scrubbing_in_four_languages(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "Verdacht auf M. Crohn, M. Parkinson bekannt.",
        "A 12x14x110mm lesion; 120x110x95 mm; 1200mm3; COVID-2019 pneumonia; PSMA-1007 PET; C5-C6 and L4/5.",
        "The patient: known COPD. Sister chromatids. Mild mr. Impression: no change since March.",
        "FEV1 45%, CA19-9 37 U/ml, 99mTc, T12-L1, BI-RADS 4, Hospital course unclear, no clinic visit.",
        "COMPARED TO DR CHEST. MR ABDOMEN. VITAMIN D Deficiency Known. 94% at 100 mA, FiO2 95 %, aged care. On 3/6 images. On MRS. Normal.",
        "Der Patient ist 64 Jahre alt. Le patient de 64 ans. Im Mai 3 Rundherde.",
    ],
)
def test_what_a_report_must_keep(text: str) -> None:
    assert scrub(text) == (text, ())


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        (
            "TECHNIQUE: CT.\nCOMPARISON: None.\nFINDINGS: Clear.\nIMPRESSION: Normal.",
            {"technique": "CT.", "comparison": "None.", "findings": "Clear.", "impression": "Normal."},
        ),
        (
            "Technik: Spiral-CT.\nVoruntersuchung: keine.\nBefund: Freie Lunge.\nBeurteilung: Unauffällig.",
            {"technique": "Spiral-CT.", "comparison": "keine.", "findings": "Freie Lunge.", "impression": "Unauffällig."},
        ),
        (
            "Technique : hélicoïdal.\nComparaison : aucune.\nRésultats : rien.\nConclusion : normal.",
            {"technique": "hélicoïdal.", "comparison": "aucune.", "findings": "rien.", "impression": "normal."},
        ),
        (
            "Técnica: TC.\nEstudio previo: no.\nHallazgos: nada.\nImpresión diagnóstica: normal.",
            {"technique": "TC.", "comparison": "no.", "findings": "nada.", "impression": "normal."},
        ),
        (
            'The lungs are clear. Heart is normal. " Examination within normal limits." No effusion.',
            {"findings": "The lungs are clear. Heart is normal.", "impression": "Examination within normal limits.\nNo effusion."},
        ),
        ("The lungs are clear. • Nodule. • Effusion.", {"findings": "The lungs are clear.", "impression": "Nodule.\nEffusion."}),
        ('He said "fine" and left.', {}),
    ],
)
def test_all_sections(text: str, sections: dict[str, str]) -> None:
    found = sections_of(text)
    assert {name: body for name, body in found.items() if body} == sections


def test_more_doubts() -> None:
    assert doubts_of("Findings: ___ . Impression: [enter text]") == ["template_only"]
    assert doubts_of("Report Text: Enter text") == ["template_only"]
    assert doubts_of("Addendum: the left nodule is new, on second look.") == ["addendum"]
    assert doubts_of("Nachtrag: Es ist kein Erguss und keine Stauung.", language="de") == ["addendum"]
    assert doubts_of("Die Lunge ist frei und das Herz nicht vergrößert.", language="en") == ["other_language"]
    assert doubts_of("Die Lunge ist frei und das Herz nicht vergrößert.", language="de") == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Compared to the prior CT, the nodule grew. There is a nodule of 5 mm.", "There is a nodule of 5 mm."),
        ("FINDINGS: Unchanged effusion. Clear left lung.\nIMPRESSION: Clear.", "FINDINGS: Clear left lung.\nIMPRESSION: Clear."),
        ("Comparison: CT of 2019.\nFindings: Clear.", "Findings: Clear."),
        ("Im Vergleich zur Voraufnahme unverändert. Kein Erguss.", "Kein Erguss."),
        ("Nodule stable depuis 2019. Pas d'épanchement.", "Pas d'épanchement."),
        ("Sin cambios respecto a estudio previo. No derrame.", "No derrame."),
        ("Prior surgery. Previous sternotomy wires.", "Prior surgery. Previous sternotomy wires."),
    ],
)
def test_comparisons_are_left_out(text: str, kept: str) -> None:
    assert without_comparisons(text) == kept


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Left lower lobe nodule and RUL opacity.", ("left", "right")),
        ("Bibasilar atelectasis, both lungs.", ("both",)),
        ("Linksseitiger Erguss, rechte Lunge frei, beidseits Narben.", ("left", "right", "both")),
        ("Épanchement gauche, poumon droit libre, bilatéral.", ("left", "right", "both")),
        ("Derrame izquierdo, pulmón derecho, ambas bases.", ("left", "right", "both")),
        ("The tube was left in place. It is bright and upright.", ()),
        ("No effusion.", ()),
    ],
)
def test_sides(text: str, sides: tuple[str, ...]) -> None:
    assert sides_of(text) == sides


def test_sides_by_sentence() -> None:
    found = json.loads(sides_by_sentence("Clear right lung. No effusion.\nLeft nodule, both hila normal."))
    assert found == {"right": [0], "left": [2], "both": [2]}
    assert sides_by_sentence("No effusion.") == "{}"


def test_normal() -> None:
    assert is_normal("No acute finding. The lungs are clear.")
    assert is_normal("Unauffälliger Befund. Kein Erguss.") and is_normal("Pas d'anomalie.") and is_normal("Sin hallazgos.")
    assert not is_normal("No effusion. Nodule in the right lung.")
    assert not is_normal("Normal except for a hernia.") and not is_normal("No change since 2019.") and not is_normal("")


def test_near_copies_are_grouped() -> None:
    normal = "The lungs are clear. The heart is normal in size. There is no pleural effusion and no pneumothorax. Bones are unremarkable."
    other = "A spiculated mass of the right upper lobe with enlarged hilar nodes and a large effusion on the same side is suspicious."
    texts = [other, normal, normal.upper() + " 3", "Short.", normal.replace("Bones are", "Bones seem"), "Short."]
    groups = groups_of_near(texts)
    assert groups == [0, 1, 1, 2, 1, 2]
    assert groups_of_near([]) == []


def test_a_short_name_is_one_beside_the_patient_s_other_name() -> None:
    assert scrub("Li, Wei (WEI LI); li. Seite", ["Li", "Wei"])[0] == "[name], [name] ([name] [name]); li. Seite"
    assert scrub("li. Unterlappen", ["Li", "Wei"]) == ("li. Unterlappen", ())
