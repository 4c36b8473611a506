"""What the views really did to the user's own data: measured view by view, judged by the policy's bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from medcl.foundation.progress import Progress, Silent
from medcl.foundation.randomness import generator
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters
from medcl.views.crops import overlap
from medcl.views.intensity import hidden_box
from medcl.views.matching import from_stored
from medcl.views.spatial import Scale
from medcl.views.step import Step

# Hounsfield units of what everybody knows; other units are split into thirds of the foreground.
_TISSUES_HU = {"air": (-1100.0, -900.0), "fat": (-130.0, -60.0), "water": (-10.0, 60.0), "bone": (300.0, 3100.0)}
# These move values between neighbours or around their mean, or hide a part; they do not make a tissue look like another one.
_LOCAL_EFFECTS = {"blur", "low_resolution", "noise", "count_noise", "motion", "ghosting", "spike", "gibbs", "speckle", "cutout"}
_FEW_VOXELS = 50
_FEW_PAIRS = 16
# Of a label's voxels so many are followed at most: what share of them is shown is known to one in a hundred.
_MASK_VOXELS = 2000
# A step that was drawn for fewer views is measured in as many more as are missing.
_FEW_VIEWS = 8
_SWAPPED, _VOLUME = "share of views with sides exchanged", "physical volume of a view over the policy's"


@dataclass(frozen=True)
class Breach:
    """A figure beyond its bound. step: the one that did it. acts_in: the share of views for which it is drawn, where it was made to act."""

    step: str
    figure: str
    value: float
    bound: float
    acts_in: float | None = None

    def __str__(self) -> str:
        rare = "" if self.acts_in is None else f" (it acts in {100 * self.acts_in:.3g}% of the views; here it was made to)"
        return f"{self.step}: {self.figure} is {self.value:.3g}, allowed is {self.bound:.3g}{rare}"


@dataclass
class _Measured:
    """What was seen of all views so far."""

    overlaps: list[float] = field(default_factory=list)
    volume_changes: list[float] = field(default_factory=list)
    stretches: list[float] = field(default_factory=list)
    field_shares: list[float] = field(default_factory=list)
    swapped: list[bool] = field(default_factory=list)
    swapped_by: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    empty: list[bool] = field(default_factory=list)
    # of each label of each pair: whether both views' fields hold half of it, and whether both show half of it
    held: list[bool] = field(default_factory=list)
    survived: list[bool] = field(default_factory=list)
    # tissue -> one (value before, step -> change of the mean) per view
    drifts: dict[str, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)


def measure(
    store: VolumeStore, maker: ViewMaker, *, seed: int = 0, count: int = 64, progress: Progress | None = None
) -> tuple[dict[str, Any], list[Breach]]:
    """Draw pairs of views of `count` items spread over the store, at least 16 pairs in all, and measure what the policy did.

    Returns figures (JSON-able, see `audit.json`) and the breaches of the policy's bounds; `local` views, where the config has any, are
    measured apart, and judged by their overlap with the first view and by how many are empty. Steps that hardly acted are made to, in
    a few views that are judged and not part of the figures. Raises nothing by itself.
    """
    seen, local = _Measured(), _Measured()
    rows = spread_rows(len(store), count)
    keys = [(seed, step, row) for step in range(-(-_FEW_PAIRS // len(rows))) for row in rows]
    for key in (progress or Silent()).track(keys, len(keys), "audit"):
        row = key[2]
        views = maker.draw_row(store, row, key, 2 + maker.config.num_local)
        pair = views[:2]
        seen.overlaps.append(overlap(pair[0].frame, pair[1].frame))
        for view in pair:
            _measure_view(store, maker, row, view, seen)
        _measure_mask(store, row, pair, seen)
        for view in views[2:]:
            local.overlaps.append(overlap(pair[0].frame, view.frame))
            _measure_view(store, maker, row, view, local)
    figures = _figures(seen, len(keys)) | (_local_figures(local) if local.overlaps else {})
    breaches = list(_judge(maker, seen, figures))
    known = {(found.step, found.figure) for found in breaches}
    forced = (found for step in maker.policy.steps for found in _force(store, maker, step, _FEW_VIEWS - seen.drawn[step.name], seed, rows))
    return figures, breaches + [found for found in forced if (found.step, found.figure) not in known]


def spread_rows(total: int, count: int) -> list[int]:
    """At most `count` rows, spread evenly over the store."""
    return sorted({int(row) for row in np.linspace(0, total - 1, min(count, total))})


def _force(store: VolumeStore, maker: ViewMaker, step: Step, count: int, seed: int, rows: Sequence[int]) -> Iterable[Breach]:
    """Breaches of a step in `count` views in which it acts and no other that is left to chance does: such views the policy draws too."""
    if count <= 0 or step.probability == 0 or (step.stage != "spatial" and not _drifts(maker, step)):
        return
    chances = {other.name: float(other.probability == 1) for other in maker.policy.steps} | {step.name: 1.0}
    steps = tuple(other.model_copy(update={"probability": chances[other.name]}) for other in maker.policy.steps)
    alone = ViewMaker(maker.config, maker.recipe, maker.paired, maker.policy.model_copy(update={"steps": steps}))
    seen = _Measured()
    for number in range(count):
        row = rows[number * len(rows) // count]
        _measure_view(store, alone, row, alone.draw_row(store, row, (seed, number, row), 1)[0], seen)
    for found in _judge_forced(maker, step, seen):
        yield replace(found, acts_in=step.probability)


def _measure_view(store: VolumeStore, maker: ViewMaker, row: int, view: ViewParameters, seen: _Measured) -> None:
    field_mm = np.array(store.shape(row)) * np.linalg.norm(store.affine(row)[:3, :3], axis=0)
    axes = 2 if maker.flat else 3
    ratio = np.array(view.spacing_mm)[:axes] / maker.nominal_pitch(store.shape(row), store.affine(row))[:axes]
    seen.drawn.update(list(view.values))
    seen.volume_changes.append(float(np.prod(ratio)))
    seen.stretches.append(float(ratio.max() / ratio.min()))
    seen.field_shares.append(float(np.mean(np.minimum(1, view.frame.extent[:axes] / field_mm[:axes]))))
    seen.swapped.append(_swaps(view.matrix[:, :3], axes))
    seen.swapped_by.update(_swapping(maker, view, axes) if seen.swapped[-1] else ())
    _measure_values(store, maker, row, view, seen)


def _swaps(turn: np.ndarray, axes: int) -> bool:
    """Whether a 3x3 exchanges left and right, front and back, or head and feet, or mirrors in another way."""
    return bool(np.linalg.det(turn) < 0 or np.diag(turn)[:axes].min() < 0)


def _swapping(maker: ViewMaker, view: ViewParameters, axes: int) -> list[str]:
    """The steps that exchanged a view's sides, each alone; rotations where only several of them together did."""
    drawn = [step for step in maker.policy.steps if step.stage == "spatial" and step.name in view.values]
    return [step.name for step in drawn if _swaps(step.turn(view.values[step.name]), axes)] or ["rotation"]


def _measure_values(store: VolumeStore, maker: ViewMaker, row: int, view: ViewParameters, seen: _Measured) -> None:
    tissues: dict[str, np.ndarray] = {}
    means: dict[str, list[tuple[str, float]]] = {}

    def watch(step: str, values: np.ndarray) -> None:
        if step == "geometry":
            inside = foreground(values, maker, store.background(row))
            least = 0.001 if maker.recipe.intensity.name == "binary" else 0.02
            seen.empty.append(bool(inside.mean() < least))
            tissues.update(_tissues(values, inside, maker))
        for name, where in tissues.items():
            means.setdefault(name, []).append((step, float(values[where].mean())))

    maker.stored_view(store, row, view, watch)
    for name, chain in means.items():
        changes = {step: value - before for (_, before), (step, value) in pairwise(chain)}
        seen.drifts.setdefault(name, []).append((chain[0][1], changes))


def foreground(values: np.ndarray, maker: ViewMaker, background: float) -> np.ndarray:
    """Where a view in stored units shows something: above -500 HU or 0.1 SUV, half a shape, or a little above the background."""
    physical = {"HU": -500.0, "SUV": 0.1}
    fixed = {"binary": 0.5, "display": background + 0.05, "zscore": background + 0.25}
    units, intensity = maker.recipe.stored_units, maker.recipe.intensity.name
    return values > physical.get(units, fixed.get(intensity, background + 1e-3))


def _tissues(values: np.ndarray, inside: np.ndarray, maker: ViewMaker) -> dict[str, np.ndarray]:
    if maker.recipe.stored_units == "HU":
        found = {name: (values >= low) & (values <= high) for name, (low, high) in _TISSUES_HU.items()}
    elif maker.recipe.intensity.name == "binary" or inside.sum() < _FEW_VOXELS:
        return {}
    else:
        third, two_thirds = np.quantile(values[inside], (1 / 3, 2 / 3))
        found = {
            "dark": inside & (values <= third),
            "middle": inside & (values > third) & (values <= two_thirds),
            "bright": inside & (values > two_thirds),
        }
    return {name: where for name, where in found.items() if where.sum() >= _FEW_VOXELS}


def _measure_mask(store: VolumeStore, row: int, pair: Sequence[ViewParameters], seen: _Measured) -> None:
    """Of each label, however small beside a view's voxels: how much of it lies in both views, and how much they show of it."""
    labels = store.mask(row)
    if labels is None:
        return
    marked = np.flatnonzero(labels)
    names, rng = labels.ravel()[marked], generator(0, "mask", row)
    for label in np.flatnonzero(np.bincount(names)):
        places = marked[names == label]
        chosen = places if len(places) <= _MASK_VOXELS else places[rng.integers(len(places), size=_MASK_VOXELS)]
        stored = np.transpose(np.unravel_index(chosen, labels.shape)).astype(float)
        kept = [_kept(view, stored) for view in pair]
        seen.held.append(min(held for held, _ in kept) >= 0.5)
        seen.survived.append(min(shown for _, shown in kept) >= 0.5)


def _kept(view: ViewParameters, stored: np.ndarray) -> tuple[float, float]:
    """The share of stored voxels (n, 3) that lie in a view, and of those that it does not hide."""
    voxels = np.rint(from_stored(view, stored))
    held = ((voxels >= 0) & (voxels < view.size)).all(axis=1)
    if "cutout" not in view.values:
        return float(held.mean()), float(held.mean())
    first, end = np.transpose(hidden_box(view.values["cutout"], view.size))
    hidden = ((voxels >= first) & (voxels < end)).all(axis=1)
    return float(held.mean()), float((held & ~hidden).mean())


def _figures(seen: _Measured, pairs: int) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "overlap": _spread(seen.overlaps),
        "volume_change": _spread(seen.volume_changes),
        "stretch_max": max(seen.stretches),
        "field_share": _spread(seen.field_shares),
        "swapped_share": float(np.mean(seen.swapped)),
        "empty_share": float(np.mean(seen.empty)),
        "mask_survival": float(np.mean(seen.survived)) if seen.survived else None,
        "drift": {name: _drift_figures(views) for name, views in seen.drifts.items()},
    }


def _local_figures(seen: _Measured) -> dict[str, Any]:
    """Of the views beside the pair; overlap: with the first view."""
    shares = {"overlap": _spread(seen.overlaps), "field_share": _spread(seen.field_shares)}
    return {"local": {**shares, "empty_share": float(np.mean(seen.empty))}}


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": float(min(values)), "mean": float(np.mean(values)), "max": float(max(values))}


def _drift_figures(views: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    totals = [sum(changes.values()) for _, changes in views]
    by_step: dict[str, list[float]] = {}
    for _, changes in views:
        for step, change in changes.items():
            by_step.setdefault(step, []).append(abs(change))
    return {
        "views": len(views),
        "value": float(np.mean([before for before, _ in views])),
        "mean": float(np.mean(totals)),
        "largest": float(max(totals, key=abs)),
        "largest_by_step": {step: max(changes) for step, changes in sorted(by_step.items())},
    }


def _judge(maker: ViewMaker, seen: _Measured, figures: dict[str, Any]) -> Iterable[Breach]:
    bounds = maker.policy.audit
    yield from _judge_geometry(maker, seen, figures)
    for step, kind in (("crop", figures), ("local", figures.get("local"))):
        if kind and bounds.max_empty_share is not None and kind["empty_share"] > bounds.max_empty_share:
            yield Breach(step, "share of views that show next to nothing", kind["empty_share"], bounds.max_empty_share)
    survival = figures["mask_survival"]
    if bounds.min_mask_survival is not None and survival is not None and survival < bounds.min_mask_survival:
        step = "crop" if np.mean(seen.held) < bounds.min_mask_survival else "cutout"
        yield Breach(step, "share of marked masks that both views keep", survival, bounds.min_mask_survival)
    yield from _judge_drifts(maker, seen)


def _judge_forced(maker: ViewMaker, step: Step, seen: _Measured) -> Iterable[Breach]:
    """What a step did in views in which it always acts: a share of views is its part in those that the policy draws."""
    bounds = maker.policy.audit
    swapped = step.probability * seen.swapped_by[step.name] / len(seen.swapped)
    if bounds.max_swapped_share is not None and swapped > bounds.max_swapped_share:
        yield Breach(step.name, _SWAPPED, swapped, bounds.max_swapped_share)
    change = _volume_change(seen)
    if isinstance(step, Scale) and bounds.max_volume_change is not None and change > bounds.max_volume_change:
        yield Breach(step.name, _VOLUME, change, bounds.max_volume_change)
    yield from (found for found in _judge_drifts(maker, seen) if found.step == step.name)


def _judge_geometry(maker: ViewMaker, seen: _Measured, figures: dict[str, Any]) -> Iterable[Breach]:
    bounds = maker.policy.audit
    least = maker.config.overlap
    if figures["overlap"]["min"] < least - 1e-9:
        yield Breach("crop", "overlap of a pair", figures["overlap"]["min"], least)
    if "local" in figures and figures["local"]["overlap"]["min"] < least - 1e-9:
        yield Breach("local", "overlap with the first view", figures["local"]["overlap"]["min"], least)
    change = _volume_change(seen)
    if bounds.max_volume_change is not None and change > bounds.max_volume_change:
        yield Breach("crop" if maker.keep else "scale", _VOLUME, change, bounds.max_volume_change)
    if figures["stretch_max"] > 1.001:
        yield Breach("scale", "ratio of scales along two axes", figures["stretch_max"], 1.0)
    if bounds.min_field_share is not None and figures["field_share"]["min"] < bounds.min_field_share:
        yield Breach("crop", "share of the field's length in a view", figures["field_share"]["min"], bounds.min_field_share)
    if bounds.max_swapped_share is not None and figures["swapped_share"] > bounds.max_swapped_share:
        step = seen.swapped_by.most_common(1)[0][0]
        yield Breach(step, _SWAPPED, figures["swapped_share"], bounds.max_swapped_share)


def _volume_change(seen: _Measured) -> float:
    return max(max(seen.volume_changes), 1 / min(seen.volume_changes))


def _drifts(maker: ViewMaker, step: Step) -> bool:
    """Whether a change of a tissue's mean is held against a step."""
    return maker.policy.audit.max_drift is not None and step.stage == "intensity" and not set(step.effects) <= _LOCAL_EFFECTS


def _judge_drifts(maker: ViewMaker, seen: _Measured) -> Iterable[Breach]:
    bounds = maker.policy.audit
    counted = {step.name for step in maker.policy.steps if _drifts(maker, step)}
    for name, views in seen.drifts.items():
        if bounds.max_drift is not None:
            yield from _judge_drift(name, views, counted, bounds.max_drift, bounds.max_drift_share)


def _judge_drift(name: str, views: list[tuple[float, dict[str, float]]], steps: set[str], most: float, share: float) -> Iterable[Breach]:
    worst: tuple[float, Breach] | None = None
    for before, changes in views:
        counted = {step: change for step, change in changes.items() if step in steps}
        total, allowed = abs(sum(counted.values())), most + share * abs(before)
        if total > allowed and (worst is None or total - allowed > worst[0]):
            step = max(counted, key=lambda step: abs(counted[step]))
            worst = total - allowed, Breach(step, f"change of {name}'s mean", total, allowed)
    if worst:
        yield worst[1]
