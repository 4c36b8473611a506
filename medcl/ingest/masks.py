"""Masks found by name, attached to the one image beside them whose voxels lie where theirs do."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcl.foundation import geometry
from medcl.ingest.hints import from_name, stem_of, without_mask_words
from medcl.ingest.ledger import Fate
from medcl.ingest.records import Scan

GRID_TOLERANCE_MM = 0.1
_WORD = re.compile(r"\d+|[^\W\d_]+")
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

    Names come first: an image that has a mask of its own name is not given another one because it happens to be on its grid.
    """
    if not masks:
        return [], []
    near = _by_folder(scans)
    grids = [grid(scan.shape, scan.affine) for scan in scans]
    subjects = _by_subject(scans)
    ordered = sorted(masks, key=lambda one: one.relative)
    sought: list[tuple[Mask, list[int], list[int]]] = []
    for mask in ordered:
        hint = from_name(mask.relative)
        candidates = _candidates(mask, near) or (subjects.get(hint.study, []) if hint.study else [])
        sought.append((mask, candidates, [index for index in candidates if _image_stem(scans[index]) == without_mask_words(mask.path)]))
    claimed = {index for _, _, named in sought for index in named}
    attached: list[Attached] = []
    fates: list[Fate] = []
    taken: set[int] = set()
    for mask, candidates, named in sought:
        own = grid(mask.shape, mask.affine)
        fitting = [index for index in candidates if grids[index].is_that_of(own)]
        if named:
            chosen, reason = _choose_named(mask, [index for index in named if index in fitting], scans)
        else:
            chosen, reason = _choose(mask, fitting, candidates, scans)
        if chosen in taken or (chosen in claimed and not named):
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
    sibling = _IMAGE_FOLDER.get(_folder_name(mask.path))
    if sibling:
        beside = [
            found for found in near if os.path.dirname(found) == os.path.dirname(folder) and os.path.basename(found).lower() == sibling
        ]
        return [index for found in beside for index in near[found]]
    return near.get(folder, [])


def _choose_named(mask: Mask, fitting: list[int], scans: Sequence[Scan]) -> tuple[int | None, str]:
    """The image of the mask's own name: of several, the one that lies nearest, and of that its first time point."""
    if not fitting:
        return None, "mask_grid"
    depths = {index: len(os.path.commonpath([mask.path, scans[index].source.paths[0]])) for index in fitting}
    nearest = [index for index in fitting if depths[index] == max(depths.values())]
    if len({scans[index].source.paths for index in nearest}) > 1:
        return None, "mask_ambiguous"
    return min(nearest, key=lambda index: scans[index].facts.time_index), ""


def _choose(mask: Mask, fitting: list[int], candidates: list[int], scans: Sequence[Scan]) -> tuple[int | None, str]:
    """Where no image has the mask's name: the only one on its grid whose name may be meant, else that with the longest common name."""
    base = without_mask_words(mask.path)
    meant = [index for index in fitting if _may_be_meant(mask, base, scans[index])]
    if not meant:
        return None, "mask_without_image" if fitting else _without_fit(mask, base, candidates, scans)
    if len(meant) == 1:
        return meant[0], ""
    alike = sorted(((_letters_in_common(base, _image_stem(scans[index])), index) for index in meant), reverse=True)
    return (alike[0][1], "") if alike[0][0] > alike[1][0] else (None, "mask_ambiguous")


def _may_be_meant(mask: Mask, base: str, scan: Scan) -> bool:
    """Whether a mask's name does not speak against an image: `case_12` is none of `case_11`, nor of `case_1`.

    In a folder of masks beside one of images, where only names tell cases apart, it must speak for it: by the same first
    word or the same numbers. Names of DICOM files say nothing of this.
    """
    if scan.source.reader == "dicom":
        return True
    stem = _image_stem(scan)
    words, others = _WORD.findall(base.lower()), _WORD.findall(stem.lower())
    one, other = next(((one, other) for one, other in zip(words, others, strict=False) if one != other), ("", ""))
    if one.isdigit() and other.isdigit() and int(one) != int(other):
        return False
    if os.path.dirname(mask.path) == os.path.dirname(scan.source.paths[0]) or _IMAGE_FOLDER.get(_folder_name(mask.path)) is None:
        return True
    numbers = [[int(word) for word in found if word.isdigit()] for found in (words, others)]
    return words[:1] == others[:1] or (bool(numbers[0]) and numbers[0] == numbers[1])


def _without_fit(mask: Mask, base: str, candidates: list[int], scans: Sequence[Scan]) -> str:
    """No image on this grid: either the image is elsewhere, or one that shares its name has another grid."""
    shared = [index for index in candidates if len(base) > 3 and _image_stem(scans[index]).startswith(base)]
    return "mask_grid" if shared or any(scans[index].source.reader == "dicom" for index in candidates) else "mask_without_image"


def _folder_name(path: str) -> str:
    return os.path.basename(os.path.dirname(path)).lower()


def _letters_in_common(one: str, other: str) -> int:
    """Length of the beginning that two names share."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _image_stem(scan: Scan) -> str:
    stem = stem_of(scan.source.paths[0])
    return stem.removesuffix("_0000")
