"""Policies: short files, one crop first, no step twice, mistakes explained."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from medcl.export.backbone import ResolvedViews
from medcl.foundation.config import to_yaml, validate
from medcl.foundation.errors import UserError
from medcl.store.recipe import BUILT_IN
from medcl.views.batched import ViewMaker
from medcl.views.crops import Crop
from medcl.views.effects import check
from medcl.views.policy import Policy, ViewsConfig, built_in_policies, load_policy


def test_there_is_a_policy_for_every_recipe() -> None:
    assert set(built_in_policies()) >= set(BUILT_IN)


@pytest.mark.parametrize("name", built_in_policies())
def test_written_policy_reads_back_equal(name: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(to_yaml(load_policy(name)))
    assert load_policy(path) == load_policy(name)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[{name: rotation}]", "the first step must be crop"),
        ("[{name: crop}, {name: blur, max_sigma_mm: 1}, {name: blur, max_sigma_mm: 2}]", "each step may stand once; twice: blur"),
        ("[{name: crop}, {name: rotation, degrees: 4}]", "unknown key 'steps.degrees': legal keys: max_deg"),
        ("[{name: crop}, {name: blur}]", "either max_sigma_mm or max_sigma_px"),
        ("[{name: crop}, {name: noise, max_sd: .inf}]", r"'steps.1.max_sd': Input should be a finite number \(got inf"),
        ("[{name: crop}, {name: gamma, range: [0.8, .inf]}]", r"'steps.1.range.1': Input should be a finite number"),
        ("[{name: crop}, {name: noise, max_sd: 1, probability: .nan}]", r"'steps.1.probability': Input should be a finite number"),
        ("[{name: crop, keep: [.nan, 1]}]", r"'steps.0.keep.0': Input should be a finite number"),
        ("[{name: crop}, {name: ghosting, num_ghosts: [8, 3]}]", "num_ghosts: expected 2 <= least <= most"),
        ("[{name: crop}, {name: ghosting, num_ghosts: [1, 3]}]", "num_ghosts: expected 2 <= least <= most"),
    ],
)
def test_mistakes_are_explained(steps: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: mine\nmodality: ct\nsteps: {steps}\n")
    with pytest.raises(UserError, match=words):
        load_policy(path)


@pytest.mark.parametrize("extent", ["[-48, 48, 48]", "[48, 0, 48]", "[48, 48, .inf]", "[.nan, 48, 48]"])
def test_an_extent_has_a_length_along_every_axis(extent: str, tmp_path: Path) -> None:
    """A negative one is a mirror that no step says; one of nothing shows nothing."""
    path = tmp_path / "policy.yaml"
    path.write_text(f"name: mine\nmodality: ct\nextent_mm: {extent}\nsteps: [{{name: crop}}]\n")
    with pytest.raises(UserError, match=r"'extent_mm.\d': Input should be (greater than 0|a finite number) \(got"):
        load_policy(path)


def test_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"'cct': neither a built-in policy \(ct, mammography, mr, pet, shape, ultrasound, xray\) nor a file"
    ):
        load_policy("cct")


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("mr", {"policy": "ct", "size": (32, 32, 32)}, "'ct' is for ct, the store holds mr"),
        ("ct", {"policy": "ct", "size": (64, 64)}, r"makes volumes; expected 3 numbers \(x, y, z\)"),
        ("xray", {"policy": "xray", "size": (64, 64, 64)}, r"makes pictures; expected 2 numbers \(rows, columns\)"),
        (
            "ct",
            {"policy": "ct", "size": (32, 32, 32), "overlap": 0.1},
            "views.overlap 0.1 is unsafe for ct: allowed is 0.3 to 1, because the pair would show",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(recipe: str, settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ViewMaker(ViewsConfig(**settings), BUILT_IN[recipe])


def reaches(policy: Policy) -> dict[str, dict[str, float]]:
    """step -> how far each of its settings goes from doing nothing, and how often it acts."""
    found: dict[str, dict[str, float]] = {}
    for step in policy.steps:
        values = {"probability": step.probability}
        for name, value in step.model_dump().items():
            if name == "range":
                values |= {"least": -math.log(value[0]), "most": math.log(value[1])}
            elif name.startswith("max_") and value is not None:
                values[name] = value - (name == "max_factor")
        found[step.name] = values
    return found


@pytest.mark.parametrize("name", built_in_policies())
def test_strength_moves_every_step_and_stays_safe(name: str) -> None:
    written = load_policy(name)
    assert load_policy(name, "default") == written
    light, strong = load_policy(name, "light"), load_policy(name, "strong")
    assert light.name == f"{name}, light" and strong.name == f"{name}, strong"
    for paired in (False, True):
        for policy in (light, strong):
            steps = [step.resolved(paired) if isinstance(step, Crop) else step for step in policy.steps]
            assert check(steps, policy.modality, paired, {}) == {}
    least, middle, most = reaches(light), reaches(written), reaches(strong)
    for step, values in middle.items():
        for setting, value in values.items():
            if step == "crop":
                assert least[step] == values == most[step]
            else:
                assert least[step][setting] == pytest.approx(value * 2 / 3, rel=1e-4), f"{step}.{setting}"
                assert value <= most[step][setting] + 1e-9 <= value * 1.5001 + 2e-9, f"{step}.{setting}"
        assert step == "crop" or values != most[step], f"{step} is not stronger"


def test_strength_is_a_setting_and_never_narrows_what_was_let_in(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: mine\nmodality: ct\nsteps: [{name: crop}, {name: noise, max_sd: 90}, {name: intensity_shift, max_shift: 16}]\n")
    allow = {"noise": "a phantom at the lowest dose"}
    maker = ViewMaker(ViewsConfig(policy=str(path), size=(32, 32, 32), strength="strong", allow=allow), BUILT_IN["ct"])
    assert [step.model_dump().get("max_sd") or step.model_dump().get("max_shift") for step in maker.policy.steps[1:]] == [90, 20]
    with pytest.raises(ValueError, match="strength"):
        ViewsConfig(policy="ct", size=(32, 32, 32), strength="brutal")  # type: ignore[arg-type]


def test_strength_does_not_widen_what_nothing_bounds(tmp_path: Path) -> None:
    """A reason given for gamma from 0.7 is none for 0.59, and a gain of 0.8 half as strong again is more than there is."""
    path = tmp_path / "policy.yaml"
    steps = "[{name: crop}, {name: gamma, probability: 0.2, range: [0.7, 1.5]}, {name: gain, max_change: 0.8}]"
    path.write_text(f"name: mine\nmodality: ct\nsteps: {steps}\n")
    gamma, gain = load_policy(path, "strong").model_dump()["steps"][1:]
    assert (gamma["range"], gamma["probability"], gain["max_change"]) == ((0.7, 1.5), 0.3, 0.8)
    gamma, gain = load_policy(path, "light").model_dump()["steps"][1:]
    assert 0.7 < gamma["range"][0] < gamma["range"][1] < 1.5 and gain["max_change"] < 0.6
    path.write_text("name: mine\nmodality: cct\nsteps: [{name: crop}, {name: rotation}]\n")
    with pytest.raises(UserError, match="modality 'cct': no rule says what is safe for it"):
        load_policy(path, "strong")


def test_unsafe_policy_is_refused_when_the_maker_is_built_and_its_override_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("name: mine\nmodality: ct\nsteps: [{name: crop}, {name: gamma, range: [0.7, 1.5]}]\n")
    with pytest.raises(UserError, match="gamma is unsafe for ct: Hounsfield units are physical"):
        ViewMaker(ViewsConfig(policy=str(path), size=(32, 32, 32)), BUILT_IN["ct"])
    maker = ViewMaker(ViewsConfig(policy=str(path), size=(32, 32, 32), allow={"gamma": "a phantom"}), BUILT_IN["ct"])
    assert "allowed: a phantom" in maker.resolved()["overrides"]["gamma"]


def test_volumes_beside_reports_are_not_shown_in_fixed_extents(tmp_path: Path) -> None:
    """48 mm of a thorax, and a report on all of it."""
    path = tmp_path / "policy.yaml"
    path.write_text("name: mine\nmodality: ct\nsteps: [{name: crop, keep_with_report: null}]\n")
    config = ViewsConfig(policy=str(path), size=(32, 32, 32))
    assert ViewMaker(config, BUILT_IN["ct"]).overrides == {}
    with pytest.raises(UserError, match=r"crop\.keep_with_report left out is unsafe for ct with reports"):
        ViewMaker(config, BUILT_IN["ct"], paired=True)
    maker = ViewMaker(config.model_copy(update={"allow": {"crop": "reports on one organ"}}), BUILT_IN["ct"], paired=True)
    assert "allowed: reports on one organ" in maker.resolved()["overrides"]["crop"]


def test_a_pair_that_shares_nothing_needs_a_reason_which_cards_carry() -> None:
    """And what a card carries makes the same views again."""
    config = ViewsConfig(policy="ct", size=(32, 32, 32), overlap=0, allow={"crop": "any two parts of a scan are alike"})
    resolved = ViewMaker(config, BUILT_IN["ct"]).resolved()
    assert resolved["overrides"] == {
        "crop": "views.overlap 0 is unsafe for ct: allowed is 0.3 to 1, because the pair would show different anatomy "
        "(allowed: any two parts of a scan are alike)"
    }
    again = validate(ResolvedViews, resolved, "card").maker(BUILT_IN["ct"])
    assert again.config.overlap == 0 and again.overrides == resolved["overrides"], "said once, however often it is loaded"
    assert ViewMaker(ViewsConfig(policy="xray", size=(32, 32), overlap=0), BUILT_IN["xray"]).overrides == {}


def test_resolved_writes_out_the_extent_and_what_a_report_changes() -> None:
    alone = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 16)), BUILT_IN["ct"]).resolved()
    assert alone["extent_mm"] == [48.0, 48.0, 24.0] and alone["policy"]["steps"][0]["keep"] is None
    paired = ViewMaker(ViewsConfig(policy="ct", size=(32, 32, 16)), BUILT_IN["ct"], paired=True).resolved()
    assert paired["policy"]["steps"][0]["keep"] == [0.6, 1.0] and paired["paired"]
