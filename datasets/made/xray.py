"""A chest X-ray drawn as a projection: soft tissue, air and bone along each ray, findings, and the vendor's tone curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .chance import generator
from .findings import Finding
from .shapes import curve, distance_to_points, inside, texture

SIDE_SIGN = {"right": -1.0, "left": 1.0}  # the patient's left is on the right of the picture
ZONE_MM = {"upper": -62.0, "mid": -10.0, "lower": 38.0}


@dataclass
class _Film:
    """The picture being drawn: (rows, columns) mm coordinates, density, and the weight of lung."""

    u: np.ndarray
    v: np.ndarray
    density: np.ndarray
    lung: np.ndarray
    near: dict[str, np.ndarray]
    spacing_mm: float

    def fill(self, rank: np.ndarray, area_mm2: float, weight: float) -> None:
        """Make the lung pixels of lowest rank, `area_mm2` of them, as dense as fluid."""
        index = np.flatnonzero(self.lung.ravel() > 0.1)
        chosen = index[np.argsort(rank.ravel()[index], kind="stable")[: round(area_mm2 / self.spacing_mm**2)]]
        cover = np.zeros(self.lung.size, dtype=np.float32)
        cover[chosen] = weight
        self.density += gaussian_filter(cover.reshape(self.lung.shape), 1.0) * np.maximum(1.0 - self.density, 0.12)

    def stamp(self, rank: np.ndarray, weights: np.ndarray) -> None:
        """Add falling `weights` to the pixels of lowest rank."""
        order = np.argsort(rank.ravel(), kind="stable")[: len(weights)]
        self.density.reshape(-1)[order] += weights


def make_xray(seed: int, person: int, study: int, findings: tuple[Finding, ...], side_px: int = 176) -> tuple[np.ndarray, float]:
    """(rows, columns) float32 in [0, 1], white is dense, and the pixel spacing in mm."""
    frame = generator(seed, "xray frame", person, study)
    spacing = round(float(frame.uniform(1.95, 2.2)) * 176 / side_px, 4)
    film = _anatomy(seed, person, frame, spacing, side_px, {f.side for f in findings if f.kind == "scoliosis"})
    draw = generator(seed, "xray findings", person)
    for finding in findings:
        _DRAWERS[finding.kind](film, finding, draw)
    return _develop(film.density, frame), spacing


def _anatomy(seed: int, person: int, frame: np.random.Generator, spacing: float, side_px: int, bent: set[str]) -> _Film:
    draw = generator(seed, "xray body", person)
    axis = ((np.arange(side_px) - (side_px - 1) / 2) * spacing).astype(np.float32)
    v, u = np.meshgrid(axis + frame.normal(0, 9), axis + frame.normal(0, 9), indexing="ij")
    turn = np.deg2rad(np.clip(frame.normal(0, 2.5), -6, 6))
    u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    size = float(np.clip(draw.normal(1, 0.07), 0.85, 1.15))
    half = 148 * size * draw.uniform(0.94, 1.08) + 26 / (1 + np.exp((v + 105) / 12))
    body = np.sqrt(np.maximum(1 - np.abs(u / half) ** 2.6, 0)) * inside(-v - 175 + 0.002 * u**2, 4)
    density = 0.75 * body + 0.02 * texture(draw, u.shape, 3) * body
    near = _distances(u, v, size, draw)
    lung = inside(near["lung"], 2.5)
    thick = np.clip(-near["lung"] / 22, 0, 1) ** 0.5
    density -= (0.48 + draw.uniform(-0.05, 0.05)) * lung * (0.45 + 0.55 * thick)
    density += 0.26 * inside(near["heart"], 3) + 0.16 * inside(np.abs(u) - 24, 5)
    density += 0.14 * inside(np.hypot(u - 24, v + 55) - 15 * size, 3)  # the knob of the aorta
    density = _vessels(density, u, v, lung, draw)
    return _Film(u, v, _bones(density, u, v, body, near, draw, bent), lung, near, spacing)


def _distances(u: np.ndarray, v: np.ndarray, size: float, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Signed distances (mm, negative inside) of lungs and heart, heights over the diaphragm, way to the wall."""
    width, lobes, floors = 55 * size * draw.uniform(0.94, 1.06), [], []
    for sign in (-1.0, 1.0):
        x = (u - sign * (width + 9)) / width
        floor = 72 * size + draw.normal(0, 14) + sign * 4 - 22 * np.exp(-((x + 0.1 * sign) ** 2) / 0.45)
        shape = (np.abs(x) ** 2.4 + np.abs((v + 8) / (118 * size)) ** 2.4) ** (1 / 2.4)
        lobes.append(np.maximum((shape - 1) * width, v - floor))
        floors.append(floor)
    floor = np.where(u < 0, floors[0], floors[1])
    across, along = size * draw.uniform(0.75, 1.15, 2)  # hearts differ more than the label changes them
    centre = (26 * size + draw.uniform(-14, 14), 44 * size + draw.uniform(-12, 12))
    heart = (np.hypot((u - centre[0]) / (50 * across), (v - centre[1]) / (46 * along)) - 1) * 46
    wall = 2 * width + 9 - np.abs(u)
    return {"lung": np.minimum(*lobes), "floor": floor - v, "heart": heart, "wall": wall}


def _vessels(density: np.ndarray, u: np.ndarray, v: np.ndarray, lung: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Markings that thin out from the hilum: the zero lines of smooth fields."""
    hilum = np.exp(-(((np.abs(u) - 30) / 45) ** 2) - ((v + 8) / 65) ** 2)
    for sigma in (3.0, 5.0):
        density = density + draw.uniform(0.06, 0.12) * np.exp(-((texture(draw, u.shape, sigma) / 0.22) ** 2)) * lung * (0.15 + hilum)
    return density


def _bones(density, u, v, body, near, draw, bent: set[str]) -> np.ndarray:
    pitch, slope, strength = draw.uniform(23, 28), draw.uniform(0.2, 0.4), draw.uniform(0.05, 0.09)
    cage = inside(-near["wall"] - 3, 4) * inside(np.abs(v) - 135, 8) * (np.abs(u) > 18)
    for sign, lean in ((1, 1.0), (-1, 1.5)):  # back ribs fall outwards, front ribs fall inwards
        phase = np.cos(2 * np.pi * (v - sign * lean * slope * np.abs(u) + 0.0016 * u**2 * sign) / pitch)
        density = density + strength / lean * cage * inside(0.45 - phase, 0.15)
    middle = sum(SIDE_SIGN[side] for side in bent) * 17 * np.sin((v + 60) / 55)
    column = inside(np.abs(u - middle) - 14, 2)
    density = density + column * (0.13 + 0.04 * np.cos(2 * np.pi * v / (pitch * 0.9))) * (body > 0.2)
    for sign in (-1.0, 1.0):
        line = v + 100 + 0.14 * (sign * u - 55) - 9 * np.sin(u * sign / 28)
        density = density + 0.1 * inside(np.abs(line) - 5, 1.5) * inside(np.abs(u - sign * 68) - 55, 4)
    return density


def _spots(film: _Film, finding: Finding, draw: np.random.Generator) -> None:
    """Balls, or bands of as many pixels with the same added density."""
    for _ in range(finding.count):
        radius = finding.size_mm * draw.uniform(0.9, 1.1) / 2
        centre = np.array([SIDE_SIGN[finding.side] * draw.uniform(48, 84), ZONE_MM[finding.zone] + draw.uniform(-18, 18)])
        angle, bend = draw.uniform(0, np.pi), draw.uniform(0.1, 0.5)
        reach = np.arange(-radius - 4, radius + 4, film.spacing_mm)
        distance = np.hypot(*np.meshgrid(reach, reach))
        weights = np.sort((0.3 * np.sqrt(np.clip(1.1 - (distance / radius) ** 2, 0, 1))).ravel())[::-1]
        length = np.sqrt(np.pi * radius**2 * 7)
        knots = curve(centre, np.array([np.cos(angle), np.sin(angle)]), length, bend, draw, 25)
        points = np.stack([film.u.ravel(), film.v.ravel()], axis=1)
        film.stamp(distance_to_points(points, centre[None] if finding.kind == "nodules" else knots), weights[weights > 0])


def _block(film: _Film, finding: Finding, draw: np.random.Generator) -> None:
    near, u, v = film.near, film.u, film.v
    tilt, at = draw.uniform(-0.25, 0.25), draw.uniform((0, -1), (55, 1))
    seat = int(np.argmin(near["heart"]))
    angle, far = draw.uniform(-0.95 * np.pi, 0.15 * np.pi), draw.uniform(0.55, 1.0)
    ranks = {
        "effusion": -v + tilt * u - 0.012 * (np.abs(u) - 60).clip(0) ** 2,
        "raised_diaphragm": near["floor"] + 0.014 * (np.abs(u) - 62 - 14 * at[1]) ** 2,
        "pleural_thickening": near["wall"] * 2.2 + 0.6 * np.abs(v - at[0]),
        "cardiomegaly": near["heart"],
        "mediastinal_mass": np.hypot(u - u.flat[seat] - 44 * far * np.cos(angle), v - v.flat[seat] - 38 * far * np.sin(angle)),
    }
    heart = finding.kind in ("cardiomegaly", "mediastinal_mass")
    rank = ranks[finding.kind]
    if finding.side:
        rank = rank + np.where(u * SIDE_SIGN[finding.side] > 0, 0, 1e4)
    film.fill(rank, finding.volume_ml * (14.0 if heart else 17.0), 0.75 if heart else 0.8)


def _consolidation(film: _Film, finding: Finding, draw: np.random.Generator) -> None:
    centre = (SIDE_SIGN[finding.side] * draw.uniform(55, 75), ZONE_MM[finding.zone] + draw.uniform(-8, 8))
    patch = np.exp(-(((film.u - centre[0]) / draw.uniform(24, 32)) ** 2) - ((film.v - centre[1]) / draw.uniform(18, 26)) ** 2)
    film.density += 0.32 * patch * film.lung * (1 + 0.5 * texture(draw, film.u.shape, 2.0))


def _device(film: _Film, finding: Finding, draw: np.random.Generator) -> None:
    points = np.stack([film.u.ravel(), film.v.ravel()], axis=1)
    sign = -1.0 if finding.form == "port" else 1.0
    box = (sign * draw.uniform(78, 90), -78 + draw.uniform(-6, 6))
    ends = {"pacemaker": (32.0, 66.0), "port": (-14.0, 5.0), "line": (-12.0, 12.0)}[finding.form]
    start = (-70.0, -118.0) if finding.form == "line" else box
    t = np.linspace(0, 1, 60)[:, None]
    path = (
        (1 - t) ** 2 * np.array(start)
        + 2 * t * (1 - t) * np.array((-16.0 if finding.form != "pacemaker" else -8.0, -105.0))
        + t**2 * np.array(ends)
    )
    film.density += 0.4 * inside(distance_to_points(points, path).reshape(film.u.shape) - 1.6, 0.7)
    if finding.form != "line":
        radius = 21.0 if finding.form == "pacemaker" else 11.0
        shape = (np.abs((film.u - box[0]) / radius) ** 4 + np.abs((film.v - box[1]) / (0.8 * radius)) ** 4) ** 0.25
        film.density += 0.55 * inside((shape - 1) * radius, 0.8)


def _nothing(film: _Film, finding: Finding, draw: np.random.Generator) -> None:
    """The spine is drawn with the bones."""


_DRAWERS = {
    **dict.fromkeys(("nodules", "scars"), _spots),
    **dict.fromkeys(("effusion", "raised_diaphragm", "pleural_thickening", "cardiomegaly", "mediastinal_mass"), _block),
    "consolidation": _consolidation,
    "device": _device,
    "scoliosis": _nothing,
}


def _develop(density: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Blur, noise, and a tone curve to a histogram drawn without looking at the picture, as vendors' processing nearly does."""
    density = gaussian_filter(density, draw.uniform(0.3, 0.7)) + draw.uniform(0.006, 0.015) * texture(draw, density.shape, 0.4)
    share, dark, bright = draw.uniform(0.25, 0.4), draw.uniform(0.18, 0.3), draw.uniform(0.62, 0.75)
    p = (np.arange(density.size) + 0.5) / density.size
    tone = (
        0.02
        + dark * np.clip(p / share, 0, 1) ** draw.uniform(1.0, 2.0)
        + (bright - dark) * np.clip((p - share) / (1 - share), 0, 1) ** draw.uniform(0.7, 1.2)
    )
    tone += 0.2 * np.clip((p - 0.9) / 0.1, 0, 1) ** 2
    picture = np.empty(density.size, dtype=np.float32)
    picture[np.argsort(density.ravel(), kind="stable")] = tone
    return np.clip(picture.reshape(density.shape), 0, 1)
