"""Networks: images or texts in, features out; the union of their settings is the list."""

from __future__ import annotations

from medcl.encoders.contract import Encoder, build_seeded
from medcl.encoders.resnet import ResNet, ResNetConfig
from medcl.encoders.text_transformer import TextTransformer, TextTransformerConfig
from medcl.foundation.config import union_of

EncoderConfig = union_of("medcl.encoders", ResNetConfig)

__all__ = ["Encoder", "EncoderConfig", "ResNet", "ResNetConfig", "TextTransformer", "TextTransformerConfig", "build_seeded"]
