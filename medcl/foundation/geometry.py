"""Where voxels are in the world: the only place that reorients.

Affines are 4x4, voxel index -> RAS+ mm: world x grows to the right of the patient, y to the front, z to the head.
"""

from __future__ import annotations

import math

import numpy as np

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


def ras_from_lps(affine_lps: np.ndarray) -> np.ndarray:
    """Turn an affine of DICOM's world (LPS+ mm) into one of NIfTI's (RAS+ mm)."""
    return _LPS_TO_RAS @ affine_lps


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance between neighbouring voxels along each array axis."""
    # In plain numbers: this is asked for every view, and numpy takes ten times as long over nine of them.
    (ax, bx, cx), (ay, by, cy), (az, bz, cz) = affine[:3, :3].tolist()
    return math.sqrt(ax * ax + ay * ay + az * az), math.sqrt(bx * bx + by * by + bz * bz), math.sqrt(cx * cx + cy * cy + cz * cz)


def orientation(affine: np.ndarray) -> str:
    """Three letters naming the direction in which each array axis increases, e.g. `RAS` or `LPI`."""
    axes, signs = _closest_axes(affine)
    return "".join(_CODES[axis][int(sign > 0)] for axis, sign in zip(axes, signs, strict=True))


def reorient(array: np.ndarray, affine: np.ndarray, target: str = "RAS") -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip array axes so that `orientation` becomes `target`. No voxel value changes, no resampling.

    Returns a view of the array and the matching affine. Raises ValueError for a `target` that is not an orientation.
    """
    wanted_axes, wanted_signs = _parse(target)
    axes, signs = _closest_axes(affine)
    order = [axes.index(axis) for axis in wanted_axes]
    array = np.transpose(array, [*order, *range(3, array.ndim)])
    new = np.eye(4)
    new[:3, :3] = affine[:3, :3][:, order]
    new[:3, 3] = affine[:3, 3]
    for axis in range(3):
        if signs[order[axis]] != wanted_signs[axis]:
            array = np.flip(array, axis)
            new[:3, 3] = new[:3, 3] + new[:3, axis] * (array.shape[axis] - 1)
            new[:3, axis] = -new[:3, axis]
    return array, new


def determinant_sign(affine: np.ndarray) -> int:
    """+1 where the array axes form a right-handed system in the world, -1 where they mirror it."""
    return 1 if np.linalg.det(affine[:3, :3]) > 0 else -1


def rows_and_columns(picture):
    """Turn a picture's last three axes (x, y, 1) into (rows, columns), as 2D encoders everywhere expect.

    Works on arrays and tensors: (..., x, y, 1) -> (..., y, x).
    """
    return picture[..., 0].swapaxes(-1, -2)


def _parse(target: str) -> tuple[list[int], list[int]]:
    axes, signs = [], []
    for letter in target:
        found = [(axis, letter == codes[1]) for axis, codes in enumerate(_CODES) if letter in codes]
        if found:
            axes.append(found[0][0])
            signs.append(1 if found[0][1] else -1)
    if len(target) != 3 or sorted(axes) != [0, 1, 2]:
        raise ValueError(f"'{target}' is not an orientation: expected one letter each of R/L, A/P, S/I, for example RAS")
    return axes, signs


def _closest_axes(affine: np.ndarray) -> tuple[list[int], list[int]]:
    """For each array axis the world axis it runs along most, and the sign; each world axis is used once."""
    directions = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
    axes, signs = [0, 0, 0], [1, 1, 1]
    remaining = np.abs(directions).copy()
    for _ in range(3):
        world, column = np.unravel_index(int(np.argmax(remaining)), (3, 3))
        axes[column] = int(world)
        signs[column] = 1 if directions[world, column] > 0 else -1
        remaining[world, :] = -1
        remaining[:, column] = -1
    return axes, signs
