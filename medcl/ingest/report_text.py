"""What a report's text says about itself: sentences, sections, language, and stable codes of what makes it doubtful."""

from __future__ import annotations

import re

FEWEST_WORDS = 3
_SECTIONS = {
    "findings": ("findings", "finding", "description", "befund", "befunde", "befundung", "résultats", "resultats", "résultat",
                 "constatations", "hallazgos", "hallazgo", "descripción", "descripcion"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "diagnosis", "diagnostic impression",
                   "beurteilung", "zusammenfassung", "zusammenfassende beurteilung",
                   "au total", "synthèse", "impresión", "impresion",
                   "impresión diagnóstica", "conclusión", "conclusiones", "juicio diagnóstico", "diagnóstico"),
    "technique": ("technique", "procedure", "protocol", "technik", "methode", "untersuchungstechnik", "technique d'examen", "protocole",
                  "técnica", "tecnica", "protocolo"),
    "comparison": ("comparison", "comparisons", "prior studies", "prior study", "vergleich", "voruntersuchung", "voruntersuchungen",
                   "voraufnahme", "voraufnahmen", "comparaison", "examens antérieurs", "examen antérieur", "comparación", "comparacion",
                   "estudio previo", "estudios previos"),
    "other": ("history", "indication", "indications", "clinical history", "clinical information", "clinical indication", "reason for exam",
              "exam", "examination", "recommendation", "recommendations", "addendum", "indikation", "fragestellung", "klinische angaben",
              "klinische angabe", "rechtfertigende indikation", "anamnese", "empfehlung", "nachtrag", "renseignements cliniques", "motif",
              "examen", "recommandation", "addenda", "indicación", "indicacion", "motivo", "datos clínicos", "antecedentes", "exploración",
              "recomendación", "adenda"),
}  # fmt: skip
SECTIONS = tuple(name for name in _SECTIONS if name != "other")
_NAMES = "|".join(sorted({re.escape(name) for names in _SECTIONS.values() for name in names}, key=len, reverse=True))
# `Findings:`, `Findings -`, `Conclusion / Impression:` at the start of a line or sentence; in capitals or alone on its line
# a heading needs no colon.
_HEADING = re.compile(
    rf"(?:^|(?<=[\n.;]))[ \t]*(?:(?i:({_NAMES})(?:\s*[/&]\s*(?:{_NAMES}))?)[ \t]*(?::|[ \t][-–][ \t])"
    rf"|({_NAMES.upper()})(?=\s)|(?i:({_NAMES}))(?=\n))\s*"
)
# Without headings: what follows the last full text as a list of quoted or bulleted sentences.
_LIST_AT_THE_END = re.compile(r"(?<=[.:;?)])\s*(?=[\"“”•●▪*]\s*\S)")
_LIST_MARK = re.compile(r"\s*[\"“”•●▪*]+\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\s*\n+\s*")
_PLACEHOLDER = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|_{2,}|\*{2,}|\bx{3,}\b|\b(?:enter|insert) text\b|\blorem ipsum\b|\bn/?a\b", re.I)
_ADDENDUM = re.compile(r"(?:^|[\n.])\s*(?:addend(?:um|a)|nachtrag|adenda|corrigendum)\b", re.I)
_LANGUAGE_WORDS = {
    "en": {"the", "is", "and", "of", "no", "with", "are", "there", "in"},
    "de": {"der", "die", "und", "kein", "keine", "nicht", "mit", "ist", "im"},
    "fr": {"le", "la", "et", "pas", "de", "des", "est", "avec", "du"},
    "es": {"el", "la", "y", "no", "de", "los", "con", "se", "del"},
}
_MOJIBAKE = re.compile(r"Ã[\x80-\xbfŸ„…†‡‰Š‹ŒŽ•–—˜™š›œž]|Â[\x80-\xbf]|â€|�")
_COMPARISON = re.compile(
    r"\bcompar(?:ed|ison|ing|ative)\b|\b(?:prior|previous|earlier|last)\s+(?:\w+\s+){0,3}?(?:ct|mri?|pet|x-?rays?|radiographs?|films?|exam\w*|stud(?:y|ies)"
    r"|scans?|images?|imaging|reports?)\b|\b(?:exam\w*|study)\s+dated\b|\bunchanged\b|\binterval\b|\bsince\b|\bagain\s+(?:seen|noted|demonstrated)\b"
    r"|\bstable\b|\bno(?:t)?\s+(?:significant(?:ly)?\s+)?change|\bpreviously\b"
    r"|\bim\s+vergleich\b|\bverglichen\b|\bvor(?:aufnahmen?|untersuchung\w*|befund\w*)\b|\bunverändert\w*|\bbefundkonstan\w*|\bprogredient\w*|\bregredient\w*"
    r"|\bpar\s+rapport\b|\bcomparativement\b|\bantérieure?s?\s+du\b|\bexamens?\s+(?:antérieurs?|précédents?)\b|\binchangée?s?\b|\bstables?\s+depuis\b"
    r"|\bcompara(?:do|da|ción|tiv[oa])\b|\b(?:estudio|examen|radiografía|tc)s?\s+(?:previ[oa]s?|anterior(?:es)?)\b|\bsin\s+cambios\b",
    re.I,
)  # fmt: skip
_NORMAL = re.compile(
    r"\bno(?:ne)?\b|\bnot\s+(?:be\s+)?(?:\w+ly\s+)?(?:observed|seen|detected|identified|found|noted|present|evident|enlarged|dilated|thickened)\b"
    r"|\bwithout\b|\bnormal\w*|\bunremarkable\b|\bclear\b|\bnatural\b|\bwithin\b.*\blimits\b|\bnegative\b|\bpreserved\b|\bopen\b"
    r"|\bkeine?\w*\b|\bohne\b|\bunauffällig\w*|\bregelrecht\w*|\bfrei\w?\b|\baltersentsprechend\w*"
    r"|\bpas\s+d\w*|\babsence\b|\bsans\b|\bnormaux\b|\bsin\b|\bno\s+se\b|\blibres?\b",
    re.I,
)
_ABNORMAL = re.compile(
    r"\bnot\s+(?:normal|clear|excluded)\b|\babnormal\w*|(?<!no )\b(?:new|worsening|increased|mild|small|moderate|severe)\b"
    r"|\bnonspecific\b|\bexcept\b|\bapart\s+from\b|\bthere\s+(?:is|are)\s+(?!no\b)|\b(?:bis auf|außer|hormis|sauf|salvo|excepto)\b",
    re.I,
)


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of a report, stripped, in order; empty ones left out."""
    return [part for part in (part.strip() for part in _SENTENCE_END.split(text)) if part]


def sections_of(text: str) -> dict[str, str]:
    """Findings, impression, technique, comparison and the rest, as far as headings mark them; empty where they do not.

    Without any heading, a list of quoted or bulleted sentences at the end is the impression, and what is before it the
    findings.
    """
    found = dict.fromkeys(_SECTIONS, "")
    marks = list(_HEADING.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=False):
        heading = (mark[1] or mark[2] or mark[3]).lower()
        section = next(name for name, headings in _SECTIONS.items() if heading in headings)
        body = text[mark.end() : following.start() if following else len(text)].strip()
        found[section] = f"{found[section]} {body}".strip()
    listed = None if marks else _LIST_AT_THE_END.search(text)
    if listed:
        found["findings"] = text[: listed.start()].strip()
        found["impression"] = _LIST_MARK.sub("\n", text[listed.end() :]).strip()
    return found


def doubts_of(text: str, patients: int = 1, language: str | None = None) -> list[str]:
    """Stable codes of what makes a report doubtful.

    patients: of how many this is the very text. language: the one expected (en, de, fr, es), if any.
    """
    doubts = []
    if text.startswith("version https://git-lfs"):
        doubts.append("git_lfs_pointer")
    doubts += _emptiness(text)
    if _MOJIBAKE.search(text):
        doubts.append("mojibake")
    if _ADDENDUM.search(text):
        doubts.append("addendum")
    if patients > 1:
        doubts.append("same_text_for_several_patients")
    if language and language_of(text) not in ("", language):
        doubts.append("other_language")
    return doubts


def _emptiness(text: str) -> list[str]:
    words = len(re.findall(r"\w+", text))
    if words == 0:
        return ["empty"]
    filled = len(re.findall(r"\w+", _HEADING.sub(" ", _PLACEHOLDER.sub(" ", text))))
    if filled < min(words, FEWEST_WORDS):
        return ["template_only"]
    return ["too_short"] if words < FEWEST_WORDS else []


def language_of(text: str) -> str:
    """en, de, fr or es by its commonest small words; empty where none stands out."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {language: sum(word in small for word in words) for language, small in _LANGUAGE_WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] >= max(2, 0.03 * len(words)) else ""


def without_comparisons(text: str) -> str:
    """The text without its comparison section and without sentences that compare with an earlier study; line breaks are kept."""
    marks = list(_HEADING.finditer(text))
    for mark, following in reversed(list(zip(marks, [*marks[1:], None], strict=False))):
        if (mark[1] or mark[2] or mark[3]).lower() in _SECTIONS["comparison"]:
            text = text[: mark.start()] + ("\n" + text[following.start() :].lstrip() if following else "")
    return "\n".join(_line_without_comparisons(line) for line in text.splitlines()).strip()


def _line_without_comparisons(line: str) -> str:
    kept = []
    for sentence in split_sentences(line):
        heading = _HEADING.match(sentence)
        lead, body = (heading[0], sentence[heading.end() :]) if heading else ("", sentence)
        kept += [lead + body] if not _COMPARISON.search(body) else [lead.rstrip()] if lead else []
    return " ".join(kept)


def is_normal(text: str) -> bool:
    """Whether every sentence of a text (best: of an impression) only says that something is normal or not there."""
    sentences = [one for one in split_sentences(text) if re.search(r"[^\W\d_]{3,}", one)]
    doubtful = any(_ABNORMAL.search(one) or _COMPARISON.search(one) for one in sentences)
    return bool(sentences) and not doubtful and all(_NORMAL.search(one) for one in sentences)
