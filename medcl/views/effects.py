"""What an augmentation may change: per modality and beside a report, what is forbidden or bounded, and why."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from medcl.foundation.errors import UserError
from medcl.foundation.plugins import load_plugins
from medcl.views.step import Step


@dataclass(frozen=True)
class Bound:
    """The range in which the values of a step's setting must stay, and why.

    needed: a step that leaves the setting out, or has none of this name, is a breach too: in another unit, or under another name,
    it would go as far as it likes.
    """

    low: float
    high: float
    reason: str
    needed: bool = True


@dataclass(frozen=True)
class Modality:
    """The rules of a modality that another package adds, by an entry point of the group `medcl.modalities`.

    forbidden: effect -> why. bounds: (effect, setting) -> the range its values must stay in. See FORBIDDEN and BOUNDS.
    """

    name: str
    forbidden: Mapping[str, str]
    bounds: Mapping[tuple[str, str], Bound]


HU = "Hounsfield units are physical"
SUV = "standardised uptake values are physical"
DISPLAY = "display values may change only monotonically"
SITES = "the side of the heart and of unpaired organs has meaning"
ORIENTATION = "the orientation is known and the same in every scan"
MEANING = "it destroys what the image says"
PATIENTS = "it mixes two patients"
SMALL = "only small monotone changes of display values keep microcalcifications as they look"
BINARY = "a shape has no intensities"
REPORT_SIDES = "the report names sides"
OUT_OF_BODY = "it moves anatomy further than it lies in patients"
DISTANCES = "distances in mm have meaning"

EFFECTS: dict[str, str] = {
    "crop": "shows a part of the field",
    "rotation": "turns anatomy by some degrees",
    "scale": "changes sizes in mm, the same along every axis",
    "elastic": "bends anatomy",
    "flip_left_right": "exchanges the patient's sides",
    "flip_front_back": "exchanges front and back",
    "flip_up_down": "exchanges head and feet (pictures: top and bottom)",
    "quarter_turn": "turns by 90 degrees",
    "intensity_shift": "adds one value to every voxel",
    "intensity_scale": "multiplies every voxel by one value",
    "window_jitter": "moves the window that the network sees, not the values",
    "gamma": "bends the intensity curve, monotonically",
    "contrast": "stretches intensities around their mean",
    "histogram_shift": "bends the intensity curve at several points, monotonically",
    "histogram_matching": "gives one scan the histogram of another",
    "inversion": "exchanges dark and bright",
    "bias_field": "multiplies by a slowly varying field",
    "noise": "adds noise",
    "rician_bias": "lifts what is dark, as noise does in magnitude images",
    "count_noise": "adds noise that grows with the voxel's own signal",
    "blur": "loses fine detail",
    "low_resolution": "loses resolution, as in thick slices",
    "motion": "adds the artefact of a moving patient",
    "ghosting": "adds the artefact of periodic motion",
    "spike": "adds the artefact of a bad sample in k-space",
    "gibbs": "adds the ringing of a k-space cut short",
    "speckle": "adds multiplicative speckle",
    "gain": "changes gain smoothly along depth",
    "shadow": "adds an acoustic shadow",
    "cutout": "hides a part of the field",
    "colour_jitter": "changes colours",
    "solarise": "inverts bright values",
    "posterise": "keeps few grey values",
    "grey_dropout": "drops the colour",
    "cut_mix": "pastes a part of another patient",
}

MODALITIES = ("ct", "mr", "pet", "xray", "mammography", "ultrasound", "shape")

_NEVER = {
    "flip_up_down": ORIENTATION,
    "quarter_turn": ORIENTATION,
    "flip_front_back": ORIENTATION,
    "inversion": "dark and bright have meaning",
    "histogram_matching": "it copies another scanner's or patient's intensities",
    "colour_jitter": MEANING,
    "solarise": MEANING,
    "posterise": MEANING,
    "grey_dropout": MEANING,
    "cut_mix": PATIENTS,
}
_MR_ARTEFACTS = dict.fromkeys(
    ("bias_field", "motion", "ghosting", "spike", "gibbs", "rician_bias"), "it is an artefact of MR, which this is not"
)
_US_ARTEFACTS = dict.fromkeys(("speckle", "gain", "shadow"), "it is an artefact of ultrasound, which this is not")
_ARTEFACTS = _MR_ARTEFACTS | _US_ARTEFACTS
_NO_PHOTONS = {"count_noise": "it is the noise of counted photons, and nothing was counted here"}
_RAYS = {"count_noise": "a voxel's noise comes from the rays through it, not from its own value; take noise"}
_WINDOW = {"window_jitter": "its values are not physical, so there is no window to move"}
_INTENSITIES = (
    *("intensity_shift", "intensity_scale", "window_jitter", "gamma", "contrast", "histogram_shift", "bias_field", "noise", "blur"),
    *("rician_bias", "count_noise", "low_resolution", "motion", "ghosting", "spike", "gibbs", "speckle", "gain", "shadow"),
)

# (modality, effect) -> why it is forbidden.
FORBIDDEN: dict[str, dict[str, str]] = {
    "ct": _NEVER
    | _ARTEFACTS
    | _RAYS
    | {"gamma": HU, "contrast": HU, "histogram_shift": HU, "inversion": HU, "histogram_matching": HU, "flip_left_right": SITES},
    "mr": _NEVER | _US_ARTEFACTS | _WINDOW | _NO_PHOTONS | {"flip_left_right": SITES},
    "pet": _NEVER
    | _ARTEFACTS
    | {"gamma": SUV, "contrast": SUV, "histogram_shift": SUV, "inversion": SUV, "histogram_matching": SUV, "flip_left_right": SITES}
    | {"elastic": "uptake is measured in mm3, and bending moves it"},
    "xray": _NEVER
    | _ARTEFACTS
    | _WINDOW
    | {"flip_left_right": "the heart's side and the side markers have meaning", "elastic": DISTANCES, "inversion": DISPLAY},
    "mammography": _NEVER
    | _ARTEFACTS
    | _WINDOW
    | {
        "flip_left_right": "the side is known; bring it to one side once, never at random",
        "elastic": DISTANCES,
        "inversion": DISPLAY,
        "blur": "microcalcifications are lost",
        "low_resolution": "microcalcifications are lost",
    },
    "ultrasound": _NEVER
    | _MR_ARTEFACTS
    | _WINDOW
    | _NO_PHOTONS
    | {"flip_up_down": "the probe is on top", "quarter_turn": "the probe is on top", "inversion": DISPLAY},
    "shape": _NEVER | dict.fromkeys(_INTENSITIES, BINARY) | {"flip_left_right": SITES, "inversion": BINARY},
}

REPORT_FORBIDDEN: dict[str, str] = {"flip_left_right": REPORT_SIDES, "cutout": "the report may name what is hidden"}


def _geometry(rotation_deg: float, low: float, high: float, keep: float, keep_needed: bool = True) -> dict[tuple[str, str], Bound]:
    return {
        ("rotation", "max_deg"): Bound(0, rotation_deg, OUT_OF_BODY),
        ("scale", "range"): Bound(low, high, DISTANCES),
        ("crop", "keep"): Bound(keep, 1, "a smaller part does not tell what the whole shows", keep_needed),
        ("elastic", "max_displacement_mm"): Bound(0, 5, DISTANCES),
        ("cutout", "max_share"): Bound(0, 0.1, "the finding may be what is hidden"),
    }


# Left out, views have fixed extents in mm, as training on parts of large volumes wants it.
_VOLUME = _geometry(15, 0.8, 1.25, 1 / 3, keep_needed=False)

# modality -> (effect, setting) -> the range its values must stay in.
BOUNDS: dict[str, dict[tuple[str, str], Bound]] = {
    "ct": _VOLUME
    | {
        ("intensity_shift", "max_shift"): Bound(0, 20, HU),
        ("intensity_scale", "range"): Bound(0.95, 1.05, HU),
        ("window_jitter", "max_shift"): Bound(0, 100, "tissues leave the window"),
        ("noise", "max_sd"): Bound(0, 60, "more noise than any dose gives"),
        ("low_resolution", "max_factor"): Bound(1, 4, "small findings are lost"),
        ("blur", "max_sigma_mm"): Bound(0, 2.5, "small findings are lost"),
    },
    "mr": _VOLUME
    | {
        ("gamma", "range"): Bound(0.7, 1.5, "tissue contrast is lost"),
        ("contrast", "range"): Bound(0.7, 1.5, "tissue contrast is lost"),
        ("intensity_shift", "max_shift"): Bound(0, 0.5, "tissue contrast is lost"),
        ("intensity_scale", "range"): Bound(0.7, 1.5, "tissue contrast is lost"),
        ("bias_field", "max_coefficient"): Bound(0, 0.5, "no coil has a stronger field"),
        ("histogram_shift", "max_shift"): Bound(0, 0.4, "tissue contrast is lost"),
        ("noise", "max_sd"): Bound(0, 0.5, "tissue contrast is lost"),
        ("motion", "max_deg"): Bound(0, 8, "such a scan would be repeated"),
        ("motion", "max_mm"): Bound(0, 8, "such a scan would be repeated"),
        ("ghosting", "max_intensity"): Bound(0, 0.8, "such a scan would be repeated"),
        ("spike", "max_intensity"): Bound(0, 0.5, "such a scan would be repeated"),
        ("gibbs", "max_alpha"): Bound(0, 0.7, "small findings are lost"),
        ("low_resolution", "max_factor"): Bound(1, 4, "small findings are lost"),
        ("blur", "max_sigma_mm"): Bound(0, 2.5, "small findings are lost"),
    },
    "pet": _VOLUME
    | {
        ("intensity_scale", "range"): Bound(0.95, 1.05, SUV),
        ("intensity_shift", "max_shift"): Bound(0, 0, SUV),
        ("window_jitter", "max_shift"): Bound(0, 1, "uptake leaves the window"),
        ("noise", "max_sd"): Bound(0, 0.5, "more noise than any dose gives"),
        ("low_resolution", "max_factor"): Bound(1, 2, "small findings are lost"),
        ("blur", "max_sigma_mm"): Bound(0, 4, "small findings are lost"),
    },
    "xray": _geometry(10, 0.8, 1.25, 0.5)
    | {
        ("gamma", "range"): Bound(0.8, 1.25, DISPLAY),
        ("contrast", "range"): Bound(0.7, 1.4, DISPLAY),
        ("intensity_shift", "max_shift"): Bound(0, 0.2, DISPLAY),
        ("intensity_scale", "range"): Bound(0.8, 1.25, DISPLAY),
        ("histogram_shift", "max_shift"): Bound(0, 0.3, DISPLAY),
        ("noise", "max_sd"): Bound(0, 0.1, "more noise than any dose gives"),
        ("low_resolution", "max_factor"): Bound(1, 2, "small findings are lost"),
        ("blur", "max_sigma_px"): Bound(0, 2, "small findings are lost"),
    },
    "mammography": _geometry(10, 0.9, 1.1, 0.8)
    | {
        ("gamma", "range"): Bound(0.9, 1.1, SMALL),
        ("contrast", "range"): Bound(0.9, 1.1, SMALL),
        ("intensity_shift", "max_shift"): Bound(0, 0.05, SMALL),
        ("intensity_scale", "range"): Bound(0.9, 1.1, SMALL),
        ("histogram_shift", "max_shift"): Bound(0, 0.1, SMALL),
        ("noise", "max_sd"): Bound(0, 0.03, "microcalcifications are lost"),
        ("cutout", "max_share"): Bound(0, 0.02, "microcalcifications are lost"),
    },
    "ultrasound": _geometry(15, 0.9, 1.1, 0.8)
    | {
        ("crop", "keep"): Bound(0.8, 1, "the sector must be kept"),
        ("elastic", "max_displacement_mm"): Bound(0, 3, DISTANCES),
        ("gamma", "range"): Bound(0.8, 1.25, DISPLAY),
        ("contrast", "range"): Bound(0.8, 1.25, DISPLAY),
        ("intensity_shift", "max_shift"): Bound(0, 0.1, DISPLAY),
        ("intensity_scale", "range"): Bound(0.7, 1.4, DISPLAY),
        ("histogram_shift", "max_shift"): Bound(0, 0.2, DISPLAY),
        ("gain", "max_change"): Bound(0, 0.4, "echoes are lost"),
        ("speckle", "max_sd"): Bound(0, 0.3, "echoes are lost"),
        ("shadow", "max_strength"): Bound(0, 0.7, "the finding may be what is hidden"),
        ("shadow", "max_width"): Bound(0, 0.3, "the finding may be what is hidden"),
        ("noise", "max_sd"): Bound(0, 0.1, "echoes are lost"),
        ("low_resolution", "max_factor"): Bound(1, 2, "small findings are lost"),
        ("blur", "max_sigma_px"): Bound(0, 2, "small findings are lost"),
    },
    "shape": _VOLUME,
}

REPORT_BOUNDS: dict[tuple[str, str], Bound] = {
    ("crop", "keep_with_report"): Bound(0.6, 1, "the report tells of the whole field"),
}

# Of the crops of a pair, in volumes; it is the crop's, although the views' settings say it.
PAIR_OVERLAP = Bound(0.3, 1, "the pair would show different anatomy")


@dataclass(frozen=True)
class Breach:
    """One thing that a step must not do. `text`: the refusal."""

    step: str
    text: str


def breaches(steps: Iterable[Step], modality: str, paired: bool, overlap: float | None = None) -> list[Breach]:
    """Everything that is unsafe about the steps, each alone and together, and about the overlap of a pair of volumes.

    Raises UserError for an unknown modality.
    """
    steps = list(steps)
    _look_up(modality)
    apart = [] if overlap is None else _beyond("views.overlap", (overlap,), PAIR_OVERLAP, modality)
    alone = [breach for step in steps for breach in _breaches_of(step, modality, paired)]
    return [*alone, *_added_up(steps, modality), *(Breach("crop", text) for text in apart)]


def _look_up(modality: str) -> None:
    _learn_modalities()
    if modality not in FORBIDDEN:
        raise UserError(f"modality '{modality}': no rule says what is safe for it; known: {', '.join(FORBIDDEN)}")


@cache
def _learn_modalities() -> None:
    """Add the modalities of other packages; none of them can loosen the rules of one that is here."""
    added: Modality
    for added in load_plugins("medcl.modalities"):
        FORBIDDEN.setdefault(added.name, dict(added.forbidden))
        BOUNDS.setdefault(added.name, dict(added.bounds))


def _breaches_of(step: Step, modality: str, paired: bool) -> Iterable[Breach]:
    if not step.effects:
        yield Breach(step.name, f"{step.name}: it says none of its effects, so that no rule holds it; known: {', '.join(EFFECTS)}")
    for effect in step.effects:
        if effect not in EFFECTS:
            yield Breach(step.name, f"{step.name}: effect '{effect}' is unknown; known: {', '.join(EFFECTS)}")
        if paired and effect in REPORT_FORBIDDEN:
            yield Breach(step.name, f"{effect} is unsafe for {modality} with reports: {REPORT_FORBIDDEN[effect]}")
        elif effect in FORBIDDEN[modality]:
            yield Breach(step.name, f"{effect} is unsafe for {modality}: {FORBIDDEN[modality][effect]}")
        rules = [(BOUNDS[modality], modality)] + ([(REPORT_BOUNDS, f"{modality} with reports")] if paired else [])
        for bounds, where in rules:
            yield from _out_of_bounds(step, effect, bounds, where)


def _added_up(steps: list[Step], modality: str) -> Iterable[Breach]:
    """Of each effect that is bounded, one step: two, each as far as its bound, go beyond it."""
    first: dict[str, str] = {}
    bounded = {effect for effect, _ in BOUNDS[modality]}
    for step in steps:
        for effect in (effect for effect in step.effects if effect in bounded):
            other = first.setdefault(effect, step.name)
            if other != step.name:
                text = f"{step.name} beside {other} is unsafe for {modality}: the bounds of {effect} are for one, and both add up"
                yield Breach(step.name, text)


def _out_of_bounds(step: Step, effect: str, bounds: Mapping[tuple[str, str], Bound], where: str) -> Iterable[Breach]:
    for (bounded, setting), bound in bounds.items():
        if bounded != effect:
            continue
        values = _numbers(getattr(step, setting, None))
        for text in _beyond(f"{step.name}.{setting}", values, bound, where):
            yield Breach(step.name, text)


def _beyond(setting: str, values: tuple[float, ...], bound: Bound, where: str) -> Iterable[str]:
    wrong = [f"{value:g}" for value in values if not bound.low - 1e-9 <= value <= bound.high + 1e-9]
    for said in ["left out"] if bound.needed and not values else wrong:
        limits = f"{bound.low:.3g} to {bound.high:.3g}"
        yield f"{setting} {said} is unsafe for {where}: allowed is {limits}, because {bound.reason}"


def widest(step: Step, modality: str, setting: str) -> tuple[float, float]:
    """Least and most that a step's setting may be for the modality; nothing lies between the two where no bound says it.

    Raises UserError for an unknown modality.
    """
    _look_up(modality)
    bounds = [bound for (effect, bounded), bound in BOUNDS[modality].items() if effect in step.effects and bounded == setting]
    return max((bound.low for bound in bounds), default=math.inf), min((bound.high for bound in bounds), default=-math.inf)


def _numbers(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    return tuple(float(number) for number in value) if isinstance(value, tuple | list) else (float(value),)


def check(
    steps: Iterable[Step],
    modality: str | tuple[str, ...],
    paired: bool,
    allow: Mapping[str, str],
    overlap: float | None = None,
    others: Iterable[Breach] = (),
) -> dict[str, str]:
    """Refuse unsafe steps, except those that `allow` names with a reason.

    modality: or several, and the steps must be safe for each. overlap: of a pair, where they are volumes. others: found elsewhere.
    Returns the overrides in force: step -> "what is overridden (allowed: the reason)", for cards and pages.
    Raises UserError naming each unsafe step with its reason and the way out.
    """
    steps = list(steps)
    _check_allow(allow, [step.name for step in steps])
    each = (modality,) if isinstance(modality, str) else modality
    found = [*(breach for one in each for breach in breaches(steps, one, paired, overlap)), *others]
    refused = [breach.text for breach in found if breach.step not in allow]
    if refused:
        way_out = 'take the step out, or override it knowingly: views.allow: {step: "the reason"}'
        raise UserError("\n".join([*dict.fromkeys(refused), way_out]))
    in_force: dict[str, str] = {}
    for breach in found:
        said = f"{in_force[breach.step]}; " if breach.step in in_force else ""
        in_force[breach.step] = f"{said}{breach.text}"
    # A card's override, given back as the reason, already begins with what is overridden.
    return {step: allow[step] if allow[step].startswith(text) else f"{text} (allowed: {allow[step]})" for step, text in in_force.items()}


def _check_allow(allow: Mapping[str, str], names: list[str]) -> None:
    for name, reason in allow.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"its steps: {', '.join(names)}"
            raise UserError(f"views.allow: the policy has no step '{name}'; {hint}")
        if not str(reason).strip():
            raise UserError(f"views.allow.{name}: a reason is needed; it goes to every card and page")
