"""Figures for people: drawn once, written as PNG, SVG and PDF, and put into the page as SVG that follows its light or dark colours."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medcl.foundation.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, FLOOR = "#1b1e23", "#6b717a", "#e3e1dc", "#fffefc", "#a08c6c"
SERIES = ("#7b828c", "#1f6fb2", "#cf5b36", "#2c8a66", "#8359b8", "#b3831a")  # the first is the reference's
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", FLOOR: "floor"}
_VARIABLES |= {colour: f"c{number}" for number, colour in enumerate(SERIES)}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "medcl",
    "text.parse_math": False,  # names come from users' tables, where a dollar is a dollar
    "path.simplify": True,
}
_POINTS_MAPPED = 1500


@dataclass(frozen=True)
class Curve:
    """One initialisation's learning curve. fractions ascending; dots: (fraction, value) of every draw.

    law: the fitted curve as fractions, line, low and high, where there is one.
    """

    name: str
    colour: str
    fractions: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dots: Sequence[tuple[float, float]] = ()
    floor: bool = False
    law: tuple[Sequence[float], ...] = ()


@dataclass(frozen=True)
class CurvePanel:
    """Curves of one mode. ticks: fraction -> what stands below it; target: the reference with all labels; meets: curve name -> fraction."""

    curves: Sequence[Curve]
    metric: str
    ticks: Mapping[float, str]
    limits: tuple[float, float]
    target: float | None = None
    meets: Mapping[str, float] = field(default_factory=dict)


def colour_of(place: int) -> str:
    """Colour of the n-th series; 0 is the reference's grey."""
    return SERIES[place] if place < len(SERIES) else SERIES[1 + (place - 1) % (len(SERIES) - 1)]


def draw_curves(panel: CurvePanel) -> Figure:
    """A label-efficiency figure: means with 95% intervals, every draw as a dot; the fitted law with its band, else lines between means."""
    with _figure(3.75, 3.1) as (figure, axes):
        axes.set_xscale("log")
        axes.set_ylim(*panel.limits)
        fractions = sorted(panel.ticks)
        axes.set_xlim(fractions[0] / 1.35, fractions[-1] * 1.35)
        axes.set_xticks(fractions, [panel.ticks[fraction] for fraction in fractions], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_ylabel(panel.metric)
        axes.set_xlabel("labelled training patients")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if panel.target is not None:
            axes.axhline(panel.target, color=SERIES[0], linewidth=1.1, dashes=(4, 3), zorder=1.5)
        for place, curve in enumerate(panel.curves):
            _draw_curve(axes, curve, place - (len(panel.curves) - 1) / 2)
        for curve in panel.curves:
            if curve.name in panel.meets and panel.target is not None:
                _draw_meeting(axes, panel.meets[curve.name], panel.target, panel.limits[0], curve.colour)
    return figure


def _draw_curve(axes: Axes, curve: Curve, place: float) -> None:
    style = "--" if curve.floor else "-"
    where, line, low, high = curve.law or (curve.fractions, curve.mean, curve.low, curve.high)
    axes.fill_between(where, low, high, color=curve.colour, alpha=0.14, linewidth=0, zorder=2)
    axes.plot(where, line, color=curve.colour, linewidth=2, zorder=4, linestyle=style)
    beside = np.array(curve.fractions) * (1.045**place if curve.law else 1.0)
    if curve.law:
        axes.vlines(beside, curve.low, curve.high, color=curve.colour, linewidth=1, alpha=0.7, zorder=3.5)
    axes.plot(beside, curve.mean, "o", color=curve.colour, markersize=5, markeredgecolor=PAPER, markeredgewidth=1, zorder=5)
    if curve.dots:
        at, value = np.array(curve.dots).T
        axes.plot(at * 1.045**place, value, "o", color=curve.colour, markersize=2.6, alpha=0.55, markeredgewidth=0, zorder=3)


def _draw_meeting(axes: Axes, fraction: float, target: float, bottom: float, colour: str) -> None:
    axes.plot([fraction, fraction], [bottom, target], color=colour, linewidth=1.1, dashes=(1, 2), zorder=2.5)
    axes.plot([fraction], [target], "D", color=PAPER, markeredgecolor=colour, markersize=6, markeredgewidth=1.6, zorder=6)


def draw_map(x: Sequence[float], y: Sequence[float], group: Sequence[int], explained: Sequence[float]) -> Figure:
    """Embeddings on their two leading principal components, coloured by group; -1, of which it is not known, is grey."""
    places, groups = np.stack([x, y])[:, :_POINTS_MAPPED], np.asarray(group)[:_POINTS_MAPPED]
    with _figure(2.9, 2.8) as (figure, axes):
        for own in np.unique(groups):
            axes.plot(*places[:, groups == own], "o", color=colour_of(1 + int(own)), markersize=3.6, alpha=0.6, markeredgewidth=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"first component ({explained[0]:.0%} of the variance)")
        axes.set_ylabel(f"second ({explained[1]:.0%})")
        for side in ("left", "bottom"):
            axes.spines[side].set_color(GRID)
    return figure


def draw_reliability(curves: Mapping[str, Sequence[Mapping[str, float]]], words: tuple[str, str]) -> Figure:
    """Colour -> bins: what was said against what happened, with intervals; the diagonal is where both agree. words: of the two axes."""
    with _figure(2.7, 2.75) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
        for colour, bins in curves.items():
            said, happened, low, high = (np.array([own[name] for own in bins]) for name in ("said", "happened", "low", "high"))
            axes.vlines(said, low, high, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
            axes.plot(said, happened, color=colour, linewidth=1.6, zorder=3)
            axes.plot(said, happened, "o", color=colour, markersize=4.6, markeredgecolor=PAPER, markeredgewidth=0.9, zorder=4)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=words[0], ylabel=words[1], aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.spines["left"].set_visible(False)
        axes.grid(color=GRID, linewidth=0.8)
    return figure


def draw_agreement(dots: Sequence[Sequence[float]], limits: Mapping[str, float], colour: str, name: str) -> Figure:
    """What was said of a quantity against the truth: dashed where both agree, solid off it by `error`, dotted by `low` and `high`."""
    truth, said = np.array(dots).T
    ends = np.array([min(truth.min(), said.min()), max(truth.max(), said.max())])
    ends = ends + np.array([-0.04, 0.04]) * (float(np.ptp(ends)) or 1.0)
    with _figure(2.7, 2.75) as (figure, axes):
        axes.plot(ends, ends, color=MUTED, linewidth=1, dashes=(4, 3), zorder=1)
        axes.plot(ends, ends + limits["error"], color=colour, linewidth=1.4, zorder=3)
        for end in ("low", "high"):
            axes.plot(ends, ends + limits[end], color=colour, linewidth=1, dashes=(1, 2), zorder=3)
        axes.plot(truth, said, "o", color=colour, markersize=3, alpha=0.5, markeredgewidth=0, zorder=2)
        axes.set(xlim=ends, ylim=ends, xlabel=f"true {name}", ylabel="said", aspect="equal")
        axes.locator_params(nbins=4)
        axes.spines["left"].set_visible(False)
        axes.grid(color=GRID, linewidth=0.8)
    return figure


def draw_outlines(picture: np.ndarray, truth: np.ndarray, said: Mapping[str, np.ndarray]) -> Figure:
    """A slice (rows, columns) uint8 with the outlines of structures: the truth white and dashed, below it colour -> what was said."""
    with _figure(2.0, 2.0) as (figure, axes):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        for colour, labels, style in [*((colour, own, "solid") for colour, own in said.items()), ("#ffffff", truth, "dashed")]:
            for number in np.unique(labels[labels > 0]):
                axes.contour(labels == number, levels=[0.5], colors=[colour], linewidths=1.2, linestyles=style)
        axes.set_axis_off()
    return figure


def draw_lines(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], colours: Mapping[str, str]) -> Figure:
    """Numbers over training steps: name -> (steps, values); long series are averaged over windows, faint below the average."""
    with _figure(3.75, 2.5) as (figure, axes):
        for name, (steps, values) in lines.items():
            smooth_steps, smooth = _smoothed(np.asarray(steps, float), np.asarray(values, float))
            if len(smooth) < len(values):
                axes.plot(*_thinned(steps, values), color=colours[name], linewidth=0.7, alpha=0.28)
            axes.plot(smooth_steps, smooth, color=colours[name], linewidth=1.8, marker="o" if len(smooth) < 12 else None, markersize=3.5)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_xlabel("step")
    return figure


def _smoothed(steps: np.ndarray, values: np.ndarray, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
    if len(values) <= most:
        return steps, values
    edges = np.linspace(0, len(values), most + 1).astype(int)
    pairs = list(itertools.pairwise(edges))
    return np.array([steps[a:b].mean() for a, b in pairs]), np.array([values[a:b].mean() for a, b in pairs])


def _thinned(steps: Sequence[float], values: Sequence[float], most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(values) - 1, most).astype(int))
    return np.asarray(steps)[keep], np.asarray(values)[keep]


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A bare figure (inches); drawn without pyplot, so nothing global is left behind."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, pad=5)
        yield figure, axes


def write_figure(figure: Figure, stem: Path) -> None:
    """`stem.png` for slides, `stem.svg` and `stem.pdf` for papers; the same figure gives the same bytes."""
    import matplotlib as mpl

    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    with mpl.rc_context(_STYLE):
        for form, metadata in undated.items():
            path = stem.with_name(f"{stem.name}.{form}")
            write_whole(
                path, lambda partial, form=form, metadata=metadata: figure.savefig(partial, format=form, dpi=200, metadata=metadata)
            )
            figure.set_layout_engine("none")  # it was found by the first of the three


def to_svg(figure: Figure, words: str) -> str:
    """An SVG element for a page: the page's own font and colours (CSS variables), `words` for those who cannot see it."""
    import matplotlib as mpl
    from markupsafe import escape

    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)
    text = re.sub(r"#[0-9a-f]{6}", lambda found: css_colour(found[0]), text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    head = f'<svg {view[0]} role="img" aria-label="{escape(words)}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + text[text.index(">") + 1 :]


def as_file(name: str) -> str:
    """What a user named, as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[:40]


def css_colour(colour: str) -> str:
    """The page's variable that stands for one of the figures' colours, so that it follows light and dark."""
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


def not_shown() -> str:
    """A data URI of a crossed square, in the place of a picture that no page may show."""
    square = np.full((72, 72), 96, np.uint8)
    np.fill_diagonal(square, 160)
    np.fill_diagonal(square[:, ::-1], 160)
    return picture_uri(square)


def picture_uri(pixels: np.ndarray) -> str:
    """A data URI of a small grey picture; pixels: (rows, columns) uint8."""
    import base64

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
