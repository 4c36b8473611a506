"""The methods: the union of their settings is the list."""

from __future__ import annotations

from medcl.foundation.config import union_of
from medcl.methods.convirt import ConVIRT, ConVIRTConfig
from medcl.methods.method import Method
from medcl.methods.moco import MoCo, MoCoConfig
from medcl.methods.simclr import SimCLR, SimCLRConfig
from medcl.methods.swav import SwAV, SwAVConfig
from medcl.methods.vox2vec import Vox2Vec, Vox2VecConfig

MethodConfig = union_of("medcl.methods", SimCLRConfig, MoCoConfig, ConVIRTConfig, Vox2VecConfig, SwAVConfig)

__all__ = [
    "ConVIRT",
    "ConVIRTConfig",
    "Method",
    "MethodConfig",
    "MoCo",
    "MoCoConfig",
    "SimCLR",
    "SimCLRConfig",
    "SwAV",
    "SwAVConfig",
    "Vox2Vec",
    "Vox2VecConfig",
]
