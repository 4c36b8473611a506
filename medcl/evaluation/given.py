"""Initial weights that are no medcl backbone, and how much of anyone's file arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from medcl.encoders import build_seeded, inflate
from medcl.evaluation.fits import basis_of
from medcl.evaluation.settings import WeightsConfig
from medcl.export.transfer import fill
from medcl.foundation.files import sha256_of_file


@dataclass(frozen=True)
class Given:
    """Tensors of an encoder. state: those that are known; digest: names them; words: where they come from, for the page."""

    kind: Literal["weights", "supervised"]
    state: dict[str, Tensor]
    digest: str
    words: str


def read_weights(config: WeightsConfig) -> Given:
    """Read a user's file and say how much of it arrived. Raises UserError where it does not fit (see `fill`)."""
    encoder = build_seeded(config.encoder, seed=0)
    how: dict[str, Any] = {"prefix": config.prefix, "from_colour": config.from_colour, "allow_missing": config.allow_missing}
    if config.inflate:
        flat = build_seeded(config.encoder.model_copy(update={"spatial_dims": 2}), seed=0)
        report = fill(flat, config.weights, **how)
        inflate(flat.state_dict(), encoder)
    else:
        report = fill(encoder, config.weights, **how)
    state = {name: tensor for name, tensor in encoder.state_dict().items() if name not in report.missing}
    lost = f"; {len(report.missing)} stay random ({', '.join(report.missing[:3])}, ...)" if report.missing else ""
    spare = f"; {len(report.untouched)} of the file not used" if report.untouched else ""
    words = (
        f"{report.loaded} of {report.total} tensors from {config.weights.name}{', from 2D to 3D' if config.inflate else ''}{lost}{spare}"
    )
    settings = config.model_dump(mode="json", exclude={"weights"})
    return Given("weights", state, basis_of(file=sha256_of_file(config.weights), settings=settings), words)
