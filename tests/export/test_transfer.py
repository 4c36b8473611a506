"""Weights into other people's networks: counted, complete unless asked otherwise, never silently nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import medcl
from medcl.encoders import ResNetConfig
from medcl.export.backbone import load_backbone
from medcl.export.transfer import into
from medcl.foundation.errors import UserError


class Model(nn.Module):
    """Someone's classifier around the same encoder."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.image = nn.ModuleDict({"tower": ResNetConfig(depth=10, width=width).build()})
        self.head = nn.Linear(8 * width, 2)


def test_all_tensors_arrive_and_the_rest_stays(volume_backbone):
    model = Model()
    head = model.head.weight.clone()
    report = into(volume_backbone, model)
    expected = load_backbone(volume_backbone).encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.image["tower"].state_dict().items())
    assert torch.equal(model.head.weight, head)
    assert report.prefixes == ("image.tower.",) and report.untouched == ("head.weight", "head.bias") and report.missing == ()
    assert report.line() == "loaded 39/39 encoder tensors under 'image.tower.'; 2 other tensors untouched"
    assert medcl.into is into


def test_into_monai_itself_and_into_both_copies(volume_backbone):
    """A network that holds the encoder twice gets it twice: a random second copy must not win in silence."""
    model = nn.ModuleDict({"encoder": ResNetConfig(depth=10, width=4).build(), "decoder": Model()})
    report = into(volume_backbone, model)
    assert report.prefixes == ("decoder.image.tower.", "encoder.") and report.loaded == 39
    for name, tensor in load_backbone(volume_backbone).encoder.state_dict().items():
        assert torch.equal(model.state_dict()[f"encoder.{name}"], tensor)
        assert torch.equal(model.state_dict()[f"decoder.image.tower.{name}"], tensor)


def test_nothing_fits_or_not_all(volume_backbone):
    with pytest.raises(UserError, match="loaded 0/39 encoder tensors"):
        into(volume_backbone, nn.Linear(3, 3))
    other = ResNetConfig(depth=10, width=4, in_channels=2).build()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=r"38/39 encoder tensors fit, 'conv1.weight' has no place"):
        into(volume_backbone, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    report = into(volume_backbone, other, allow_missing=True)
    assert report.missing == ("conv1.weight",) and report.loaded == 38
