"""A picture's encoder as a volume's: 2D weights put into a 3D network that sees, in every slice, what the 2D one saw."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medcl.encoders.contract import Encoder
from medcl.encoders.swin_unetr import SwinUNETREncoder
from medcl.encoders.vit import ViT
from medcl.foundation.errors import UserError


def inflate(flat: Mapping[str, Tensor], encoder: Encoder) -> None:
    """Fill a 3D encoder, in place, with the `state_dict` of a 2D one of the same settings.

    Rows become y and columns x. A kernel that moves by less than its length is laid into the middle slice of the 3D one, zeros around
    it (Arnab et al. 2021, https://arxiv.org/abs/2103.15691, section 3.4 "central frame"), since a mean over z (Carreira & Zisserman 2017)
    would fade towards the padded ends; one that tiles (a patch embedding) becomes the mean over z. Position tables repeat along z. So a
    volume that is the same in every slice gives the features of its slice, at once and before any training.

    Raises UserError, with the encoder unchanged, where a tensor has no place or the architecture has no such form.
    """
    if isinstance(encoder, SwinUNETREncoder):
        raise UserError("encoder.name 'swin_unetr': merges 8 patches in 3D and 4 in 2D, so its 2D weights have no 3D form; take 'vit'")
    state = encoder.state_dict()
    if encoder.spatial_dims != 3 or flat.keys() != state.keys():
        missing = sorted(flat.keys() ^ state.keys())
        raise UserError(
            f"2D weights do not fit this {encoder.spatial_dims}D encoder: {missing[:1] or 'spatial_dims'}; take the same settings"
        )
    filled = {name: _filled(name, tensor, state[name], encoder) for name, tensor in flat.items()}
    encoder.load_state_dict(filled)


def _filled(name: str, flat: Tensor, deep: Tensor, encoder: Encoder) -> Tensor:
    if flat.shape == deep.shape:
        return flat
    if flat.dim() == 4 and deep.dim() == 5 and _turned(flat).shape == deep.shape[:4]:
        return _kernel(_turned(flat), deep.shape[4], tiles=_tiles(encoder, name))
    if isinstance(encoder, ViT) and name.endswith("position_embeddings"):
        x, y, z = encoder.grid
        if flat.shape[1] * z == deep.shape[1]:
            return flat.reshape(1, y, x, 1, -1).transpose(1, 2).expand(1, x, y, z, -1).reshape(deep.shape)
    raise UserError(
        f"2D weights do not fit: '{name}' is {tuple(flat.shape)}, the 3D encoder has {tuple(deep.shape)}; take the same settings"
    )


def _turned(kernel: Tensor) -> Tensor:
    """(out, in, rows, columns) -> (out, in, x, y)."""
    return kernel.transpose(2, 3)


def _tiles(encoder: Encoder, name: str) -> bool:
    layer = encoder.get_submodule(name.rpartition(".")[0])
    return isinstance(layer, nn.Conv3d) and layer.stride == layer.kernel_size


def _kernel(flat: Tensor, depth: int, *, tiles: bool) -> Tensor:
    if tiles:
        return (flat / depth)[..., None].expand(*flat.shape, depth).contiguous()
    deep = torch.zeros(*flat.shape, depth, dtype=flat.dtype)
    deep[..., depth // 2] = flat
    return deep
