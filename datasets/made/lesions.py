"""Findings and their look-alikes in a volume: each takes exactly as many voxels, with exactly the same weights, as the other would."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .findings import Finding
from .shapes import Grid, curve, distance_to_points

MASK_VALUES = {"nodules": 1, "effusion": 2, "cardiomegaly": 3}


class _Canvas:
    """The lung voxels still free, and the HU they will get. Held flat so that every finding is a choice among free voxels."""

    def __init__(self, hu: np.ndarray, lung: np.ndarray, grid: Grid) -> None:
        self.hu, self.mask = hu.copy(), np.zeros(hu.shape, dtype=np.uint8)
        self.index = np.flatnonzero(lung.ravel() > 0.12)
        self.points = grid.points()[self.index]
        self.lung = lung.ravel()[self.index]
        self.free = np.ones(len(self.index), dtype=bool)

    def fill_volume(self, rank: np.ndarray, voxels: float, value: float, kind: str) -> None:
        """Fill the free voxels of lowest `rank` until they held `voxels` of lung: partial voxels count as what they are."""
        order = self._order(rank)
        count = int(np.searchsorted(np.cumsum(self.lung[order]), voxels))
        self._lay(order[:count], np.ones(count), value, kind)

    def fill(self, rank: np.ndarray, weights: np.ndarray, value: float, kind: str) -> None:
        """Give the free voxels of lowest `rank` the falling `weights`, mixing their HU towards `value`."""
        order = self._order(rank)[: len(weights)]
        self._lay(order, weights[: len(order)], value, kind)

    def _order(self, rank: np.ndarray) -> np.ndarray:
        """The free voxels within reach, nearest first."""
        near = np.flatnonzero(self.free & (rank < 900))
        return near[np.argsort(rank[near], kind="stable")]

    def _lay(self, order: np.ndarray, weights: np.ndarray, value: float, kind: str) -> None:
        flat, chosen = self.hu.reshape(-1), self.index[order]
        flat[chosen] += weights.astype(np.float32) * (np.float32(value) - flat[chosen])
        self.mask.reshape(-1)[chosen[weights > 0.5]] = MASK_VALUES.get(kind, 0)
        self.free[order] = False


def place(
    hu: np.ndarray,
    lung: np.ndarray,
    parts: dict[str, np.ndarray],
    grid: Grid,
    findings: tuple[Finding, ...],
    blur_voxels: float,
    draw: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the findings into the lungs and blur as the scanner does. Returns HU and mask, both (z, y, x).

    Balls and bands come after the blur, with soft edges of their own: a blur would take more from a thin band than from a ball.
    """
    canvas = _Canvas(hu, lung, grid)
    near = {name: values.ravel()[canvas.index] for name, values in parts.items()}
    many = ("nodules", "scars")
    for finding in findings:
        if finding.kind not in many:
            _block(canvas, near, grid, finding, draw)
    canvas.hu = gaussian_filter(canvas.hu, blur_voxels, mode="nearest")
    canvas.free &= canvas.hu.ravel()[canvas.index] < -550
    for finding in findings:
        if finding.kind in many:
            _many(canvas, near, grid, finding, draw)
    return canvas.hu, canvas.mask


def _block(canvas: _Canvas, near: dict[str, np.ndarray], grid: Grid, finding: Finding, draw: np.random.Generator) -> None:
    """Fluid, thickening, a raised diaphragm, a large heart or a wide mediastinum: the voxels that its shape reaches first."""
    heart = finding.kind in ("cardiomegaly", "mediastinal_mass")
    value = draw.uniform(38, 46) if heart else draw.uniform(5, 25)
    rank = _RANKS[finding.kind](near, canvas.points, draw)
    if finding.side:
        rank = rank + np.where((canvas.points[:, 0] > 0) == (finding.side == "left"), 0, 1e4)
    canvas.fill_volume(rank, finding.volume_ml / grid.voxel_ml, value, finding.kind)


def _fluid(near: dict[str, np.ndarray], points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A level across gravity, which leans between the base (sitting up) and the back (lying), and climbs a little along the wall."""
    lean = np.deg2rad(draw.uniform(15, 75))
    return np.cos(lean) * points[:, 2] - np.sin(lean) * points[:, 1] - 12 * np.exp(-near["wall"] / 12)


def _dome(near: dict[str, np.ndarray], points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Up from the diaphragm, highest somewhere in its middle."""
    top = draw.uniform(-25, 35)
    return near["floor"] + 0.011 * (points[:, 1] - top) ** 2


def _rind(near: dict[str, np.ndarray], points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Along the wall, around some place at its back, side or front in the lower half."""
    middle = draw.uniform((-30, -50), (60, 10))
    return near["wall"] * 2.0 + 0.5 * np.hypot(points[:, 1] - middle[0], points[:, 2] - middle[1])


def _swollen(near: dict[str, np.ndarray], points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """All around the heart."""
    return near["heart"]


def _lump(near: dict[str, np.ndarray], points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """On one side of the heart, anywhere."""
    at_heart = points[near["heart"] < near["heart"].min() + 8]
    return np.linalg.norm(points - at_heart[draw.integers(len(at_heart))], axis=1)


_RANKS = {"effusion": _fluid, "raised_diaphragm": _dome, "pleural_thickening": _rind, "cardiomegaly": _swollen, "mediastinal_mass": _lump}


def _many(canvas: _Canvas, near: dict[str, np.ndarray], grid: Grid, finding: Finding, draw: np.random.Generator) -> None:
    """Balls, or curved tubes made of as many voxels with the same weights; place, size and HU are drawn before the kind matters."""
    value, aspect = draw.uniform(10, 50), draw.uniform(6.0, 9.0)
    main = draw.normal(0, 1, 3)
    taken: list[np.ndarray] = []
    for _ in range(finding.count):
        radius = finding.size_mm * draw.uniform(0.85, 1.15) / 2
        centre = _free_place(canvas, near, taken, finding, draw)
        taken.append(centre)
        weights = _ball_weights(radius, grid, draw)
        knots = _tube(centre, radius, aspect, main, draw)
        if finding.kind == "nodules":
            knots = centre[None]
        canvas.fill(distance_to_points(canvas.points, knots), weights, value, finding.kind)


def _free_place(
    canvas: _Canvas, near: dict[str, np.ndarray], taken: list[np.ndarray], finding: Finding, draw: np.random.Generator
) -> np.ndarray:
    """A centre well inside free lung, away from the others."""
    deep = np.flatnonzero(canvas.free & (near["depth"] > 0.45 * finding.size_mm))
    picks = draw.choice(deep if len(deep) else np.arange(len(canvas.points)), 6)
    centres = canvas.points[picks] + draw.uniform(-2, 2, (6, 3))
    if not taken:
        return centres[0]
    gaps = np.linalg.norm(centres[:, None] - np.array(taken)[None], axis=2).min(axis=1)
    return centres[int(np.argmax(gaps))]


def _tube(centre: np.ndarray, radius: float, aspect: float, main: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A curve so long that a tube of the ball's volume around it has length = aspect * diameter."""
    volume = 4 / 3 * np.pi * radius**3
    diameter = (4 * volume / (np.pi * aspect)) ** (1 / 3)
    direction = main / np.linalg.norm(main) + draw.normal(0, 0.12, 3)
    return curve(centre, direction, aspect * diameter, draw.uniform(0.05, 0.25), draw)


def _ball_weights(radius: float, grid: Grid, draw: np.random.Generator) -> np.ndarray:
    """Falling weights (1 at the core, 0 outside) of the voxels of a soft ball on this grid."""
    reach = [int(np.ceil((radius + 6) / s)) for s in grid.spacing_mm]
    axes = [(np.arange(-n, n + 1) + draw.uniform(-0.5, 0.5)) * s for n, s in zip(reach, grid.spacing_mm, strict=True)]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2).ravel()
    weights = 1 / (1 + np.exp((distance - radius) / 2.0))
    return np.sort(weights[weights > 0.05])[::-1]
