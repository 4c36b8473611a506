"""PNG, JPEG and TIFF pictures to grey pictures, 8 or 16 bit."""

from __future__ import annotations

import os
import warnings

import numpy as np

from medcl.foundation.types import Volume
from medcl.ingest.burned_in import text_flags
from medcl.ingest.grey import tiff_tag, upright_grey
from medcl.ingest.growth import refuse_growth
from medcl.ingest.hints import Hint
from medcl.ingest.ledger import Refused
from medcl.ingest.records import Facts, Identity, Scan, Source, describe
from medcl.ingest.settings import IngestConfig

_PNG_DEPTH = 24  # place of the byte in a PNG file
_BITS_PER_SAMPLE = 258  # TIFF tag


def read_scan(path: str, relative: str, hint: Hint, config: IngestConfig) -> Scan:
    """One picture, kind `picture`, units display. The modality is the hint's, else `xray` (flagged as assumed)."""
    array, flags = read_grey(path, config.budget_bytes)
    modality = hint.modality or "xray"
    flags = (*flags, *text_flags(array)) if hint.modality else (*flags, *text_flags(array), "modality_assumed")
    identity = Identity(hint.patient, hint.study or hint.patient, relative, file=relative, stack=relative, volume=relative, date=hint.date)
    facts = Facts(age_years=hint.age_years, sex=hint.sex, split=hint.split, flags=flags)
    units = config.units or "display"
    volume = Volume(array, np.eye(4), modality, units, "picture")
    return describe(volume, identity, Source("picture", (path,), {"modality": modality, "units": units}), facts)


def read_again(source: Source, config: IngestConfig) -> Volume:
    """The picture that `source` describes."""
    array, _ = read_grey(source.paths[0], config.budget_bytes)
    return Volume(array, np.eye(4), source.detail["modality"], source.detail["units"], "picture")


def read_grey(path: str, budget: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(columns, rows, 1) grey values and flags. Raises Refused."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
                if image.width * image.height * 4 > budget:
                    raise Refused("too_large", f"{image.width} x {image.height}")
                refuse_growth(image.width * image.height * len(image.getbands()), os.path.getsize(path))
                return _grey(image)
    except Image.DecompressionBombError:
        raise Refused("too_large") from None
    except (UnidentifiedImageError, SyntaxError):
        raise Refused("unreadable") from None
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise Refused("truncated", type(error).__name__) from None


def _grey(image) -> tuple[np.ndarray, tuple[str, ...]]:
    flags = _doubts(image)
    values, in_colour = upright_grey(image)
    flags += ["colour_to_grey"] if in_colour else []
    if not np.isfinite(values).all():
        raise Refused("not_finite")
    if min(values.shape) < 8:
        raise Refused("dimensions", f"{values.shape[1]} x {values.shape[0]}")
    if values.max() == values.min():
        raise Refused("blank")
    return np.ascontiguousarray(values.T)[:, :, None], tuple(flags)


def _doubts(image) -> list[str]:
    """Flags of what is in the file and does not get into one grey picture."""
    flags = []
    if getattr(image, "n_frames", 1) > 1:
        flags.append("first_of_several_pages")
    if image.mode in ("RGB", "RGBA", "LA") and _bits(image) > 8:
        flags.append("reduced_to_8_bits")
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        flags.append("transparent_parts")
    return flags


def _bits(image) -> int:
    """Bits per sample as stored; Pillow keeps 8 of 16 where there are several samples."""
    if image.format == "PNG":
        image.fp.seek(_PNG_DEPTH)
        return image.fp.read(1)[0]
    return max(tiff_tag(image, _BITS_PER_SAMPLE) or (8,))
