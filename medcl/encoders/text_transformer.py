"""A small text transformer, trained from scratch with the images: no download, no network."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from medcl.foundation.config import Settings
from medcl.foundation.types import Text


class TextTransformerConfig(Settings):
    """Settings of the text transformer.

    vocab_size: most tokens that the tokenizer may have. length: tokens kept of each text. width: embedding length, a multiple of heads.
    """

    name: Literal["text_transformer"] = "text_transformer"
    vocab_size: int = Field(default=4096, ge=300)
    length: int = Field(default=96, ge=4)
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> TextTransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self

    def build(self) -> TextTransformer:
        """The network, its weights drawn from torch's random state."""
        return TextTransformer(self)


class TextTransformer(nn.Module):
    """Pre-norm transformer encoder (Vaswani et al. 2017; Xiong et al. 2020), then the maximum over tokens as in ConVIRT (section 2.3)."""

    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.dim = config.width
        self.length = config.length
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Parameter(torch.empty(config.length, config.width))
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, text: Text) -> Float[Tensor, "batch dim"]:
        """Texts (batch, length) -> (batch, dim); every text has at least one real token. Padding changes nothing."""
        value = self.token(text.ids) + self.position[: text.ids.shape[1]]
        for block in self.blocks:
            value = block(value, text.mask)
        value = self.norm(value)
        return value.masked_fill(~text.mask[..., None], float("-inf")).amax(dim=1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, value: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length width"]:
        batch, length, width = value.shape
        joint = self.query_key_value(self.norm_attention(value)).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, content = joint.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, content, attn_mask=mask[:, None, None, :])
        value = value + self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        return value + self.mlp(self.norm_mlp(value))
