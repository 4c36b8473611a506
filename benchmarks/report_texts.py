"""What ingest makes of real report texts and of text in the border of real X-rays, and what leaves of planted canaries.

python benchmarks/report_texts.py SHARED_DATA [--out reports/ingest/reports.md]

SHARED_DATA: the folder with ctrate_reports, cxr_notes and cxr_hannover. What a person read is written below as READ.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from medcl.foundation.randomness import generator
from medcl.ingest.audit import Finder, leaks_of, needle
from medcl.ingest.burned_in import letters_at_the_border
from medcl.ingest.report_text import doubts_of, is_normal, language_of, sections_of, split_sentences, without_comparisons
from medcl.ingest.run import ingest
from medcl.ingest.scrubbing import scrub
from medcl.ingest.sides import sides_by_sentence
from medcl.ingest.similar import groups_of_near
from medcl.ingest.to_nifti import convert

SIZES = (10, 14, 20, 28)
READ = """Read by the author: of 40 reports drawn at random (seed 1) 33 have their impression found, all 33 cut at the right place;
the 7 others end without one that is marked. Of 20 sentences taken for comparisons, 19 compare. Of the reports called normal, those
that a label contradicts have an impression that says nothing abnormal (`No finding compatible with pneumonia`): the flag is about the
text, not about the patient. All 69 suspected X-rays were looked at, small: every one shows words, such as `AP ERECT`, `MOBILE` or
`Bettaufnahme`. Of 58 that are not suspected (every second one of `cxr_notes`), some show words too: letters that touch, or small ones."""


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description="What ingest makes of real report texts and burned-in words.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    texts = pd.read_csv(said.data / "ctrate_reports" / "reports.csv")
    parts = ["# Reports, burned-in words, canaries", "`python benchmarks/report_texts.py SHARED_DATA --out reports/ingest/reports.md`"]
    parts += ["## 800 chest CT reports (`ctrate_reports`; no headings, English, machine-translated)", _table(_reports(texts)), READ]
    parts += ["## Words in the border of X-rays", _table(_pictures(said.data)), "## Canaries", _table(_canaries())]
    page = "\n\n".join(parts) + "\n"
    print(page)
    if said.out:
        said.out.parent.mkdir(parents=True, exist_ok=True)
        said.out.write_text(page, encoding="utf-8")


def _reports(table: pd.DataFrame) -> list[tuple[str, str]]:
    texts = list(table["report_text"])
    sections = [sections_of(text) for text in texts]
    nothing_labelled = (table.iloc[:, 2:].sum(axis=1) == 0).to_numpy()
    normal = np.array([is_normal(found["impression"] or text) for found, text in zip(sections, texts, strict=True)])
    groups = np.array(groups_of_near(texts))
    kinds = Counter(kind for text in texts for kind in scrub(text)[1])
    doubts = Counter(doubt for text in texts for doubt in doubts_of(text, language="en"))
    sentences = [one for text in texts for one in split_sentences(text)]
    left = sum(len(split_sentences(without_comparisons(text))) for text in texts)
    return [
        ("findings and impression told apart", _share(sum(bool(found["impression"]) for found in sections), len(texts))),
        ("language found (all are English)", _share(sum(language_of(text) == "en" for text in texts), len(texts))),
        ("names a side", _share(sum(sides_by_sentence(text) != "{}" for text in texts), len(texts))),
        ("flagged `normal`", _share(int(normal.sum()), len(texts))),
        ("... of these with none of the 18 labels", _share(int((normal & nothing_labelled).sum()), int(normal.sum()))),
        ("share their words with another (`text_group`)", _share(int((groups > 0).sum()), len(texts))),
        ("... in groups, the largest", f"{groups.max()}, {max(Counter(groups[groups > 0].tolist()).values())} reports"),
        ("sentences that compare with an earlier study", _share(len(sentences) - left, len(sentences))),
        ("scrubbed, reports by kind", ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()) or "none"),
        ("doubts, reports by kind", ", ".join(f"{number} {kind}" for kind, number in doubts.most_common()) or "none"),
    ]


def _pictures(data: Path) -> list[tuple[str, str]]:
    rows, plain = [], []
    for name in ("cxr_notes", "cxr_hannover"):
        paths = sorted((data / name / "images").iterdir())
        suspected = [letters_at_the_border(_grey(Image.open(path))) > 0 for path in paths]
        rows.append((f"{name}: suspected", _share(sum(suspected), len(paths))))
        plain = [path for path, found in zip(paths, suspected, strict=True) if not found]
    draw = generator(0, "burned in")
    for size in SIZES:
        found = [letters_at_the_border(_written_on(path, size, draw)) > 0 for path in plain[::4]]
        rows.append((f"`DOE JOHN 1961` drawn {size} pixels high on unsuspected ones: found", _share(sum(found), len(found))))
    return rows


def _written_on(path: Path, size: int, draw: np.random.Generator) -> np.ndarray:
    picture = Image.open(path).convert("L")
    place = int(draw.integers(5, max(6, picture.width - 12 * size))), int(draw.choice([4, picture.height - size - 8]))
    ImageDraw.Draw(picture).text(place, "DOE JOHN 1961", fill=int(draw.choice([255, 230])), font=ImageFont.load_default(size=size))
    return _grey(picture)


def _grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L")).T[:, :, None]


def _canaries() -> list[tuple[str, str]]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.invariants.canaries import plant

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export, cage = plant(Path(folder) / "in")
        out = Path(folder) / "out"
        ingest(export, out / "data", reports=export / "reports.xlsx", labels=export / "labels.csv")
        convert(export, out / "nifti")
        finder = Finder([needle(canary, "canary", canary) for canary in cage.all])
        there, raw = _found(export, finder), _found(out, finder)
    return [
        ("planted", str(len(cage.all))),
        (
            "seen by the same search in the export itself (some tags are written for one file of a series only)",
            _share(len(there), len(cage.all)),
        ),
        ("in any artefact of ingest and convert outside private/", str(len(raw))),
    ]


def _found(root: Path, finder: Finder) -> set[str]:
    paths = [path for path in root.rglob("*") if path.is_file() and "private" not in path.relative_to(root).parts]
    return {leak.fingerprint for path in paths for leak in leaks_of(path, root, finder)}


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(1, whole):.1f}%)"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
