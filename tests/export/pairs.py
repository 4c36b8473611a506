"""Every encoder to every target, as the README's table has it: exported, loaded back, compared, or refused with the reason.

From the root: `PYTHONPATH=. python -m tests.export.pairs` writes the table anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medcl.encoders import DenseNetConfig, ResEncConfig, ResNetConfig, SegResNetConfig, SwinUNETRConfig, ViTConfig
from medcl.export.backbone import load_backbone
from medcl.export.targets import export
from medcl.foundation.errors import UserError
from tests.export.made_backbone import save_made
from tests.export.made_plans import write_plans

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- exports: python -m tests.export.pairs -->\n", "<!-- end of exports -->\n"
BOUNDS = {"backbone": 0.0, "onnx": 1e-4}

ENCODERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "ResNet-18 3D": (ResNetConfig(depth=18, shortcut="padding"), (32, 32, 32)),
    "ResNet-50 2D": (ResNetConfig(depth=50, spatial_dims=2, shortcut="without_bias"), (64, 64)),
    "DenseNet-121 3D": (DenseNetConfig(width=8), (64, 64, 64)),
    "DenseNet-121 2D": (DenseNetConfig(width=8, spatial_dims=2), (64, 64)),
    "SegResNet 3D": (SegResNetConfig(width=8), (32, 32, 32)),
    "SegResNet 2D": (SegResNetConfig(width=8, spatial_dims=2), (32, 32)),
    "ResEnc 3D": (ResEncConfig(width=4, widest=16), (64, 64, 64)),
    "ResEnc 2D": (ResEncConfig(width=4, widest=16, spatial_dims=2), (64, 64)),
    "ViT 3D": (ViTConfig(size=(32, 32, 32), width=24, heads=2), (32, 32, 32)),
    "ViT 2D": (ViTConfig(size=(32, 48), width=24, heads=2, spatial_dims=2), (32, 48)),
    "Swin UNETR 3D": (SwinUNETRConfig(width=12, window=3), (64, 64, 64)),
    "Swin UNETR 2D": (SwinUNETRConfig(width=12, window=3, spatial_dims=2), (64, 64)),
}
TARGETS: dict[str, dict[str, Any]] = {
    "backbone": {"to": "backbone"},
    "huggingface": {"to": "huggingface"},
    "onnx": {"to": "onnx"},
    "monai": {"to": "monai"},
    "monai into SwinUNETR": {"to": "monai", "into": "SwinUNETR"},
    "monai into UNETR": {"to": "monai", "into": "UNETR"},
    "monai into SegResNetDS": {"to": "monai", "into": "SegResNetDS"},
    "monai into FlexibleUNet": {"to": "monai", "into": "FlexibleUNet"},
    "nnunet 2.8": {"to": "nnunet", "plans": True},
    "nnunet master": {"to": "nnunet"},
}


def make(name: str, folder: Path) -> Path:
    """The backbone folder of one encoder."""
    config, size = ENCODERS[name]
    save_made(folder, config, size)
    return folder


def outcome(backbone: Path, target: str, folder: Path) -> float | str:
    """The largest relative difference, or the reason of the refusal."""
    options = dict(TARGETS[target])
    if options.get("plans"):
        encoder = load_backbone(backbone).encoder
        folder.mkdir(parents=True, exist_ok=True)
        options["plans"] = write_plans(folder / "plans.json", encoder) if hasattr(encoder, "arguments") else folder / "plans.json"
    try:
        proof = export(backbone, options.pop("to"), folder / "out", **options).proof
    except UserError as refusal:
        return reason(str(refusal))
    assert proof["loaded"] == proof["total"] > 0 and len(proof["inputs"]) == (1 if target == "backbone" else 3)
    return proof["largest_difference"]


def reason(message: str) -> str:
    """Why the target holds no such encoder, without the way out and the encoder's own name."""
    return "refused: " + re.sub(r"^encoder\.name is '\w+', and ", "", message.partition(": ")[2].partition(";")[0])


def outcomes(names: Iterable[str] = tuple(ENCODERS), targets: Iterable[str] = tuple(TARGETS)) -> Iterator[tuple[str, str, float | str]]:
    """(encoder, target, outcome), one after the other."""
    targets = list(targets)
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            backbone = make(name, Path(place) / "backbone")
            for number, target in enumerate(targets):
                yield name, target, outcome(backbone, target, Path(place) / str(number))


def table(found: Mapping[tuple[str, str], float | str]) -> str:
    """The table in Markdown; refusals are numbered below it."""
    reasons: dict[str, int] = {}
    lines = [f"| encoder | {' | '.join(TARGETS)} |", f"|---{'|---' * len(TARGETS)}|"]
    for name in ENCODERS:
        cells = [cell(found[name, target], reasons) if (name, target) in found else "not measured" for target in TARGETS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes, ""])


def cell(found: float | str, reasons: dict[str, int]) -> str:
    """`0`, `3e-7`, or `refused (n)`."""
    if isinstance(found, str):
        return f"refused ({reasons.setdefault(found, len(reasons) + 1)})"
    return "0" if found == 0 else f"{found:.0e}"


def in_readme() -> dict[tuple[str, str], str]:
    """(encoder, target) -> the README's cell, a refusal with its reason."""
    block = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = [[part.strip() for part in line.strip("| ").split(" | ")] for line in block if line.startswith("|")]
    notes = dict(line.split(". ", 1) for line in block if line[:1].isdigit())
    return {
        (row[0], target): notes[text.removeprefix("refused (").rstrip(")")] if text.startswith("refused") else text
        for row in rows[2:]
        for target, text in zip(rows[0][1:], row[1:], strict=True)
    }


def write(found: Mapping[tuple[str, str], float | str]) -> None:
    """Put the table into the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + table(found) + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    measured = {}
    for encoder, to, result in outcomes():
        print(encoder, to, result, file=sys.stderr, flush=True)
        measured[encoder, to] = result
    write(measured)
