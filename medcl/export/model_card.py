"""The card for people: what the backbone was trained on, how, what it takes, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcl.export import cohort

_LIMITS = """- A research tool: not a medical device, not for diagnosis or triage, not for decisions about a patient.
- Not for scans that break the contract above: other units, another modality, values already windowed.
- Embeddings of a person's scan can identify that person; treat them like the scan.
- Not measured on other hospitals, scanners or populations unless the scores below say so."""


def model_card(card: Mapping[str, Any], use: str) -> str:
    """Markdown from a backbone's card. use: how this form of it is loaded."""
    contract, counts, training = card["contract"], card["counts"], card["training"]
    extent = "the whole picture" if contract["extent_mm"] is None else " x ".join(f"{each:g}" for each in contract["extent_mm"]) + " mm"
    window = ", ".join(f"{key} {value}" for key, value in contract["recipe"]["intensity"].items())
    low, high = contract["network_range"]
    scores = (
        "\n".join(f"- {name}: {'not finite' if value is None else format(value, '.4g')}" for name, value in card["metrics"].items())
        or "- none recorded with the weights"
    )
    overrides = "\n".join(f"- {name}: {reason}" for name, reason in (card["views"].get("overrides") or {}).items()) or "- none"
    people = "".join(f"{line}\n" for line in cohort.lines(card.get("cohort") or {}))
    steps = ", ".join(step["name"] for step in card["views"]["policy"]["steps"])
    return f"""# Medical image backbone, pretrained with {card["method"].get("name")}

## Load
{use}

## Contract
- takes: {contract["kind"]}, modality {", ".join(contract["modalities"])}, values in {" or ".join(contract["units"])}
- axes: {contract["orientation"]} (a picture keeps its own)
- grid: {" x ".join(map(str, contract["size"]))} voxels spanning {extent}
- values the network sees: {low:g} to {high:g} (intensity: {window})

## Trained on
- {counts["training_items"]} scans of {counts["training_patients"]} patients; corpus {card["inputs"]["store"]}
{people}- licence: {card["licence"]}

## Trained how
- method {dict(card["method"])}, {training["steps"]} steps of {training["world_batch"]} items
- encoder {dict(card["encoder"])}, {counts["parameters"]} parameters
- views by policy '{card["views"]["policy"]["name"]}': {steps}

Safety rules overridden, with the reason given:
{overrides}

## Scores
{scores}

## Must not be used for
{_LIMITS}
"""
