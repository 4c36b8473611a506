"""What ingest costs beyond reading pixels, at the scale of a hospital: a simulated export through the real code.

python benchmarks/ingest_scale.py [--files 20000] [--out reports/ingest/scale.md]

Simulated: finding the files (their names are made up), reading a header (its frame is made up, as small as a CT's) and decoding a
volume (its record and hashes are made up). Real: chunks and keys, the journal on disk, grouping by series, each slice's grouping into
stacks, ordering, copies, near-duplicates among all scans, keyed hashes, splits, ledger, manifest, card, page. One process. 95% of
the files are CT slices in series of 200, 5% X-rays; every hundredth file is refused. Beside it: one real sample's headers by medcl
and by a plain pydicom loop, in turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pydicom

from medcl.ingest import collect, headers, planning
from medcl.ingest.dicom_header import Frame, Header, Patient, PixelLayout
from medcl.ingest.ledger import Fate
from medcl.ingest.plain import to_text
from medcl.ingest.readers import Unit, UnitResult, parts_of
from medcl.ingest.records import Facts, Identity, Outcome, Scan, Source
from medcl.ingest.run import ingest
from medcl.ingest.settings import IngestConfig
from medcl.ingest.sources import Met, Survey, survey

SLICES = 200
ROUNDS = 5
CT, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1"


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Time and memory of ingest on a simulated export.")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    headers_read = header_pass()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        collect.survey = lambda sources: made_survey(said.files)
        headers.read_headers = made_headers
        collect.read_as_text = made_result
        seconds = []
        run = partial(ingest, folder, out, jobs=0, key=bytes(32), progress=clock, images=False)
        begin = time.process_time()
        summary = run()
        seconds.append(time.process_time() - begin)
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sizes = {path.name: path.stat().st_size for path in [*out.glob("*.parquet"), *(out / "private").iterdir()] if path.is_file()}
    text = _page(said.files, summary.volumes + summary.pictures, seconds, (peak - before) / 1024, sizes, headers_read)
    print(text)
    if said.out is not None:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(text, encoding="utf-8")


class Clock:
    """Passes items through; says nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def track(self, items, total: int, what: str, done: int = 0):
        """The items, unchanged."""
        return iter(items)


def header_pass() -> str:
    """CPU milliseconds per header of the shared series: medcl's pass with its text for the journal, and a plain pydicom loop."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDCL_TEST_DATA", shared)) / "dicom_series"
    if not folder.is_dir():
        return "No real sample here to read headers of; set MEDCL_TEST_DATA."
    files = [met for met in survey([folder]).files if met.kind == "dicom"]
    own, plain = [], []
    for _ in range(ROUNDS):
        begin = time.process_time()
        headers.read_headers(files, IngestConfig())
        middle = time.process_time()
        for met in files:
            pydicom.dcmread(met.path, stop_before_pixels=True)
        own.append(middle - begin)
        plain.append(time.process_time() - middle)
    ours, theirs = (float(np.median(times)) * 1000 / len(files) for times in (own, plain))
    return (
        f"One real sample's headers (`dicom_series`), CPU ms each, medians of {ROUNDS} turns: medcl {ours:.2f}, a plain "
        f"`pydicom.dcmread(stop_before_pixels=True)` loop {theirs:.2f}."
    )


def made_survey(files: int) -> Survey:
    """As many files, in folders of 1,000."""
    names = (f"{number // 1000:05d}/IM{number:08d}.dcm" for number in range(files))
    return Survey(tuple(Met(f"/export/{name}", name, "dicom", 525_000 + place, place) for place, name in enumerate(names)), ())


def made_headers(files: Sequence[Met], config: IngestConfig) -> list[str]:
    """What reading these files' headers would have given."""
    return [_made_header(met) for met in files]


def _made_header(met: Met) -> str:
    number = met.changed_ns
    if number % 100 == 99:
        return headers.as_text(headers.Brief("localizer"))
    series, place = divmod(number, SLICES)
    picture = series % 20 == 19
    series = number if picture else series
    patient = Patient(
        f"MRN{series // 2:07d}",
        f"DOE{series // 2}^JANE",
        "19500101",
        "20240131",
        f"1.2.{series // 2}",
        f"1.3.{series}",
        f"A{series}",
        "general",
    )
    facts = {"sequence": {"kvp": 120.0, "slice_thickness_mm": 1.0}, "sex": "F", "age_years": 60.0, "body_part": "chest", "scanner": "ge"}
    facts |= {"tilt_deg": 0.0, "hounsfield": True, "suv_factor": None, "inverse": False, "padding": None, "burned_in": False}
    kind, sop = ("DX", DX) if picture else ("CT", CT)
    header = Header(met.path, met.relative, f"1.4.{number}", sop, kind, ("ORIGINAL", "PRIMARY"), f"1.5.{series}", patient, _layout(), facts)
    frame = Frame(header, 0, (0.0, 0.0, 1.0 * place), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.7, 0.7), 1.0, -1024.0, ("ORIGINAL", "PRIMARY"))
    brief = headers.Brief(series=patient.series, who=f"{series:032x}", picture=picture)
    return headers.as_text(brief, [frame])


@lru_cache(maxsize=1)
def _layout() -> PixelLayout:
    return PixelLayout(512, 512, 1, 1, 16, 12, 11, False, "MONOCHROME2", "1.2.840.10008.1.2.1", True, 1024, 524_288)


def made_result(unit: Unit, config: IngestConfig) -> tuple[str, bool]:
    """What reading this unit would have given: one scan of each group of its frames."""
    scans, fates = [], []
    for part in parts_of(unit):
        first = part.frames[0].header
        rng = np.random.default_rng(part.files[0].changed_ns)
        who = first.patient
        identity = Identity(who.id, who.study, who.series, who.accession, first.relative, who.series, first.instance, (who.name,))
        source = Source("dicom", tuple(met.path for met in part.files), {"frames": [[place, 0] for place in range(len(part.files))]})
        flat = unit.reader == planning.DICOM_PICTURE
        shape, kind, near = ((2000, 2000, 1), "picture", "p") if flat else ((512, 512, len(part.files)), "volume", "v")
        affine = np.diag([0.7, 0.7, 1.0, 1.0])
        hashes = rng.bytes(16).hex(), near + rng.bytes(32).hex()
        modality, units = ("xray", "display") if flat else ("ct", "HU")
        scans.append(Scan(identity, source, Facts("chest", {"kvp": 120.0}), shape, affine, modality, units, kind, *hashes))
        fates += [Fate(met.path, "ok", volume=identity.volume) for met in part.files]
    return to_text(UnitResult(Outcome(scans, fates))), True


def _page(files: int, scans: int, seconds: Sequence[float], peak_mib: float, sizes: dict[str, int], headers_read: str) -> str:
    first, again = seconds
    stored = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sorted(sizes.items()))
    return "\n".join(
        [
            "# Ingest at scale",
            "",
            f"Written by `benchmarks/ingest_scale.py --files {files}`, whose head says what is simulated and what is real. CPU time of one "
            "process, without finding files and decoding pixels.",
            "",
            "| files | scans | CPU s | files/s | microseconds a file | the same again, nothing new: CPU s | memory above the start, MiB |",
            "|---|---|---|---|---|---|---|",
            f"| {files:,} | {scans:,} | {first:.1f} | {files / first:,.0f} | {1e6 * first / files:.0f} | {again:.1f} | {peak_mib:,.0f} |",
            "",
            f"On disk, MiB: {stored}.",
            "",
            headers_read,
            "",
        ]
    )


if __name__ == "__main__":
    main()
