"""A frame's stored values: exactly the bits that the header says are stored, whatever codec packed them."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, convert_color_space, get_decoder
from pydicom.uid import UID

from medcl.ingest.dicom_header import Frame, PixelLayout, quiet_pydicom
from medcl.ingest.dicom_streams import JPEG_FAMILY, check_frame
from medcl.ingest.grey import LUMINANCE
from medcl.ingest.ledger import Refused

_NATIVE = {"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}
_JPEG_BASELINE, _JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
# In this order: gdcm fills damaged RLE up in silence, and wide JPEG-LS kills it. Pillow is only trusted with 8-bit JPEG:
# for JPEG 2000 it gives other pixels in silence.
_PLUGINS = ("pydicom", "pyjpegls", "gdcm", "pylibjpeg")


def stored_values(frame: Frame) -> np.ndarray:
    """(rows, columns) grey values as stored, before any rescale; integers, or float32 of float pixel data.

    Raises Refused where the pixels are cut short, need a codec that is missing, or are in colour.
    """
    pixels = frame.header.pixels
    if not frame.tile:
        return _plane(frame.header.path, pixels, frame.number)
    top, left, rows, columns = frame.tile
    return _mosaic(frame.header.path, pixels)[top : top + rows, left : left + columns]


def _plane(path: str, pixels: PixelLayout, number: int) -> np.ndarray:
    if pixels.transfer_syntax in _NATIVE and pixels.samples == 1 and pixels.length >= 0 and not _needs_pydicom(pixels):
        return _native(path, pixels, number)
    with quiet_pydicom():
        return _through_pydicom(path, pixels, number)


@lru_cache(maxsize=1)
def _mosaic(path: str, pixels: PixelLayout) -> np.ndarray:
    """The plane that holds all slices of a mosaic, decoded once and not once per slice."""
    return _plane(path, pixels, 0)


def grey_values(frame: Frame) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, columns) values of a picture after the Modality LUT, brightest = highest, and flags.

    Colour becomes luminance (ITU-R BT.601). MONOCHROME1 and an inverse presentation are turned around within the
    range of the stored bits. The window (VOI LUT) is not applied: it would throw grey values away.
    """
    pixels = frame.header.pixels
    if pixels.samples == 3 or not pixels.photometric.startswith("MONOCHROME"):
        with quiet_pydicom():
            return _luminance(frame), ("colour_to_grey",)
    values = stored = stored_values(frame)
    if (pixels.photometric == "MONOCHROME1") != bool(frame.header.facts["inverse"]):
        low = -(1 << (pixels.bits_stored - 1)) if pixels.signed else 0
        values = (2 * low + (1 << pixels.bits_stored) - 1) - values.astype(np.int32)
    return _with_black_padding(real_values(values, frame), stored, frame), ()


def _with_black_padding(values: np.ndarray, stored: np.ndarray, frame: Frame) -> np.ndarray:
    """What lies outside the image (PixelPaddingValue, DICOM PS3.3 C.7.5.1.1.2) as its darkest value: turned around it would be white."""
    pixels, padding = frame.header.pixels, frame.header.facts["padding"]
    if padding is None:
        return values
    if pixels.signed and padding >= 1 << (pixels.bits_allocated - 1):  # read as US
        padding -= 1 << pixels.bits_allocated
    outside = stored == padding
    return np.where(outside, values[~outside].min(), values) if outside.any() and not outside.all() else values


def real_values(stored: np.ndarray, frame: Frame) -> np.ndarray:
    """Stored values times slope plus intercept (or through the Modality LUT): int16 where exact, else float32."""
    if frame.header.pixels.has_modality_lut:
        with quiet_pydicom():
            return np.asarray(apply_modality_lut(stored, _whole(frame.header.path)), dtype=np.float32)
    if frame.slope == 1.0 and frame.intercept == int(frame.intercept) and stored.dtype.kind in "iu":
        shifted = (
            stored.astype(np.int32) + np.int32(frame.intercept)
            if stored.dtype.itemsize <= 2
            else stored.astype(np.int64) + int(frame.intercept)
        )
        if shifted.size and shifted.min() >= -32768 and shifted.max() <= 32767:
            return shifted.astype(np.int16)
        return shifted.astype(np.float32)
    return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def _needs_pydicom(pixels: PixelLayout) -> bool:
    return pixels.photometric == "PALETTE COLOR" or (pixels.bits_allocated == 8 and not pixels.little_endian)


def _native(path: str, pixels: PixelLayout, number: int) -> np.ndarray:
    """Uncompressed grey pixels straight from their place in the file."""
    count = pixels.rows * pixels.columns
    order = "<" if pixels.little_endian else ">"
    kind = {"float32": "f4", "float64": "f8"}.get(pixels.float_type, f"u{pixels.bits_allocated // 8}")
    dtype = np.dtype(order + kind)
    with open(path, "rb") as handle:
        handle.seek(pixels.offset + number * count * dtype.itemsize)
        content = handle.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise Refused("truncated", f"{len(content)} of {count * dtype.itemsize} bytes")
    values = np.frombuffer(content, dtype).reshape(pixels.rows, pixels.columns)
    return _finite(values) if pixels.float_type else _only_stored_bits(values, pixels, pixels.high_bit)


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise Refused("not_finite")
    return values.astype(np.float32)


def _only_stored_bits(values: np.ndarray, pixels: PixelLayout, high_bit: int) -> np.ndarray:
    """Drop what lies above the high bit (overlays, garbage) and below the stored bits; extend the sign."""
    bits, unsigned = pixels.bits_allocated, values.astype(f"u{pixels.bits_allocated // 8}", copy=False)
    signed = unsigned.view(f"i{bits // 8}")
    if pixels.bits_stored == bits:
        return signed if pixels.signed else unsigned
    above, below = bits - 1 - high_bit, high_bit - pixels.bits_stored + 1
    moved = unsigned << above
    kept = (moved.view(signed.dtype) if pixels.signed else moved) >> (above + below)
    if above and _goes_on_above(kept, unsigned >> below, signed >> below):
        raise Refused("bits_stored", f"{pixels.bits_stored} of {bits} bits")
    return kept


def _goes_on_above(kept: np.ndarray, unsigned: np.ndarray, signed: np.ndarray) -> bool:
    """Whether the image goes on above the bits that are said to be stored: whole words then make the smoother image.

    Overlays and garbage above the stored bits make it rougher, and are no part of it.
    """
    if np.array_equal(kept, unsigned) or np.array_equal(kept, signed):
        return False
    return _roughness(kept) > min(_roughness(unsigned), _roughness(signed))


def _roughness(values: np.ndarray) -> float:
    return float(np.abs(np.diff(values.astype(np.float64), axis=1)).sum())


def _through_pydicom(path: str, pixels: PixelLayout, number: int) -> np.ndarray:
    if pixels.samples != 1 or pixels.photometric == "PALETTE COLOR":
        raise Refused("colour")
    values = _decode(path, pixels, number)
    if values.shape != (pixels.rows, pixels.columns):
        raise Refused("decode_failed", "decoded size is not rows x columns")
    if values.dtype.kind == "f":
        return _finite(values)
    # RLE and deflate keep whole words; the other codecs hold the stored bits alone, from the lowest on.
    whole_words = not pixels.transfer_syntax.startswith("1.2.840.10008.1.2.4")
    return _only_stored_bits(values, pixels, pixels.high_bit if whole_words else pixels.bits_stored - 1)


def _luminance(frame: Frame) -> np.ndarray:
    pixels = frame.header.pixels
    values = _decode(frame.header.path, pixels, frame.number)
    if pixels.photometric == "PALETTE COLOR":
        values = apply_color_lut(values, _whole(frame.header.path))
    if values.shape != (pixels.rows, pixels.columns, 3):
        raise Refused("colour", "not three samples per pixel")
    grey = np.rint(values.astype(np.float32) @ LUMINANCE)
    if grey.max() > 255:
        # palettes and 16-bit colour
        return grey.astype(np.uint16)
    return grey.astype(np.uint8)


def _decode(path: str, pixels: PixelLayout, number: int) -> np.ndarray:
    """One frame through the codec that fits, as (rows, columns) or (rows, columns, samples) in RGB."""
    syntax = pixels.transfer_syntax
    if syntax.startswith(_VIDEO):
        raise Refused("transfer_syntax", f"video {syntax}")
    if not syntax and pixels.length < 0:
        raise Refused("no_transfer_syntax")
    try:
        dataset = _whole(path)
        content = _checked_stream(dataset, pixels, number)
        if syntax in _JPEG_2000:
            return _jpeg_2000(content, pixels)
        if syntax == _JPEG_EXTENDED and pixels.bits_stored > 8:
            return _jpeg_12_bit(content)
        return _by_plugin(dataset, number, syntax)
    except Refused:
        raise
    except ImportError:
        raise _missing_codec(syntax) from None
    except Exception as error:  # codecs raise every kind of error on broken streams
        raise Refused("decode_failed", f"{type(error).__name__}, {syntax}") from None


def _checked_stream(dataset: Dataset, pixels: PixelLayout, number: int) -> bytes:
    """A frame's JPEG, JPEG-LS or JPEG 2000 stream, which is what the header says; nothing for other syntaxes."""
    if not pixels.transfer_syntax.startswith(JPEG_FAMILY):
        return b""
    content = get_frame(dataset.PixelData, number, number_of_frames=pixels.frames)
    check_frame(content, pixels.rows, pixels.columns)
    return content


def _missing_codec(syntax: str) -> Refused:
    return Refused("codec_missing", f"{syntax}: pip install 'medcl[codecs]'")


def _jpeg_2000(content: bytes, pixels: PixelLayout) -> np.ndarray:
    """openjpeg itself: pydicom would choose another codec for it where pylibjpeg is not there."""
    import openjpeg

    values = np.asarray(openjpeg.decode(content))
    return convert_color_space(values, "YBR_FULL", "RGB") if pixels.photometric == "YBR_FULL" else values


def _jpeg_12_bit(content: bytes) -> np.ndarray:
    """imagecodecs, the only one that decodes the 12-bit JPEG of process 4."""
    import imagecodecs

    return np.asarray(imagecodecs.jpeg8_decode(content))


def _by_plugin(dataset: Dataset, number: int, syntax: str) -> np.ndarray:
    try:
        decoder = get_decoder(syntax or "1.2.840.10008.1.2")
    except NotImplementedError:
        raise Refused("transfer_syntax", syntax) from None
    usable = [name for name in _PLUGINS if name in decoder.available_plugins]
    if syntax == _JPEG_BASELINE and "pillow" in decoder.available_plugins:
        usable.append("pillow")
    options: dict[str, Any] = {"index": number, "raw": False, "correct_unused_bits": False}
    if decoder.is_encapsulated:
        if not usable:
            raise _missing_codec(syntax)
        options["decoding_plugin"] = usable[0]
    with warnings.catch_warnings():
        # Runs that are longer than the image: damage, which pydicom cuts off with a warning.
        warnings.filterwarnings("error", message=".*RLE segment")
        values, _ = decoder.as_array(dataset, **options)
    return values


@lru_cache(maxsize=2)
def _whole(path: str) -> Dataset:
    """The whole file through pydicom: for compressed, colour and look-up-table pixels."""
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
        implicit, little = dataset.original_encoding
        syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little is not False else "1.2.840.10008.1.2.2"
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset
