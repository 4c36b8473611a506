"""Drawing and rendering views: all parameters first, one matrix, one read, one sampling pass, intensity last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medcl.foundation import geometry
from medcl.foundation.errors import UserError
from medcl.foundation.randomness import generator
from medcl.store.arrays import Box
from medcl.store.recipe import Recipe
from medcl.store.standard import Prepared
from medcl.store.volume_store import VolumeStore
from medcl.views.covering import covering_extent, field_centre, window_centres
from medcl.views.crops import Crop, Frame, draw_centre, pull_together, showing
from medcl.views.effects import check
from medcl.views.matching import matched_points
from medcl.views.policy import Policy, ViewsConfig, load_policy
from medcl.views.raw_views import RawViews
from medcl.views.sampling import Reader, read_region, region_of, sample, sample_nearest
from medcl.views.spatial import Elastic, Scale
from medcl.views.step import Look
from medcl.views.units import misread

if TYPE_CHECKING:
    import torch

Size = tuple[int, int, int]
# Of neighbouring windows when a whole volume is embedded. With a quarter (8 windows of a made CT, not 18) the demo's encoder has a linear
# probe of AUROC .85 and not .92.
WINDOW_OVERLAP = 0.5
Watch = Callable[[str, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class ViewParameters:
    """Everything that was drawn for one view; rendering it twice gives the same bits.

    matrix: (3, 4), view voxel -> stored voxel. size: (x, y, z) of the view. world: 4x4, view voxel -> RAS+ mm.
    frame: the crop in the stored array's mm frame. values: step -> what was drawn for it; a step that is not named
    was not drawn. bend: (points x, y, z, 3) displacements in stored voxels at the control points of a spline, or None.
    """

    matrix: np.ndarray
    size: Size
    world: np.ndarray
    frame: Frame
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    bend: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the view's voxels."""
        return geometry.spacing_mm(self.world)


class ViewMaker:
    """Draws and renders the views of one policy for one recipe. Picklable; holds no state.

    paired: the views are shown beside reports. policy: one already at hand (from a card), taken as it is, else
    `config.policy` is loaded at its strength. Raises UserError where a step is unsafe, or where policy, recipe and
    size do not fit together.
    """

    def __init__(self, config: ViewsConfig, recipe: Recipe, paired: bool = False, policy: Policy | None = None) -> None:
        policy = policy or load_policy(config.policy, config.strength)
        steps = tuple(step.resolved(paired) if isinstance(step, Crop) else step for step in policy.steps)
        self.config, self.recipe, self.paired = config, recipe, paired
        self.policy: Policy = policy.model_copy(update={"steps": steps})
        crop = steps[0]
        assert isinstance(crop, Crop)
        # What a local view keeps is bounded as what any crop keeps.
        kept = {"keep": config.local.keep, "keep_with_report": config.local.keep} if config.local and crop.keep else {}
        judged = (*steps, crop.model_copy(update=kept)) if kept else steps
        self.flat: bool = recipe.kind == "picture"
        if policy.modality not in recipe.modalities:
            made = ", ".join(recipe.modalities)
            raise UserError(f"views.policy '{policy.name}' is for {policy.modality}, the store holds {made}; choose another policy")
        # A policy is for one modality, and a store that holds several shows the scans of each in its views.
        overlap = None if self.flat else config.overlap
        self.overrides: dict[str, str] = check(judged, recipe.modalities, paired, config.allow, overlap, misread(steps, recipe))
        self.size: Size = self._grid(config.size)
        self.keep: tuple[float, float] | None = crop.keep
        self._placed: Literal["field", "body", "mask"] = crop.place
        self._spatial = [step for step in steps if step.stage == "spatial"]
        self._intensity = [step for step in steps if step.stage == "intensity"]
        self._check_fit()

    def resolved(self) -> dict[str, Any]:
        """The policy written out, with sizes, extents and the overrides in force: for cards and pages."""
        extent = self._extent()
        return {
            "policy": self.policy.model_dump(mode="json"),
            "size": list(self.config.size),
            "extent_mm": "of the scan" if extent is None else [float(value) for value in extent],
            "overlap": self.config.overlap,
            "paired": self.paired,
            "overrides": dict(self.overrides),
            **({"local": self.config.local.model_dump(mode="json")} if self.config.local else {}),
        }

    def draw_row(self, store: VolumeStore, row: int, key: tuple[int, int, int], num_views: int = 2) -> tuple[ViewParameters, ...]:
        """`draw` for a row of a store, placed where the policy's crop wants it."""
        boxes = None if self._placed == "field" else store.boxes(row, self._placed)
        return self.draw(store.shape(row), store.affine(row), key, num_views, boxes)

    def draw(
        self,
        shape: tuple[int, ...],
        affine: np.ndarray,
        key: tuple[int, int, int],
        num_views: int = 2,
        boxes: Sequence[Box] | None = None,
    ) -> tuple[ViewParameters, ...]:
        """Draw all parameters of an item's views; a pure function of its arguments.

        shape, affine: of the stored array. key: (seed, step, item). boxes: in stored voxels, where views are to lie; None
        is the whole field. Every later view overlaps the first one by at least the configured share; those after the second are
        the config's local ones, where it has any.
        """
        spacing = np.array(geometry.spacing_mm(affine))
        first: Frame | None = None
        views: list[ViewParameters] = []
        for number in range(num_views):
            rng = generator(key[0], "views", key[1], key[2], number)
            frame, values = self._draw_frame(shape, spacing, rng, boxes, number)
            if keep := self._keep_of(number):
                frame = showing(frame, shape, spacing, keep[0], self.flat)
            if first is not None:
                frame = pull_together(first, frame, self.config.overlap)
                if frame.turn is first.turn:
                    values = self._turned_alike(values, views[0].values)
            first = first or frame
            for step in self._intensity:
                if rng.random() < step.probability:
                    values[step.name] = step.draw(rng, self.flat)
            views.append(self._bent(_parameters(frame, self._grid(self.config.size_of(number)), affine, values), spacing))
        return tuple(views)

    def match(self, store: VolumeStore, row: int, views: Sequence[ViewParameters], count: int, key: tuple[int, int, int]) -> np.ndarray:
        """(views, count, axes) points of the same tissue in the drawn views of a row, -1 and 1 at the edges of each of `*space`."""
        places = matched_points(views, store.shape(row), count, generator(key[0], "points", key[1], key[2]), f"row {row}")
        placed = (2 * places + 1) / np.array([view.size for view in views])[:, None] - 1
        return (placed[..., [1, 0]] if self.flat else placed).astype(np.float32)

    def render(self, store: VolumeStore, row: int, parameters: ViewParameters, out: np.ndarray | None = None) -> np.ndarray:
        """A view's network values, (x, y, z) float32, reading only the box it needs. `out` is filled where given."""
        slope, intercept = store.scaling(row)
        reader = _Stored(store, row)
        return self._render(reader, store.shape(row), parameters, out, store.background(row), (slope, intercept))

    def read(self, store: VolumeStore, row: int, parameters: ViewParameters) -> RawViews:
        """What `render_batch` computes a view from."""
        look = self._look(store.background(row), parameters)
        if not all(step.batched for step in self._intensity if step.name in parameters.values):
            # A step that only works on one view, on the CPU: the worker makes the view, and nothing is left to do.
            finished = replace(look, network=(1.0, 0.0))
            return RawViews.of(parameters.size, region_of(self.render(store, row, parameters)), finished, {})
        slope, intercept = store.scaling(row)
        scaled = {"background": look.background, "slope": slope, "intercept": intercept, "bend": parameters.bend}
        region = read_region(_Stored(store, row), store.shape(row), parameters.matrix, parameters.size, **scaled)
        intensity = {step.name: parameters.values[step.name] for step in self._intensity if step.name in parameters.values}
        return RawViews.of(parameters.size, region, look, intensity)

    def join(self, parts: Sequence[RawViews]) -> RawViews:
        """All views of some parts, in order, as one part in few arrays."""
        return RawViews.joined(parts).stacked()

    def render_batch(self, parts: Sequence[RawViews], device: torch.device) -> torch.Tensor:
        """Many views at once, computed on a device: (batch, x, y, z) float32, within rounding what `render` gives for each."""
        from medcl.views.on_device import render_batch

        return render_batch(RawViews.joined(parts), self._intensity, self.recipe.network_range, device)

    def render_all(self, store: VolumeStore, row: int, views: Sequence[ViewParameters]) -> Iterator[np.ndarray]:
        """Several views of one row, which is read once: windows that cover a field touch each of its chunks several times."""
        if len(views) == 1:
            yield self.render(store, row, views[0])
            return
        array, slope, intercept = store.read_raw(row)
        for parameters in views:
            yield self._render(_in_memory(array), store.shape(row), parameters, None, store.background(row), (slope, intercept))

    def render_prepared(self, prepared: Prepared, parameters: ViewParameters, out: np.ndarray | None = None) -> np.ndarray:
        """The same for a volume in memory, straight from `prepare_volume`."""
        array = prepared.array
        return self._render(_in_memory(array), _shape(array), parameters, out, prepared.background, (1.0, 0.0))

    def render_mask(self, store: VolumeStore, row: int, parameters: ViewParameters) -> np.ndarray | None:
        """The mask's labels under the same view (nearest), (x, y, z) uint8, or None where there is no mask."""
        if not store.has_mask(row):
            return None

        def read(box):
            mask = store.mask(row, box)
            assert mask is not None
            return mask

        return sample_nearest(read, store.shape(row), parameters.matrix, parameters.size, parameters.bend)

    def stored_view(self, store: VolumeStore, row: int, parameters: ViewParameters, watch: Watch | None = None) -> np.ndarray:
        """A view in stored units, before network scaling. watch: called with each step's name and the view after it."""
        view = np.empty(parameters.size, np.float32)
        slope, intercept = store.scaling(row)
        sample(
            _Stored(store, row),
            store.shape(row),
            parameters.matrix,
            view,
            background=store.background(row),
            slope=slope,
            intercept=intercept,
            bend=parameters.bend,
        )
        if watch:
            watch("geometry", view)
        self._apply(view, parameters, store.background(row), watch)
        return view

    def whole(self, shape: tuple[int, ...], affine: np.ndarray, size: tuple[int, ...] | None = None) -> ViewParameters:
        """The whole field, un-augmented: isotropic, centred, padded to `size` (as in the config; default: its own)."""
        grid = self._grid(size) if size else self.size
        spacing = np.array(geometry.spacing_mm(affine))
        frame = Frame(field_centre(shape, spacing), covering_extent(shape, spacing, grid, self.flat), np.eye(3))
        return _parameters(frame, grid, affine, {})

    def place(self, frame: Frame, size: Size, affine: np.ndarray) -> ViewParameters:
        """The un-augmented view of any crop, on a grid of (x, y, z) voxels."""
        return _parameters(frame, size, affine, {})

    def windows(
        self, shape: tuple[int, ...], affine: np.ndarray, window_size: tuple[int, ...] | None = None, overlap: float = WINDOW_OVERLAP
    ) -> list[ViewParameters]:
        """Un-augmented windows that cover the field at the spacing of training; neighbours overlap by `overlap`.

        Where training shows shares of the field (pictures, volumes beside reports), the one window is the whole field.
        """
        if self.keep is not None:
            return [self.whole(shape, affine, window_size)]
        grid = self._grid(window_size) if window_size else self.size
        spacing = np.array(geometry.spacing_mm(affine))
        extent = self._pitch(spacing) * grid
        centres = window_centres(shape, spacing, extent, overlap)
        return [_parameters(Frame(centre, extent, np.eye(3)), grid, affine, {}) for centre in centres]

    def _draw_frame(
        self, shape: tuple[int, ...], spacing: np.ndarray, rng: np.random.Generator, boxes: Sequence[Box] | None, number: int
    ) -> tuple[Frame, dict[str, dict[str, float]]]:
        keep = self._keep_of(number)
        share = float(rng.uniform(*keep)) if keep else 1.0
        values: dict[str, dict[str, float]] = {"crop": {"share": share} if keep else {}}
        turn, factor = np.eye(3), 1.0
        for step in self._spatial:
            if rng.random() >= step.probability:
                continue
            drawn = values[step.name] = step.draw(rng, self.flat)
            if isinstance(step, Scale):
                factor *= drawn["factor"]
            else:
                turn = turn @ step.turn(drawn)
        grid = self._grid(self.config.size_of(number))
        extent = self._kept_extent(shape, spacing, grid, keep[0], share, factor) if keep else self._pitch(spacing) * grid * factor
        return Frame(draw_centre(extent, shape, spacing, rng, boxes), extent, turn), values

    def _keep_of(self, number: int) -> tuple[float, float] | None:
        local = self.config.local_of(number)
        return local.keep if local and self.keep else self.keep

    def _turned_alike(self, own: dict[str, dict[str, float]], first: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """What was applied to a view that took the first one's turn: that one's rotation and mirrors, its own scale and bending."""
        origin = {step.name: own if isinstance(step, (Scale, Elastic)) else first for step in self._spatial}
        return {"crop": own["crop"]} | {name: values[name] for name, values in origin.items() if name in values}

    def _bent(self, view: ViewParameters, spacing: np.ndarray) -> ViewParameters:
        for step in self._spatial:
            if isinstance(step, Elastic) and step.name in view.values:
                return replace(view, bend=step.bend(view.values[step.name], view.frame.extent, self.flat) / spacing)
        return view

    def _kept_extent(
        self, shape: tuple[int, ...], spacing: np.ndarray, grid: Size, least: float, share: float, factor: float
    ) -> np.ndarray:
        root = 1 / 2 if self.flat else 1 / 3
        # A scale may show more than the share that was drawn, but no less than the least share allowed.
        extent = covering_extent(shape, spacing, grid, self.flat) * max(share**root * factor, least**root)
        if self.flat:
            extent[2] = spacing[2]
        return extent

    def _render(
        self, read: Reader, shape: Size, parameters: ViewParameters, out: np.ndarray | None, background: float, scaling: tuple[float, float]
    ):
        view = np.empty(parameters.size, np.float32) if out is None else out
        if view.shape != parameters.size or view.dtype != np.float32 or not view.flags.c_contiguous:
            raise ValueError(f"out: expected contiguous float32 of shape {parameters.size}, got {view.dtype} {view.shape}")
        slope, intercept = scaling
        sample(read, shape, parameters.matrix, view, background=background, slope=slope, intercept=intercept, bend=parameters.bend)
        look = self._apply(view, parameters, background, None)
        low, high = self.recipe.network_range
        look.passes.scale_shift_clip(view, *look.network, low, high)
        return view

    def _apply(self, view: np.ndarray, parameters: ViewParameters, background: float, watch: Watch | None) -> Look:
        look = self._look(background, parameters)
        for step in self._intensity:
            if step.name in parameters.values:
                look = step.apply(view, parameters.values[step.name], look)
                if watch:
                    watch(step.name, view)
        return look

    def _look(self, background: float, parameters: ViewParameters) -> Look:
        network = self.recipe.network_scale()
        low, high = ((value - network[1]) / network[0] for value in self.recipe.network_range)
        return Look(background, parameters.spacing_mm, network, (low, high))

    def nominal_pitch(self, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        """Spacing in mm of a view that no step has scaled: of the whole field where views keep a share of it."""
        spacing = np.array(geometry.spacing_mm(affine))
        return self._pitch(spacing) if self.keep is None else covering_extent(shape, spacing, self.size, self.flat) / self.size

    def _extent(self) -> np.ndarray | None:
        """mm that an unscaled view covers, or None where that differs from scan to scan."""
        if self.keep is not None:
            return None
        if self.policy.extent_mm is not None:
            return np.array(self.policy.extent_mm)
        return None if self.recipe.spacing_mm is None else np.array(self.recipe.spacing_mm) * self.size

    def _pitch(self, spacing: np.ndarray) -> np.ndarray:
        extent = self._extent()
        return spacing if extent is None else extent / self.size

    def _grid(self, size: tuple[int, ...]) -> Size:
        wanted = 2 if self.flat else 3
        if len(size) != wanted:
            form = "(rows, columns)" if self.flat else "(x, y, z)"
            raise UserError(
                f"views.size {list(size)}: recipe '{self.recipe.name}' makes {self.recipe.kind}s; expected {wanted} numbers {form}"
            )
        return (size[1], size[0], 1) if self.flat else (size[0], size[1], size[2])

    def _check_fit(self) -> None:
        if self.flat and self.keep is None:
            raise UserError(
                f"views.policy '{self.policy.name}': pictures need the share of the area to keep: {{name: crop, keep: [0.5, 1.0]}}"
            )
        # A share of the field may be of any size beside another one.
        changes = [step.range[1] / step.range[0] for step in self._spatial if isinstance(step, Scale)] or [1.0]
        if self.config.local:
            self.config.local.check_reach(self.config.size, changes[0] if self.keep is None else np.inf, self.config.overlap)


def full_frame(shape: tuple[int, ...], affine: np.ndarray, side: int, flat: bool) -> Frame:
    """The cube (square) around the whole field, for grids of equal sides."""
    spacing = np.array(geometry.spacing_mm(affine))
    grid = (side, side, 1) if flat else (side, side, side)
    return Frame(field_centre(shape, spacing), covering_extent(shape, spacing, grid, flat), np.eye(3))


class _Stored:
    """Reads boxes of one row as integers."""

    def __init__(self, store: VolumeStore, row: int) -> None:
        self.store, self.row = store, row

    def __call__(self, box) -> np.ndarray:
        return self.store.read_raw(self.row, box)[0]


def _in_memory(array: np.ndarray) -> Reader:
    return lambda box: array[tuple(slice(*limits) for limits in box)]


def _shape(array: np.ndarray) -> Size:
    x, y, z = array.shape
    return x, y, z


def _parameters(frame: Frame, size: Size, affine: np.ndarray, values: dict[str, dict[str, float]]) -> ViewParameters:
    """The matrix of a crop: view voxel -> mm from the crop's centre -> the array's mm -> stored voxel."""
    spacing = np.array(geometry.spacing_mm(affine))
    whole = np.zeros((4, 4))
    whole[3, 3] = 1
    matrix = whole[:3]
    matrix[:, :3] = frame.turn * (frame.extent / size)
    matrix[:, 3] = frame.centre - matrix[:, :3] @ ((np.array(size) - 1) / 2)
    matrix /= spacing[:, None]
    return ViewParameters(matrix, size, affine @ whole, frame, values)
