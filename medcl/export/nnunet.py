"""nnU-Net: which encoders can go there, and a refusal with the reason for those that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Never

from medcl.export.backbone import Backbone
from medcl.foundation.errors import UserError

NEXT = ""


def write(backbone: Backbone, source: Path, folder: Path) -> Never:
    """Refuse: nnU-Net's networks hold no plain ResNet whose tensors these could be.

    nnU-Net 2.8 builds PlainConvUNet or ResidualEncoderUNet from its plans; a residual encoder there has other stages,
    other kernels and no pooling stem, so no tensor of a ResNet has a place in it by name and shape.
    """
    name = backbone.card["encoder"].get("name")
    raise UserError(
        f"--to nnunet: encoder.name is '{name}', and nnU-Net (2.8: PlainConvUNet, ResidualEncoderUNet) has no place for its tensors; "
        "use --to monai, onnx or huggingface for this backbone"
    )
