"""The card for people: what the backbone was trained on, how, what it takes, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcl.export import cohort

LIMITS = (
    "A research tool: not a medical device, not for diagnosis or triage, not for decisions about a patient.",
    "Not for scans that break the contract: other units, another modality, values already windowed.",
    'Not for people, scanners or sites unlike those counted under "Trained on", until somebody has measured it there.',
    "Embeddings of a person's scan can identify that person; treat them like the scan.",
)
# Figures of a run's last step that say how the training went, not how good the weights are. The JSON card keeps them.
_BOOKKEEPING = ("step", "lr", "loss", "grad_norm", "queue_filled", "teacher/distance")


def model_card(card: Mapping[str, Any], use: str) -> str:
    """Markdown from a backbone's card. use: how this form of it is loaded."""
    contract, counts, training, views = card["contract"], card["counts"], card["training"], card["views"]
    low, high = contract["network_range"]
    people = "".join(f"{line}\n" for line in cohort.lines(card["cohort"]))
    return f"""# Medical image backbone, pretrained with {card["method"].get("name")}

## Load
{use}

## Contract
- takes: {contract["kind"]}, modality {", ".join(contract["modalities"])}, values in {" or ".join(contract["units"])}
- axes: {contract["orientation"] if contract["kind"] == "volume" else "rows downwards, columns to the right"}
- grid: {_grid(contract)}
- values the network sees: {low:g} to {high:g} (intensity by {_settings(contract["recipe"]["intensity"])})

## Trained on
- {counts["training_items"]} scans of {counts["training_patients"]} patients; corpus {card["inputs"]["store"]} (SHA-256 of its card)
{people}- licence: {card["licence"]}

## Trained how
- method {_settings(card["method"])}; {training["steps"]} steps, batches of {training["world_batch"]}
- encoder {_settings(card["encoder"])}; {counts["parameters"]} parameters
- views by policy '{views["policy"]["name"]}': {", ".join(step["name"] for step in views["policy"]["steps"])}

Safety rules overridden, with the reason given:
{_listed(f"{name}: {reason}" for name, reason in (views.get("overrides") or {}).items())}

## Scores
From the training itself; how many labels the weights save, `medcl evaluate` measures.

{_listed(_scores(card["metrics"]))}

## Must not be used for
{_listed(LIMITS)}

## Is it whole?
`medcl export --check FOLDER` compares every file with the SHA-256 that card.json has of it; the pretrained weights as medcl
wrote them have {card["files"]["weights.safetensors"]}.
"""


def _grid(contract: Mapping[str, Any]) -> str:
    size, extent = contract["size"], contract["extent_mm"]
    grid = " x ".join(map(str, size)) + (" voxels" if contract["kind"] == "volume" else " pixels, rows x columns")
    if extent is None:
        return f"{grid}, at the scan's own spacing or over all of it"
    spacing = " x ".join(f"{length / count:g}" for length, count in zip(extent, size, strict=True))
    return f"{grid} of {spacing} mm, {' x '.join(f'{length:g}' for length in extent)} mm in all"


def _settings(given: Mapping[str, Any]) -> str:
    """`moco (temperature 0.2, queue_size 128)`."""
    others = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in given.items() if key != "name"
    )
    return f"{given['name']} ({others})" if others else str(given["name"])


def _scores(metrics: Mapping[str, float | None]) -> list[str]:
    """The probe's figures first, then those that tell a collapse."""
    shown = sorted((name for name in metrics if name not in _BOOKKEEPING), key=lambda name: not name.startswith("probe/"))
    values = {name: metrics[name] for name in shown}
    return [f"{name}: {'not finite' if value is None else format(value, '.4g')}" for name, value in values.items()]


def _listed(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines) or "- none"
