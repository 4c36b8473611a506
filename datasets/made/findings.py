"""What a patient has: findings with a place, a side and a size, and the harmless look-alikes that every patient without them gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .chance import balanced, generator

SIDES = ("right", "left")
ZONES = ("upper", "mid", "lower")
DEVICES = ("pacemaker", "port", "line", "", "", "")
LABELS = ("nodules", "effusion", "cardiomegaly")
SHARES = {"nodules": 0.5, "effusion": 0.45, "cardiomegaly": 0.45}


@dataclass(frozen=True)
class Finding:
    """One thing to see. `kind` is a label of LABELS or a harmless kind; unused fields keep their empty value."""

    kind: str
    side: str = ""
    zone: str = ""
    size_mm: float = 0.0
    volume_ml: float = 0.0
    count: int = 0
    form: str = ""

    @property
    def grade(self) -> str:
        """small | moderate | large, by volume; one scale for a finding and its look-alike."""
        return "small" if self.volume_ml < 180 else "moderate" if self.volume_ml < 280 else "large"


def label_table(seed: int, part: str, count: int, labels: tuple[str, ...] = LABELS) -> dict[str, np.ndarray]:
    """One boolean per patient and label; every label has exactly its share, and labels are drawn independently."""
    return {label: balanced(seed, f"{part} label {label}", count, SHARES[label]) for label in labels}


def chest_findings(seed: int, part: str, person: int, present: dict[str, bool]) -> tuple[Finding, ...]:
    """The three amounts of a chest, each as the finding or as its look-alike.

    Sizes and sides come from draws that do not know the label.
    """
    draw = generator(seed, f"{part} amounts", person)
    size, count = round(float(draw.uniform(18, 28)), 1), int(draw.integers(20, 40))
    fluid_ml, heart_ml = round(float(draw.uniform(80, 330))), round(float(draw.uniform(110, 240)))
    side, spot_side, zone, form = str(draw.choice(SIDES)), str(draw.choice(SIDES)), str(draw.choice(ZONES)), float(draw.random())
    spots = Finding("nodules" if present["nodules"] else "scars", "bilateral", "", size, 0.0, count)
    if part == "xray":
        spots = replace(spots, side=spot_side, zone=zone, count=1 + count % 4)
    fluid = Finding("effusion", side, "lower", volume_ml=fluid_ml) if present["effusion"] else _not_fluid(form, side, fluid_ml)
    heart = Finding("cardiomegaly" if present["cardiomegaly"] else "mediastinal_mass", volume_ml=heart_ml)
    return spots, fluid, heart


def incidental_findings(seed: int, person: int) -> tuple[Finding, ...]:
    """What an X-ray also shows: consolidation, a device, a bent spine. Not labels; they make reports differ."""
    draw = generator(seed, "incidental", person)
    side, zone = str(draw.choice(SIDES)), str(draw.choice(ZONES))
    found = []
    if draw.random() < 0.35:
        found.append(Finding("consolidation", side, zone))
    device = DEVICES[int(draw.integers(0, 6))]
    if device:
        found.append(Finding("device", form=device))
    if draw.random() < 0.3:
        found.append(Finding("scoliosis", str(draw.choice(SIDES))))
    return tuple(found)


def _not_fluid(chance: float, side: str, volume_ml: float) -> Finding:
    if chance < 0.5:
        return Finding("pleural_thickening", side, "lower", volume_ml=round(volume_ml))
    return Finding("raised_diaphragm", side, "lower", volume_ml=round(volume_ml))


def grow(findings: tuple[Finding, ...], factor: float) -> tuple[Finding, ...]:
    """The same findings at a later study, every size changed by `factor` in volume."""
    return tuple(replace(f, size_mm=round(f.size_mm * factor ** (1 / 3), 1), volume_ml=round(f.volume_ml * factor)) for f in findings)
