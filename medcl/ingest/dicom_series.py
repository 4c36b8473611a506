"""Frames to stacks: split by what makes a volume one, ordered by position along the normal, refused where it does not hold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from medcl.foundation import geometry
from medcl.ingest.dicom_header import Frame
from medcl.ingest.ledger import Refused

SAME_POSITION_MM = 0.01
SAME_GEOMETRY = (1e-3, 1e-4)  # of the orientation's cosines, of the pixel spacing in mm; the self-check catches what this lets through
SPACING_TOLERANCE_MM, SPACING_TOLERANCE = 0.02, 0.01
CORNER_TOLERANCE_MM = 0.1
SHORTEST_VECTOR, LONGEST_VECTOR = 0.99, 1.01


@dataclass(frozen=True)
class Stack:
    """Frames in order along the normal, one per position. affine: RAS+ mm for an array (columns, rows, slices)."""

    frames: tuple[Frame, ...]
    affine: np.ndarray
    time_index: int = 0
    flags: tuple[str, ...] = ()
    shear_mm: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Dropped:
    """A frame that is not used, and why."""

    frame: Frame
    reason: str


def group(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Split frames into candidates for one volume (or one time series), in a fixed order.

    Two patients who share a SeriesInstanceUID are not merged: patient, name and birth date are part of the key.
    """
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_key(frame)].append(frame)
    result = []
    for key in sorted(groups, key=repr):
        for alike in _by_geometry(groups[key]):
            result.extend(_by_frame_of_reference(alike))
    return result


def _key(frame: Frame) -> tuple:
    header, patient = frame.header, frame.header.patient
    who = (patient.id, patient.name, patient.birth_date, patient.study, patient.series)
    what = (header.modality, header.sop_class, frame.image_type, round(frame.echo, 3), frame.b_value, frame.stack, frame.parameters)
    return (*who, *what, *frame.size)


def _by_geometry(frames: list[Frame]) -> list[list[Frame]]:
    """Split by orientation and pixel spacing, within a tolerance: rounding alone would part equals at its borders."""
    found: dict[tuple, list[Frame]] = {}
    shapes = sorted({(frame.orientation, frame.spacing) for frame in frames})
    first_like: dict[tuple, tuple] = {}
    for shape in shapes:
        first_like[shape] = next((other for other in found if _is_close(shape, other)), shape)
        found.setdefault(first_like[shape], [])
    for frame in frames:
        found[first_like[frame.orientation, frame.spacing]].append(frame)
    return list(found.values())


def _is_close(one: tuple, other: tuple) -> bool:
    return all(
        len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))
        for a, b, tolerance in zip(one, other, SAME_GEOMETRY, strict=True)
    )


def _by_frame_of_reference(frames: list[Frame]) -> list[list[Frame]]:
    """Split by frame of reference, unless every slice has one of its own (a broken exporter), where it says nothing."""
    references = Counter(frame.header.frame_of_reference for frame in frames)
    if len(references) == 1 or (len(frames) > 2 and len(references) == len(frames)):
        return [frames]
    return [[frame for frame in frames if frame.header.frame_of_reference == one] for one in sorted(references)]


def stacks(frames: list[Frame], digest: Callable[[Frame], bytes]) -> tuple[list[Stack], list[Dropped]]:
    """Order one group of frames into stacks. `digest`: hash of a frame's pixels, only asked at equal positions.

    Raises Refused where the group cannot be one or several regular stacks.
    """
    _check_geometry(frames)
    subsets, dropped = _told_apart(sorted(frames, key=_sort_key), digest)
    flags = ("frame_of_reference_varies",) if len({frame.header.frame_of_reference for frame in frames}) > 1 else ()
    same_place = len({_place_key(subset) for subset in subsets}) == 1 and len(subsets) > 1
    if len(subsets) > 1:
        flags = (*flags, "split_by_time" if same_place else "split_by_acquisition")
    return [_stack(subset, index if same_place else 0, flags) for index, subset in enumerate(subsets)], dropped


def _check_geometry(frames: list[Frame]) -> None:
    for frame in frames:
        if not (frame.position and frame.orientation and frame.spacing):
            raise Refused("no_geometry")
        row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
        lengths = np.linalg.norm(row), np.linalg.norm(column)
        if min(lengths) < SHORTEST_VECTOR or max(lengths) > LONGEST_VECTOR or abs(float(row @ column)) > 1e-2:
            raise Refused("no_geometry", "orientation vectors are not orthonormal")
        if max(abs(number) for number in frame.position) > 1e5 or min(frame.spacing) < 1e-3 or max(frame.spacing) > 100:
            raise Refused("absurd_spacing")


def normal(frame: Frame) -> np.ndarray:
    """Unit vector across the slice, row x column (LPS)."""
    return np.array(_normal(frame.orientation))


@lru_cache(maxsize=1024)
def _normal(orientation: tuple[float, ...]) -> tuple[float, float, float]:
    a, b, c, d, e, f = orientation
    across = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*across)
    return across[0] / length, across[1] / length, across[2] / length


def _depth(frame: Frame, across: Sequence[float]) -> float:
    x, y, z = frame.position
    return x * across[0] + y * across[1] + z * across[2]


def _sort_key(frame: Frame) -> tuple:
    """A total order that file names and InstanceNumber cannot disturb more than they must."""
    return (
        round(_depth(frame, _normal(frame.orientation)), 3),
        frame.times,
        frame.instance_number,
        frame.header.instance,
        frame.number,
        frame.header.relative,
    )


def _by_position(frames: list[Frame]) -> list[list[Frame]]:
    """Frames sorted by depth, those within 0.01 mm of each other together."""
    across = _normal(frames[0].orientation)
    places: list[list[Frame]] = []
    last = -np.inf
    for frame in sorted(frames, key=lambda one: (_depth(one, across), _sort_key(one))):
        depth = _depth(frame, across)
        if depth - last > SAME_POSITION_MM:
            places.append([])
            last = depth
        places[-1].append(frame)
    return places


def _told_apart(frames: list[Frame], digest: Callable[[Frame], bytes]) -> tuple[list[list[Frame]], list[Dropped]]:
    """Subsets with one frame per position, and the copies dropped.

    A pixel-identical frame is a copy if its times are the same too: the empty end slices of a time series are none.
    Where that leaves positions ambiguous, identical pixels are enough.
    """
    kept, dropped = _without_copies(frames, digest, same_times=True)
    try:
        return _one_per_position(kept), dropped
    except Refused:
        fewer, dropped = _without_copies(frames, digest, same_times=False)
        if len(fewer) == len(kept):
            raise
        return _one_per_position(fewer), dropped


def _without_copies(frames: list[Frame], digest: Callable[[Frame], bytes], *, same_times: bool) -> tuple[list[Frame], list[Dropped]]:
    """Drop pixel-identical frames of one position; two different images with one instance UID are a conflict.

    Pixels are only read where frames could be copies of each other.
    """
    kept: list[Frame] = []
    dropped: list[Dropped] = []
    for place in _by_position(frames):
        seen: dict[tuple, Frame] = {}
        names: dict[tuple[str, int], bytes] = {}
        instances = Counter((frame.header.instance, frame.number) for frame in place)
        moments = Counter(frame.times if same_times else () for frame in place)
        for frame in place:
            name, moment = (frame.header.instance, frame.number), frame.times if same_times else ()
            if moments[moment] == 1 and instances[name] == 1:
                kept.append(frame)
                continue
            value = digest(frame)
            if frame.header.instance and names.setdefault(name, value) != value:
                raise Refused("conflicting_copies")
            copy_of = (value, moment)
            if copy_of in seen:
                dropped.append(Dropped(frame, "duplicate_slice"))
            else:
                seen[copy_of] = frame
        kept.extend(seen.values())
    return kept, dropped


def _one_per_position(frames: list[Frame]) -> list[list[Frame]]:
    """Subsets with one frame per position each, told apart by time, acquisition or trigger; one subset if it is regular."""
    if _is_single(frames) and _irregularity(frames) is None:
        return [frames]
    for index in range(len(frames[0].times)):
        subsets = _split_by(frames, index)
        if len(subsets) > 1 and all(_is_single(subset) and len(subset) > 1 and _irregularity(subset) is None for subset in subsets):
            return subsets
    if _is_single(frames):
        return [frames]
    by_rank = _split_by_rank(frames)
    if by_rank is None:
        raise Refused("ambiguous_positions", f"{len(frames)} slices at {len(_by_position(frames))} positions")
    return by_rank


def _is_single(frames: list[Frame]) -> bool:
    return all(len(place) == 1 for place in _by_position(frames))


def _split_by(frames: list[Frame], index: int) -> list[list[Frame]]:
    values: dict[float, list[Frame]] = defaultdict(list)
    for frame in frames:
        values[frame.times[index]].append(frame)
    return [values[value] for value in sorted(values)]


def _split_by_rank(frames: list[Frame]) -> list[list[Frame]] | None:
    """The n-th frame of every position by a time or by InstanceNumber, where all positions have equally many.

    Numbers are only believed where they tell a story: one sweep after another, or one position after another. Numbers
    that were shuffled tell none, and frames of different times would be mixed.
    """
    places = _by_position(frames)
    if len({len(place) for place in places}) != 1:
        return None
    numbers: list[Callable[[Frame], float]] = [lambda frame, index=index: frame.times[index] for index in range(len(frames[0].times))]
    for number in (*numbers, lambda frame: frame.instance_number):
        ranked = [sorted(place, key=number) for place in places]
        sweeps = [list(sweep) for sweep in zip(*ranked, strict=True)]
        distinct = all(number(one) < number(other) for place in ranked for one, other in pairwise(place))
        if distinct and (_follow_each_other(sweeps, number) or _follow_each_other(ranked, number)):
            return sweeps
    return None


def _follow_each_other(parts: list[list[Frame]], number: Callable[[Frame], float]) -> bool:
    """Whether the numbers of one part all come before those of the next, the parts taken by their first number."""
    spans = sorted((min(map(number, part)), max(map(number, part))) for part in parts)
    return all(before[1] < after[0] for before, after in pairwise(spans))


def _place_key(frames: list[Frame]) -> tuple[int, ...]:
    across = _normal(frames[0].orientation)
    return tuple(round(_depth(place[0], across) / 0.1) for place in _by_position(frames))


def _positions(frames: list[Frame]) -> np.ndarray:
    return np.array([place[0].position for place in _by_position(frames)], dtype=np.float64)


def _irregularity(frames: list[Frame]) -> Refused | None:
    """Why single-position frames are no regular stack; None where they are one (or one slice)."""
    steps = np.diff(_positions(frames), axis=0)
    if not len(steps):
        return None
    gaps = steps @ normal(frames[0])
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual)
    if off.max() > max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * usual):
        multiples = gaps / usual
        whole = np.abs(multiples - np.rint(multiples)) * usual <= max(2 * SPACING_TOLERANCE_MM, 2 * SPACING_TOLERANCE * usual)
        reason = "missing_slices" if whole.all() and multiples.min() > 0.5 else "variable_spacing"
        return Refused(reason, f"{len(gaps) + 1} slices, steps {gaps.min():.3f} to {gaps.max():.3f} mm, usually {usual:.3f} mm")
    sideways = steps - np.outer(gaps, normal(frames[0]))
    shift = float(np.linalg.norm(sideways - sideways.mean(axis=0), axis=1).max())
    if shift > CORNER_TOLERANCE_MM:
        return Refused("shifted_slices", f"by up to {shift:.3f} mm")
    return None


def _stack(frames: list[Frame], time_index: int, flags: tuple[str, ...]) -> Stack:
    """One regular stack with its affine, checked corner by corner. Raises Refused."""
    ordered = [place[0] for place in _by_position(frames)]
    if len(ordered) < 2:
        raise Refused("single_slice")
    problem = _irregularity(ordered)
    if problem is not None:
        raise problem
    affine = affine_of(ordered)
    self_check(ordered, affine)
    first = ordered[0]
    step = (np.array(ordered[-1].position) - np.array(first.position)) / (len(ordered) - 1)
    shear = (float(step @ np.array(first.orientation[:3])), float(step @ np.array(first.orientation[3:])))
    if max(abs(number) for number in shear) * (len(ordered) - 1) <= CORNER_TOLERANCE_MM:
        shear = (0.0, 0.0)
    return Stack(tuple(ordered), affine, time_index, flags, shear)


def affine_of(frames: list[Frame]) -> np.ndarray:
    """RAS+ affine of an array (columns, rows, slices) of ordered frames; a shear stays in its third column."""
    first, last = frames[0], frames[-1]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    affine = np.eye(4)
    affine[:3, 0] = row / np.linalg.norm(row) * first.spacing[1]
    affine[:3, 1] = column / np.linalg.norm(column) * first.spacing[0]
    affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / (len(frames) - 1)
    affine[:3, 3] = first.position
    return geometry.ras_from_lps(affine)


def self_check(frames: list[Frame], affine: np.ndarray) -> None:
    """Raise Refused unless each corner of each slice lies within 0.1 mm of where its own header puts it."""
    worst = 0.0
    for index, frame in enumerate(frames):
        down, right = frame.size[0] - 1, frame.size[1] - 1
        for x, y in ((0, 0), (right, 0), (0, down), (right, down)):
            own = np.array(frame.position) + x * frame.spacing[1] * np.array(frame.orientation[:3])
            own = own + y * frame.spacing[0] * np.array(frame.orientation[3:])
            placed = affine @ np.array([x, y, index, 1.0])
            worst = max(worst, float(np.linalg.norm(placed[:3] - own * (-1, -1, 1))))
    if not worst <= CORNER_TOLERANCE_MM:
        raise Refused("self_check", f"off by {worst:.3f} mm")
