"""Who is whose positive and who is compared with whom, as codes of rows: no table of pairs is ever kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Embeddings and what they are embeddings of.

    vectors: (n, dim), unit length. item: (n,) int64; two rows are a positive pair where their items are equal, and None is nobody's
    positive. patient: (n,) int64; two rows of one patient and different items are not compared at all.
    """

    vectors: Tensor
    item: Tensor | None
    patient: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def scaled(self, factor: float | Tensor | None = None) -> Rows:
        """The same rows, longer by a factor, in float32 at least: what a temperature does to similarities, with its gradient."""
        vectors = self.vectors.to(torch.promote_types(self.vectors.dtype, torch.float32))
        return replace(self, vectors=vectors if factor is None else vectors * factor)


def hides_some(left: Rows, right: Rows) -> bool:
    """Whether any two rows are not compared: a patient with several items, or with keys in a queue. Mostly there is none."""
    if left.item is None or right.item is None:
        return bool(torch.isin(left.patient, right.patient).any())
    pairs = torch.stack([torch.cat([left.patient, right.patient]), torch.cat([left.item, right.item])], dim=1)
    return len(torch.unique(pairs, dim=0)) > len(torch.unique(pairs[:, 0]))


def similarities(
    left: Rows, right: Rows, rows: slice, columns: slice, hides: bool, out: Tensor | None = None
) -> Float[Tensor, "rows columns"]:
    """Scalar products of a tile; where `hides_some`, as good as minus infinity for two rows that are not compared."""
    tile = torch.mm(left.vectors[rows], right.vectors[columns].T, out=out)
    if not hides:
        return tile
    hidden = left.patient[rows, None] == right.patient[columns]
    if left.item is not None and right.item is not None:
        hidden &= left.item[rows, None] != right.item[columns]
    # Finite, so that a row that is compared with nothing has a gradient of zero, not of NaN.
    return tile.masked_fill_(hidden, torch.finfo(tile.dtype).min / 2)


def positives(left: Rows, right: Rows, *, itself: bool) -> tuple[Float[Tensor, "n dim"], Int64[Tensor, " n"]]:
    """Sum of the vectors of each left row's positives among the right rows, and how many they are.

    The sum of similarities with all positives is the similarity with this sum. itself: left and right are the same rows, of which
    none is its own positive.
    """
    if left.item is None or right.item is None:
        return torch.zeros_like(left.vectors), torch.zeros_like(left.patient)
    items, codes = torch.unique(torch.cat([left.item, right.item]), return_inverse=True)
    own, other = codes[: len(left)], codes[len(left) :]
    sums = right.vectors.new_zeros(len(items), right.vectors.shape[1]).index_add_(0, other, right.vectors).index_select(0, own)
    counts = torch.bincount(other, minlength=len(items))[own]
    return (sums - right.vectors, counts - 1) if itself else (sums, counts)


def spans(length: int, step: int) -> list[slice]:
    """0..length in slices of at most `step`."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
