"""`medcl preview`: the contact sheet, one page around it, and the audit, for a person to decide by."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from medcl.foundation.config import validate
from medcl.foundation.errors import DataError
from medcl.foundation.files import hash_of_folder, write_json, write_text, write_whole
from medcl.foundation.progress import Progress, Silent
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker
from medcl.views.measure import Breach, measure, spread_rows
from medcl.views.policy import ViewsConfig
from medcl.views.sheet import contact_sheet

SHEET, PAGE, AUDIT = "contact_sheet.png", "index.html", "audit.json"
_AUDITED = 64


def preview(
    store: VolumeStore, maker: ViewMaker, out: Path | str, *, seed: int = 0, count: int = 8, progress: Progress | None = None
) -> dict[str, Any]:
    """Draw views of `count` items for a person, and measure those of 64: contact_sheet.png, index.html, audit.json.

    A scan that may have text burned in is measured and not drawn.
    Returns the content of audit.json. Raises DataError naming the step where a bound of the policy is breached; the
    files are written all the same.
    """
    out = Path(out)
    figures, breaches = measure(store, maker, seed=seed, count=_AUDITED, progress=progress or Silent())
    result = {
        "store": hash_of_folder(store.folder),
        "seed": seed,
        "views": maker.resolved(),
        "figures": figures,
        "breaches": [asdict(found) for found in breaches],
    }
    shown = [row for row in range(len(store)) if not store.may_hold_text(row)]
    sheet = contact_sheet(store, maker, [shown[place] for place in spread_rows(len(shown), count)], seed)
    write_whole(out / SHEET, lambda partial: sheet.save(partial, format="PNG"))
    write_json(out / AUDIT, result)
    write_text(out / PAGE, _page(maker, result, breaches, (out / SHEET).read_bytes(), len(store) - len(shown)))
    if breaches:
        raise DataError(
            "\n".join([*(str(found) for found in breaches), f"see {out / PAGE}; change the step, or its bound in the policy's audit"])
        )
    return result


def preview_store(
    store: Path | str,
    out: Path | str,
    *,
    policy: str | None = None,
    strength: str = "default",
    size: tuple[int, ...] | None = None,
    paired: bool = False,
    seed: int = 0,
    count: int = 8,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`preview` for a STORE folder. policy: that of the store's modality by default; size: see `fitting_size`."""
    opened = VolumeStore(store)
    content = {"policy": policy or opened.recipe.modalities[0], "strength": strength, "size": size or fitting_size(opened)}
    maker = ViewMaker(validate(ViewsConfig, content, "preview"), opened.recipe, paired)
    return preview(opened, maker, out, seed=seed, count=count, progress=progress)


def fitting_size(store: VolumeStore) -> tuple[int, ...]:
    """A view's size that the store's median scan fills: at most 96 voxels (pictures: 224) along each axis, a multiple of 8."""
    flat = store.recipe.kind == "picture"
    axes, most = ((1, 0), 224) if flat else ((0, 1, 2), 96)
    middle = [median(store.shape(row)[axis] for row in range(len(store))) for axis in axes]
    return tuple(max(16, min(most, int(length) // 8 * 8)) for length in middle)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2026; margin: 2rem auto; max-width: 1440px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top; }
.wide { overflow-x: auto; } .wide img { width: max(100%, 900px); max-width: none; }
th { font-weight: 600; border-bottom: 1px solid #c9ced6; } tr + tr td { border-top: 1px solid #eceef1; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b7f4b; } .faint { color: #6e7680; } img { height: auto; }
.columns { display: flex; flex-wrap: wrap; gap: 0 3rem; } .columns > div { max-width: 100%; }
"""


def _page(maker: ViewMaker, result: dict[str, Any], breaches: Sequence[Breach], picture: bytes, hidden: int) -> str:
    """One file that needs nothing else and asks nobody for anything. hidden: scans that may not be shown."""
    image = base64.b64encode(picture).decode()
    verdict = (
        "".join(f'<p class="bad">{html.escape(str(found))}</p>' for found in breaches)
        or '<p class="good">Every measured figure is within the policy\'s bounds. Look at the sheet all the same: a person decides.</p>'
    )
    overrides = "".join(f'<p class="bad">Override in force: {html.escape(text)}</p>' for text in maker.overrides.values())
    size = " x ".join(str(length) for length in maker.config.size)
    small = maker.config.local
    local = f", {small.count} local ones of {' x '.join(str(length) for length in small.size)}" if small else ""
    unseen = (
        f'<p class="faint">Measured and not shown, since text may be burned in and a name in it: {hidden} of the scans.</p>'
        if hidden
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Views of policy {html.escape(maker.policy.name)}</title><style>{_STYLE}</style></head><body>
<h1>What the policy "{html.escape(maker.policy.name)}" does to these scans</h1>
<p class="faint">Views of {size} {"pixels" if maker.flat else "voxels"}{local}{", beside reports" if maker.paired else ""};
seed {result["seed"]}; {result["figures"]["pairs"]} pairs measured.</p>
{verdict}{overrides}
<div class="columns"><div><h2>Measured</h2>{_table(("", "least", "mean", "most", "allowed"), _figure_rows(maker, result["figures"]))}</div>
<div><h2>Steps, in their order</h2>{_table(("step", "probability", "settings"), _step_rows(maker))}</div></div>
<h2>Change of values by tissue ({html.escape(_unit(maker))})</h2>{_drift(maker, result["figures"]["drift"])}
<h2>Contact sheet</h2>{unseen}<div class="wide"><img alt="Originals, two views of each, and what intensity steps changed"
src="data:image/png;base64,{image}"></div>
</body></html>
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _figure_rows(maker: ViewMaker, figures: dict[str, Any]) -> Iterable[Sequence[str]]:
    bounds = maker.policy.audit
    for key, name, allowed in (
        ("overlap", "overlap of the pair", f"at least {maker.config.overlap:g}"),
        ("volume_change", "physical volume over the policy's", _ratio(bounds.max_volume_change)),
        ("field_share", "share of the field's length", _limit("at least ", bounds.min_field_share)),
    ):
        yield _spread_row(name, figures[key], allowed)
    yield "views with sides exchanged", "", f"{figures['swapped_share']:.0%}", "", _limit("at most ", bounds.max_swapped_share, "%")
    yield "views that show next to nothing", "", f"{figures['empty_share']:.0%}", "", _limit("at most ", bounds.max_empty_share, "%")
    if "local" in figures:
        small = figures["local"]
        yield _spread_row("local views: overlap with view 1", small["overlap"], f"at least {maker.config.overlap:g}")
        yield _spread_row("local views: share of the field's length", small["field_share"], "not judged")
        yield (
            "local views that show next to nothing",
            "",
            f"{small['empty_share']:.0%}",
            "",
            _limit("at most ", bounds.max_empty_share, "%"),
        )
    survival = figures["mask_survival"]
    shown = "no masks" if survival is None else f"{survival:.0%}"
    yield "marked masks that both views keep", "", shown, "", _limit("at least ", bounds.min_mask_survival, "%")


def _spread_row(name: str, spread: dict[str, float], allowed: str) -> Sequence[str]:
    return name, f"{spread['min']:.2f}", f"{spread['mean']:.2f}", f"{spread['max']:.2f}", allowed


def _limit(words: str, bound: float | None, form: str = "") -> str:
    if bound is None:
        return "not judged"
    return f"{words}{bound:.0%}" if form == "%" else f"{words}{bound:g}"


def _ratio(bound: float | None) -> str:
    return "not judged" if bound is None else f"1/{bound:g} to {bound:g}"


def _step_rows(maker: ViewMaker) -> Iterable[Sequence[str]]:
    for step in maker.policy.steps:
        settings = step.model_dump(mode="json", exclude={"name", "probability"}, exclude_none=True)
        yield step.name.replace("_", " "), f"{step.probability:g}", ", ".join(f"{key} {value}" for key, value in settings.items())


def _unit(maker: ViewMaker) -> str:
    if maker.recipe.stored_units == "HU":
        return "HU"
    return {"zscore": "standard deviations", "display": "share of the display range"}.get(
        maker.recipe.intensity.name, maker.recipe.stored_units
    )


def _drift(maker: ViewMaker, drift: dict[str, Any]) -> str:
    if not drift:
        return '<p class="faint">No step changes values.</p>'
    rows = []
    for tissue, seen in drift.items():
        steps = ", ".join(f"{step.replace('_', ' ')} {change:.3g}" for step, change in seen["largest_by_step"].items())
        rows.append((tissue, f"{seen['value']:.3g}", f"{seen['mean']:+.3g}", f"{seen['largest']:+.3g}", steps))
    return _table(("tissue", "mean value", "mean change", "largest change", "largest by step"), rows)
