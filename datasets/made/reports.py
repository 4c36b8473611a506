"""Reports in varied words: what is there with side, place and size, what is not there, then an impression."""

from __future__ import annotations

import re

import numpy as np

from .findings import Finding

SYNONYMS = {
    "nodules": ("nodule", "nodular opacit", "rounded lesion", "coin lesion"),
    "effusion": ("pleural effusion", "pleural fluid", "fluid collection", "hydrothorax"),
    "cardiomegaly": ("cardiomegaly", "heart is enlarged", "enlarged heart", "enlarged cardiac silhouette", "cardiac enlargement"),
    "consolidation": ("consolidation", "airspace opacity", "air space opacification", "infiltrate"),
}
_NEGATION = re.compile(r"\b(no|without|not|negative for|free of|absence of)\b", re.IGNORECASE)

_PRESENT = {
    "nodules": (
        "{Count} pulmonary nodule{s} {place}, up to {mm} mm.",
        "There {are} {count} rounded lesion{s} {place}, the largest measuring {mm} mm.",
        "{Count} well defined nodular opacit{ies} {place} ({mm} mm).",
        "{Count} coin lesion{s} {place} with a diameter of up to {cm} cm.",
    ),
    "scars": (
        "Linear scarring {place}.",
        "{Count} band-like opacit{ies} {place}, in keeping with plate atelectasis.",
        "{Count} fibrotic strand{s} {place}, unchanged.",
        "Curvilinear scar tissue {place}, {count} band{s}.",
    ),
    "effusion": (
        "{Grade} {side} pleural effusion.",
        "{Grade} amount of {side}-sided pleural fluid with a meniscus.",
        "Blunting of the {side} costophrenic angle by a {grade} fluid collection.",
        "There is a {grade} {side} hydrothorax.",
    ),
    "pleural_thickening": (
        "{Grade} pleural thickening along the {side} chest wall.",
        "{Side} lateral pleural plaque, {grade}.",
        "{Grade} rind of thickened pleura on the {side}.",
    ),
    "raised_diaphragm": (
        "{Grade} elevation of the {side} hemidiaphragm.",
        "The {side} hemidiaphragm is raised, {grade} in extent.",
        "{Side} diaphragm stands high ({grade} eventration).",
    ),
    "cardiomegaly": (
        "{Degree} cardiomegaly.",
        "The heart is enlarged ({degree}).",
        "{Degree} enlarged cardiac silhouette.",
        "{Degree} cardiac enlargement, increased cardiothoracic ratio.",
    ),
    "mediastinal_mass": (
        "{Grade} mediastinal mass beside the heart.",
        "A {grade} paracardiac mass, most likely a cyst.",
        "{Grade} lump next to the heart border.",
    ),
    "consolidation": (
        "Consolidation in the {side} {zone} zone.",
        "Patchy airspace opacity, {side} {zone} field.",
        "{Side} {zone} zone infiltrate.",
        "Air space opacification projecting over the {side} {zone} lung.",
    ),
    "scoliosis": ("Scoliosis convex to the {side}.", "The thoracic spine curves to the {side}.", "{Side} convex scoliosis."),
    "device pacemaker": (
        "Left-sided pacemaker with its lead in the right ventricle.",
        "Cardiac pacemaker projects over the left upper chest.",
    ),
    "device port": ("Right-sided port catheter, tip in the superior vena cava.", "Implanted port on the right with its catheter in place."),
    "device line": (
        "Right central venous line, tip in projection on the cavoatrial junction.",
        "Central venous catheter from the right neck.",
    ),
}
_ABSENT = {
    "nodules": ("No pulmonary nodules.", "No nodule is seen.", "No rounded lesion.", "Lungs free of nodules."),
    "effusion": (
        "No pleural effusion.",
        "The costophrenic angles are sharp.",
        "Pleural spaces are clear.",
        "No pleural fluid on either side.",
    ),
    "cardiomegaly": ("Heart size is normal.", "Normal cardiac silhouette.", "No cardiomegaly.", "The heart is not enlarged."),
    "consolidation": ("No consolidation.", "No focal airspace opacity.", "No infiltrate."),
    "device": ("No devices.", "No foreign material.", "No lines or tubes."),
    "scoliosis": ("Normal alignment of the spine.", "The spine is straight."),
    "other": ("No pneumothorax.", "Bony thorax is unremarkable.", "No rib fracture.", "The trachea is central.", "Hila are unremarkable."),
}
_NUMBERS = ("no", "one", "two", "three", "four")
_DEGREES = {"small": "mild", "moderate": "moderate", "large": "marked"}
_HEADINGS = (
    ("FINDINGS:", "IMPRESSION:"),
    ("Findings:", "Impression:"),
    ("FINDINGS", "IMPRESSION"),
    ("Findings -", "Conclusion / Impression:"),
)
_CLEAR = ("No significant abnormality.", "No acute finding.", "Otherwise unremarkable.")


def write_report(findings: tuple[Finding, ...], draw: np.random.Generator, modality: str, salutation: str = "") -> str:
    """The text for one study. `salutation` goes on top as it is (a canary: it names the patient)."""
    lines = [_sentence(finding, draw) for finding in findings]
    lines += _negatives({finding.kind for finding in findings}, draw)
    order = draw.permutation(len(lines))
    head, tail = _HEADINGS[int(draw.integers(len(_HEADINGS)))]
    kind = "CT of the chest" if modality == "CT" else "Chest X-ray, PA view"
    technique = f"{kind}. Clinical question: {_pick(('cough', 'dyspnoea', 'follow-up', 'fever', 'staging'), draw)}."
    gap = "\n" if draw.random() < 0.7 else " "
    body = [technique, f"{head} {' '.join(lines[k] for k in order)}", f"{tail} {_impression(findings, draw)}"]
    return gap.join([salutation, *body] if salutation else body)


def states(text: str, kind: str) -> bool:
    """Whether a sentence of `text` states `kind` (a key of SYNONYMS) without negating it."""
    sentences = re.split(r"(?<=[.!])\s+|\n", text)
    return any(word in sentence.lower() and not _NEGATION.search(sentence) for sentence in sentences for word in SYNONYMS[kind])


def _impression(findings: tuple[Finding, ...], draw: np.random.Generator) -> str:
    """The labelled findings again in other words, and sometimes one of the rest."""
    main = [f for f in findings if f.kind in SYNONYMS]
    rest = [f for f in findings if f.kind not in SYNONYMS and draw.random() < 0.3]
    lines = [_sentence(finding, draw) for finding in main + rest]
    if not main:
        lines.append(_pick(_CLEAR, draw))
    return " ".join(f"{k + 1}. {line}" for k, line in enumerate(lines)) if len(lines) > 1 and draw.random() < 0.5 else " ".join(lines)


def _negatives(kinds: set[str], draw: np.random.Generator) -> list[str]:
    absent = [name for name in _ABSENT if name not in kinds]
    return [_pick(_ABSENT[name], draw) for name in absent if draw.random() < (0.75 if name in SYNONYMS else 0.35)]


def _sentence(finding: Finding, draw: np.random.Generator) -> str:
    key = f"{finding.kind} {finding.form}" if finding.kind == "device" else finding.kind
    many = finding.count != 1
    count = _NUMBERS[finding.count] if finding.count < 5 else _pick(("multiple", "many", "numerous", "innumerable"), draw)
    words = {
        "count": count if many else "a single" if draw.random() < 0.5 else "one",
        "grade": finding.grade,
        "degree": _DEGREES[finding.grade],
        "side": finding.side,
        "zone": _pick(("mid", "middle"), draw) if finding.zone == "mid" else finding.zone,
        "place": _place(finding, draw),
        "mm": f"{finding.size_mm:.0f}",
        "cm": f"{finding.size_mm / 10:.1f}",
        "s": "s" if many else "",
        "ies": "ies" if many else "y",
        "are": "are" if many else "is",
    }
    words |= {word.capitalize(): value.capitalize() for word, value in words.items()}
    return _pick(_PRESENT[key], draw).format(**words)


def _place(finding: Finding, draw: np.random.Generator) -> str:
    if finding.side == "bilateral":
        return _pick(("in both lungs", "bilaterally", "scattered through both lungs"), draw)
    zone = "middle" if finding.zone == "mid" and draw.random() < 0.5 else finding.zone
    return _pick(
        (f"in the {finding.side} {zone} zone", f"in the {zone} {finding.side} lung", f"projecting over the {finding.side} {zone} field"),
        draw,
    )


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[int(draw.integers(len(options)))]
