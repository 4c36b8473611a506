"""`medcl embed` on a whole CT (512 x 512 x 300, DICOM): its time over decoding plus the encoder's own passes, and its peak memory.

From the root: `PYTHONPATH=. python benchmarks/embed_ct.py`; writes reports/export/embed.md. Two processes, each measured by processor
time: one decodes with medcl's own reader and runs the encoder on as many windows as the scan needs; the other embeds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPORT = Path("reports/export/embed.md")
SHAPE, SPACING = (300, 512, 512), (1.0, 0.7, 0.7)  # z, y, x
ENCODERS = {"ResNet-10, width 16": {"depth": 10, "width": 16}}  # a quick one: the slower the encoder, the less the rest weighs
GIB = 2**20  # ru_maxrss counts KiB


def make_scan(folder: Path) -> None:
    """An ellipse of soft tissue with texture in air, one file for each slice."""
    from datasets.made.dicom_files import Stored, ct_series
    from datasets.made.people import draw_person, draw_visit

    y, x = (np.linspace(-1, 1, length) for length in SHAPE[1:])
    body = (y[:, None] / 0.7) ** 2 + (x[None, :] / 0.9) ** 2 < 1
    texture = np.random.default_rng(0).normal(40, 25, SHAPE[1:])
    hu = np.full(SHAPE, -1000, np.int16)
    for number in range(SHAPE[0]):
        hu[number][body] = np.roll(texture, number, axis=1)[body]
    visit = draw_visit(0, draw_person(0, 0), "ct", 0)
    for number, content in enumerate(ct_series(0, visit, hu, SPACING, Stored(), reverse=False)):
        (folder / f"{number:04d}.dcm").write_bytes(content)


def make_backbone(folder: Path, settings: dict[str, Any]) -> None:
    """A backbone with random weights and the CT recipe, views of 96 voxels."""
    from medcl.encoders import ResNetConfig, build_seeded
    from medcl.export.backbone import Provenance, save_backbone
    from medcl.store.recipe import load_recipe
    from medcl.views.batched import ViewMaker
    from medcl.views.policy import ViewsConfig

    config = ResNetConfig.model_validate(settings)
    views = ViewMaker(ViewsConfig(policy="ct", size=(96, 96, 96)), load_recipe("ct"))
    provenance = Provenance(method={"name": "none"}, steps=0, world_batch=1, corpus="", licence="made")
    save_backbone(build_seeded(config, seed=0), config, folder, views=views, provenance=provenance)


def parts(backbone: Path, scan: Path) -> dict[str, float]:
    """Processor seconds of decoding and of the encoder's passes alone, and how many windows there were."""
    import torch

    from medcl.export.backbone import load_backbone
    from medcl.ingest import read_scans
    from medcl.store.prepare import prepare_volume

    network = load_backbone(backbone)
    begun = time.process_time()
    volume = read_scans(scan).volumes[0]
    decoded = time.process_time() - begun
    assert volume.array.shape == SHAPE[::-1] and volume.units == "HU"
    prepared = prepare_volume(volume, network.contract.recipe)
    count = len(network.views.windows(prepared.array.shape, prepared.affine))
    batch = torch.zeros(4, 1, 96, 96, 96)
    begun = time.process_time()
    with torch.inference_mode():
        for start in range(0, count, 4):
            network(batch[: min(4, count - start)])
    return {"decode": decoded, "passes": time.process_time() - begun, "windows": count}


def whole(backbone: Path, scan: Path) -> dict[str, float]:
    """Processor seconds of embedding, and the peak of the process."""
    from medcl.export.embed import embed_files

    embed_files(backbone, [_tiny(backbone)], backbone.parent / "warm.npz")  # compiled kernels and imports are not the scan's
    begun = time.process_time()
    embed_files(backbone, [scan], backbone.parent / "embeddings.npz")
    return {"embed": time.process_time() - begun, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB}


def _tiny(backbone: Path) -> Path:
    from nibabel import nifti1

    path = backbone.parent / "tiny.nii.gz"
    array = np.full((40, 40, 40), -1000, np.int16)
    array[10:30, 10:30, 10:30] = 40 + np.arange(20)
    image = nifti1.Nifti1Image(array, np.eye(4))
    image.header.set_xyzt_units("mm")
    nifti1.save(image, path)
    return path


def main() -> None:
    """Measure every encoder and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["parts", "whole"])
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--scan", type=Path)
    given = parser.parse_args()
    if given.part:
        print(json.dumps({"parts": parts, "whole": whole}[given.part](given.backbone, given.scan)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as place:
        scan = Path(place) / "scan"
        scan.mkdir()
        make_scan(scan)
        for number, (name, settings) in enumerate(ENCODERS.items()):
            backbone = Path(place) / str(number) / "backbone"
            make_backbone(backbone, settings)
            found = {**_measure("parts", backbone, scan), **_measure("whole", backbone, scan)}
            ratio = found["embed"] / (found["decode"] + found["passes"])
            cells = [name, f"{found['windows']:.0f}", *(f"{found[key]:.1f}" for key in ("decode", "passes", "embed"))]
            rows.append(f"| {' | '.join(cells)} | {ratio:.2f} | {found['peak_gib']:.2f} |")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(TEXT.format(rows="\n".join(rows)))


def _measure(part: str, backbone: Path, scan: Path) -> dict[str, float]:
    line = [sys.executable, __file__, "--part", part, "--backbone", str(backbone), "--scan", str(scan)]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


TEXT = """# Embedding a whole CT

`PYTHONPATH=. python benchmarks/embed_ct.py`: a made CT of 512 x 512 x 300 voxels (0.7 x 0.7 x 1.0 mm), 300 DICOM files, uncompressed.
Windows of 96 voxels at 1.5 mm, neighbours overlapping by half. Seconds are processor time on CPU, so that a busy machine does not count;
wanted are a ratio of at most 1.3 and a peak under 4 GiB.

| encoder | windows | decoding, s | the encoder's passes, s | embed, s | embed over both | peak, GiB |
|---|---|---|---|---|---|---|
{rows}
"""

if __name__ == "__main__":
    main()
