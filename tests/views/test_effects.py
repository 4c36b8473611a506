"""Every forbidden pair is refused with its reason, every bound holds, and an override is spoken of everywhere."""

from __future__ import annotations

import typing
from typing import Any, ClassVar

import pytest

from medcl.foundation.errors import UserError
from medcl.views.crops import Crop
from medcl.views.effects import BOUNDS, EFFECTS, FORBIDDEN, MODALITIES, REPORT_FORBIDDEN, breaches, check
from medcl.views.intensity import Blur, Gamma, IntensityShift
from medcl.views.noise import Noise, RicianNoise
from medcl.views.policy import _STEPS, built_in_policies, load_policy
from medcl.views.spatial import FlipLeftRight, Rotation
from medcl.views.step import Step


def step_with(effect: str) -> Step:
    """A step of nobody's that has one effect."""

    class Planted(Step):
        effects: ClassVar[tuple[str, ...]] = (effect,)
        name: str = effect

    return Planted()


def step_within(effect: str, modality: str) -> Step:
    """The same with the settings that the modality bounds, each at its least."""
    named: dict[str, Any] = {setting: bound.low for (bounded, setting), bound in BOUNDS[modality].items() if bounded == effect}
    return type("Within", (type(step_with(effect)),), named | {"__annotations__": dict.fromkeys(named, float)})()


STEPS: dict[str, type[Step]] = {cls.model_fields["name"].default: cls for cls in typing.get_args(typing.get_args(_STEPS)[0])}
# What the steps here need to be built.
NEEDED = {"max_shift": 0.0, "max_sd": 0.0, "range": (1.0, 1.0)}
# (step, setting) -> why no modality bounds it. Every other setting of every step must be bounded wherever the step is not forbidden.
UNBOUNDED = {
    ("crop", "place"): "it is about where, not how much",
    ("crop", "keep_with_report"): "it is bounded beside reports",
    ("elastic", "num_points"): "nothing moves farther for it, and nothing folds",
    ("histogram_shift", "num_points"): "the shift is a share of the distance between two",
    ("bias_field", "order"): "at most 4; the coefficients are bounded",
    ("low_resolution", "axis"): "the factor is bounded along each",
    ("motion", "num_movements"): "at most 4; each is bounded",
    ("ghosting", "num_ghosts"): "more of them are fainter; the intensity is bounded",
    ("gain", "num_points"): "the gain is bounded at each",
}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", STEPS)
def test_no_setting_of_a_step_is_without_a_bound(name: str, modality: str) -> None:
    """A setting goes as far as it can: the step is refused. Fails for a new setting until it is bounded, or said to be harmless."""
    cls = STEPS[name]
    assert {setting for step, setting in UNBOUNDED if step == name} <= set(cls.model_fields)
    needed = {setting: value for setting, value in NEEDED.items() if setting in cls.model_fields}
    for setting in set(cls.model_fields) - {"name", "probability"} - {setting for step, setting in UNBOUNDED if step == name}:
        pair = "tuple" in str(cls.model_fields[setting].annotation)
        for value in [(1.0, 1e9), (1e-9, 1.0)] if pair else [1e9]:
            step = cls.model_construct(None, **needed | {setting: value})
            assert breaches([step], modality, False), f"{name}.{setting} {value} passes for {modality}"


PAIRS = [(modality, effect) for modality in MODALITIES for effect in FORBIDDEN[modality]]


@pytest.mark.parametrize(("modality", "effect"), PAIRS)
def test_every_forbidden_pair_is_refused_with_its_reason(modality: str, effect: str) -> None:
    with pytest.raises(UserError) as refusal:
        check([step_with(effect)], modality, False, {})
    assert str(refusal.value).startswith(f"{effect} is unsafe for {modality}: {FORBIDDEN[modality][effect]}\n")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("effect", sorted(REPORT_FORBIDDEN))
def test_what_a_report_forbids_is_refused_beside_one(modality: str, effect: str) -> None:
    with pytest.raises(UserError, match=f"^{effect} is unsafe for {modality} with reports: {REPORT_FORBIDDEN[effect]}"):
        check([step_with(effect)], modality, True, {})


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_not_forbidden_passes(modality: str) -> None:
    allowed = [effect for effect in EFFECTS if effect not in FORBIDDEN[modality]]
    assert {"crop", "rotation", "scale"} <= set(allowed)
    assert check([step_within(effect, modality) for effect in allowed], modality, False, {}) == {}


def test_a_step_that_does_not_have_the_setting_that_is_bounded_is_refused() -> None:
    """Of another package, say, which calls it otherwise; a property of the bound's name is enough."""
    with pytest.raises(UserError, match=r"rotation.max_deg left out is unsafe for ct: allowed is 0 to 15, because it moves anatomy"):
        check([step_with("rotation")], "ct", False, {})


def test_the_table_of_the_domain_page() -> None:
    """The rows that matter most, written out again: a slip in the tables above must not pass."""
    never = {"flip_up_down", "quarter_turn", "inversion", "colour_jitter", "solarise", "posterise", "grey_dropout", "cut_mix"}
    for modality in MODALITIES:
        assert never <= set(FORBIDDEN[modality])
    assert {"gamma", "histogram_matching", "flip_left_right", "histogram_shift", "bias_field"} <= set(FORBIDDEN["ct"])
    assert "gamma" in FORBIDDEN["pet"] and "gamma" not in FORBIDDEN["mr"]
    assert "bias_field" not in FORBIDDEN["mr"] and "elastic" in FORBIDDEN["xray"] and "flip_left_right" in FORBIDDEN["xray"]
    assert "flip_left_right" not in FORBIDDEN["ultrasound"]
    assert {"noise", "blur", "gamma", "intensity_shift"} <= set(FORBIDDEN["shape"])


def test_messages_read_as_promised() -> None:
    with pytest.raises(UserError, match=r"^gamma is unsafe for ct: Hounsfield units are physical\n"):
        check([Gamma(range=(0.9, 1.1))], "ct", False, {})
    with pytest.raises(UserError, match=r"^flip_left_right is unsafe for xray with reports: the report names sides\n"):
        check([FlipLeftRight()], "xray", True, {})


@pytest.mark.parametrize(
    ("step", "modality", "words"),
    [
        (Rotation(max_deg=16), "ct", r"rotation.max_deg 16 is unsafe for ct: allowed is 0 to 15"),
        (Rotation(max_deg=12), "xray", r"rotation.max_deg 12 is unsafe for xray: allowed is 0 to 10"),
        (IntensityShift(max_shift=25), "ct", r"intensity_shift.max_shift 25 is unsafe for ct: allowed is 0 to 20, because Hounsfield"),
        (Gamma(range=(0.5, 1.2)), "mr", r"gamma.range 0.5 is unsafe for mr: allowed is 0.7 to 1.5"),
        (Crop(keep=(0.3, 1.0)), "xray", r"crop.keep 0.3 is unsafe for xray: allowed is 0.5 to 1"),
        (Blur(max_sigma_mm=40), "ct", r"blur.max_sigma_mm 40 is unsafe for ct: allowed is 0 to 2.5"),
        (Blur(max_sigma_px=40), "ct", r"blur.max_sigma_mm left out is unsafe for ct: allowed is 0 to 2.5"),
        (Blur(max_sigma_mm=400), "xray", r"blur.max_sigma_px left out is unsafe for xray: allowed is 0 to 2"),
    ],
)
def test_beyond_a_bound_is_refused_naming_field_value_and_bound(step: Step, modality: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check([step], modality, False, {})


def test_a_report_needs_more_of_the_field() -> None:
    steps = [Crop(keep=(0.5, 1.0), keep_with_report=(0.5, 1.0))]
    assert check(steps, "xray", False, {}) == {}
    with pytest.raises(UserError, match=r"crop.keep_with_report 0.5 is unsafe for xray with reports: allowed is 0.6 to 1"):
        check(steps, "xray", True, {})


@pytest.mark.parametrize("modality", MODALITIES)
def test_beside_a_report_a_crop_must_say_what_it_keeps(modality: str) -> None:
    """Fixed extents in mm may be any part of the field."""
    steps = [Crop(keep=(0.9, 1.0), keep_with_report=None)]
    assert check(steps, modality, False, {}) == {}
    with pytest.raises(UserError, match=rf"crop.keep_with_report left out is unsafe for {modality} with reports: allowed is 0.6 to 1"):
        check(steps, modality, True, {})


def test_every_bound_is_about_a_setting_that_exists() -> None:
    """A renamed setting must not make its bound silently void."""
    built = {step: cls for cls in typing.get_args(typing.get_args(_STEPS)[0]) for step in cls.effects}
    for modality, bounds in BOUNDS.items():
        for effect, setting in bounds:
            if effect in built:
                assert setting in built[effect].model_fields, f"{modality}: {effect} has no setting {setting}"


def test_two_steps_of_one_effect_add_up() -> None:
    steps = [Noise(max_sd=0.5), RicianNoise(max_sd=0.5)]
    for alone in steps:
        assert check([alone], "mr", False, {}) == {}
    with pytest.raises(UserError, match=r"^rician_noise beside noise is unsafe for mr: the bounds of noise are for one, and both add up\n"):
        check(steps, "mr", False, {})
    assert "both add up (allowed: rarely both)" in check(steps, "mr", False, {"rician_noise": "rarely both"})["rician_noise"]
    tilt = step_within("rotation", "ct")
    with pytest.raises(UserError, match=r"^rotation beside rotation_of_another_package is unsafe for ct"):
        check([tilt.model_copy(update={"name": "rotation_of_another_package"}), Rotation(max_deg=15)], "ct", False, {})


def test_a_step_that_says_no_effects_is_refused() -> None:
    """The base class says none, so that to forget them must not be to be free of every rule."""
    step = type("Forgetful", (Step,), {"name": "forgetful", "__annotations__": {"name": str}})()
    with pytest.raises(UserError, match=r"^forgetful: it says none of its effects, so that no rule holds it"):
        check([step], "ct", False, {})


def test_an_override_needs_a_reason_and_is_returned() -> None:
    in_force = check([Gamma(range=(0.9, 1.1))], "ct", False, {"gamma": "phantom study without units"})
    assert in_force == {"gamma": "gamma is unsafe for ct: Hounsfield units are physical (allowed: phantom study without units)"}
    with pytest.raises(UserError, match="a reason is needed"):
        check([Gamma(range=(0.9, 1.1))], "ct", False, {"gamma": " "})


def test_an_override_that_overrides_nothing_is_not_in_force() -> None:
    assert check([Rotation(max_deg=5)], "ct", False, {"rotation": "it is safe anyway"}) == {}


def test_an_unknown_override_is_an_error_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"the policy has no step 'gama'; did you mean 'gamma'\?"):
        check([Gamma(range=(0.9, 1.1))], "mr", False, {"gama": "why not"})


def test_unknown_modality_and_effect_are_refused() -> None:
    with pytest.raises(UserError, match="modality 'oct': no rule says what is safe"):
        check([], "oct", False, {})
    with pytest.raises(UserError, match="effect 'sparkle' is unknown"):
        check([step_with("sparkle")], "ct", False, {})


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", built_in_policies())
def test_built_in_policies_are_safe_without_overrides(name: str, paired: bool) -> None:
    policy = load_policy(name)
    steps = [step.resolved(paired) if isinstance(step, Crop) else step for step in policy.steps]
    assert check(steps, policy.modality, paired, {}) == {}
