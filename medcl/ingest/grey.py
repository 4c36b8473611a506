"""A picture that Pillow opened as one plane of grey values: upright, palettes and colours weighed, white the highest.

A MONAI bundle carries this file: nothing outside NumPy and Pillow may be imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_PHOTOMETRIC = 262  # TIFF tag
_GREY_MODES = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}


def upright_grey(image: Any) -> tuple[np.ndarray, bool]:
    """(rows, columns) uint8, uint16 or float32, and whether it was in colour."""
    from PIL import ImageOps

    is_inverse = image.mode.startswith("I;16") and tiff_tag(image, _PHOTOMETRIC) == 0
    turned = ImageOps.exif_transpose(image)
    in_colour = False
    if turned.mode not in _GREY_MODES:
        colour = np.asarray(turned.convert("RGB"))
        in_colour = turned.mode == "CMYK" or bool(np.any(np.ptp(colour.astype(np.int16), axis=2) > 8))
        values = np.rint(colour.astype(np.float32) @ LUMINANCE).astype(np.uint8)
    else:
        values = np.asarray(turned)
    if is_inverse:
        # White is zero: Pillow turns this around for 8 bits and not for 16.
        values = 65535 - values
    return _plain(values), in_colour


def tiff_tag(image: Any, number: int) -> Any:
    """A TIFF tag, None where there is none."""
    return image.tag_v2.get(number) if image.format == "TIFF" else None


def _plain(values: np.ndarray) -> np.ndarray:
    """uint8, uint16 or float32, whatever PIL gave."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype.itemsize == 4:
        return values.astype(np.uint16) if values.min() >= 0 and values.max() <= 65535 else values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="))
