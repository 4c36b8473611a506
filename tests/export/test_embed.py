"""Embedding scans: same numbers as in training, refusals that name the field, nothing that identifies in the table."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medcl.export.backbone import load_backbone
from medcl.export.embed import embed_files, embed_volume
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.types import Volume
from medcl.ingest.duplicates import pixel_hash
from medcl.ingest.units import hu_doubts
from tests.store.made_data import MadeData


def ct_volume(seed: int = 0, shape=(60, 50, 40), spacing: float = 1.5) -> Volume:
    """A block of 40 HU in air, with texture."""
    draw = np.random.default_rng(seed)
    array = np.full(shape, -1000.0, np.float32)
    array[8:-8, 8:-8, 4:-4] = 40 + 20 * draw.standard_normal((shape[0] - 16, shape[1] - 16, shape[2] - 8))
    return Volume(np.rint(array).astype(np.int16), np.diag([spacing, spacing, spacing, 1.0]), "ct", "HU")


def write_nifti(path, volume: Volume):
    image = nib.nifti1.Nifti1Image(np.asarray(volume.array), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, 1)
    nib.save(image, path)
    return path


@pytest.fixture(scope="module")
def ct_backbone(volume_backbone):
    return load_backbone(volume_backbone)


def test_a_scan_embeds_as_it_did_in_training_from_the_store(ct_backbone, tmp_path):
    """The same windows through a real store's integers and the training's renderer give the same embedding."""
    from medcl.foundation.progress import Silent
    from medcl.store.prepare import prepare_data
    from medcl.store.volume_store import VolumeStore

    volume = ct_volume(shape=(66, 54, 30), spacing=1.2)
    prepare_data(
        MadeData({"a": volume, "b": ct_volume(1)}), "hash", tmp_path / "store", ct_backbone.contract.recipe, jobs=1, progress=Silent()
    )
    store, views = VolumeStore(tmp_path / "store"), ct_backbone.views
    windows = views.windows(store.shape(0), store.affine(0))
    assert len(windows) > 1
    with torch.no_grad():
        each = [ct_backbone(torch.from_numpy(views.render(store, 0, window))[None, None]) for window in windows]
    features = embed_volume(ct_backbone, volume)
    assert features.pooled.shape == (1, ct_backbone.dim)
    torch.testing.assert_close(features.pooled, torch.cat([one.pooled for one in each]).mean(0, keepdim=True), rtol=1e-5, atol=1e-6)
    assert [level.shape[0] for level in features.dense] == [len(windows)] * 4
    # Several windows at once round otherwise than one alone.
    torch.testing.assert_close(features.dense[-1], torch.cat([one.dense[-1] for one in each]), rtol=1e-5, atol=1e-5)


def test_orientation_of_the_file_does_not_matter(ct_backbone):
    volume = ct_volume()
    flipped = np.diag([-1.5, -1.5, 1.5, 1.0])
    flipped[:2, 3] = [59 * 1.5, 49 * 1.5]
    turned = Volume(np.ascontiguousarray(volume.array[::-1, ::-1]), flipped, "ct", "HU")
    torch.testing.assert_close(embed_volume(ct_backbone, turned).pooled, embed_volume(ct_backbone, volume).pooled, rtol=1e-4, atol=1e-5)


def test_other_scans_give_other_embeddings(ct_backbone):
    one, other = (embed_volume(ct_backbone, ct_volume(seed)).pooled for seed in (0, 1))
    assert not torch.allclose(one, other)


def test_a_nifti_file_is_read_and_equals_the_volume(ct_backbone, tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", ct_volume())
    assert torch.equal(ct_backbone.embed(str(path)).pooled, embed_volume(ct_backbone, ct_volume()).pooled)


def test_a_picture_backbone_reads_pictures(picture_backbone, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.png")
    backbone = load_backbone(picture_backbone)
    features = backbone.embed(tmp_path / "x.png")
    assert features.pooled.shape == (1, backbone.dim) and features.dense[0].dim() == 4
    volume = Volume(picture.T[:, :, None], np.eye(4), "xray", "display", "picture")
    assert torch.equal(features.pooled, embed_volume(backbone, volume).pooled)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": "arbitrary"}, r"units 'arbitrary' \(values -1000 to \d+\): this backbone takes HU; give the original.*`units: HU`"),
        ({"modality": "mr"}, r"modality 'mr': this backbone takes ct"),
        ({"kind": "picture"}, r"kind 'picture': this backbone takes volumes"),
        ({"array": np.linspace(0, 1, 27).reshape(3, 3, 3)}, r"do not look like HU"),
        ({"array": np.linspace(-150, 250, 27).reshape(3, 3, 3)}, r"do not look like HU"),
        ({"array": ct_volume().array - 1024}, r"values -2024 to .* rescaled twice; give the original"),
        ({"array": np.clip(ct_volume().array, -1000, 10)}, r"cut to a window already, and this backbone sees -1000 to 1000"),
    ],
)
def test_what_contradicts_the_contract_is_refused_by_field(ct_backbone, change, message):
    from dataclasses import replace

    with pytest.raises(UserError, match=message):
        ct_backbone.embed(replace(ct_volume(), **change))


def test_a_windowed_nifti_and_a_bids_mr_are_refused_by_a_ct_backbone(ct_backbone, tmp_path):
    windowed = Volume(np.clip(ct_volume().array, -150, 250), ct_volume().affine, "ct", "HU")
    with pytest.raises(UserError, match=r"units 'arbitrary' \(values -150 to .*this backbone takes HU"):
        ct_backbone.embed(write_nifti(tmp_path / "windowed.nii.gz", windowed))
    with pytest.raises(UserError, match="modality 'mr': this backbone takes ct"):
        ct_backbone.embed(write_nifti(tmp_path / "sub-01_T1w.nii.gz", ct_volume()))


def test_a_window_no_narrower_than_the_networks_own_is_no_contradiction(ct_backbone):
    bright = np.where(ct_volume().array > 0, ct_volume().array + 1000, ct_volume().array)
    cut = Volume(np.clip(bright, -1000, 1000), ct_volume().affine, "ct", "HU")
    assert hu_doubts(cut.array) == ("windowed",)
    assert torch.isfinite(embed_volume(ct_backbone, cut).pooled).all()


def test_arrays_missing_files_and_unreadable_ones(ct_backbone, tmp_path):
    with pytest.raises(UserError, match="neither units nor spacing"):
        ct_backbone.embed(ct_volume().array)
    with pytest.raises(UserError, match=r"nowhere"):
        ct_backbone.embed(tmp_path / "nowhere.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b" + b"0" * 50)
    with pytest.raises(DataError, match=r"broken.nii.gz: nothing usable:\n.*corrupt_gzip"):
        ct_backbone.embed(tmp_path / "broken.nii.gz")


def test_a_folder_of_several_volumes_is_not_one_scan(ct_backbone, tmp_path):
    for number in range(2):
        write_nifti(tmp_path / f"{number}.nii.gz", ct_volume(number))
    with pytest.raises(UserError, match="holds 2 volumes"):
        ct_backbone.embed(tmp_path)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_table_has_a_row_per_volume_and_no_names(volume_backbone, tmp_path, suffix):
    patient = tmp_path / "DOE_JOHN_19610401"
    patient.mkdir()
    for number in range(2):
        write_nifti(patient / f"MRN{number}.nii.gz", ct_volume(number))
    other = write_nifti(tmp_path / "SMITH.nii.gz", ct_volume(2))
    spoiled = Volume(np.clip(ct_volume().array, 0, 1), ct_volume().affine, "ct", "HU")
    bad = write_nifti(tmp_path / "BAD.nii.gz", spoiled)
    out = tmp_path / f"embeddings.{suffix}"
    result = embed_files(volume_backbone, [patient, bad, other], out)
    if suffix == "npz":
        found = np.load(out, allow_pickle=False)
        scan, volume, embedding, hashes = found["scan"], found["volume"], found["embedding"], found["pixel_hash"].tolist()
    else:
        table = pd.read_parquet(out)
        scan, volume, embedding = table["scan"].to_numpy(), table["volume"].to_numpy(), np.stack(table["embedding"].to_list())
        hashes = table["pixel_hash"].tolist()
    assert scan.tolist() == [0, 0, 2] and volume.tolist() == [0, 1, 0]
    assert hashes == [pixel_hash(ct_volume(number)) for number in range(3)]
    backbone = load_backbone(volume_backbone)
    np.testing.assert_array_equal(embedding[2], embed_volume(backbone, ct_volume(2)).pooled[0].numpy())
    assert embedding.dtype == np.float32 and embedding.shape == (3, backbone.dim)
    assert result.counts == {"scans": 3, "embeddings": 3, "dim": backbone.dim, "refused": 1}
    assert len(result.refused) == 1 and "BAD.nii.gz" in result.refused[0]
    content = out.read_bytes()
    assert not any(name in content for name in (b"DOE", b"MRN", b"SMITH", b"1961", str(tmp_path).encode()))
    again = tmp_path / f"again.{suffix}"
    embed_files(volume_backbone, [patient, bad, other], again)
    assert again.read_bytes() == content


def test_what_is_left_out_of_a_folder_is_named_by_its_file(volume_backbone, tmp_path):
    (tmp_path / "in").mkdir()
    for number in (0, 2):
        write_nifti(tmp_path / "in" / f"{number}.nii.gz", ct_volume(number))
    spoiled = np.clip(ct_volume().array, 0, 1)
    timed = nib.nifti1.Nifti1Image(np.stack([spoiled, spoiled[::-1]], axis=3), ct_volume().affine)
    timed.header.set_xyzt_units("mm", "sec")
    nib.loadsave.save(timed, tmp_path / "in" / "1.nii.gz")
    result = embed_files(volume_backbone, [tmp_path / "in"], tmp_path / "out.npz")
    assert [message.partition(":")[0] for message in result.refused] == [f"{tmp_path}/in/1.nii.gz, volume {place}" for place in (1, 2)]


@pytest.mark.slow
def test_processes_side_by_side_write_the_same_table(volume_backbone, tmp_path):
    """Two processes, each with its own torch; refusals come back from them as they are."""
    scans = [write_nifti(tmp_path / f"{number}.nii.gz", ct_volume(number)) for number in range(3)]
    scans.append(write_nifti(tmp_path / "BAD.nii.gz", Volume(np.clip(ct_volume().array, 0, 1), ct_volume().affine, "ct", "HU")))
    answers = [embed_files(volume_backbone, scans, tmp_path / f"{jobs}.npz", jobs=jobs) for jobs in (1, 2)]
    assert answers[0].refused == answers[1].refused and len(answers[0].refused) == 1
    one, two = (np.load(tmp_path / f"{jobs}.npz") for jobs in (1, 2))
    assert one["scan"].tolist() == two["scan"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(one["embedding"], two["embedding"], rtol=1e-5, atol=1e-6)


def test_nothing_to_write_raises_the_first_reason(volume_backbone, tmp_path):
    bad = write_nifti(tmp_path / "bad.nii.gz", Volume(np.clip(ct_volume().array, 0, 1), ct_volume().affine, "ct", "HU"))
    with pytest.raises(UserError, match=r"bad.nii.gz, volume 0: units 'arbitrary'"):
        embed_files(volume_backbone, [bad], tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(UserError, match=r"expected a name ending in .parquet or .npz"):
        embed_files(volume_backbone, [bad], tmp_path / "out.csv")
    with pytest.raises(UserError, match="no scans to embed"):
        embed_files(volume_backbone, [], tmp_path / "e.npz", jobs=2)


def test_a_real_ct_head_from_dicom(real_data, ct_backbone):
    """The CT head study of the test data: localizer and derived images set aside, the rest embedded; not what was done to it twice."""
    from dataclasses import replace

    from medcl.ingest import read_scans

    readings = read_scans(real_data / "dicom_series" / "ct_head_phantom_philips")
    volumes = [volume for volume in readings.volumes if volume.modality == "ct"]
    assert len(volumes) == 1 and volumes[0].units == "HU"
    assert torch.isfinite(embed_volume(ct_backbone, volumes[0], overlap=0.0).pooled).all()
    for spoiled, message in (
        (volumes[0].array.astype(np.int32) - 1024, "rescaled twice"),
        (np.clip(volumes[0].array, -1000, 400), "cut to a"),
    ):
        with pytest.raises(UserError, match=message):
            ct_backbone.embed(replace(volumes[0], array=spoiled))
    for name, message in (
        ("nifti_misc/totalseg_example_mr_sm.nii.gz", r"units 'arbitrary' \(values -47 to 833\): this backbone takes HU"),
        ("nifti_misc/CT_AVM.nii.gz", r"units 'arbitrary' \(values 0 to 563.2\): this backbone takes HU"),
        ("dicom_series/scd_cardiac_localizers", r"holds \d+ volumes"),
        ("cxr_notes/raw_samples", r"holds \d+ volumes"),
    ):
        with pytest.raises(UserError, match=message):
            ct_backbone.embed(real_data / name)
