"""`medcl embed` on a whole CT (512 x 512 x 300, DICOM): its time over decoding plus the encoder's passes, its peak memory, and `--jobs`.

From the root, on a quiet machine: `PYTHONPATH=. python benchmarks/embed_ct.py`, about three minutes on two cores; writes
reports/export/embed.md. Two processes are measured by processor time: one decodes with medcl's own reader and runs the encoder on as
many windows as the scan needs; the other embeds. Two more embed several thin scans, with one job and with two, by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

REPORT = Path("reports/export/embed.md")
SLICES, SIDE, SPACING = 300, 512, (1.0, 0.7, 0.7)  # z, y, x
MANY, THIN = 4, 60
ENCODERS = {"ResNet-10, width 16": {"depth": 10, "width": 16}}  # a quick one: the slower the encoder, the less the rest weighs
GIB = 2**20  # ru_maxrss counts KiB


def make_scan(folder: Path, slices: int) -> None:
    """An ellipse of soft tissue with texture in air, one file for each slice."""
    from datasets.made.dicom_files import Stored, ct_series
    from datasets.made.people import draw_person, draw_visit

    y, x = [np.linspace(-1, 1, SIDE)] * 2
    body = (y[:, None] / 0.7) ** 2 + (x[None, :] / 0.9) ** 2 < 1
    texture = np.random.default_rng(0).normal(40, 25, (SIDE, SIDE))
    hu = np.full((slices, SIDE, SIDE), -1000, np.int16)
    for number in range(slices):
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
    read_scans(_tiny(backbone))
    network(torch.zeros(1, 1, 96, 96, 96))  # neither imports nor what is set up once count, here as in `whole`
    begun = time.process_time()
    volume = read_scans(scan).volumes[0]
    decoded = time.process_time() - begun
    assert volume.array.shape[:2] == (SIDE, SIDE) and volume.units == "HU"
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


def many(backbone: Path, scan: Path, jobs: int) -> dict[str, float]:
    """Seconds by the clock to embed the thin scan several times, starting of processes included."""
    from medcl.export.embed import embed_files

    embed_files(backbone, [_tiny(backbone)], backbone.parent / "warm.npz")
    begun = time.perf_counter()
    embed_files(backbone, [scan] * MANY, backbone.parent / f"{jobs}.npz", jobs=jobs)
    return {f"jobs_{jobs}": time.perf_counter() - begun}


def _tiny(backbone: Path) -> Path:
    from nibabel import nifti1

    path = backbone.parent / "tiny.nii.gz"
    array = np.full((40, 40, 40), -1000, np.int16)
    array[10:30, 10:30, 10:30] = 40 + np.arange(20)
    image = nifti1.Nifti1Image(array, np.eye(4))
    image.header.set_xyzt_units("mm")
    nifti1.save(image, path)
    return path


PARTS = {"parts": parts, "whole": whole, "many_1": partial(many, jobs=1), "many_2": partial(many, jobs=2)}


def main() -> None:
    """Measure every encoder and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=SLICES, help="fewer to try it")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--part", choices=list(PARTS))
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--scan", type=Path)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part](given.backbone, given.scan)))
        return
    rows, clocks = [], []
    with tempfile.TemporaryDirectory() as place:
        scans = Path(place) / "scan", Path(place) / "thin"
        for scan, slices in zip(scans, (given.slices, min(THIN, given.slices)), strict=True):
            scan.mkdir()
            make_scan(scan, slices)
        for number, (name, settings) in enumerate(ENCODERS.items()):
            backbone = Path(place) / str(number) / "backbone"
            make_backbone(backbone, settings)
            found = {**_measure("parts", backbone, scans[0]), **_measure("whole", backbone, scans[0])}
            ratio = found["embed"] / (found["decode"] + found["passes"])
            cells = [name, f"{found['windows']:.0f}", *(f"{found[key]:.1f}" for key in ("decode", "passes", "embed"))]
            rows.append(f"| {' | '.join(cells)} | {ratio:.2f} | {found['peak_gib']:.2f} |")
            clock = {**_measure("many_1", backbone, scans[1]), **_measure("many_2", backbone, scans[1])}
            clocks.append(f"| {name} | {clock['jobs_1']:.1f} | {clock['jobs_2']:.1f} | {clock['jobs_1'] / clock['jobs_2']:.2f} |")
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(
        TEXT.format(
            slices=given.slices, rows="\n".join(rows), many=MANY, thin=THIN, clocks="\n".join(clocks), cores=len(os.sched_getaffinity(0))
        )
    )


def _measure(part: str, backbone: Path, scan: Path) -> dict[str, float]:
    line = [sys.executable, __file__, "--part", part, "--backbone", str(backbone), "--scan", str(scan)]
    return json.loads(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


TEXT = """# Embedding a whole CT

`PYTHONPATH=. python benchmarks/embed_ct.py`: a made CT of 512 x 512 x {slices} voxels (0.7 x 0.7 x 1.0 mm), uncompressed DICOM.
Windows of 96 voxels at 1.5 mm, neighbours overlapping by half. Seconds are processor time on CPU, so that a busy machine does not count;
wanted are a ratio of at most 1.3 and a peak under 4 GiB.

| encoder | windows | decoding, s | the encoder's passes, s | embed, s | embed over both | peak, GiB |
|---|---|---|---|---|---|---|
{rows}

{many} scans of {thin} slices by the clock, on {cores} cores. One job already runs the encoder on every core and reads on one; with
two, each process has half of them, and starting the processes counts.

| encoder | --jobs 1, s | --jobs 2, s | faster by |
|---|---|---|---|
{clocks}
"""

if __name__ == "__main__":
    main()
