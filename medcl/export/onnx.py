"""ONNX: image in, embedding out, checked with onnxruntime; the contract travels in the file's metadata."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcl.encoders import Encoder, SwinUNETREncoder
from medcl.export.backbone import README, Backbone
from medcl.export.model_card import model_card
from medcl.export.proof import Proof, compare
from medcl.foundation.errors import UserError
from medcl.foundation.files import write_bytes, write_text

NEXT = "onnxruntime.InferenceSession('{out}/model.onnx').run(None, {{'image': prepared}}); what `prepared` is: metadata key medcl_contract"
TOLERANCE = 1e-4
_USE = """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
embedding = session.run(None, {"image": image})[0]    # float32 (batch, channel, *space), prepared as the contract below says
```"""


def write(backbone: Backbone, source: Path, folder: Path) -> Proof:
    """Write `model.onnx`: `image` (batch, channel, *space) float32 -> `embedding` (batch, dim), and compare.

    Any batch size; any space where the encoder takes any, any multiples where it takes those; a Swin transformer's windows fix its space
    to the contract's size. Paths and stack traces that torch leaves in are removed.
    Raises UserError where the extra is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise UserError(f"--to onnx: {error.name} is not installed: pip install 'medcl[onnx]'") from None
    model = _trace(backbone)
    _strip(model)
    for key in ("contract", "encoder", "licence"):
        model.metadata_props.add(key=f"medcl_{key}", value=json.dumps(backbone.card[key]))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    write_bytes(folder / "model.onnx", content)
    write_text(folder / README, model_card(backbone.card, _USE))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    weights = {
        initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in onnx.load(folder / "model.onnx").graph.initializer
    }
    ours = {name: tensor for name, tensor in backbone.encoder.state_dict().items() if name not in _idle(backbone.encoder)}
    return compare(
        "onnx",
        backbone.encoder,
        lambda image: torch.from_numpy(np.asarray(session.run(None, {"image": image.numpy()})[0])),
        backbone.examples(3, fixed=_fixed(backbone.encoder)),
        loaded=_count(ours, weights),
        total=len(ours),
        tolerance=TOLERANCE,
    )


class _Embedding(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = backbone.encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image).pooled


def _trace(backbone: Backbone) -> Any:
    """The ONNX model. Space is dynamic only with sides that differ: torch takes equal ones for one and the same."""
    encoder = backbone.encoder
    image = backbone.examples(1, fixed=_fixed(encoder))[0]
    axes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    places = range(2, image.dim())
    if encoder.any_size:
        axes |= dict.fromkeys(places, torch.export.Dim.DYNAMIC)
        space = [length + 8 * axis for axis, length in enumerate(image.shape[2:])]
    elif encoder.multiple and not _fixed(encoder):
        # At least twice the multiple: instance norm refuses a map of one voxel, and torch keeps that refusal as a constraint.
        axes |= {place: encoder.multiple * torch.export.Dim(f"side_{place}", min=2) for place in places}
        space = [encoder.multiple * (2 + axis) for axis in range(len(places))]
    else:
        space = list(image.shape[2:])
    image = torch.zeros(2, image.shape[1], *space)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            program = torch.onnx.export(
                _Embedding(backbone).eval(),
                (image,),
                dynamo=True,
                dynamic_shapes={"image": axes},
                external_data=False,
                input_names=["image"],
                output_names=["embedding"],
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    return program.model_proto


def _strip(model: Any) -> None:
    """Take out what tells about the machine it was made on."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *model.functions):
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]
        holder.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def _fixed(encoder: Encoder) -> bool:
    """A Swin transformer's masks and windows become constants: with dynamic space, torch 2.13 fails after twenty minutes."""
    return isinstance(encoder, SwinUNETREncoder)


def _idle(encoder: Encoder) -> set[str]:
    """Parameters that nothing computes with, and that never learn: no graph holds them."""
    return {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}


def _count(ours: dict[str, Tensor], theirs: dict[str, np.ndarray]) -> int:
    """How many of our tensors are among the file's constants, by value: the exporter renames, reshapes, transposes and folds."""
    found = {(array.size, array.tobytes()) for array in theirs.values()}
    return sum(any((form.numel(), form.cpu().contiguous().numpy().tobytes()) in found for form in _forms(name, ours)) for name in ours)


def _forms(name: str, tensors: dict[str, Tensor]) -> Iterator[Tensor]:
    """What the exporter may make of a tensor. A Swin transformer's bias table and its index become one constant: the bias they give."""
    tensor = tensors[name]
    yield tensor
    if tensor.dim() == 2:
        yield tensor.t()
    parent, _, last = name.rpartition(".")
    if last in ("relative_position_bias_table", "relative_position_index"):
        table, index = tensors[f"{parent}.relative_position_bias_table"], tensors[f"{parent}.relative_position_index"]
        for count in range(1, len(index) + 1):  # tokens of a window; windows are smaller where the map is
            bias = table[index[:count, :count].reshape(-1)].reshape(count, count, -1)
            yield bias
            yield bias.permute(2, 0, 1)
