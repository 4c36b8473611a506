from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medcl.monitoring.collapse import CollapseLimits, alignment, collapse_figures, collapse_reason


def _random(n: int = 512, dim: int = 32) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0))


def test_even_embeddings() -> None:
    figures = collapse_figures(_random())
    assert figures["spread"] == pytest.approx(1, abs=0.02)
    assert figures["effective_rank"] > 30
    assert figures["first_direction_share"] < 0.06
    assert figures["uniformity"] == pytest.approx(-3.7, abs=0.2)
    assert collapse_reason(figures, figures) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert collapse_figures(_random()) == figures


def test_a_constant_embedding_has_one_direction_however_small_its_noise() -> None:
    """Centring first would leave nothing but the noise, which is full rank."""
    rows = torch.ones(64, 32) + 1e-4 * _random(64)
    figures = collapse_figures(rows)
    assert figures["effective_rank"] < 1.05
    assert figures["first_direction_share"] > 0.999
    assert figures["spread"] < 1e-3
    assert "the same" in str(collapse_reason(figures, figures))
    for constant in (torch.ones(8, 4), torch.zeros(8, 4)):
        assert collapse_reason(collapse_figures(constant), figures)


def test_all_on_one_line_is_named() -> None:
    signs = torch.tensor([1.0, -1.0]).repeat(32)[:, None]
    figures = collapse_figures(signs * torch.ones(64, 16) + 1e-3 * _random(64, 16))
    assert "one line" in str(collapse_reason(figures, figures))


def test_an_untrained_network_is_close_together_but_not_collapsed() -> None:
    first = collapse_figures(torch.ones(64, 32) + 0.04 * _random(64))
    assert first["spread"] < 0.05
    assert collapse_reason(first, first) is None
    fallen = collapse_figures(torch.ones(64, 32) + 0.01 * _random(64))
    assert "one point" in str(collapse_reason(fallen, first))


def test_effective_rank_is_roy_and_vetterlis() -> None:
    rows = torch.eye(4).repeat(3, 1)
    assert collapse_figures(rows)["effective_rank"] == pytest.approx(4)
    rows = torch.cat([torch.eye(3)[:1].repeat(9, 1), torch.eye(3)[1:2]])  # singular values 3 and 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert collapse_figures(rows)["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-5)
    assert collapse_figures(rows)["first_direction_share"] == pytest.approx(0.9, rel=1e-5)


def test_alignment_and_uniformity_as_loops() -> None:
    left, right = (F.normalize(_random(6, 5)[rows], dim=1) for rows in ([0, 1, 2], [3, 4, 5]))
    wanted = sum(float((a - b) @ (a - b)) for a, b in zip(left, right, strict=True)) / 3
    assert float(alignment(left, right)) == pytest.approx(wanted, rel=1e-5)
    rows = F.normalize(_random(6, 5), dim=1)
    pairs = [math.exp(-2 * float((rows[i] - rows[j]) @ (rows[i] - rows[j]))) for i in range(6) for j in range(i)]
    assert collapse_figures(rows)["uniformity"] == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_one_row_and_many_rows_have_figures() -> None:
    assert all(math.isfinite(value) for value in collapse_figures(_random(1)).values())
    assert collapse_figures(_random(3000)) == collapse_figures(_random(3000)[:1024])


def test_limits_can_be_set() -> None:
    first = {"spread": 1.0, "first_direction_share": 0.1, "effective_rank": 20.0}
    for found, limits in (
        ({"spread": 0.3}, {"spread": 0.4}),
        ({"spread": 0.04}, {"spread_kept": 0.01}),
        ({"first_direction_share": 0.9}, {"first_direction_share": 0.8}),
        ({"effective_rank": 3.0}, {"effective_rank": 4.0}),
    ):
        before, after = collapse_reason(first | found, first), collapse_reason(first | found, first, CollapseLimits(**limits))
        assert (before is None) != (after is None), found
