"""Tiny backbone folders, made once for the room's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.made_backbone import make_backbone


@pytest.fixture(scope="session")
def volume_backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbones") / "ct"
    make_backbone(folder)
    return folder


@pytest.fixture(scope="session")
def picture_backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("backbones") / "xray"
    make_backbone(folder, dims=2, norm="instance")
    return folder
