"""Train, val and test by patient: deterministic, stratified, and blind to file names and keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from medcl.foundation.randomness import generator
from medcl.ingest.settings import SplitConfig


def split_patients(
    patients: Sequence[str], hashes: Sequence[str], strata: Sequence[str], config: SplitConfig, near: Mapping[int, int] | None = None
) -> list[str]:
    """One of train, val, test for every item; items of one patient, with equal pixels or nearly so, always go together.

    patients, hashes (pixel hashes), strata: one entry per item. near: number of the near-duplicate group of items that
    are in one. The draw depends on the pixels and the seed alone, not on names, order or the hash key. Every stratum
    gets its share.
    """
    people = together(patients, hashes, near or {})
    members: dict[int, list[int]] = defaultdict(list)
    for index, person in enumerate(people):
        members[person].append(index)
    by_stratum: dict[str, list[int]] = defaultdict(list)
    for person in sorted(members, key=lambda one: min(hashes[index] for index in members[one])):
        by_stratum[max(strata[index] for index in members[person])].append(person)
    line = []
    for stratum in sorted(by_stratum):
        order = generator(config.seed, f"split {stratum}").permutation(len(by_stratum[stratum]))
        line += [by_stratum[stratum][int(place)] for place in order]
    result = [""] * len(patients)
    for person, part in zip(line, _dealt(len(line), config), strict=True):
        for index in members[person]:
            result[index] = part
    return result


def beside_equals(known: Sequence[str], patients: Sequence[str], hashes: Sequence[str], near: Mapping[int, int]) -> list[str]:
    """`known` (a split, or empty), where items that go with one whose split is known get it too: of several, test, then val."""
    people = together(patients, hashes, near)
    parts: dict[int, set[str]] = defaultdict(set)
    for person, part in zip(people, known, strict=True):
        parts[person].add(part)
    first = ("test", "val", "train", "")
    return [part or min(parts[person], key=first.index) for person, part in zip(people, known, strict=True)]


def _dealt(count: int, config: SplitConfig) -> list[str]:
    """Parts dealt along a line at even distances: every stretch of it, so every stratum, gets its share, however small."""
    start = generator(config.seed, "split start").uniform(0, 1, 2)
    parts, rest = [], 0
    for place in range(count):
        if _crosses(place, config.test, start[0]):
            parts.append("test")
            continue
        parts.append("val" if _crosses(rest, config.val / (1 - config.test), start[1]) else "train")
        rest += 1
    return parts


def _crosses(place: int, share: float, start: float) -> bool:
    return int((place + 1) * share + start) > int(place * share + start)


def together(patients: Sequence[str], hashes: Sequence[str], near: Mapping[int, int]) -> list[int]:
    """Number of the connected group of every item: linked by patient, by equal pixels or as near-duplicates."""
    parent = list(range(len(patients)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str | int], int] = {}
    for index, (patient, value) in enumerate(zip(patients, hashes, strict=True)):
        for link in (("patient", patient), ("pixels", value), *([("near", near[index])] if index in near else [])):
            other = first.setdefault(link, index)
            parent[root(index)] = root(other)
    return [root(index) for index in range(len(patients))]
