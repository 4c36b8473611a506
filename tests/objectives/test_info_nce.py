from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.objectives import Rows, info_nce, info_nce_both_ways, log_sum_exp, nt_xent


def _rows(n: int, seed: int, items: int = 3, patients: int = 3, dim: int = 4, dtype: torch.dtype = torch.float64) -> Rows:
    """Unit rows with ties of item; items of one patient where there are fewer patients than items."""
    generator = torch.Generator().manual_seed(seed)
    item = torch.randint(items, (n,), generator=generator)
    return Rows(F.normalize(torch.randn(n, dim, generator=generator, dtype=dtype), dim=1), item, item % patients)


def _queue(n: int, seed: int) -> Rows:
    rows = _rows(n, seed)
    return Rows(rows.vectors, None, rows.patient)


def _by_loop(anchors: Rows, candidates: list[Rows], temperature: float, itself: bool = False) -> float:
    """The formula, number by number. itself: anchors and candidates are the same rows."""
    losses = []
    for i, anchor in enumerate(anchors.vectors):
        exps, positive = [], []
        for part in candidates:
            for j, candidate in enumerate(part.vectors):
                same_item = part.item is not None and int(anchors.item[i]) == int(part.item[j])
                if (itself and i == j) or (int(anchors.patient[i]) == int(part.patient[j]) and not same_item):
                    continue
                exps.append(math.exp(float(anchor @ candidate) / temperature))
                if same_item:
                    positive.append(exps[-1])
        if positive:
            losses.append(sum(-math.log(own / sum(exps)) for own in positive) / len(positive))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.fixture(params=["whole", "tiled", "careful"])
def tiles(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with tiles so small that rows of the tests cross their borders, and as if similarities were too large for exp."""
    if request.param != "whole":
        monkeypatch.setattr(log_sum_exp, "SIDE", 3)
        monkeypatch.setattr(log_sum_exp, "TILE", 20)
    if request.param == "careful":
        monkeypatch.setattr(log_sum_exp, "SAFE", 0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_each_is_the_formula_written_as_a_loop(seed: int, temperature: float, tiles) -> None:
    left, right, queue = _rows(7, seed, items=6), _rows(8, seed + 50, items=6), _queue(5, seed + 90)
    found = info_nce(left, right, queue, temperature=temperature)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(_by_loop(left, [right, queue], temperature), rel=1e-10)
    assert float(nt_xent(left, temperature=temperature)) == pytest.approx(_by_loop(left, [left], temperature, itself=True), rel=1e-10)
    there, back = _by_loop(left, [right], temperature), _by_loop(right, [left], temperature)
    loss, to_right, to_left = info_nce_both_ways(left, right, temperature=temperature, left_weight=0.75)
    assert float(to_right) == pytest.approx(there, rel=1e-10) and float(to_left) == pytest.approx(back, rel=1e-10)
    assert float(loss) == pytest.approx(0.75 * there + 0.25 * back, rel=1e-10)


def test_gradients_by_finite_differences_the_temperatures_too(tiles) -> None:
    left, right, queue = _rows(5, 0, items=6), _rows(7, 1, items=6), _queue(3, 2)
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    a, b, q = (rows.vectors.requires_grad_() for rows in (left, right, queue))

    def one_way(a: Tensor, b: Tensor, q: Tensor, t: Tensor) -> Tensor:
        return info_nce(Rows(a, left.item, left.patient), Rows(b, right.item, right.patient), Rows(q, None, queue.patient), temperature=t)

    def symmetric(b: Tensor, t: Tensor) -> Tensor:
        return nt_xent(Rows(b, right.item, right.patient), temperature=t)

    def both_ways(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        rows = Rows(a, left.item, left.patient), Rows(b, right.item, right.patient)
        return 3 * info_nce_both_ways(*rows, temperature=t, left_weight=0.7)[0]

    assert torch.autograd.gradcheck(one_way, (a, b, q, temperature))
    assert torch.autograd.gradcheck(symmetric, (b, temperature))
    assert torch.autograd.gradcheck(both_ways, (a, b, temperature))


def _naive(views: Rows, temperature: float) -> Tensor:
    itself = torch.eye(len(views), dtype=torch.bool)
    same = views.item[:, None] == views.item[None, :]
    logits = (views.vectors @ views.vectors.T / temperature).masked_fill(itself, -torch.inf)
    logits = logits.masked_fill(~same & (views.patient[:, None] == views.patient[None, :]), -torch.inf)
    share = (logits - logits.logsumexp(dim=1, keepdim=True)).masked_fill(~same | itself, 0)
    return (-share.sum(dim=1) / (same & ~itself).sum(dim=1)).mean()


def test_in_float32_loss_and_gradient_are_the_full_tables_to_1e_5() -> None:
    views = _rows(1400, 0, items=500, patients=300, dim=128, dtype=torch.float32)
    views = Rows(torch.cat([views.vectors, views.vectors.flip(1)]).requires_grad_(), views.item.repeat(2), views.patient.repeat(2))
    results = []
    for loss in (nt_xent(views, temperature=0.1), _naive(views, 0.1)):
        results.append((loss.detach(), *torch.autograd.grad(loss, views.vectors)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5 * float(results[1][1].abs().max()))


def test_with_one_positive_it_is_cross_entropy() -> None:
    own = torch.arange(6)
    anchors, candidates = torch.randn(6, 8), torch.randn(6, 8)
    found = info_nce(Rows(anchors, own, own), Rows(candidates, own, own), temperature=0.2)
    torch.testing.assert_close(found, F.cross_entropy(anchors @ candidates.T / 0.2, own))


def test_similarities_far_apart_neither_overflow_nor_vanish() -> None:
    """At a temperature of 0.001 similarities span 2,000: no common shift of all rows would do."""
    own = torch.arange(4)
    left, right = (Rows(F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(s)), dim=1), own, own) for s in (0, 1))
    for found, wanted in (
        (info_nce(left, right, temperature=0.001), F.cross_entropy(left.vectors @ right.vectors.T / 0.001, own)),
        (
            info_nce_both_ways(left, right, temperature=0.001, left_weight=0.0)[0],
            F.cross_entropy(right.vectors @ left.vectors.T * 1e3, own),
        ),
    ):
        assert float(found) > 20
        torch.testing.assert_close(found, wanted)


def test_what_is_not_compared_has_no_influence() -> None:
    left, right = _rows(6, 0, items=6, patients=2), _rows(6, 1, items=6, patients=2)
    queue = Rows(_rows(5, 2).vectors, None, torch.zeros(5, dtype=torch.int64))
    anchors = Rows(left.vectors, left.item, torch.zeros(6, dtype=torch.int64))
    found = [
        info_nce(anchors, right, Rows(vectors, None, queue.patient), temperature=0.1) for vectors in (queue.vectors, 40 * queue.vectors)
    ]
    assert torch.equal(*found)


def test_anchors_without_positives_or_without_anything_to_compare_give_no_nan(tiles) -> None:
    vectors = torch.randn(4, 3, requires_grad=True)
    item, patient = torch.tensor([0, 0, 1, 2]), torch.tensor([7, 7, 8, 8])  # rows 2 and 3: no positive; compared with 0 and 1 only
    alone = torch.zeros(4, dtype=torch.int64)
    for rows, wanted in ((Rows(vectors, item, patient), None), (Rows(vectors, torch.arange(4), alone), 0.0)):
        for loss in (
            nt_xent(rows, temperature=0.1),
            info_nce(rows, Rows(vectors.detach().flip(0), rows.item + 10, rows.patient), temperature=0.1),
            info_nce_both_ways(
                rows, Rows(vectors.detach(), rows.item + (0 if wanted is None else 10), rows.patient), temperature=0.1, left_weight=0.5
            )[0],
        ):
            (gradient,) = torch.autograd.grad(loss, vectors, retain_graph=True)
            assert bool(loss.isfinite()) and bool(gradient.isfinite().all())
        assert wanted is None or float(nt_xent(rows, temperature=0.1).detach()) == wanted


def test_an_empty_queue_changes_nothing() -> None:
    left, right = _rows(6, 0), _rows(6, 1)
    empty = Rows(left.vectors[:0], None, left.patient[:0])
    assert torch.equal(info_nce(left, right, empty, temperature=0.2), info_nce(left, right, temperature=0.2))


def test_stays_in_float32_under_autocast() -> None:
    own = torch.arange(4)
    anchors, candidates = torch.randn(4, 16), torch.randn(4, 16)
    plain = info_nce(Rows(anchors, own, own), Rows(candidates, own, own), temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        cast = info_nce(Rows(anchors, own, own), Rows(candidates, own, own), temperature=0.05)
        low = info_nce(Rows(anchors.bfloat16(), own, own), Rows(candidates.bfloat16(), own, own), temperature=0.05)
    assert torch.equal(plain, cast) and low.dtype == torch.float32
