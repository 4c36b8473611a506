"""Small made stores for the tests of views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from medcl.foundation.progress import Silent
from medcl.foundation.types import Volume
from medcl.store.prepare import prepare_data
from medcl.store.recipe import BUILT_IN
from medcl.store.volume_store import VolumeStore
from tests.store.made_data import MadeData
from tests.views.made_scans import MAKERS


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VolumeStore]:
    """name of a built-in recipe -> a store of four made scans; each has a mask with one marked ball in its middle."""
    stores: dict[str, VolumeStore] = {}

    def make(name: str) -> VolumeStore:
        if name not in stores:
            rng = np.random.default_rng(5)
            volumes = {f"v{number}": MAKERS[name](rng) for number in range(4)}
            masks = {}
            for key, volume in volumes.items():
                mask = np.zeros(volume.array.shape, np.uint8)
                middle = tuple(slice(n // 2 - 2, n // 2 + 2) if n > 1 else slice(0, 1) for n in mask.shape)
                mask[middle] = 1
                masks[f"m{key}"] = Volume(mask, volume.affine, volume.modality, "arbitrary", volume.kind)
            labels = pd.DataFrame({"volume_id": list(volumes), "mask_id": list(masks)})
            out = tmp_path_factory.mktemp(name) / "store"
            prepare_data(MadeData(volumes, masks, labels), "hash", out, BUILT_IN[name], jobs=1, progress=Silent())
            stores[name] = VolumeStore(out)
        return stores[name]

    return make
