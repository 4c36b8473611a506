"""Text burned into the border of a picture: small sharp marks of one height, side by side, as letters stand in a line."""

from __future__ import annotations

import numpy as np

FEWEST_LETTERS = 4  # a side marker (L, R) or a number of one film has fewer
_LONGEST_SIDE = 1024
_SMALLEST_SIDE = 128
_BORDER = 0.22
_LOWEST, _HIGHEST = 6, 48  # of a letter, in pixels
_CONTRASTS = (0.2, 0.3, 0.45)  # of a stroke to what is around it, as shares of the picture's range: the lower joins blurred letters


def text_flags(array: np.ndarray) -> tuple[str, ...]:
    """`text_suspected` where a picture seems to have text in its border: a name may be among it, a person has to look."""
    return ("text_suspected",) if letters_at_the_border(array) else ()


def letters_at_the_border(array: np.ndarray) -> int:
    """How many letters the longest line of marks in the outer 22% of a picture has; 0 where it has fewer than four.

    array: (columns, rows, 1) grey values. Text drawn bright on dark and dark on bright is found; handwriting, letters that
    touch, and text over the middle of the picture are not.
    """
    picture = np.asarray(array)[:, :, 0].T
    if min(picture.shape) < _SMALLEST_SIDE:
        return 0
    low, high = (float(value) for value in np.percentile(picture[:: max(1, picture.shape[0] // 512)], (0.5, 99.9)))
    if high <= low:
        return 0
    grey = np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1)
    strokes = [_strokes(_shrunk(side)) for side in (grey, 1 - grey)]
    longest = max(_longest_line(_marks(stroke > contrast)) for stroke in strokes for contrast in _CONTRASTS)
    return longest if longest >= FEWEST_LETTERS else 0


def _shrunk(grey: np.ndarray) -> np.ndarray:
    """At most 1,024 pixels a side; of each block the brightest, so that thin strokes stay."""
    step = -(-max(grey.shape) // _LONGEST_SIDE)
    rows, columns = (length // step * step for length in grey.shape)
    return grey[:rows, :columns].reshape(rows // step, step, columns // step, step).max(axis=(1, 3))


def _strokes(grey: np.ndarray) -> np.ndarray:
    """How much brighter each pixel of the border is than what is around it, beyond strokes of eleven pixels; 0 inside."""
    from scipy import ndimage

    stroke = grey - ndimage.grey_opening(grey, size=(11, 11))
    stroke[tuple(slice(int(length * _BORDER), int(length * (1 - _BORDER))) for length in grey.shape)] = 0
    return stroke


def _marks(found: np.ndarray) -> np.ndarray:
    """(n, 4) top, bottom, left, right of the small marks."""
    from scipy import ndimage

    labels = np.zeros(found.shape, dtype=np.int32)
    ndimage.label(found, structure=np.ones((3, 3)), output=labels)
    boxes = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ndimage.find_objects(labels)]
    marks = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    height, width = marks[:, 1] - marks[:, 0], marks[:, 3] - marks[:, 2]
    return marks[(height >= _LOWEST) & (height <= _HIGHEST) & (width >= 2) & (width <= 1.5 * height)]


def _longest_line(marks: np.ndarray) -> int:
    """Marks in one line: bottoms level within a fifth of the height, heights within a third, gaps below one height."""
    marks = marks[np.argsort(marks[:, 2], kind="stable")]
    longest = np.ones(len(marks), dtype=np.int64)
    for index, (top, bottom, left, _) in enumerate(marks):
        height, before = bottom - top, marks[:index]
        other = before[:, 1] - before[:, 0]
        gap = left - before[:, 3]
        fits = (np.abs(before[:, 1] - bottom) <= max(1, height // 5)) & (np.abs(other - height) <= height / 3)
        fits &= (gap >= -1) & (gap <= height)
        if fits.any():
            longest[index] = 1 + longest[:index][fits].max()
    return int(longest.max(initial=0))
