"""The preparation of a bundle: medcl's own files and MONAI transforms around them, from a file to what the network sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medcl.foundation import errors, geometry
from medcl.foundation.files import write_json, write_text
from medcl.ingest import grey, units
from medcl.store import body, resample, standard
from medcl.store.recipe import Recipe
from medcl.views import covering
from medcl.views.batched import WINDOW_OVERLAP, ViewMaker

# What a bundle carries, word for word but for where a file's neighbours are; nothing in them needs more than NumPy, SciPy and Numba.
_CARRIED = tuple(Path(str(module.__file__)) for module in (errors, geometry, grey, units, resample, body, standard, covering))


def write_scripts(views: ViewMaker, folder: Path) -> None:
    """Write the package `scripts` with `preparation.Preparationd` and `Windowsd`, and contract.json, which they read.

    views: those of the training. MONAI's own transforms would not do: its Spacing interpolates where medcl averages, its
    foreground is another body.
    """
    recipe = views.recipe
    extent = views.resolved()["extent_mm"]
    contract = {
        "recipe": {**recipe.model_dump(mode="json"), "stored_units": recipe.stored_units},
        "storage": recipe.storage(),
        "windows": {
            "size": views.size,
            "extent_mm": None if isinstance(extent, str) else extent,
            "whole": views.keep is not None,
            "overlap": WINDOW_OVERLAP,
        },
    }
    write_text(folder / "__init__.py", "")
    write_json(folder / "contract.json", contract)
    for source, name in [(path, path.name) for path in _CARRIED] + [(Path(__file__).with_name("monai_preparation.py"), "preparation.py")]:
        write_text(folder / name, _among_neighbours(source.read_text(encoding="utf-8")))


def transforms(recipe: Recipe) -> dict[str, Any]:
    """Two sections of a bundle's config, each on the key `image`, a file: `preprocessing` ends in network values on the store's grid,
    (1, x, y, z), for pipelines of one's own; `windows` in what medcl embeds of a scan, (windows, 1, *space)."""
    scale, shift = recipe.network_scale()
    low, high = recipe.network_range
    key = {"keys": "image"}
    # MONAI alone takes the numbers of a palette for grey values, and does not turn a photograph upright.
    converter = {"_target_": "scripts.preparation.grey_picture", "_mode_": "callable"}
    reader = {"reader": "PILReader", "converter": converter} if recipe.kind == "picture" else {}
    stored = [
        {"_target_": "LoadImaged", **key, "ensure_channel_first": True, **reader},
        {"_target_": "scripts.preparation.Preparationd", **key},
    ]
    window = {"a_min": (low - shift) / scale, "a_max": (high - shift) / scale, "b_min": low, "b_max": high, "clip": True}
    scaled = {"_target_": "ScaleIntensityRanged", **key, **window}
    cut = {"_target_": "scripts.preparation.Windowsd", **key}
    return {
        "preprocessing": {"_target_": "Compose", "transforms": [*stored, scaled]},
        "windows": {"_target_": "Compose", "transforms": [*stored, cut, scaled]},
    }


def _among_neighbours(source: str) -> str:
    """`from medcl.store.resample import ...` becomes `from .resample import ...`; what only types need stays."""
    source = re.sub(r"^from medcl\.\w+\.(\w+) import", r"from .\1 import", source, flags=re.MULTILINE)
    return re.sub(r"^from medcl\.\w+ import", "from . import", source, flags=re.MULTILINE)
