"""Are these Hounsfield units? What the values of a CT themselves say against it: not rescaled, rescaled twice, windowed.

A MONAI bundle carries this file: nothing outside NumPy may be imported.
"""

from __future__ import annotations

import numpy as np

SAMPLE = 200_000
_TISSUE_HU, _BELOW_AIR_HU = -200.0, -1500.0
# Scanners end their own range at 2976 HU or above (12 bits from -1024 or -1000 on, less some): windows end lower.
_WIDEST_WINDOW_HU = 2500.0
_EDGE_HU, _FEWEST_AT_EDGE, _SHARE_AT_EDGE = 50.0, 10, 1e-4


def sample(array: np.ndarray) -> np.ndarray:
    """At most about 200,000 values spread evenly over the array; the odd step does not fall into step with rows."""
    return np.ravel(array, order="K")[:: max(1, array.size // SAMPLE) | 1]


def hu_doubts(array: np.ndarray) -> tuple[str, ...]:
    """Flags of a CT said to be in HU, from its values (any shape, sampled); empty where nothing speaks against it.

    `air_missing`: nothing under -200 (stored values that were never rescaled, or cut to a window; a crop without air
    too). `rescaled_twice`: air lies about -2000 and what should be tissue about -1000. `below_air`: more than 1% under
    -1500 although the tissue is where it should be, as padding around the scanner's circle leaves. `windowed`: the
    brightest value is held by more voxels than the 50 HU (or the tenth of the range) under it, as clipping to a window leaves.
    """
    values = sample(array)
    doubts = []
    if values.min() > _TISSUE_HU:
        doubts.append("air_missing")
    if float(np.mean(values < _BELOW_AIR_HU)) > 0.01:
        doubts.append("below_air" if float(np.mean(values > _TISSUE_HU)) > 0.02 else "rescaled_twice")
    if _is_clipped_above(values):
        doubts.append("windowed")
    return tuple(doubts)


def why_not_hounsfield(array: np.ndarray, seen: tuple[float, float] | None) -> str:
    """What speaks for sure against values said to be in HU, and the way out; empty where nothing does.

    seen: the window that a network sees; values clipped beyond it are let through.
    """
    doubts = hu_doubts(array)
    if "rescaled_twice" in doubts:
        return "air near -2000, so these values were rescaled twice; give the original scan"
    if "windowed" in doubts and seen is not None and float(array.max()) < seen[1]:
        return f"cut to a window already, and this backbone sees {seen[0]:g} to {seen[1]:g}; give the original scan"
    return ""


def _is_clipped_above(values: np.ndarray) -> bool:
    highest = float(values.max())
    at_edge = int(np.count_nonzero(values == highest))
    if highest > _WIDEST_WINDOW_HU or at_edge < max(_FEWEST_AT_EDGE, _SHARE_AT_EDGE * values.size):
        return False
    width = min(_EDGE_HU, 0.1 * (highest - float(values.min())))
    near = int(np.count_nonzero(values >= highest - width)) - at_edge
    return at_edge > near
