"""What goes wrong in an export: files cut short, files that are not DICOM, copies, a series with a hole."""

from __future__ import annotations

import numpy as np

FLAWS = ("truncated", "not_dicom", "short_pixels", "copies", "hole", "clutter")


def flaw_of(draw: np.random.Generator, index: int) -> str:
    """The flaw of one study: each of FLAWS once in 48 patients at a place that knows nothing of the labels, otherwise none."""
    turn = (index * 7 + 3) % 48
    return FLAWS[turn // 8] if turn % 8 == 0 else ""


def extra_files(flaw: str, files: list[bytes], names: list[str]) -> dict[str, bytes]:
    """Files to lie beside `files` (relative name -> bytes). The good files stay as they are."""
    middle = len(files) // 2
    if flaw == "truncated":
        return {f"{names[middle]}.part.dcm": files[middle][: len(files[middle]) // 2], "empty.dcm": b""}
    if flaw == "not_dicom":
        return {"readme.dcm": b"This is not a DICOM file.\n" * 20, "0000.dcm": bytes(range(256)) * 8}
    if flaw == "short_pixels":
        return {"broken.dcm": _short_pixels(files[0])}
    if flaw == "copies":
        return {f"copy/{name}": data for name, data in list(zip(names, files, strict=True))[: len(files) // 3]}
    if flaw == "clutter":
        return {"Thumbs.db": b"\x00thumbs" * 30, "export.log": b"exported by KNOBTURNER\n"}
    return {}


def holed(files: list[bytes], names: list[str], old_series: str, new_series: str) -> dict[str, bytes]:
    """A second series of the same study that lacks two slices in its middle."""
    middle = len(files) // 2
    kept = [k for k in range(len(files)) if k not in (middle, middle + 1)]
    return {names[k]: files[k].replace(old_series.encode(), new_series.encode()) for k in kept}


def _short_pixels(data: bytes) -> bytes:
    """Pixel data of half the length that rows and columns ask for, with a length field that agrees: a whole file, a wrong picture."""
    size = 64 * 64 * 2
    head = data[: -size - 4]
    return head + (size // 2).to_bytes(4, "little") + data[-size : -size // 2]
