"""Networks: images or texts in, features out; the union of their settings is the list."""

from __future__ import annotations

from medcl.encoders.contract import Encoder, MonaiForm, build_seeded
from medcl.encoders.densenet import DenseNet, DenseNetConfig
from medcl.encoders.inflate import inflate
from medcl.encoders.resenc_unet import ResEncConfig, ResEncUNetEncoder
from medcl.encoders.resnet import ResNet, ResNetConfig
from medcl.encoders.segresnet import SegResNet, SegResNetConfig
from medcl.encoders.swin_unetr import SwinUNETRConfig, SwinUNETREncoder
from medcl.encoders.text_transformer import TextTransformer, TextTransformerConfig
from medcl.encoders.vit import ViT, ViTConfig
from medcl.foundation.config import union_of

EncoderConfig = union_of("medcl.encoders", ResNetConfig, DenseNetConfig, SegResNetConfig, ResEncConfig, ViTConfig, SwinUNETRConfig)

__all__ = [
    "DenseNet",
    "DenseNetConfig",
    "Encoder",
    "EncoderConfig",
    "MonaiForm",
    "ResEncConfig",
    "ResEncUNetEncoder",
    "ResNet",
    "ResNetConfig",
    "SegResNet",
    "SegResNetConfig",
    "SwinUNETRConfig",
    "SwinUNETREncoder",
    "TextTransformer",
    "TextTransformerConfig",
    "ViT",
    "ViTConfig",
    "build_seeded",
    "inflate",
]
