"""The contact sheet: the original with its crops drawn in, both views, what intensity steps changed, and local views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medcl.foundation import geometry
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters, full_frame
from medcl.views.crops import Frame

_INK, _PAPER, _FAINT = (28, 32, 38), (255, 255, 255), (110, 118, 128)
_COLOURS = ((0, 114, 178), (213, 94, 0))  # of view 1 and view 2; told apart by the colour-blind too
_LOCAL_COLOUR = (148, 156, 166)
_VIEWS, _CHANGE, _LOCAL = ("view 1", "view 2"), "view 1: change of values", "local views"
_GAP, _TEXT_HEIGHT, _LINE = 8, 46, 14


@dataclass(frozen=True)
class _Plane:
    """Which array axes a panel shows, drawn as radiologists look: the patient's right on the left, head or front up.

    across, down: array axis along columns and rows; flipped where the axis grows to the left or upwards.
    """

    name: str
    across: int
    down: int
    through: int
    flip_across: bool
    flip_down: bool
    letters: tuple[str, str]


# The store's arrays are RAS: x grows to the patient's right.
_PLANES = (
    _Plane("axial", 0, 1, 2, True, True, ("R", "L")),
    _Plane("coronal", 0, 2, 1, True, True, ("R", "L")),
    _Plane("sagittal", 1, 2, 0, True, True, ("A", "P")),
)
_PICTURE = (_Plane("picture", 0, 1, 2, False, False, ("", "")),)


def contact_sheet(store: VolumeStore, maker: ViewMaker, rows: Sequence[int], seed: int) -> Any:
    """One band per item. Returns a Pillow image, the same for the same arguments."""
    from PIL import Image, ImageDraw

    planes = _PICTURE if maker.flat else _PLANES
    side = 236 if maker.flat else 112
    titles = ["original", *_VIEWS]
    titles += [_CHANGE] if any(step.stage == "intensity" for step in maker.policy.steps) else []
    titles += [_LOCAL] if maker.config.local else []
    group = len(planes) * side + (len(planes) - 1) * 2
    width, band = len(titles) * (group + _GAP) + _GAP, side + _TEXT_HEIGHT
    sheet = Image.new("RGB", (width, 30 + len(rows) * (band + _GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        _write(pen, (_GAP + column * (group + _GAP), 8), title, group, _INK, most_lines=1)
    for place, row in enumerate(rows):
        top = 30 + place * (band + _GAP)
        drawn = maker.draw_row(store, row, (seed, 0, row), 2 + maker.config.num_local)
        panels = _panels(store, maker, row, drawn, planes, side)
        for column, title in enumerate(titles):
            for number, panel in enumerate(panels[title]):
                sheet.paste(panel, (_GAP + column * (group + _GAP) + number * (side + 2), top))
        notes = (_describe_item(store, row), _describe(drawn[0]), _describe(drawn[1]))
        for column, (note, colour) in enumerate(zip(notes, (_FAINT, *_COLOURS), strict=True)):
            _write(pen, (_GAP + column * (group + _GAP), top + side + 2), note, group, colour)
    return sheet


def _panels(
    store: VolumeStore, maker: ViewMaker, row: int, drawn: Sequence[ViewParameters], planes: Sequence[_Plane], side: int
) -> dict[str, list[Any]]:
    """For each title, one picture per plane. drawn: the pair, and the local views after it."""
    low, high = _shown_range(maker)
    views = [maker.render(store, row, view) for view in drawn]
    plain = maker.render(store, row, replace(drawn[0], values={}))
    quarter = (high - low) / 4
    groups = {"original": [_original(store, maker, row, drawn, plane, side) for plane in planes]}
    for title, view, colour in zip(_VIEWS, views, _COLOURS, strict=False):
        groups[title] = [_slice(view, plane, low, high, side, colour) for plane in planes]
    groups[_CHANGE] = [_slice(views[0] - plain, plane, -quarter, quarter, side, None) for plane in planes]
    groups[_LOCAL] = [_mosaic(views[2:], plane, low, high, side) for plane in planes]
    return groups


def _mosaic(views: Sequence[np.ndarray], plane: _Plane, low: float, high: float, side: int) -> Any:
    """The middle slices of several views side by side in one square panel."""
    from PIL import Image

    panel = Image.new("RGB", (side, side), _PAPER)
    across = max(1, math.ceil(math.sqrt(len(views))))
    small = side // across
    for number, view in enumerate(views):
        panel.paste(_slice(view, plane, low, high, small, _LOCAL_COLOUR), (number % across * small, number // across * small))
    return panel


def _shown_range(maker: ViewMaker) -> tuple[float, float]:
    """Network values from black to white; few voxels are beyond three standard deviations."""
    low, high = maker.recipe.network_range
    return (max(low, -3.0), min(high, 3.0))


def _original(store: VolumeStore, maker: ViewMaker, row: int, drawn: Sequence[ViewParameters], plane: _Plane, side: int) -> Any:
    from PIL import ImageDraw

    whole = full_frame(store.shape(row), store.affine(row), side, maker.flat)
    slab = whole.centre.copy()
    slab[plane.through] = (drawn[0].frame.centre[plane.through] + drawn[1].frame.centre[plane.through]) / 2
    size = [side, side, side]
    extent = whole.extent.copy()
    size[plane.through] = 1
    if not maker.flat:
        extent[plane.through] = extent.max() / side
    frame = Frame(slab, extent, np.eye(3))
    image = maker.render(store, row, maker.place(frame, (size[0], size[1], size[2]), store.affine(row)))
    low, high = _shown_range(maker)
    panel = _slice(image, plane, low, high, side, None)
    pen = ImageDraw.Draw(panel)
    for view in drawn[2:]:
        pen.polygon(_outline(view.frame, frame, plane, side), outline=_LOCAL_COLOUR)
    for view, colour in zip(drawn, _COLOURS, strict=False):
        pen.polygon(_outline(view.frame, frame, plane, side), outline=colour, width=2)
    return panel


def _outline(crop: Frame, shown: Frame, plane: _Plane, side: int) -> list[tuple[float, float]]:
    """Corners of the crop's middle section in panel pixels."""
    corners = []
    for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        local = np.zeros(3)
        local[plane.across], local[plane.down] = a * crop.extent[plane.across], b * crop.extent[plane.down]
        at = crop.centre + crop.turn @ local - shown.centre
        across = at[plane.across] / shown.extent[plane.across] * (-1 if plane.flip_across else 1)
        down = at[plane.down] / shown.extent[plane.down] * (-1 if plane.flip_down else 1)
        corners.append(((across + 0.5) * side, (down + 0.5) * side))
    return corners


def _slice(view: np.ndarray, plane: _Plane, low: float, high: float, side: int, frame: tuple[int, int, int] | None) -> Any:
    """The middle slice of a view as a square panel with its voxels' proportions kept."""
    from PIL import Image, ImageDraw

    cut = np.take(view, view.shape[plane.through] // 2, axis=plane.through)
    cut = cut if plane.across < plane.down else cut.T
    cut = cut[::-1] if plane.flip_across else cut
    cut = cut[:, ::-1] if plane.flip_down else cut
    grey = (np.clip((cut.T - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    scale = side / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    panel = Image.new("RGB", (side, side), (0, 0, 0))
    panel.paste(
        Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB"), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    pen = ImageDraw.Draw(panel)
    if frame:
        pen.rectangle((0, 0, side - 1, side - 1), outline=frame, width=2)
    if side > 80:
        pen.text((4, side // 2 - 6), plane.letters[0], fill=(235, 235, 120), font=_font(11))
        pen.text((side - 11, side // 2 - 6), plane.letters[1], fill=(235, 235, 120), font=_font(11))
    return panel


def _describe_item(store: VolumeStore, row: int) -> str:
    axes = 2 if store.recipe.kind == "picture" else 3
    spacing = " x ".join(f"{value:.3g}" for value in geometry.spacing_mm(store.affine(row))[:axes])
    shape = " x ".join(str(length) for length in store.shape(row)[:axes])
    return f"row {row}: {shape} {'pixels' if axes == 2 else 'voxels'} of {spacing} mm"


# What is told of a step that draws several values, and its unit.
_UNITS = {
    "rotation": ("deg", "\N{DEGREE SIGN}"),
    "elastic": ("mm", " mm"),
    **dict.fromkeys(("noise", "rician_noise", "dose_noise", "speckle"), ("sd", " sd")),
    **dict.fromkeys(("ghosting", "spike"), ("intensity", "")),
    "shadow": ("strength", ""),
    "cutout": ("share", " of the view"),
}


def _describe(view: ViewParameters) -> str:
    """What was drawn, in a few words."""
    said = []
    for step, values in view.values.items():
        name = step.replace("_", " ")
        if step in _UNITS:
            key, unit = _UNITS[step]
            said.append(f"{name} {values[key]:.2g}{unit}")
        elif step == "blur":
            said += [f"blur {value:.2g} {key.removeprefix('sigma_')}" for key, value in values.items()]
        elif step == "low_resolution":
            said.append(f"{name} x{max(values.values()):.2g}")
        elif step == "crop":
            said.append(f"{values['share']:.0%} of the field" if values else " x ".join(f"{mm:.0f}" for mm in view.frame.extent) + " mm")
        elif len(values) <= 2:
            said.append(
                f"{name} "
                + " ".join(f"{value:+.3g}" if key in ("shift", "low", "high") else f"{value:.3g}" for key, value in values.items())
            )
        else:
            said.append(name)
    return ", ".join(said)


def _write(pen: Any, at: tuple[int, int], text: str, width: int, colour: tuple[int, int, int], most_lines: int = 3) -> None:
    """Text in lines of the given width."""
    font, lines = _font(11), [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    for number, line in enumerate(lines[:most_lines]):
        pen.text((at[0], at[1] + number * _LINE), line, fill=colour, font=font)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
