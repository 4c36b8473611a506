"""Reports that say nearly the same: groups by shared word triples (MinHash; Broder 1997), for false negatives and for counting."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

NEAR = 0.8  # share of the word triples of either that both have
_HASHES, _BAND = 64, 4
_PRIME = (1 << 61) - 1


def groups_of_near(texts: Sequence[str]) -> list[int]:
    """A number above 0 for texts that share at least 80% of their word triples with another of the group, 0 for the others.

    Numbers count the groups from 1 in the order of their first text. Sizes, dates and punctuation do not count.
    """
    triples = [_triples(text) for text in texts]
    root = list(range(len(texts)))
    for bucket in _buckets(triples).values():
        for other in bucket[1:]:
            one, two = _find(root, bucket[0]), _find(root, other)
            if one != two and _alike(triples[bucket[0]], triples[other]):
                root[max(one, two)] = min(one, two)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        members[_find(root, index)].append(index)
    groups = [0] * len(texts)
    for number, found in enumerate((found for _, found in sorted(members.items()) if len(found) > 1), start=1):
        for index in found:
            groups[index] = number
    return groups


def _triples(text: str) -> frozenset[int]:
    words = re.findall(r"[^\W\d_]+", text.lower())
    runs = zip(words, words[1:], words[2:], strict=False) if len(words) > 3 else [tuple(words)]
    return frozenset(zlib.crc32(" ".join(run).encode()) for run in runs)


def _buckets(triples: Sequence[frozenset[int]]) -> dict[tuple[int, bytes], list[int]]:
    """Texts that agree on one band of their signature: with 16 bands of 4, nearly all pairs that share 80% of their triples."""
    draw = np.random.default_rng(0)
    factors = draw.integers(1, 2**31, (_HASHES, 1), dtype=np.uint64)
    offsets = draw.integers(0, 2**31, (_HASHES, 1), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for index, found in enumerate(triples):
        values = np.array(sorted(found), dtype=np.uint64)[None]
        signature = ((values * factors + offsets) % np.uint64(_PRIME) % np.uint64(2**32)).min(axis=1)
        for band in range(0, _HASHES, _BAND):
            buckets[band, signature[band : band + _BAND].tobytes()].append(index)
    return buckets


def _alike(one: frozenset[int], other: frozenset[int]) -> bool:
    return len(one & other) >= NEAR * len(one | other)


def _find(root: list[int], index: int) -> int:
    while root[index] != index:
        root[index] = root[root[index]]
        index = root[index]
    return index
