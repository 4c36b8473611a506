"""A volume recipe's preparation as MONAI transforms, for a bundle's config: from a file to the values the network sees."""

from __future__ import annotations

from typing import Any

from medcl.store.recipe import Recipe, WindowIntensity, ZScoreIntensity

_WIDE_MM = 1000.0


def as_transforms(recipe: Recipe) -> tuple[list[dict[str, Any]], list[str]]:
    """(transforms on the key `image`, what they do otherwise than medcl): axes, spacing, intensity.

    Empty for pictures and shapes: what MONAI has for their percentiles and sizes gives other values. Orientation and intensity are equal to
    medcl's; so is spacing where a scan already has it. Where voxels must be resampled MONAI interpolates, and medcl averages downwards.
    """
    intensity = _intensity(recipe)
    if recipe.kind != "volume" or intensity is None:
        return [], ["no transforms: medcl's preparation of this kind has no equal among MONAI's; prepare with medcl.load_backbone"]
    key = {"keys": "image"}
    transforms = [
        {"_target_": "LoadImaged", **key},
        {"_target_": "EnsureChannelFirstd", **key},
        {"_target_": "EnsureTyped", **key, "dtype": "$torch.float32"},
        {"_target_": "Orientationd", **key, "axcodes": recipe.orientation, "labels": None},
    ]
    notes = []
    if recipe.spacing_mm is not None:
        most = _WIDE_MM if recipe.keep_coarse else 1.01
        kept = {
            "min_pixdim": [0.99 * length for length in recipe.spacing_mm],
            "max_pixdim": [most if recipe.keep_coarse else most * length for length in recipe.spacing_mm],
        }
        transforms.append(
            {"_target_": "Spacingd", **key, "pixdim": list(recipe.spacing_mm), **kept, "scale_extent": True, "padding_mode": "border"}
        )
        notes.append("where voxels must be resampled, MONAI interpolates and medcl averages downwards: values at edges differ")
    if recipe.body_crop:
        notes.append("the air around the body is not cut away")
    return [*transforms, intensity], notes


def _intensity(recipe: Recipe) -> dict[str, Any] | None:
    given, (low, high) = recipe.intensity, recipe.network_range
    if isinstance(given, WindowIntensity):
        window = {"a_min": given.low, "a_max": given.high, "b_min": low, "b_max": high, "clip": True}
        return {"_target_": "ScaleIntensityRanged", "keys": "image", **window}
    if isinstance(given, ZScoreIntensity):
        return {
            "_target_": "Lambdad",
            "keys": "image",
            "func": _STANDARDISE.format(low=low, high=high, ends=(given.low_percentile, given.high_percentile)),
        }
    return None


# The mean and deviation of the body's voxels between two percentiles; the body is what lies above a tenth of the way from dark to bright.
_STANDARDISE = (
    "$lambda image: (lambda array: (lambda dark, bright: (lambda body: (lambda least, most: (lambda kept: "
    "((image - float(kept.mean())) / float(kept.std())).clamp({low}, {high}))(body[(body >= least) & (body <= most)]))"
    "(*numpy.percentile(body, {ends})))(array[array > dark + 0.1 * (bright - dark)].astype(numpy.float64)))"
    "(*numpy.percentile(array[::2, ::2, ::2] if array.size > 2**20 else array, (0.5, 99.5))))(image[0].numpy())"
)
