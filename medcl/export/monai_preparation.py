"""From a file to what the encoder sees, as in its training: MONAI transforms around medcl's own files, which a bundle has beside this one.

Needs MONAI, torch, NumPy, SciPy and Numba; medcl itself is not needed. `contract.json` beside it is what the backbone was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform

from medcl.foundation import geometry
from medcl.ingest.grey import upright_grey
from medcl.ingest.units import why_not_hounsfield
from medcl.store.standard import as_stored, prepare_volume
from medcl.views.covering import covering_extent, field_centre, window_centres

_AT_A_TIME = 4
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes of metre, millimetre, micrometre
_SAME_PLACE_MM = 0.1


def grey_picture(image: Any) -> Any:
    """What MONAI's PILReader is to make of a picture: one upright plane of grey values."""
    from PIL import Image

    return Image.fromarray(upright_grey(image)[0])


class Preparationd(MapTransform):
    """A scan as read, (1, x, y, z) or a picture (1, x, y), becomes (1, x, y, z) as a store keeps it: axes, body, spacing, intensity.

    Raises medcl's `Refused` where the scan contradicts the contract, ValueError for more than one channel or time point, for a
    NIfTI header that does not say where the voxels are, and for values that are no Hounsfield units.
    """

    def __init__(self, keys: Any, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        contract = _contract()
        given = contract["recipe"]
        self.recipe: Any = SimpleNamespace(**{**given, "intensity": SimpleNamespace(**given["intensity"])})
        self.storage = contract["storage"]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with what the keys name prepared; `background` in its meta data is the value of nothing."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self._prepare(found[key])
        return found

    def _prepare(self, image: MetaTensor) -> MetaTensor:
        recipe, flat = self.recipe, self.recipe.kind == "picture"
        array, affine = image.as_tensor().numpy(), stated_affine(np.asarray(image.affine, dtype=float), image.meta)
        if array.shape[0] != 1 or array.ndim != (3 if flat else 4):
            raise ValueError(f"image of shape {array.shape}: expected one grey {recipe.kind}; give each channel or time point alone")
        array, affine = (array[0][..., None], np.eye(4)) if flat else (array[0], affine)
        window = (recipe.intensity.low, recipe.intensity.high) if recipe.intensity.name == "window" else None
        problem = why_not_hounsfield(array, window) if recipe.units[0] == "HU" else ""
        if problem:
            raise ValueError(f"units 'HU': {problem}")
        volume: Any = SimpleNamespace(array=array, affine=affine, modality=recipe.modalities[0], units=recipe.units[0], kind=recipe.kind)
        prepared = as_stored(prepare_volume(volume, recipe), *self.storage)
        return MetaTensor(
            torch.from_numpy(prepared.array[None]), affine=torch.from_numpy(prepared.affine), meta={"background": prepared.background}
        )


def stated_affine(affine: np.ndarray, meta: Mapping[Hashable, Any]) -> np.ndarray:
    """The affine of a NIfTI file in mm; any other as it is. Raises ValueError where the header says none, or two that differ."""
    if "sform_code" not in meta or "qform_code" not in meta:
        return affine
    codes = int(meta["sform_code"]), int(meta["qform_code"])
    if codes == (0, 0):
        raise ValueError("neither qform nor sform is set: nothing says how the axes run; give the original scan")
    unit_mm = _UNIT_MM.get(int(meta["xyzt_units"]) & 7, 1.0)
    if codes[0] == codes[1] and not _is_sheared(affine):
        qform = _qform(meta)
        ends = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (*np.asarray(meta["dim"])[1:4] - 1, 1)
        if np.linalg.norm((ends @ (affine - qform).T)[:, :3], axis=1).max() * unit_mm > _SAME_PLACE_MM:
            raise ValueError("qform and sform disagree on where the voxels are; repair the header")
    return np.vstack([affine[:3] * unit_mm, affine[3:]])


def _qform(meta: Mapping[Hashable, Any]) -> np.ndarray:
    """The affine of a quaternion (nifti1.h, method 2)."""
    b, c, d = (float(meta[f"quatern_{letter}"]) for letter in "bcd")
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    lengths = np.asarray(meta["pixdim"], dtype=float)
    affine = np.eye(4)
    affine[:3, :3] = np.array(turn) * lengths[1:4] * (1, 1, -1 if lengths[0] == -1 else 1)
    affine[:3, 3] = [float(meta[f"qoffset_{letter}"]) for letter in "xyz"]
    return affine


def _is_sheared(affine: np.ndarray) -> bool:
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(columns.T @ columns - np.eye(3)).max() > 1e-3)


class Windowsd(MapTransform):
    """What `Preparationd` gives becomes the windows that medcl embeds, (windows, 1, *space): the whole scan at the spacing of training."""

    def __init__(self, keys: Any, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        contract = _contract()
        self.flat = contract["recipe"]["kind"] == "picture"
        self.size = tuple(contract["windows"]["size"])
        self.extent_mm, self.whole, self.overlap = (contract["windows"][name] for name in ("extent_mm", "whole", "overlap"))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with what the keys name cut into windows."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self._windows(found[key])
        return found

    def _windows(self, image: MetaTensor) -> torch.Tensor:
        array, background = image.as_tensor().numpy()[0], np.float32(image.meta["background"])
        spacing = np.array(geometry.spacing_mm(np.asarray(image.affine, dtype=float)))
        shape, size = array.shape, np.array(self.size)
        if self.whole:
            extent = covering_extent(shape, spacing, self.size, self.flat)
            centres = [field_centre(shape, spacing)]
        else:
            extent = spacing * size if self.extent_mm is None else np.array(self.extent_mm)
            centres = window_centres(shape, spacing, extent, self.overlap)
        step = extent / size
        above = array - background
        windows = []
        for centre in centres:
            first = (centre - step * (size - 1) / 2) / spacing
            view = above
            for axis in range(3):
                view = _along(view, axis, first[axis], step[axis] / spacing[axis], self.size[axis])
            windows.append(geometry.rows_and_columns(view + background) if self.flat else view + background)
        return torch.from_numpy(np.stack(windows)[:, None])


def embed(network: torch.nn.Module, windows: torch.Tensor) -> np.ndarray:
    """The embedding of a scan, (dim,): the mean over its windows."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        answers = [network(some.to(device)) for some in windows.as_subclass(torch.Tensor).split(_AT_A_TIME)]
    return torch.cat(answers).mean(0).cpu().numpy()


def _contract() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))


def _along(array: np.ndarray, axis: int, first: float, step: float, count: int) -> np.ndarray:
    """Samples along one axis at `first + step * n` voxels; where a step spans more than 1.5 of them, so many are averaged first."""
    factor = max(1, int(step + 0.5))
    places = (first + step * np.arange(count) + 0.5) / factor - 0.5
    below = np.floor(places).astype(int)
    share = (places - below).astype(np.float32)
    low, high = (int(limit) for limit in np.clip((below[0] * factor, (below[-1] + 2) * factor), 0, array.shape[axis]))
    weights = np.zeros((count, max(1, high - low)), np.float32)
    for block, weight in ((below, 1 - share), (below + 1, share)):
        for voxel in range(factor):
            column = block * factor + voxel - low
            inside = (column >= 0) & (column < high - low)
            weights[np.flatnonzero(inside), column[inside]] += weight[inside] / factor
    part = np.moveaxis(array, axis, 0)[low : max(high, low + 1)]
    return np.moveaxis(np.tensordot(weights, part, axes=1), 0, axis)
