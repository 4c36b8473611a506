"""Every forbidden pair is refused with its reason, every bound holds, and an override is spoken of everywhere."""

from __future__ import annotations

from typing import ClassVar

import pytest

from medcl.foundation.errors import UserError
from medcl.views.crops import Crop
from medcl.views.effects import BOUNDS, EFFECTS, FORBIDDEN, MODALITIES, REPORT_FORBIDDEN, check
from medcl.views.intensity import Gamma, IntensityShift
from medcl.views.policy import _STEPS, built_in_policies, load_policy
from medcl.views.spatial import FlipLeftRight, Rotation
from medcl.views.step import Step


def step_with(effect: str) -> Step:
    """A step of nobody's that has one effect."""

    class Planted(Step):
        effects: ClassVar[tuple[str, ...]] = (effect,)
        name: str = effect

    return Planted()


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
    assert check([step_with(effect) for effect in allowed], modality, False, {}) == {}


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
    import typing

    built = {step: cls for cls in typing.get_args(typing.get_args(_STEPS)[0]) for step in cls.effects}
    for modality, bounds in BOUNDS.items():
        for effect, setting in bounds:
            if effect in built:
                assert setting in built[effect].model_fields, f"{modality}: {effect} has no setting {setting}"


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
