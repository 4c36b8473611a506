"""The recipes beside the configs: they run as documented, and say what they found."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_learning_rate_finder(small_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runpy.run_path(str(ROOT / "examples" / "find_learning_rate.py"))
    suggested = recipe["main"]([str(small_config), "--steps", "24", "--highest", "0.1", "method.temperature=0.2"])
    said = capsys.readouterr().out
    assert 1e-6 < suggested < 0.1 and said.count("\n") == 2 + 12 + 1 and f"suggested: {suggested:.1e}" in said
    assert recipe["bands"]([1e-4, 1e-2], [3.0, 1.0]) == [pytest.approx((1e-4, 3.0)), pytest.approx((1e-2, 1.0))]


def test_a_rate_too_high_ends_the_search_and_not_with_an_error(small_config: Path) -> None:
    recipe = runpy.run_path(str(ROOT / "examples" / "find_learning_rate.py"))
    assert recipe["main"]([str(small_config), "--steps", "24", "--highest", "1e20", "training.optimizer.name=sgd"]) < 1e19


def test_the_sweep(small_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runpy.run_path(str(ROOT / "examples" / "sweep.py"))
    found = recipe["main"]([str(small_config), "method.temperature", "0.1", "1.0", "--steps", "3", "--set", "training.world_batch=6"])
    assert list(found) == ["0.1", "1.0"] and all(
        {"loss", "alignment", "collapse/uniformity"} <= figures.keys() for figures in found.values()
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| method.temperature | loss | alignment |") and len(lines) == 4
