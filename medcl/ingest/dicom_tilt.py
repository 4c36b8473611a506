"""Gantry tilt: slices shifted against each other by a constant step, a shear that is resampled away in the open."""

from __future__ import annotations

import math

import numpy as np

from medcl.ingest.dicom_series import Stack


def tilt_degrees(stack: Stack) -> float:
    """Angle between the step from slice to slice and the slices' normal."""
    step = stack.affine[:3, 2]
    sideways = math.hypot(*stack.shear_mm)
    return math.degrees(math.asin(min(1.0, sideways / float(np.linalg.norm(step)))))


def straighten(values: np.ndarray, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Resample (columns, rows, slices) onto a grid with right angles; returns the array and its affine.

    Each slice moves within its own plane by linear interpolation, so no slice is mixed with another. The field grows
    by the whole shift, so that nothing is cut off; what no slice covers is filled with the lowest value.
    """
    affine = stack.affine.copy()
    for axis, shear_mm in enumerate(stack.shear_mm):
        pixel_mm = float(np.linalg.norm(affine[:3, axis]))
        step = shear_mm / pixel_mm
        if step == 0:
            continue
        values, start = _shift_slices(values, axis, step)
        affine[:3, 3] += affine[:3, axis] * start
        affine[:3, 2] -= affine[:3, axis] * step
    return values, affine


def _shift_slices(values: np.ndarray, axis: int, step: float) -> tuple[np.ndarray, int]:
    """Move slice k by k * step pixels along the axis; returns the wider array and the index at which it now starts."""
    count = values.shape[2]
    total = step * (count - 1)
    before, after = math.ceil(max(0.0, -total)), math.ceil(max(0.0, total))
    shape = list(values.shape)
    shape[axis] += before + after
    lowest = values.min()
    wide = np.full((shape[2], shape[1], shape[0]), lowest, dtype=values.dtype).transpose(2, 1, 0)
    for index in range(count):
        shift = before + step * index
        whole = math.floor(shift)
        part = shift - whole
        moved = _between(np.moveaxis(values[:, :, index], axis, 0).astype(np.float32), part, float(lowest))
        if values.dtype.kind == "i":
            moved = np.rint(moved)
        place = np.moveaxis(wide[:, :, index], axis, 0)
        stop = min(whole + len(moved), len(place))
        place[whole:stop] = moved[: stop - whole]
    return wide, -before


def _between(lines: np.ndarray, part: float, fill: float) -> np.ndarray:
    """Lines moved by a fraction of a pixel (one longer where the fraction is not 0)."""
    if part < 1e-6:
        return lines
    edge = np.full((1, *lines.shape[1:]), fill, dtype=lines.dtype)
    return (1 - part) * np.concatenate([lines, edge]) + part * np.concatenate([edge, lines])
