"""The benchmarks of training run at a small size wherever the tests run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a script there was started: they import each other by bare names."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MONAI's, about decoders that are not used
def test_a_step_beside_a_plain_loop(tmp_path: Path) -> None:
    pytest.importorskip("batchgeneratorsv2")
    import gpu_step

    text = gpu_step.main(["--small", "--out", str(tmp_path / "table.md")])
    rows = [line.split("|")[1:-1] for line in text.splitlines()[6:]]
    assert [(row[0].strip(), row[3].strip()) for row in rows] == [
        (method, arm) for method in ("SimCLR", "MoCo") for arm in ("medcl", "plain MONAI")
    ]
    assert all(float(row[4].replace(",", "")) > 0 for row in rows) and (tmp_path / "table.md").read_text() == text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as above
def test_views_beside_what_a_step_needs(tmp_path: Path) -> None:
    pytest.importorskip("batchgeneratorsv2")
    import gpu_views

    text = gpu_views.main(["--small", "--out", str(tmp_path / "table.md")])
    parts, steps = ([line for line in text.splitlines() if line.startswith(start)] for start in (("| 16³", "| 32²"), "| ResNet-18 |"))
    assert [all(float(cell.replace(",", "")) > 0 for cell in row.split("|")[2:-1]) for row in parts] == [True, True]
    assert len(steps) == 2 and all("%" in row for row in steps) and (tmp_path / "table.md").read_text() == text


def test_teacher_and_queue_beside_a_step() -> None:
    import teacher_and_queue

    rows = [line for line in teacher_and_queue.measure(16, 2, 2, width=4).splitlines() if line.startswith("| ")]
    assert len(rows) == 4 and rows[2].startswith("| teacher and queue, medcl") and rows[2].rstrip(" |").endswith("%")
    assert "teacher_and_queue" in sys.modules


def test_memory_of_a_step() -> None:
    import step_memory

    rows = [line.split("|")[1:-1] for line in step_memory.measure(16, 4, ("ViT",)).splitlines() if line.startswith("| ViT")]
    assert len(rows) == 4 and all(float(row[-1]) < 1e-4 for row in rows)
