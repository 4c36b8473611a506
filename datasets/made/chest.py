"""A CT-like chest in Hounsfield units: anatomy that differs by patient, then its findings, then the scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .chance import generator
from .findings import Finding
from .lesions import place
from .shapes import Grid, bent_grid, cylinder, ellipsoid, inside, mix, straight_grid, texture

AIR_HU, FAT_HU, SOFT_HU = -1000.0, -95.0, 42.0


@dataclass(frozen=True)
class Chest:
    """One scan: `hu` and `mask` are (z, y, x); the mask has 1 nodule, 2 effusion, 3 enlarged heart."""

    hu: np.ndarray
    mask: np.ndarray
    spacing_mm: tuple[float, float, float]  # z, y, x


@dataclass(frozen=True)
class Body:
    """A person's own shape, the same at every study (mm, HU)."""

    half_width: float
    half_depth: float
    fat: float
    lung_size: float
    lung_hu: float
    diaphragm: float
    dome: float
    heart_size: float
    rib_pitch: float
    bone_hu: float
    vessel: float
    grain: float
    breath: float


def draw_body(seed: int, person: int) -> Body:
    draw = generator(seed, "chest body", person)
    size = float(np.clip(draw.normal(1.0, 0.055), 0.87, 1.13))
    return Body(
        half_width=150 * size * draw.uniform(0.95, 1.05),
        half_depth=104 * size * draw.uniform(0.92, 1.08),
        fat=draw.uniform(8, 20),
        lung_size=size * draw.uniform(0.94, 1.06),
        lung_hu=draw.uniform(-860, -790),
        diaphragm=draw.uniform(-72, -48),
        dome=draw.uniform(12, 30),
        heart_size=size * draw.uniform(0.9, 1.05),
        rib_pitch=draw.uniform(24, 31),
        bone_hu=draw.uniform(350, 750),
        vessel=draw.uniform(0.25, 0.6),
        grain=draw.uniform(15, 40),
        breath=draw.uniform(1.0, 3.5),
    )


def make_chest(seed: int, person: int, study: int, findings: tuple[Finding, ...]) -> Chest:
    """The scan of one study. The body depends on (seed, person), pose and noise on the study too, neither on the findings."""
    body = draw_body(seed, person)
    frame = generator(seed, "chest frame", person, study)
    in_plane = float(np.round(frame.uniform(5.2, 5.7), 3))
    spacing = (float(np.round(frame.uniform(5.2, 5.8), 2)), in_plane, in_plane)
    still = straight_grid((int(frame.integers(33, 39)), 64, 64), spacing)
    pose = generator(seed, "chest bend", person)
    grid = bent_grid(still, pose, shift_mm=9, bend_mm=8, turn_deg=5)
    hu, lung, parts = _anatomy(grid, body, generator(seed, "chest tissue", person))
    hu, mask = place(
        _table(hu, still, frame), lung, parts, grid, findings, frame.uniform(0.35, 0.55), generator(seed, "chest findings", person)
    )
    return Chest(_noise(hu, frame), mask, spacing)


def _anatomy(grid: Grid, body: Body, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """HU of the body without findings, the weight of lung (0..1), and distances the findings are placed by."""
    fine = texture(draw, grid.shape, 1.2)
    skin = cylinder(grid, (0, 0), (body.half_width, body.half_depth), 2.4)
    hu = np.full(grid.shape, AIR_HU, dtype=np.float32)
    hu = mix(hu, inside(skin), FAT_HU + 6 * fine)
    hu = mix(hu, inside(skin + body.fat), SOFT_HU + 8 * fine)
    cavity = cylinder(grid, (0, -4), (body.half_width - body.fat - 16, body.half_depth - body.fat - 14), 2.3)
    hu = _bones(hu, grid, body, cavity)
    lung, parts = _lungs(grid, body, cavity)
    hu = _middle(hu, grid, body, cavity, fine)
    hu = mix(hu, lung, _lung_tissue(grid, body, fine, draw))
    hu = mix(hu, inside(cylinder(grid, (2, 12), (9, 8))) * inside(-18 - grid.z, 3), AIR_HU + 20)
    return hu, lung, parts


def _bones(hu: np.ndarray, grid: Grid, body: Body, cavity: np.ndarray) -> np.ndarray:
    phase = np.cos(2 * np.pi * (grid.z + 0.45 * grid.y + 0.1 * np.abs(grid.x)) / body.rib_pitch)
    rib = np.exp(-(((cavity - 7) / 5.0) ** 2)) * inside(0.25 - phase, 0.15)
    hu = mix(hu, rib * 0.85, body.bone_hu)
    column = cylinder(grid, (0, body.half_depth - body.fat - 22), (20, 18))
    disc = 0.75 + 0.25 * np.cos(2 * np.pi * grid.z / (body.rib_pitch * 0.95))
    hu = mix(hu, inside(column), body.bone_hu * 0.55 * disc)
    breast_bone = ellipsoid(grid, (0, -(body.half_depth - body.fat - 8), 20), (17, 7, 85))
    return mix(hu, inside(breast_bone), body.bone_hu * 0.6)


def _lungs(grid: Grid, body: Body, cavity: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lung weight and the distances of the chest: to the wall, to the diaphragm (up), to the heart, to the midline."""
    size = body.lung_size
    width = (body.half_width - body.fat - 16) * 0.5
    sides = [ellipsoid(grid, (sign * (width + 9), 2, 4), (width + 2, 82 * size, 118 * size), 2.3) for sign in (-1, 1)]
    lobes = np.maximum(np.minimum(*sides), cavity + 3)
    across = (np.abs(grid.x) - width - 8) / (0.75 * width)
    floor = body.diaphragm + body.dome * np.exp(-(across**2) - (grid.y / 70) ** 2) - 0.12 * grid.y
    heart = ellipsoid(grid, (24 * size, -34 * size, body.diaphragm + 48), tuple(a * body.heart_size for a in (54, 44, 50)))
    spine = cylinder(grid, (0, body.half_depth - body.fat - 22), (24, 24))
    distance = np.maximum.reduce([lobes, floor - grid.z, -heart - 2, -spine - 2])
    parts = {"wall": -cavity, "floor": grid.z - floor, "heart": heart, "middle": np.abs(grid.x), "depth": -distance}
    return inside(distance, body.breath), parts


def _middle(hu: np.ndarray, grid: Grid, body: Body, cavity: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Mediastinum, heart, great vessels, and what lies under the diaphragm."""
    size = body.lung_size
    hu = mix(hu, inside(cavity) * inside(np.abs(grid.x) - 34, 4), FAT_HU + 25 + 10 * fine)
    liver = inside(cavity) * inside(grid.z - body.diaphragm - body.dome - 8, 3)
    hu = mix(hu, liver, 52 + 8 * np.tanh(-grid.x / 40) + 8 * fine)
    heart = ellipsoid(grid, (24 * size, -34 * size, body.diaphragm + 48), tuple(a * body.heart_size for a in (54, 44, 50)))
    hu = mix(hu, inside(heart), 45 + 6 * fine)
    tubes = (((16, 42), (13, 13), -200.0), ((22, 0), (12, 20), 25.0), ((-22, -8), (9, 9), 5.0))
    for centre, axes, start in tubes:
        hu = mix(hu, inside(cylinder(grid, centre, axes)) * inside(start - grid.z, 4), 48.0)
    return hu


def _lung_tissue(grid: Grid, body: Body, fine: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Air spaces with a gradient towards the back, grain, and vessels: the curves where two smooth fields are both zero."""
    base = body.lung_hu + 0.35 * grid.y + body.grain * fine
    first, second = texture(draw, grid.shape, 2.2), texture(draw, grid.shape, 2.2)
    hilum = np.exp(-(((np.abs(grid.x) - 35) / 55) ** 2) - ((grid.y - 5) / 60) ** 2 - ((grid.z - 5) / 80) ** 2)
    vessel = np.exp(-(first**2 + second**2) / (0.12 * body.vessel)) * (0.25 + 0.75 * hilum)
    return mix(base, vessel * 0.8, 30.0)


def _table(hu: np.ndarray, grid: Grid, draw: np.random.Generator) -> np.ndarray:
    height = draw.uniform(136, 160)
    plate = np.exp(-(((grid.y - height - (grid.x / 60) ** 2) / 3.0) ** 2)) * inside(np.abs(grid.x) - 130, 3)
    return mix(hu, plate * 0.6 * inside(200 - hu - 1100, 50), -100.0)


def _noise(hu: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Noise that reconstruction has smoothed a little; whole HU."""
    level, smooth = draw.uniform(8, 26), draw.uniform(0.3, 0.7)
    hu = hu + level * texture(draw, hu.shape, smooth) + draw.normal(0, 3)
    return np.clip(np.round(hu), -1024, 2000).astype(np.int16)
