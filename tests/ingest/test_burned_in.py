"""Text in the border of a picture is suspected; side markers, plain borders and anatomy are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medcl.ingest import open_data
from medcl.ingest.burned_in import letters_at_the_border
from medcl.ingest.run import IngestConfig, ingest


def chest(text: str = "", place: tuple[int, int] = (8, 6), size: int = 16, bright: bool = True, seed: int = 0) -> np.ndarray:
    """(columns, rows, 1) of something like a chest on a dark ground, noisy, with text drawn on it."""
    y, x = np.mgrid[0:420, 0:360]
    body = np.exp(-(((x - 180) / 130) ** 4) - ((y - 240) / 190) ** 4) * 150 + 10 * np.sin(y / 14) * (np.abs(x - 180) < 120)
    noisy = np.clip(body + np.random.default_rng(seed).normal(20, 4, body.shape), 0, 255).astype(np.uint8)
    picture = Image.fromarray(noisy if bright else 255 - noisy)
    ImageDraw.Draw(picture).text(place, text, fill=250 if bright else 5, font=ImageFont.load_default(size=size))
    return np.asarray(picture).T[:, :, None]


@pytest.mark.parametrize("size", [12, 16, 24])
@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("place", [(8, 6), (190, 6), (8, 390)])
def test_drawn_text_is_found(size: int, bright: bool, place: tuple[int, int]) -> None:
    assert letters_at_the_border(chest("DOE JOHN 1961", place, size, bright)) >= 4
    large = np.kron(chest("DOE JOHN 1961", place, size, bright)[:, :, 0], np.ones((6, 6), np.uint8))[:, :, None]
    assert letters_at_the_border(large.astype(np.uint16) * 200) >= 4


@pytest.mark.parametrize("text", ["", "L", "R 2"])
def test_no_text_is_none(text: str) -> None:
    for seed in range(3):
        assert letters_at_the_border(chest(text, size=28, seed=seed)) == 0
    assert letters_at_the_border(np.zeros((200, 200, 1), np.uint8)) == 0
    assert letters_at_the_border(np.random.default_rng(0).integers(0, 255, (28, 28, 1), dtype=np.uint8)) == 0


def test_suspects_are_flagged_in_the_manifest(tmp_path: Path) -> None:
    for name, text in (("plain", "L"), ("named", "DOE JOHN 1961")):
        Image.fromarray(chest(text)[:, :, 0].T).save(tmp_path / f"{name}.png")
    summary = ingest(tmp_path, tmp_path / "out", settings=IngestConfig(modality="xray"), jobs=0)
    assert summary.flags == {"text_suspected": 1}
    flagged = open_data(tmp_path / "out").manifest.set_index("volume_id")["flags"]
    assert sorted(flagged) == [(), ("text_suspected",)]
