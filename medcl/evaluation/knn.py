"""Nearest neighbours in the embedding: what a backbone knows with nothing trained on top.

Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 4_000_000  # similarities held at once


def knn_probabilities(
    bank: np.ndarray, label: np.ndarray, query: np.ndarray, classes: int, *, neighbours: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Share of the vote for every class: (queries, classes). label: (n,) class numbers; the rest as in `knn_means`."""
    return knn_means(bank, np.eye(classes)[label], query, neighbours=neighbours, temperature=temperature)


def knn_means(bank: np.ndarray, votes: np.ndarray, query: np.ndarray, *, neighbours: int = 20, temperature: float = 0.07) -> np.ndarray:
    """The neighbours' weighted mean: (queries, numbers).

    bank: (n, dim) embeddings with known numbers `votes` (n, numbers); query: (queries, dim). Each of the nearest `neighbours`
    by cosine counts with exp(cosine / temperature).
    """
    similarity_rows = max(1, _CHUNK // max(1, len(bank)))
    bank, query = unit_length(bank), unit_length(query)
    starts = range(0, len(query), similarity_rows)
    return np.concatenate([_vote(query[at : at + similarity_rows] @ bank.T, votes, neighbours, temperature) for at in starts])


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their length; a zero row stays zero."""
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(bank: np.ndarray, query: np.ndarray, neighbours: int) -> np.ndarray:
    """Rows of the bank closest by cosine, closest first, lower rows first where equal: (queries, neighbours)."""
    similarity = unit_length(query) @ unit_length(bank).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]


def _vote(similarity: np.ndarray, votes: np.ndarray, neighbours: int, temperature: float) -> np.ndarray:
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    found = np.take_along_axis(similarity, order, axis=1)
    weight = np.exp((found - found[:, :1]) / temperature)
    return np.einsum("qk,qkc->qc", weight / weight.sum(1, keepdims=True), votes[order])
