"""Small stores, made once; torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medcl.store.volume_store import VolumeStore
from tests.evaluation import made_stores


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small kernels mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> VolumeStore:
    """120 pictures of 60 patients with the label `blob`, and a report each."""
    return made_stores.picture_store(tmp_path_factory.mktemp("pictures") / "store")


@pytest.fixture(scope="session")
def outlined(tmp_path_factory: pytest.TempPathFactory) -> VolumeStore:
    """20 volumes with two structures."""
    return made_stores.outlined_store(tmp_path_factory.mktemp("outlined") / "store")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of pictures that was trained elsewhere."""
    import pandas as pd

    items = pd.DataFrame({"patient_key": ["elsewhere"], "pixel_hash": ["other"]})
    return made_stores.picture_backbone(tmp_path_factory.mktemp("backbones") / "backbone", items)
