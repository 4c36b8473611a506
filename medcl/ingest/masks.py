"""Masks found by name, attached to the one image beside them whose voxels lie where theirs do."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcl.foundation import geometry
from medcl.ingest.hints import from_name, stem_of, without_mask_words
from medcl.ingest.ledger import Fate
from medcl.ingest.records import Scan

GRID_TOLERANCE_MM = 0.1
_IMAGE_FOLDER = {"labelstr": "imagestr", "labelsts": "imagests", "labels": "images", "masks": "images", "segmentations": "images"}


@dataclass(frozen=True)
class Mask:
    """A mask as read: its grid and the values in it. relative: its private name; other_half: the .img of a .hdr."""

    path: str
    relative: str
    shape: tuple[int, ...]
    affine: np.ndarray
    pixel_hash: str = ""
    other_half: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attached:
    """A mask and the index of the scan it belongs to."""

    mask: Mask
    scan: int


def attach(masks: Sequence[Mask], scans: Sequence[Scan], volume_of: dict[int, str]) -> tuple[list[Attached], list[Fate]]:
    """Find the image of every mask. Candidates lie in the mask's folder, in `imagesTr` beside `labelsTr`, or share BIDS
    subject and session; the grid (shape and affine, in any axis order) must be theirs.
    """
    if not masks:
        return [], []
    near = _by_folder(scans)
    grids = [grid(scan.shape, scan.affine) for scan in scans]
    subjects = _by_subject(scans)
    attached: list[Attached] = []
    fates: list[Fate] = []
    taken: set[int] = set()
    for mask in sorted(masks, key=lambda one: one.relative):
        hint = from_name(mask.relative)
        candidates = _candidates(mask, near) or (subjects.get(hint.study, []) if hint.study else [])
        own = grid(mask.shape, mask.affine)
        fitting = [index for index in candidates if grids[index].is_that_of(own)]
        chosen, reason = _choose(mask, fitting, candidates, scans)
        if chosen is not None and chosen in taken:
            chosen, reason = None, "second_mask"
        if chosen is None:
            detail = f"{len(candidates)} images beside it, {len(fitting)} on its grid"
            fates += [Fate(path, reason, detail) for path in (mask.path, *mask.other_half)]
            continue
        taken.add(chosen)
        attached.append(Attached(mask, chosen))
        fates += [Fate(path, "mask", volume=volume_of[chosen]) for path in (mask.path, *mask.other_half)]
    return attached, fates


@dataclass(frozen=True)
class Grid:
    """Where a volume's voxels lie, once it is turned to RAS: its shape and the places of its corner voxels in mm."""

    shape: tuple[int, ...]
    corners: np.ndarray

    def is_that_of(self, other: Grid) -> bool:
        """Whether both put every corner voxel at the same place."""
        return self.shape == other.shape and float(np.abs(self.corners - other.corners).max()) <= GRID_TOLERANCE_MM


def grid(shape: Sequence[int], affine: np.ndarray) -> Grid:
    """The grid of a volume in any axis order."""
    turned, turned_affine = geometry.reorient(np.broadcast_to(np.uint8(0), tuple(shape)), affine, "RAS")
    ends = [(0, length - 1) for length in turned.shape]
    corners = np.array([[x, y, z, 1] for x in ends[0] for y in ends[1] for z in ends[2]], dtype=np.float64)
    return Grid(tuple(turned.shape), corners @ turned_affine.T)


def _by_folder(scans: Sequence[Scan]) -> dict[str, list[int]]:
    folders: dict[str, list[int]] = defaultdict(list)
    for index, scan in enumerate(scans):
        if scan.kind == "volume":
            folders[os.path.dirname(scan.source.paths[0])].append(index)
    return folders


def _by_subject(scans: Sequence[Scan]) -> dict[str, list[int]]:
    subjects: dict[str, list[int]] = defaultdict(list)
    for index, scan in enumerate(scans):
        if scan.source.reader == "nifti" and (study := from_name(scan.identity.file).study):
            subjects[study].append(index)
    return subjects


def _candidates(mask: Mask, near: dict[str, list[int]]) -> list[int]:
    folder = os.path.dirname(mask.path)
    sibling = _IMAGE_FOLDER.get(os.path.basename(folder).lower())
    if sibling:
        beside = [
            found for found in near if os.path.dirname(found) == os.path.dirname(folder) and os.path.basename(found).lower() == sibling
        ]
        return [index for found in beside for index in near[found]]
    return near.get(folder, [])


def _choose(mask: Mask, fitting: list[int], candidates: list[int], scans: Sequence[Scan]) -> tuple[int | None, str]:
    """The one image: that of the same name, else the only one on this grid, else the one with the longest common name."""
    base = without_mask_words(mask.path)
    named = [index for index in candidates if _image_stem(scans[index]) == base]
    if named:
        on_grid = [index for index in named if index in fitting]
        return (min(on_grid, key=lambda index: scans[index].facts.time_index), "") if on_grid else (None, "mask_grid")
    if not fitting:
        return None, _without_fit(mask, base, candidates, scans)
    if len(fitting) == 1:
        return fitting[0], ""
    alike = sorted(((_letters_in_common(base, _image_stem(scans[index])), index) for index in fitting), reverse=True)
    return (alike[0][1], "") if alike[0][0] > alike[1][0] else (None, "mask_ambiguous")


def _without_fit(mask: Mask, base: str, candidates: list[int], scans: Sequence[Scan]) -> str:
    """No image on this grid: either the image is elsewhere, or one that shares its name has another grid."""
    shared = [index for index in candidates if len(base) > 3 and _image_stem(scans[index]).startswith(base)]
    return "mask_grid" if shared or any(scans[index].source.reader == "dicom" for index in candidates) else "mask_without_image"


def _letters_in_common(one: str, other: str) -> int:
    """Length of the beginning that two names share."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _image_stem(scan: Scan) -> str:
    stem = stem_of(scan.source.paths[0])
    return stem.removesuffix("_0000")
