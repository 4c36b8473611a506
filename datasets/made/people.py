"""Who they are: invented names, numbers, dates and visits. Every identifier here is a canary for tests of privacy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from .chance import generator, number

_FIRST_F = ("ALDA", "BERIT", "CORISANDE", "DELPHINE", "EUDORA", "FENELLA", "GRISELDA", "HEDWIG", "ISOLDE", "JOCASTA", "KERENZA", "LOVEDAY")
_FIRST_M = (
    "AMBROSE",
    "BALTHASAR",
    "CASPIAN",
    "DIGGORY",
    "EVANDER",
    "FLORIAN",
    "GAWAIN",
    "HORATIO",
    "IGNATZ",
    "JOACHIM",
    "KASIMIR",
    "LEANDER",
)
_LAST = (
    *("ZZTESTOWSKI", "QUILLFEATHER", "BRAMBLEDOWN", "VANDERFAKE", "MOCKRIDGE", "SHAMLEY", "PHANTOMHAUSEN", "DUMMERLING", "ERSATZBERG"),
    *("INVENTINI", "FABRICANT", "NOWHEREMAN", "PRETENDRE", "SYNTHWORTH", "TOYSTERMAN", "UNREALSON", "FICTIVSEN", "MADEUPIAN"),
)
_DOCTORS = ("HOLLOWAY^IMOGEN^^DR", "STRAWBRIDGE^OTIS^^DR", "PAPERMAN^LYDIA^^DR")
INSTITUTION = "ST ELSEWHERE MEMORIAL HOSPITAL"
ADDRESS = "1 NOWHERE LANE, EREWHON"


@dataclass(frozen=True)
class Person:
    """One invented patient; `index` is the key of everything drawn for them."""

    index: int
    name: str  # DICOM form, FAMILY^GIVEN
    patient_id: str
    birth_date: str
    sex: str
    phone: str

    @property
    def family(self) -> str:
        return self.name.split("^")[0]


@dataclass(frozen=True)
class Visit:
    """One study of one person."""

    person: Person
    part: str
    study: int
    date: str
    time: str
    accession: str
    physician: str
    age_years: int


def draw_person(seed: int, index: int) -> Person:
    draw = generator(seed, "person", index)
    sex = str(draw.choice(["F", "M"]))
    first = str(draw.choice(_FIRST_F if sex == "F" else _FIRST_M))
    born = date(1930, 1, 1) + timedelta(days=int(draw.integers(0, 26000)))
    return Person(
        index,
        f"{draw.choice(_LAST)}^{first}",
        "MRN" + number(seed, "patient id", index, digits=8),
        born.strftime("%Y%m%d"),
        sex,
        "555-" + number(seed, "phone", index, digits=7),
    )


def draw_visit(seed: int, person: Person, part: str, study: int) -> Visit:
    draw = generator(seed, f"visit {part}", person.index, study)
    when = date(2019, 1, 7) + timedelta(days=int(draw.integers(0, 500)) + 400 * study)
    born = date(int(person.birth_date[:4]), int(person.birth_date[4:6]), int(person.birth_date[6:]))
    return Visit(
        person,
        part,
        study,
        when.strftime("%Y%m%d"),
        f"{int(draw.integers(7, 19)):02d}{int(draw.integers(0, 60)):02d}{int(draw.integers(0, 60)):02d}",
        "ACC" + number(seed, f"accession {part}", person.index, study, digits=9),
        str(draw.choice(_DOCTORS)),
        (when - born).days * 4 // 1461,
    )


def num_studies(seed: int, part: str, index: int) -> int:
    """One study for most, two for about a quarter."""
    return 2 if generator(seed, f"studies {part}", index).random() < 0.25 else 1
