"""The tables say what the contract names, the headline claims only what the interval carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.evaluation.delong import compare_aurocs
from medcl.evaluation.fits import Fit, FitFolder, FitKey
from medcl.evaluation.scores import Measured, Predictions
from medcl.evaluation.summary import Summary, percent, summarise, write_summary
from tests.made_study import FRACTIONS, SKILL, made_fits, made_plan


@pytest.fixture(scope="module")
def summary() -> Summary:
    plan = made_plan()
    return summarise(plan, *made_fits(plan))


def test_columns_are_the_contracts(summary: Summary) -> None:
    results = ["task", "init", "mode", "fraction", "draw", "num_cases", "num_patients", "metric", "value"]
    assert list(summary.results.columns[:9]) == results
    columns = ["init", "mode", "fraction", "metric", "mean", "low", "high", "difference", "difference_low", "difference_high", "p_value"]
    assert list(summary.summary.columns[:11]) == columns
    assert len(summary.results) == 3 * 2 * 4 * 5 * 6
    assert len(summary.summary) == 3 * 2 * 4 * 6


def test_intervals_hold_the_mean_and_differences_are_to_random(summary: Summary) -> None:
    table = summary.summary
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    assert table.loc[table["init"] == "random", "difference"].isna().all()
    area = table[table["metric"] == "auroc"].set_index(["init", "mode", "fraction"])
    moco, random = area.loc[("moco", "finetune", 0.05)], area.loc[("random", "finetune", 0.05)]
    assert moco["difference"] == pytest.approx(moco["mean"] - random["mean"])
    assert moco["difference_low"] > 0 and moco["p_value_uncorrected"] < 0.01
    assert moco["p_value"] >= moco["p_value_uncorrected"]


def test_headline_claims_the_planted_saving(summary: Summary) -> None:
    headline = summary.headline
    saving = headline["label_saving"]["moco"]["finetune"]
    assert saving["claimed"] and 0.01 < saving["fraction"] < 0.2
    assert saving["low"] <= saving["fraction"] <= saving["high"]
    assert headline["sentence"].startswith("moco reaches with")
    assert headline["reference"]["mode"] == "finetune" and headline["reference"]["fraction"] == 1.0
    assert headline["reference"]["labels_matter"] is True
    assert any(sentence.startswith("simclr may save labels, but not for sure") for sentence in headline["sentences"])


@pytest.mark.parametrize("seed", range(3))
def test_without_signal_nothing_is_claimed(seed: int) -> None:
    plan = made_plan(modes=("finetune",), seed=seed)
    headline = summarise(plan, *made_fits(plan, signal=0.0)).headline
    for by_mode in headline["label_saving"].values():
        assert not any(isinstance(saving, dict) and saving["claimed"] for saving in by_mode.values())


def test_a_reference_that_learned_nothing_is_named_and_so_is_who_learned() -> None:
    plan = made_plan(modes=("finetune",), fractions=(0.1, 1.0))
    none, patients = made_fits(plan, signal=0.0)
    some, _ = made_fits(plan)
    fits = [weak if weak.key.init == "random" else strong for weak, strong in zip(none, some, strict=True)]
    headline = summarise(plan, fits, patients).headline
    assert headline["sentence"].startswith("Training from scratch with 100% of the labels is no better than chance: AUROC 0.")
    assert any(
        sentence.startswith("moco has 0.") and "with 10% of the labels (fine-tuning)" in sentence for sentence in headline["sentences"]
    )
    assert not any(
        saving["claimed"] for by_mode in headline["label_saving"].values() for saving in by_mode.values() if isinstance(saving, dict)
    )


def test_where_labels_change_nothing_none_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that a few labels bring as far as all of them: who is ahead of it is ahead, but saves no labels by that."""
    monkeypatch.setitem(SKILL, "random", (1.6, 1.6, 1.6, 1.6))
    plan = made_plan(modes=("finetune",))
    headline = summarise(plan, *made_fits(plan)).headline
    assert headline["reference"]["labels_matter"] is False
    assert headline["label_saving"]["moco"]["finetune"]["high"] < 1, "it would have been claimed"
    assert headline["label_saving"]["moco"]["finetune"]["claimed"] is False
    first, *others = headline["sentences"]
    assert first.startswith("Training from scratch is not surely better with 100% of the labels than with 1%: AUROC 0.")
    assert first.endswith("no saving of labels can be told.")
    assert [sentence.split(" has ")[0] for sentence in others] == ["moco", "simclr"]


def test_delong_stands_where_it_is_valid_and_only_there(summary: Summary) -> None:
    assert summary.summary["p_value_delong"].isna().all(), "several draws, two cases a patient"
    plan = made_plan(modes=("linear",))
    fits, patient = made_fits(plan, draws=1)
    alone = {"linear": np.arange(len(patient["linear"]))}
    table = summarise(plan, fits, alone).summary.set_index(["init", "fraction", "metric"])
    pair = [fit.outcome for fit in fits if fit.key.fraction == 0.1 and fit.key.init in ("random", "moco")]
    assert isinstance(pair[0], Predictions) and isinstance(pair[1], Predictions)
    expected = compare_aurocs(pair[1].probabilities[:, 1], pair[0].probabilities[:, 1], pair[0].label == 1).p_value
    assert table.loc[("moco", 0.1, "auroc"), "p_value_delong"] == pytest.approx(expected)
    assert table["p_value_delong"].notna().sum() == 2 * len(FRACTIONS), "the AUROC of two initialisations at each fraction"
    assert summarise(plan, fits, patient).summary["p_value_delong"].isna().all(), "two cases a patient"


def test_learning_curves_are_fitted_or_refused_with_the_reason(summary: Summary) -> None:
    assert [(law["init"], law["mode"]) for law in summary.laws][:3] == [("random", "linear"), ("moco", "linear"), ("simclr", "linear")]
    fitted = [law for law in summary.laws if "line" in law]
    assert fitted and all(law["n"][0] == 8 and law["n"][-1] == 800 and law["rate"] > 0 for law in fitted)
    plan = made_plan(modes=("linear",), fractions=(0.1, 1.0))
    few = summarise(plan, *made_fits(plan)).laws
    assert all("too few" in law["refused"] for law in few)


def test_not_reached_is_said_plainly() -> None:
    plan = made_plan(inits=("random", "moco"), modes=("finetune",))
    fits, patient = made_fits(plan)
    swapped = [replace(fit, key=replace(fit.key, init={"random": "moco", "moco": "random"}[fit.key.init])) for fit in fits]
    headline = summarise(plan, swapped, patient).headline
    assert headline["label_saving"]["moco"]["finetune"] == "not reached"
    assert "does not reach" in headline["sentence"]


def test_who_stays_below_the_floor_is_said_where_all_labels_are_not_asked_for() -> None:
    """Retrieval stands at fraction 1 whatever the labels; the floor was looked for there."""
    plan = made_plan(inits=("random", "moco", "simclr"), modes=("linear",), fractions=(0.1, 0.5))
    fits, patient = made_fits(plan)
    names = {"moco": "pixels", "random": "weak", "simclr": "random"}
    named = [replace(fit, key=replace(fit.key, init=names[fit.key.init])) for fit in fits]
    other = replace(plan, inits=("random", "weak", "pixels"), fractions=(0.1, 0.5, 1.0))
    sentences = summarise(other, named, patient).headline["sentences"]
    assert any(sentence.startswith("weak stays below raw pixels with a linear probe at 50%") for sentence in sentences)


def test_written_and_resumed_alike(summary: Summary, tmp_path: Path) -> None:
    plan = made_plan()
    fits, patient = made_fits(plan)
    folder = FitFolder(tmp_path)
    saved = [folder.save(fit, "basis") for fit in fits]
    loaded = [folder.load(fit.key, "basis") for fit in reversed(fits)]
    for place, own in enumerate((saved, loaded)):
        write_summary(tmp_path / str(place), summarise(plan, [fit for fit in own if fit is not None], patient))
    for name in ("results.csv", "summary.csv", "headline.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    table = pd.read_csv(tmp_path / "0" / "results.csv")
    assert len(table) == len(summary.results)
    assert sorted(table["fraction"].unique()) == list(FRACTIONS)


def test_fit_of_another_basis_is_not_reused(tmp_path: Path) -> None:
    key = FitKey("moco", "finetune", 0.1, 2)
    outcome = Measured(("dice_1", "hd95_mm"), np.array([[0.5, 2.0], [0.75, np.nan]]))
    folder = FitFolder(tmp_path)
    assert folder.load(key, "one") is None
    saved = folder.save(Fit(key, 3, 2, outcome, {"learning_rate": 0.1}), "one")
    assert folder.load(key, "two") is None
    path = folder.folder / key.file
    whole = path.read_text()
    path.write_text(whole[:50])
    assert folder.load(key, "one") is None, "a torn file is fitted again, and does not stop the study"
    path.write_text(whole)
    loaded = folder.load(key, "one")
    assert loaded is not None and np.isnan(loaded.validation)
    assert loaded.choice == {"learning_rate": 0.1}
    assert isinstance(saved.outcome, Measured)
    assert np.array_equal(saved.outcome.values, outcome.values, equal_nan=True)


@pytest.mark.parametrize(
    "fraction, words",
    [(0.01, "1%"), (0.005, "0.5%"), (0.0834, "8.3%"), (0.123, "12%"), (1.0, "100%"), (0.0002, "0.02%"), (0.0005, "0.05%"), (0.0, "0%")],
)
def test_percent(fraction: float, words: str) -> None:
    assert percent(fraction) == words
