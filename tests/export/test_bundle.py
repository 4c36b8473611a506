"""The MONAI bundle by MONAI's own commands, offline and without medcl; its transforms give the values that medcl gives."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medcl.export.backbone import load_backbone
from medcl.export.monai_transforms import as_transforms
from medcl.export.targets import export
from medcl.foundation.types import Volume
from medcl.ingest import IngestConfig, read_scans
from medcl.store.prepare import prepare_volume
from medcl.store.recipe import load_recipe

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
    """A process in which importing medcl fails loads a file, prepares it and embeds it."""
    array = np.full((44, 42, 40), -1000, np.int16)
    array[10:30, 10:30, 10:30] = np.arange(20) * 30
    nib.save(nib.nifti1.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1])), tmp_path / "scan.nii.gz")
    code = f"""
import sys
sys.modules["medcl"] = None
import torch
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("{bundle}/configs/inference.json")
image = parser.get_parsed_content("preprocessing")({{"image": "{tmp_path}/scan.nii.gz"}})["image"]
network = parser.get_parsed_content("network_def").eval()
network.load_state_dict(torch.load("{bundle}/models/model.pt", weights_only=True))
with torch.no_grad():
    torch.save([image.as_tensor(), network(image[None].as_tensor())], "{tmp_path}/answer.pt")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    image, embedding = torch.load(tmp_path / "answer.pt", weights_only=True)
    expected = np.clip(array / 1000, -1, 1).astype(np.float32)
    np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-6)
    with torch.no_grad():
        wanted = load_backbone(volume_backbone)(torch.from_numpy(expected)[None, None]).pooled
    torch.testing.assert_close(embedding, wanted, rtol=1e-4, atol=1e-5)


def _by_monai(recipe, path: Path) -> np.ndarray:
    from monai.bundle import ConfigParser

    transforms, _ = as_transforms(recipe)
    parser = ConfigParser({"imports": ["$import numpy", "$import torch"], "all": {"_target_": "Compose", "transforms": transforms}})
    return parser.get_parsed_content("all")({"image": str(path)})["image"].numpy()[0]


def _by_medcl(recipe, volume: Volume) -> np.ndarray:
    scale, shift = recipe.network_scale()
    return np.clip(prepare_volume(volume, recipe).array * scale + shift, *recipe.network_range)


def test_real_brain_mr_comes_out_equal(real_data) -> None:
    """Hippocampus scans have the recipe's 1 mm, so nothing is resampled."""
    paths = sorted((real_data / "hippocampus").rglob("imagesTr/*.nii*"))[:3] or sorted((real_data / "hippocampus").rglob("*.nii*"))[:3]
    assert paths
    recipe = load_recipe("mr")
    for path in paths:
        volume = read_scans(path, IngestConfig(modality="mr")).volumes[0]
        np.testing.assert_allclose(_by_monai(recipe, path), _by_medcl(recipe, volume), atol=2e-5)


def test_a_real_ct_comes_out_equal_at_its_own_spacing(real_data, tmp_path) -> None:
    """The CT head study, its bundle's recipe without crop and new spacing: axes and window alone, to the last bit but rounding."""
    reading = read_scans(real_data / "dicom_series" / "ct_head_phantom_philips")
    volume = next(one for one in reading.volumes if one.modality == "ct")
    nib.save(nib.nifti1.Nifti1Image(np.asarray(volume.array, dtype=np.float32), volume.affine), tmp_path / "ct.nii.gz")
    recipe = load_recipe("ct").model_copy(update={"body_crop": False, "spacing_mm": None})
    np.testing.assert_allclose(_by_monai(recipe, tmp_path / "ct.nii.gz"), _by_medcl(recipe, volume), atol=1e-6)


def test_what_has_no_equal_says_so() -> None:
    transforms, notes = as_transforms(load_recipe("xray"))
    assert transforms == [] and "no transforms" in notes[0]
    assert [step["_target_"] for step in as_transforms(load_recipe("ct"))[0]][-2:] == ["Spacingd", "ScaleIntensityRanged"]
    assert any("air around the body" in note for note in as_transforms(load_recipe("ct"))[1])
