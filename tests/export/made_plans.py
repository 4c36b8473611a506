"""nnU-Net plans for a network with the encoder of a backbone, as its planner writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_plans(path: Path, encoder: Any, scheme: str = "CTNormalization", transpose: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Path:
    """changes: of `arch_kwargs`. The axes of kernels and strides come in nnU-Net's order."""
    dims, given = encoder.spatial_dims, encoder.arguments
    order = [(2, 1, 0)[axis] for axis in transpose] if dims == 3 else [0, 1]
    kwargs = {
        "n_stages": len(given["blocks"]),
        "features_per_stage": given["channels"],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[stage[axis] for axis in order] for stage in given["kernels"]],
        "strides": [[stage[axis] for axis in order] for stage in given["strides"]],
        "n_blocks_per_stage": given["blocks"],
        "n_conv_per_stage_decoder": [1] * (len(given["blocks"]) - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    base = {"spacing": [1.5] * dims, "normalization_schemes": [scheme], "architecture": architecture}
    name = "3d_fullres" if dims == 3 else "2d"
    plans = {"plans_name": "nnUNetResEncUNetLPlans", "transpose_forward": list(transpose), "configurations": {name: base}}
    plans["configurations"]["cascade"] = {"inherits_from": name}
    path.write_text(json.dumps(plans))
    return path
