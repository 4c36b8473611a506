"""Rules that scrub free text of names, dates, numbers and addresses, in English, German, French and Spanish."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MONTHS = (
    "(?:(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
    "|May|MAY)"
)
_FOREIGN_MONTHS = (
    "(?i:januar|jänner|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|fevrier|mars|avril|juin|juillet|août|aout|septembre"
    "|octobre|novembre|décembre|decembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|setiembre|octubre|noviembre|diciembre)"
)
_ANY_MONTH = f"(?:{_MONTHS}|{_FOREIGN_MONTHS})"
_TITLES = (
    r"Dr|Drs|Dra|Prof|Professor|Mr|Mrs|Ms|Miss|Doctor|Sister|Nurse|Herrn?|Frau|Oberarzt|Oberärztin|Chefarzt|Chefärztin|Assistenzarzt"
    r"|Assistenzärztin|Dott|Monsieur|Madame|Mme|Mlle|Docteur|Docteure|Sra?|Srta|Señora?|Don|Doña|Doctora"
)
_DISEASES = (  # `M. Crohn` is Morbus Crohn
    "Crohn|Parkinson|Bechterew|Basedow|Hodgkin|Scheuermann|Paget|Wilson|Alzheimer|Ormond|Boeck|Castleman|Perthes|Addison|Cushing|Whipple"
    "|Waldenström|Kahler|Dupuytren|Osler|Forestier|Sudeck|Still"
)
_NAME = r"(?:(?:[dDlL]['’])?[A-ZÀ-Þ][\w'’-]+|[A-ZÀ-Þ]\.)"
_PARTICLE = r"(?:(?:van|von|zu|de|der|den|da|di|del|la|las|los|le|du|des)\s+){0,2}"
_FULL_NAME = rf"{_PARTICLE}{_NAME}(?:[ \t]+{_PARTICLE}{_NAME}){{0,2}}"
_TITLE_CASE = r"[A-ZÀ-Þ][a-zß-ÿ'’-]+"
_BY = (
    r"(?:(?:electronically\s+)?(?:dictated|signed|reported|verified|approved|read|interpreted|transcribed)\s+by|patient(?:'s)?\s+name|name"
    r"|radiologist|attending|referring\s+physician|referred\s+by|befundet\s+von|befunder(?:in)?|diktiert\s+von|unterzeichnet\s+von|vidiert\s+von|gez\."
    r"|zuweiser(?:in)?|signé\s+par|dicté\s+par|validé\s+par|nom|prénom|médecin|firmado\s+por|dictado\s+por|informado\s+por|nombre|apellidos|médico)"
)
_SIGNED = r"(?:signed|signature|unterschrift|unterzeichnet|gezeichnet|arzt|ärztin|signée?|firmad[oa]|firma)"
_TOLD = r"(?:with|to|from|by|mit|an|von|avec|à|con|a)"
_SCANNED = r"(?i:chest|thorax|abdomen|pelvis|spine|hip|knee|ankle|foot|shoulder|elbow|wrist|hand|skull|images?)\b"  # by digital radiography
_CREDENTIALS = r"MD|M\.D\.|DO|FRCR|FACR|MBBS|MBChB|RN|NP|CRNP|PA-C|Ph\.?D"
_SUBJECT = r"(?:patient|patientin|patiente|paciente)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_OLD = r"(?:9\d|1[01]\d)"  # years
_ID_WORDS = (
    r"MRN|PID|ID|acc(?:ession)?|patient\s+(?:id|no|number)|exam\s+(?:id|no|number)|pat(?:ienten)?\.?-?(?:nr|nummer|id)|fall-?(?:nr|nummer)"
    r"|aufnahme-?(?:nr|nummer)|versicherten-?(?:nr|nummer)|IPP|NIP|NDA|(?:n°|numéro)\s+(?:de\s+)?(?:dossier|patient|sécurité\s+sociale)|NHC|DNI|NIE|CIP"
    r"|(?:n[º°.]|número)\s+(?:de\s+)?(?:historia|paciente)(?:\s+clínica)?|historia\s+clínica"
)
_PHONE_WORDS = r"tel|tél|telefon|téléphone|teléfono|tfno|phone|fax|call|pager|ext|durchwahl|handy|móvil|portable"
_STREETS = r"Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Boulevard|Blvd"
# Order matters: addresses before numbers, dates before phone numbers, phone numbers before bare long numbers.
RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("url", re.compile(r"\b(?:https?://|www\.)\S+", re.I)),
    ("email", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")),
    ("date", re.compile(r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b")),
    ("date", re.compile(rf"\b{_DAY}([-/.]){_DAY}\1(?:\d{{4}}|\d{{2}})\b(?!\.\d)")),
    ("date", re.compile(r"\b(?:0?[1-9]|1[0-2])[/.](?:19|20)\d{2}\b")),
    ("date", re.compile(rf"\b{_MONTHS}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b")),
    ("date", re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th|er|\.|º)?\s+(?:of\s+|de\s+)?{_ANY_MONTH}\b\.?(?:,?\s+(?:de\s+|del\s+)?\d{{4}})?")),
    ("date", re.compile(rf"\b{_ANY_MONTH}\.?,?\s+(?:de\s+|del\s+)?(?:19|20)\d{{2}}\b")),
    ("date", re.compile(r"\b(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b")),
    ("date", re.compile(r"\b\d{1,2}-?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*-?(?:\d{4}|\d{2})\b", re.I)),
    ("date", re.compile(r"\b(?:vom|am|seit)\s+(?P<it>\d{1,2}\.\d{1,2}\.)(?!\d)", re.I)),
    ("date", re.compile(r"\b(?:on|from|dated)\s+(?P<it>(?:0?[1-9]|1[0-2])/(?:1[3-9]|2\d|3[01]))\b(?!/)", re.I)),
    ("date", re.compile(r"\b(?:born|geb(?:oren)?\.?|née?|nacid[oa])\s+(?:in\s+|en\s+)?(?P<it>(?:18|19)\d{2})\b", re.I)),
    ("age", re.compile(rf"\b{_OLD}(?=[\s-]*(?:years?|yrs?|y\.?/?o|jahre|jährig|ans\b|años))", re.I)),
    ("age", re.compile(rf"\b(?:aged?|alter|edad|[âa]ge)\b\s*:?\s*(?P<it>{_OLD})\b(?![.,]\d|\s*%)", re.I)),
    ("age", re.compile(rf"\b{_OLD}(?=\s?[FM]\b(?!\.\d)|\s?J\b)")),
    ("phone", re.compile(r"\b0\d(?:[\s.-]\d{2}){4}\b|\b[6789]\d{2}[\s.-]\d{3}[\s.-]\d{3}\b")),
    ("id", re.compile(r"\b(?:\d+\.){4,}\d+\b")),
    ("id", re.compile(rf"(?<!\w)(?:{_ID_WORDS})\s*(?:no\.?|number)?\s*[:#=.]*\s*[A-Z]{{0,4}}-?\d[\w-]{{3,}}", re.I)),
    ("id", re.compile(rf"(?<!\w)(?:{_ID_WORDS})\s*(?:no\.?|number)?\s*[:#=]\s*[A-Z]{{0,4}}-?\d[\w-]*", re.I)),
    ("address", re.compile(rf"\b\d{{1,5}}\s+(?:{_NAME}\s+){{1,3}}(?:{_STREETS})\b\.?")),
    ("address", re.compile(r"\b[A-ZÄÖÜ][\wäöüß-]*(?:straße|strasse|str\.|gasse|allee|platz|weg)\s+\d{1,4}\s?[a-z]?\b")),
    ("address", re.compile(rf"\b\d{{1,4}}(?:\s?bis)?,?\s+(?:rue|avenue|boulevard|chemin|place|allée|quai)\s+{_FULL_NAME}", re.I)),
    ("address", re.compile(rf"\b(?:Calle|C/|Avenida|Avda\.?|Plaza|Paseo)\s*{_FULL_NAME},?\s+(?:n[º°.]\s*)?\d{{1,4}}\b")),
    ("address", re.compile(rf"\b(?:[A-Z]{{1,2}}-)?\d{{5}}\s+{_TITLE_CASE}\b|\b{_TITLE_CASE},\s+[A-Z]{{2}}\s+\d{{5}}\b")),
    ("phone", re.compile(rf"\b(?:{_PHONE_WORDS})\b\.?:?\s*\+?\(?\d[\d\s()./-]{{3,}}\d", re.I)),
    ("phone", re.compile(r"\+\d{1,3}[\s.-]?(?:\(?\d{1,5}\)?[\s.-]?){2,5}\d{2,}")),
    ("phone", re.compile(r"\(\d{2,5}\)\s?\d{3,4}[\s.-]?\d{2,5}\b|\b\d{3}[\s.-]\d{3,4}[\s.-]\d{4}\b|\b0\d{2,4}[-/\s]\d{5,8}\b")),
    ("id", re.compile(r"\b\d{3}-\d{2}-\d{4}\b")),
    ("id", re.compile(r"\b[A-Z]{0,4}-?\d{6,}[A-Z]?\b")),
    # A code of letters and digits, such as no size (12x14x110mm), tracer or disease has.
    ("id", re.compile(r"\b(?!\d+(?:[x×]\d|[a-z]+\d?\b)|COVID|PSMA)(?=[\w-]*\d{3})(?=(?:[\w-]*?\d){4})(?=[\w-]*[A-Za-z])[\w-]{7,}\b")),
    ("name", re.compile(rf"\b(?:(?:{_TITLES})\b(?:\.\s*|\s+)(?:(?:med|dent|univ|habil|rer|nat)\.\s*)*)+{_FULL_NAME}")),
    # In capitals or none at all: with a dot, or after a word that goes before people. `MR` and `DR CHEST` are scans.
    ("name", re.compile(rf"\b(?:DR|DRA|PROF)\.\s*{_FULL_NAME}|\b(?i:dra?|prof)\.\s*(?!med\b)[a-zß-ÿ][a-zß-ÿ'’-]+")),
    ("name", re.compile(rf"\b(?i:{_TOLD})\s+(?:(?:DR|PROF)\s+(?!{_SCANNED})|(?i:nurse|sister)\s+)(?P<it>{_FULL_NAME})")),
    ("name", re.compile(rf"\bD(?:\.ª?|ª\.?)\s+({_TITLE_CASE}\s+{_PARTICLE}{_TITLE_CASE})")),
    ("name", re.compile(rf"\bM\.\s+(?!(?:{_DISEASES})\b){_TITLE_CASE}(?:\s+{_TITLE_CASE})?")),
    ("name", re.compile(rf"\b(?i:{_BY})(?:\s*:\s*|\s+)(?!\[)({_FULL_NAME}(?:,\s*{_NAME})?)")),
    ("name", re.compile(rf"\b(?i:{_SIGNED})\s*:\s*(?!\[)({_FULL_NAME})")),
    ("name", re.compile(rf"\b(?i:{_SUBJECT})\s*:\s*({_NAME},\s*{_NAME}|{_TITLE_CASE}\s+{_TITLE_CASE})")),
    ("name", re.compile(rf"\b({_NAME}\s+(?:{_NAME}\s+)?{_NAME}),?\s+(?:{_CREDENTIALS})\b")),
    ("place", re.compile(rf"\b(?:(?:{_NAME}|of)\s+)+(?:Hospital|Clinic|Medical\s+Cent(?:er|re)|Infirmary)\b")),
    ("place", re.compile(rf"\b(?:Universitätsk|K)linikum\s+{_NAME}")),
    ("place", re.compile(rf"\b(?:Krankenhaus|Hôpital|Clinique|CHU|Hospital|Clínica)\s+{_FULL_NAME}")),
)  # fmt: skip


def scrub(text: str, known: Iterable[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Replace what identifies by `[date]`, `[name]`, ...; `known`: words of this patient's own header.

    Returns the text and the sorted kinds found. Rules miss things: the kinds found are flags for a person to review.
    """
    found: set[str] = set()
    for word in sorted({word for word in known if len(word) >= 3}, key=len, reverse=True):
        text, hits = re.subn(rf"(?<!\w){re.escape(word)}(?!\w)", "[name]", text, flags=re.I)
        if hits:
            found.add("name")
    for word in sorted({word for word in known if len(word) == 2 and word.isalpha()}) if "name" in found else ():
        # `Li` alone is a word of reports too; beside another name of the same person it is one.
        text = re.sub(rf"(?<!\w){word}(?!\w)(?=,?\s+\[name\])|(?<=\[name\])(,?\s+){word}(?!\w)", _with_the_gap, text, flags=re.I)
    for kind, pattern in RULES:
        text, hits = pattern.subn(lambda match, kind=kind: _masked(match, kind), text)
        if hits:
            found.add(kind)
    return text, tuple(sorted(found))


def _with_the_gap(match: re.Match[str]) -> str:
    return f"{match[1] or ''}[name]"


def _masked(match: re.Match[str], kind: str) -> str:
    """The whole match, or what the rule marks in it: by a group called `it`, or a name by the last group."""
    group = match.re.groupindex.get("it") or (match.re.groups if kind == "name" else 0)
    if not group:
        return f"[{kind}]"
    start, end = match.span(group)
    whole, offset = match[0], match.start()
    return f"{whole[: start - offset]}[{kind}]{whole[end - offset :]}"
