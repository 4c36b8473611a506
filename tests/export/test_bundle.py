"""The MONAI bundle by MONAI's own commands, offline and without medcl; its transforms give the values that medcl gives."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from medcl.export.backbone import load_backbone
from medcl.export.monai_transforms import transforms, write_scripts
from medcl.export.targets import export
from medcl.foundation import geometry
from medcl.foundation.types import Volume
from medcl.ingest import IngestConfig, convert, read_scans
from medcl.store.recipe import load_recipe
from medcl.store.standard import as_stored, prepare_volume
from medcl.views.batched import ViewMaker
from medcl.views.policy import ViewsConfig

SCHEMA = Path(__file__).with_name("metadata_schema.json")


@pytest.fixture(scope="module")
def bundle(volume_backbone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    export(volume_backbone, "monai", folder)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def test_metadata_and_shapes_pass_monais_own_checks(bundle, tmp_path) -> None:
    pytest.importorskip("fire", reason="pip install fire jsonschema pytorch-ignite")
    pytest.importorskip("jsonschema", reason="pip install fire jsonschema pytorch-ignite")
    from monai.bundle import verify_metadata, verify_net_in_out

    metadata = str(bundle / "configs" / "metadata.json")
    schema = shutil.copyfile(SCHEMA, tmp_path / "schema.json")  # in place, or verify_metadata would download one
    verify_metadata(meta_file=metadata, filepath=str(schema))
    verify_net_in_out(net_id="network_def", meta_file=metadata, config_file=str(bundle / "configs" / "inference.json"), device="cpu")
    broken = json.loads(Path(metadata).read_text())
    del broken["network_data_format"]["outputs"]["pred"]["dtype"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(schema))


def test_the_bundle_runs_where_medcl_is_not_installed(bundle, volume_backbone, tmp_path) -> None:
    """MONAI's own command, in a process in which importing medcl and what it stands on fails, embeds a file as medcl does."""
    array = np.full((60, 52, 44), -1000, np.int16)
    array[10:50, 10:40, 10:34] = 40 + np.arange(24)
    nib.save(nib.nifti1.Nifti1Image(array, np.diag([-1.1, 1.1, 2.0, 1])), tmp_path / "scan.nii.gz")
    code = f"""
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("medcl", "pydantic", "pandas", "blosc2"):
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Forbidden())
from monai.bundle import load, run
run(config_file=r"{bundle}/configs/inference.json", bundle_root=r"{bundle}", image="scan.nii.gz", output="answer.npy")
load("{bundle.name}", bundle_dir=r"{bundle.parent}", workflow_type="inference", device="cpu")
assert not any(name.partition(".")[0] == "medcl" for name in sys.modules)
import torch
from monai.data import MetaTensor
from scripts.preparation import Preparationd
for image in (torch.rand(1, 20, 20, 20), torch.rand(2, 20, 20, 20)):
    try:
        Preparationd("image")({{"image": MetaTensor(image)}})
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = load_backbone(volume_backbone).embed(tmp_path / "scan.nii.gz").pooled[0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-4 * np.abs(expected).max())
    implausible, two = done.stdout.splitlines()[-2:]
    assert implausible.startswith("Refused values from") and "do not look like HU" in implausible
    assert two == "ValueError image of shape (2, 20, 20, 20): expected one grey volume; give each channel or time point alone"


# -- the preparation -----------------------------------------------------------------------------------------------------


def made_views(name: str, recipe: Any = None, size: tuple[int, ...] = (40, 48, 32), **changes: Any) -> ViewMaker:
    given = (recipe or load_recipe(name)).model_copy(update=changes)
    return ViewMaker(ViewsConfig.model_validate({"policy": name, "size": size[: 2 if given.kind == "picture" else 3]}), given)


def same_as_medcl(views: ViewMaker, path: Path, folder: Path, volume: Volume) -> int:
    """Both sections of a bundle's config give what medcl does of the file, to 1e-4 of the range. Returns how many windows there were."""
    from monai.bundle import ConfigParser

    write_scripts(views, folder / "scripts")
    recipe, (low, high) = views.recipe, views.recipe.network_range
    scale, shift = recipe.network_scale()
    prepared = as_stored(prepare_volume(volume, recipe), *recipe.storage())
    windows = views.windows(prepared.array.shape, prepared.affine)
    rendered = [views.render_prepared(prepared, window) for window in windows]
    wanted = np.stack([geometry.rows_and_columns(one) if views.flat else one for one in rendered])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        try:
            parser = ConfigParser(transforms(recipe))
            found = {name: parser.get_parsed_content(name)({"image": str(path)})["image"] for name in ("preprocessing", "windows")}
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
                del sys.modules[name]
    tolerance = 1e-4 * (high - low)
    np.testing.assert_allclose(found["preprocessing"][0].numpy(), np.clip(prepared.array * scale + shift, low, high), atol=tolerance)
    np.testing.assert_allclose(found["preprocessing"].affine.numpy(), prepared.affine, atol=1e-3)
    np.testing.assert_allclose(found["windows"][:, 0].numpy(), wanted, atol=tolerance)
    return len(windows)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def turned(degrees: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """An affine whose axes are turned about z and then x, first axis to the left."""
    turn = Rotation.from_euler("zx", [degrees, degrees / 2], degrees=True).as_matrix() @ np.diag([-1, 1, 1])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, (-20, 30, 7)
    return affine


MADE = {
    "anisotropic": ("ct", turned(0, (0.7, 0.7, 5.0)), {}),
    "finer than the grid": ("ct", turned(0, (0.5, 0.6, 0.7)), {}),
    "oblique": ("ct", turned(20, (0.9, 0.9, 2.5)), {}),
    "other axes": ("ct", turned(0, (0.9, 1.1, 2.5))[:, [2, 0, 1, 3]], {}),
    "blown up": ("ct", turned(10, (2.2, 2.0, 4.0)), {"keep_coarse": False, "body_margin_mm": 3.0}),
    "own spacing": ("mr", turned(5, (1.3, 0.9, 3.0)), {"spacing_mm": None}),
    "mr": ("mr", turned(15, (0.8, 0.8, 3.0)), {}),
    "mr, body cut out": ("mr", turned(0, (0.8, 1.0, 1.0)), {"body_crop": True}),
}


@pytest.mark.parametrize("case", MADE)
def test_made_volumes_come_out_equal(case, tmp_path) -> None:
    """Bodies off the centre in noise, so that a voxel more or less, or a kernel, is seen."""
    name, affine, changes = MADE[case]
    draw = np.random.default_rng(0)
    array = draw.normal(-1000, 8, (78, 65, 50)) if name == "ct" else draw.gamma(2, 4, (78, 65, 50))
    array[12:60, 9:61, 7:45] += draw.normal(*((1040, 60) if name == "ct" else (500, 90)), (48, 52, 38))
    views = made_views(name, **changes)
    path = write_nifti(tmp_path / "scan.nii.gz", array.astype(np.int16), affine)
    assert same_as_medcl(views, path, tmp_path, read_scans(path, IngestConfig(modality=name)).volumes[0])


def test_made_shapes_and_pictures_come_out_equal(tmp_path) -> None:
    shape = np.zeros((30, 28, 26), np.uint8)
    shape[5:20, 8:19, 3:22] = 255
    path = write_nifti(tmp_path / "shape.nii.gz", shape, np.eye(4))
    assert same_as_medcl(made_views("shape"), path, tmp_path, Volume(shape, np.eye(4), "shape", "arbitrary")) == 1
    picture = np.random.default_rng(0).integers(0, 255, (330, 290), dtype=np.uint8)
    picture[:40] = 0
    Image.fromarray(picture).save(tmp_path / "x.png")
    volume = read_scans(tmp_path / "x.png").volumes[0]
    assert same_as_medcl(made_views("xray"), tmp_path / "x.png", tmp_path, volume) == 1


@pytest.mark.parametrize("form", ["palette", "colour", "turned", "alpha", "16 bit", "white is zero"])
def test_pictures_of_every_kind_come_out_equal(form, tmp_path) -> None:
    rows, columns = np.mgrid[0:90, 0:140]
    grey = (20 + columns + 0.5 * rows + np.random.default_rng(0).integers(0, 20, (90, 140))).clip(0, 255).astype(np.uint8)
    colour = np.dstack([grey, grey[::-1], grey])
    image = {"palette": Image.fromarray(colour).quantize(64), "colour": Image.fromarray(colour)}.get(form, Image.fromarray(grey))
    image = {"16 bit": grey * np.uint16(200), "alpha": np.dstack([grey, np.full_like(grey, 255)])}.get(form, image)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    path = tmp_path / {"turned": "x.jpg", "white is zero": "x.tif"}.get(form, "x.png")
    exif = Image.Exif()
    exif[274] = 6
    image.save(path, **({"exif": exif} if form == "turned" else {}))
    if form == "white is zero":
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
        content[place : place + 2] = b"\0\0"
        path.write_bytes(content)
    assert same_as_medcl(made_views("xray"), path, tmp_path, read_scans(path, IngestConfig(modality="xray")).volumes[0]) == 1


def test_a_bundle_refuses_the_headers_that_medcl_refuses_and_reads_micrometres(tmp_path) -> None:
    array = np.full((40, 44, 30), -1000, np.int16)
    array[8:32, 8:36, 5:25] = 40 + np.arange(20)
    affine, mirrored = np.diag([-1.1, 1.1, 2.0, 1]), np.diag([1.1, 1.1, 2.0, 1])
    small, oblique = np.diag([-1100, 1100, 2000, 1.0]), turned(20, (1.1, 1.2, 2.0))
    cases = {
        "fine": (affine, affine, (1, 1), "mm", array),
        "oblique": (oblique, oblique, (1, 1), "mm", array),
        "two spaces": (affine, mirrored, (1, 2), "mm", array),
        "micrometres": (small, small, (1, 1), "micron", array),
        "unknown": (affine, affine, (0, 0), "mm", array),
        "conflict": (affine, mirrored, (1, 1), "mm", array),
        "rescaled twice": (affine, affine, (1, 1), "mm", array - np.int16(1024)),
    }
    for name, (sform, qform, codes, unit, values) in cases.items():
        image = nib.nifti1.Nifti1Image(values, sform)
        image.header.set_xyzt_units(unit)
        image.set_sform(sform, code=codes[0])
        image.set_qform(qform, code=codes[1])
        nib.save(image, tmp_path / f"{name}.nii.gz")
    for name in ("fine", "oblique", "two spaces", "micrometres"):
        path = tmp_path / f"{name}.nii.gz"
        assert same_as_medcl(made_views("ct"), path, tmp_path, read_scans(path, IngestConfig(modality="ct")).volumes[0])
    whole = Volume(array, affine, "ct", "HU")
    for name, says in (
        ("unknown", "neither qform nor sform"),
        ("conflict", "qform and sform disagree"),
        ("rescaled twice", "rescaled twice"),
    ):
        with pytest.raises(RuntimeError) as refused:
            same_as_medcl(made_views("ct"), tmp_path / f"{name}.nii.gz", tmp_path, whole)
        assert says in str(refused.value.__cause__)


REAL = ["CT_AVM", "CT_pitch", "totalseg_example_ct_sm", "chris_MRA", "spmMotor"]


@pytest.mark.parametrize("name", [*REAL, *(pytest.param(each, marks=pytest.mark.slow) for each in ("chris_PD", "totalseg_example_mr_sm"))])
def test_real_volumes_come_out_equal(name, real_data, tmp_path) -> None:
    path = real_data / "nifti_misc" / f"{name}.nii.gz"
    modality = "ct" if "ct" in name.lower() else "mr"
    volume = read_scans(path, IngestConfig(modality=modality, units="HU" if modality == "ct" else None)).volumes[0]
    assert same_as_medcl(made_views(modality, size=(96, 96, 96), plausible=None), path, tmp_path, volume)


def test_real_brain_mr_comes_out_equal(real_data, tmp_path) -> None:
    paths = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii*"))[:3]
    assert len(paths) == 3
    for path in paths:
        assert same_as_medcl(made_views("mr"), path, tmp_path, read_scans(path, IngestConfig(modality="mr")).volumes[0])


def test_a_real_ct_study_comes_out_equal_by_way_of_convert(real_data, tmp_path) -> None:
    """The CT head phantom's DICOM, as `medcl convert` writes it: cut to the body, 0.5 to 1.5 mm, slices of 5 mm seen at 1.5."""
    source = real_data / "dicom_series" / "ct_head_phantom_philips"
    volumes = read_scans(source).volumes
    convert(source, tmp_path / "nifti", jobs=0)
    (path,) = (tmp_path / "nifti").glob("*.nii.gz")
    assert len(volumes) == 1 and same_as_medcl(made_views("ct", size=(96, 96, 96)), path, tmp_path, volumes[0]) > 1
