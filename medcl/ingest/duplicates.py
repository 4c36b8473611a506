"""Which volumes are the same pixels, and which the same scan in another guise: hashes that need no pixels to compare."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from medcl.foundation import geometry
from medcl.foundation.types import Volume

BITS = 256
# Bits that may differ between two guises of one scan; measured in reports/ingest/duplicates.md. A picture shows far more
# detail across its plane than a volume does along each axis, so unrelated ones differ more.
MOST_DIFFERING = {"v": 30, "p": 52}
_SIDE = 32
_SMALLEST_VOLUME, _SMALLEST_PICTURE = (8, 20, 20), (1, 32, 32)
# Up to here every pair is compared; beyond, neighbours in many random sort orders (Charikar 2002, Manku et al. 2007).
ALL_PAIRS = 8192
_ORDERS, _NEIGHBOURS, _SORTED_BITS = 24, 32, 64


def pixel_hash(volume: Volume) -> str:
    """SHA-256 (first 32 hexadecimal digits) of shape and float32 values in RAS order: equal for DICOM and its NIfTI."""
    array = volume.array
    if volume.kind == "volume":
        array, _ = geometry.reorient(array, volume.affine, "RAS")
    digest = hashlib.sha256(repr(tuple(array.shape)).encode())
    for index in range(array.shape[2]):
        # x fastest: the layout in which both DICOM and NIfTI arrays lie in memory
        digest.update(np.ascontiguousarray(array[:, :, index].T, dtype="<f4").data)
    return digest.hexdigest()[:32]


def near_hash(volume: Volume) -> str:
    """`v` (volume) or `p` (picture) and 256 bits as hexadecimal digits; few bits differ between guises of one scan.

    The scan in RAS order is averaged to 32 cells per axis and its values are cut at the first and last percentile, so
    that spacing, units, window and kernel hardly count; the bits are the signs of its lowest cosine coefficients without
    the constant (Zauner 2010, in 3D). Empty where there is too little to tell by: pictures under 32 pixels a side,
    volumes under 20 x 20 x 8 voxels, one value only.
    """
    from scipy.fft import dctn

    array = volume.array
    if volume.kind == "volume":
        array, _ = geometry.reorient(array, volume.affine, "RAS")
    smallest = _SMALLEST_VOLUME if volume.kind == "volume" else _SMALLEST_PICTURE
    if any(side < least for side, least in zip(sorted(array.shape), smallest, strict=True)):
        return ""
    cells = _averaged(array)
    values = _without_extremes(cells if volume.kind == "volume" else cells[:, :, 0])
    if values is None:
        return ""
    bits = np.asarray(dctn(values, norm="ortho"))[_lowest(values.ndim)] > 0
    return volume.kind[0] + np.packbits(bits).tobytes().hex()


def _averaged(array: np.ndarray) -> np.ndarray:
    """The mean over 32 equal cells along each axis (pictures keep z), one slice in memory at a time."""
    along_x, along_y = _cells(array.shape[0]), _cells(array.shape[1])
    planes = [along_x @ array[:, :, index].astype(np.float32) @ along_y.T for index in range(array.shape[2])]
    whole = np.stack(planes, axis=-1)
    return whole if array.shape[2] == 1 else whole @ _cells(array.shape[2]).T


@lru_cache(maxsize=64)
def _cells(length: int) -> np.ndarray:
    """(32, length) weights: the share that each of `length` voxels has in each of 32 equal cells."""
    edges = np.arange(_SIDE + 1) * length / _SIDE
    voxel = np.arange(length)
    shares = np.minimum(edges[1:, None], voxel + 1) - np.maximum(edges[:-1, None], voxel)
    return (np.maximum(shares, 0) * _SIDE / length).astype(np.float32)


def _without_extremes(cells: np.ndarray) -> np.ndarray | None:
    """Values from the first to the last percentile as 0 to 1, those beyond at the ends; None where all are the same."""
    low, high = np.percentile(cells, [1, 99])
    return np.clip((cells - low) / (high - low), 0, 1) if high > low else None


@lru_cache(maxsize=2)
def _lowest(axes: int) -> tuple[np.ndarray, ...]:
    """Indices of the 256 coefficients of lowest frequency but the constant, in a fixed order."""
    index = np.stack(np.meshgrid(*[np.arange(_SIDE)] * axes, indexing="ij"), -1).reshape(-1, axes)
    order = np.lexsort([*index.T, (index**2).sum(axis=1)])[1 : BITS + 1]
    return tuple(index[order].T)


def groups_of_equals(hashes: Iterable[str]) -> dict[int, int]:
    """Number the groups of equal hashes: position -> group (1, 2, ...) for those that are not alone."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(hashes):
        places[value].append(place)
    shared = sorted(value for value, found in places.items() if len(found) > 1)
    return {place: number for number, value in enumerate(shared, start=1) for place in places[value]}


def groups_of_near(near: Sequence[str], exact: Sequence[str], series: Sequence[str]) -> dict[int, int]:
    """Number the groups of near-duplicates, linked by chains: position -> group (1, 2, ...).

    near, exact, series: near_hash, pixel_hash and series of every item. Time points of one series are no duplicates of
    each other, and items with equal pixels only are no near ones. Numbers do not depend on the order of items.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = near_pairs(near)
    if not len(pairs):
        return {}
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(near), len(near)))
    component = connected_components(links, directed=False)[1]
    members: dict[int, list[int]] = defaultdict(list)
    for place in np.unique(pairs):
        members[int(component[place])].append(int(place))
    groups = [
        found for found in members.values() if len({exact[place] for place in found}) > 1 and len({series[place] for place in found}) > 1
    ]
    groups.sort(key=lambda found: min(exact[place] for place in found))
    return {place: number for number, found in enumerate(groups, start=1) for place in found}


def near_pairs(hashes: Sequence[str]) -> np.ndarray:
    """(pairs, 2) positions of near-duplicates, each pair once. Empty hashes are near nothing.

    Up to 8,192 hashes of a kind all pairs are compared. Beyond that each is compared with its 32 neighbours in 24
    random sort orders: time grows as n log n, and a pair is missed the sooner the more it differs.
    """
    found = [np.empty((0, 2), np.int64)]
    for kind, most in MOST_DIFFERING.items():
        places = np.array([place for place, value in enumerate(hashes) if value[:1] == kind], dtype=np.int64)
        if len(places) > 1:
            words = _words([hashes[int(place)] for place in places])
            search = _all_pairs if len(places) <= ALL_PAIRS else _neighbours
            pairs = np.concatenate([np.empty((0, 2), np.int64), *search(words, most)])
            found.append(np.unique(np.sort(places[pairs], axis=1), axis=0))
    return np.concatenate(found)


def near_any(hashes: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """For every hash whether any of `others` is a near-duplicate of it; every pair is compared."""
    met = np.zeros(len(hashes), bool)
    for kind, most in MOST_DIFFERING.items():
        theirs = _words(sorted({value for value in others if value[:1] == kind}))
        for place, value in enumerate(hashes):
            if value[:1] == kind and len(theirs):
                met[place] = bool((_differing(theirs, _words([value])) <= most).any())
    return met


def _words(hashes: Sequence[str]) -> np.ndarray:
    """(n, 4) uint64."""
    content = bytes.fromhex("".join(value[1:] for value in hashes))
    return np.frombuffer(content, dtype=np.uint64).reshape(-1, BITS // 64)


def _differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)


def _all_pairs(words: np.ndarray, most: int) -> Iterator[np.ndarray]:
    for place in range(len(words) - 1):
        near = np.flatnonzero(_differing(words[place + 1 :], words[place]) <= most) + place + 1
        if len(near):
            yield np.stack([np.full(len(near), place), near], axis=1)


def _neighbours(words: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Pairs close to each other when sorted by 64 randomly chosen bits, once for each of 24 choices."""
    choices = np.random.Generator(np.random.Philox(0))
    for _ in range(_ORDERS):
        key = np.zeros(len(words), np.uint64)
        for bit in choices.permutation(BITS)[:_SORTED_BITS]:
            key = key << np.uint64(1) | (words[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
        order = np.argsort(key, kind="stable")
        ordered = words[order]
        for step in range(1, _NEIGHBOURS + 1):
            near = np.flatnonzero(_differing(ordered[step:], ordered[:-step]) <= most)
            if len(near):
                yield np.stack([order[near], order[near + step]], axis=1)
