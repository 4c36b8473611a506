"""Which volumes are the same pixels: a hash that does not depend on the file format they came in."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from medcl.foundation import geometry
from medcl.foundation.types import Volume


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


def groups_of_equals(hashes: Iterable[str]) -> dict[int, int]:
    """Number the groups of equal hashes: position -> group (1, 2, ...) for those that are not alone."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(hashes):
        places[value].append(place)
    shared = sorted(value for value, found in places.items() if len(found) > 1)
    return {place: number for number, value in enumerate(shared, start=1) for place in places[value]}
