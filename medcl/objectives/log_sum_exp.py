"""Sums of log-sum-exp over all pairs, tile by tile, with the gradient finished in the same pass.

A contrastive loss ends the graph: nothing that comes later can change how its gradient is made but by one factor. So the forward
pass makes the gradient of a tile while the tile is there, and memory grows with the number of rows, not of pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from medcl.objectives.rows import Rows, hides_some, similarities, spans

SIDE = 512  # rows and columns of a tile that is visited twice
SAFE = 40.0  # exp of this and of its negative, and sums of them, are far from float32's ends
TILE = 2**20  # numbers in a tile that is as wide as all candidates


def log_sum_exp(left: Rows, right: tuple[Rows, ...], weights: Float[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """`sum_i w_i log sum_j exp(l_i . r_j)`, and the log-sum-exp of each row without gradient; right: the candidates, in parts."""
    return _OneWay.apply(left, right, weights, left.vectors, *(part.vectors for part in right))


def log_sum_exp_both_ways(
    left: Rows, right: Rows, weights: tuple[Float[Tensor, " n"], Float[Tensor, " m"]]
) -> tuple[Float[Tensor, ""], Float[Tensor, " n"], Float[Tensor, " m"]]:
    """`sum_i v_i log sum_j exp(l_i . r_j) + sum_j w_j log sum_i exp(l_i . r_j)`, and both rows of log-sum-exp without gradient."""
    return _BothWays.apply(left, right, *weights, left.vectors, right.vectors)


def log_sum_exp_symmetric(rows: Rows, weights: Float[Tensor, " n"]) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
    """`sum_i w_i log sum_{j != i} exp(r_i . r_j)`, each pair computed once for both of its rows."""
    total, found, _ = _BothWays.apply(rows, None, weights, weights, rows.vectors, None)
    return total, found


class _OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Rows, right: tuple[Rows, ...], weights: Tensor, *vectors: Tensor) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[3:]
        gradients = [torch.zeros_like(part) if wants else None for part, wants in zip(vectors, wanted, strict=True)]
        bounds = [0]
        for part in right:
            bounds.append(bounds[-1] + len(part))
        height = min(max(1, TILE // bounds[-1]), len(left))
        memory = vectors[0].new_empty(height, bounds[-1])
        found = vectors[0].new_empty(len(left))
        hides = [hides_some(left, candidates) for candidates in right]
        for rows in spans(len(left), height):
            tile = memory[: rows.stop - rows.start]
            parts = [tile[:, start:stop] for start, stop in itertools.pairwise(bounds)]
            for candidates, part, some in zip(right, parts, hides, strict=True):
                similarities(left, candidates, rows, slice(None), some, out=part)
            peak = tile.amax(dim=1, keepdim=True)
            total = tile.sub_(peak).exp_().sum(dim=1, keepdim=True)
            found[rows] = (peak + total.log())[:, 0]
            tile.mul_(weights[rows, None] / total)
            for candidates, part, gradient in zip(right, parts, gradients[1:], strict=True):
                if gradients[0] is not None:
                    gradients[0][rows].addmm_(part, candidates.vectors)
                if gradient is not None:
                    gradient.addmm_(part.T, left.vectors[rows])
        return _ended(ctx, gradients, (weights * found).sum(), found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, None, *_times(ctx, upstream[0])


class _BothWays(torch.autograd.Function):
    """With `right` None the table is symmetric: its upper triangle is visited, its diagonal left out."""

    @staticmethod
    def forward(
        ctx: Any, left: Rows, right: Rows | None, down: Tensor, across: Tensor, *vectors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        table = _Table(left, right)
        by_row, by_column = table.log_sum_exp()
        gradients = [None if part is None else torch.zeros_like(part) for part in vectors]
        if any(ctx.needs_input_grad):
            _add_gradients(table, by_row - down.log(), by_column - across.log(), gradients)
        total = (down * by_row).sum()
        if right is not None:
            total = total + (across * by_column).sum()
        return _ended(ctx, gradients, total, by_row, by_column.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, None, None, *_times(ctx, upstream[0])


class _Table:
    """All similarities of left and right rows, tile by tile. plain: none is too large for exp itself, so that one exp serves both ways."""

    def __init__(self, left: Rows, right: Rows | None) -> None:
        self.left, self.right, self.symmetric = left, left if right is None else right, right is None
        self.hides = hides_some(self.left, self.right)
        longest = [float(rows.vectors.norm(dim=1).max()) for rows in (self.left, self.right)]
        self.plain = longest[0] * longest[1] < SAFE

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        memory = self.left.vectors.new_empty(SIDE * SIDE)
        for rows in spans(len(self.left), SIDE):
            for columns in spans(len(self.right), SIDE):
                if self.symmetric and columns.start < rows.start:
                    continue
                shape = rows.stop - rows.start, columns.stop - columns.start
                tile = similarities(self.left, self.right, rows, columns, self.hides, out=memory[: shape[0] * shape[1]].view(shape))
                if self.symmetric and rows == columns:
                    tile.fill_diagonal_(torch.finfo(tile.dtype).min / 2)
                yield rows, columns, tile

    def log_sum_exp(self) -> tuple[Tensor, Tensor]:
        """Of each row and each column; of a symmetric table one tensor twice."""
        start = 0.0 if self.plain else -torch.inf
        by_row = self.left.vectors.new_full((len(self.left),), start)
        by_column = by_row if self.symmetric else by_row.new_full((len(self.right),), start)
        for rows, columns, tile in self.tiles():
            both = not self.symmetric or rows != columns
            if self.plain:
                tile.exp_()
                by_row[rows] += tile.sum(dim=1)
                if both:
                    by_column[columns] += tile.sum(dim=0)
            else:
                by_row[rows] = torch.logaddexp(by_row[rows], tile.logsumexp(dim=1))
                if both:
                    by_column[columns] = torch.logaddexp(by_column[columns], tile.logsumexp(dim=0))
        if self.plain:
            # A row that is compared with nothing has the sum 0 and no weight.
            floor = torch.finfo(by_row.dtype).tiny
            by_row = by_row.clamp_(min=floor).log_()
            by_column = by_row if self.symmetric else by_column.clamp_(min=floor).log_()
        return by_row, by_column


def _add_gradients(table: _Table, by_row: Tensor, by_column: Tensor, gradients: list[Tensor | None]) -> None:
    """Add each tile's part. by_row, by_column: log-sum-exp less the logarithm of the weight, so that one exp gives weight times share."""
    scale = (-by_row).exp(), (-by_column).exp()
    gradient = gradients[0] if table.symmetric else gradients[1]
    for rows, columns, tile in table.tiles():
        if table.plain:
            share = tile.exp_().mul_(scale[0][rows, None] + scale[1][columns])
        else:
            share = torch.exp(tile - by_row[rows, None])
            share += tile.sub_(by_column[columns]).exp_()
        gradients[0][rows].addmm_(share, table.right.vectors[columns])  # type: ignore[index]
        if not table.symmetric or rows != columns:
            gradient[columns].addmm_(share.T, table.left.vectors[rows])  # type: ignore[index]


def _ended(ctx: Any, gradients: list[Tensor | None], *results: Tensor) -> Any:
    ctx.save_for_backward(*gradients)
    ctx.mark_non_differentiable(*results[1:])
    return results


def _times(ctx: Any, upstream: Tensor) -> list[Tensor | None]:
    return [None if gradient is None else gradient * upstream for gradient in ctx.saved_tensors]
