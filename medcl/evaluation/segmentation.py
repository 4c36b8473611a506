"""Segmentation: the encoder inside a light U-Net, trained on few outlined scans, and outlines of whole scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcl.encoders import Encoder
from medcl.evaluation.embed import as_images
from medcl.evaluation.finetune import BestStep, Budget, plain_windows
from medcl.evaluation.outlines import labels_there, middle_slice
from medcl.evaluation.scores import Outlined
from medcl.evaluation.study_data import Draws
from medcl.evaluation.surfaces import dice, surface_scores
from medcl.foundation import geometry
from medcl.foundation.errors import DataError, UserError
from medcl.foundation.randomness import generator
from medcl.foundation.types import Batch, StepOutput
from medcl.loading.batches import Batches, Draw
from medcl.methods.method import Method
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker, ViewParameters

SCORES = ("dice", "hd95_mm", "surface_dice")


class Decoder(nn.Module):
    """A U-Net's way up from an encoder's dense features, fine to coarse, with one more skip from the image itself."""

    def __init__(self, channels: Sequence[int], classes: int, spatial_dims: int, least: int = 16) -> None:
        super().__init__()
        widths = [max(least, channel // 2) for channel in channels]
        self.stem = _block(1, least, spatial_dims)
        self.laterals = nn.ModuleList(
            _convolution(channel, width, 1, spatial_dims) for channel, width in zip(channels, widths, strict=True)
        )
        pairs = zip(widths[1:], widths[:-1], strict=True)
        self.ups = nn.ModuleList(_block(coarse + fine, fine, spatial_dims) for coarse, fine in pairs)
        self.last = _block(widths[0] + least, least, spatial_dims)
        self.out = _convolution(least, classes, 1, spatial_dims)

    def forward(self, image: Tensor, dense: tuple[Tensor, ...]) -> Tensor:
        """image (batch, 1, *space), dense: the encoder's maps -> logits (batch, classes, *space)."""
        skips = [lateral(level) for lateral, level in zip(self.laterals, dense, strict=True)]
        value = skips[-1]
        for up, skip in zip(reversed(self.ups), reversed(skips[:-1]), strict=True):
            value = up(torch.cat([_resized(value, skip), skip], dim=1))
        stem = self.stem(image)
        return self.out(self.last(torch.cat([_resized(value, stem), stem], dim=1)))


class Segmenter(Method):
    """An encoder with a decoder; frozen: the encoder never learns."""

    num_views = 1

    def __init__(self, encoder: Encoder, classes: int, head_share: float, frozen: bool) -> None:
        super().__init__()
        self.backbone = encoder
        self.decoder = Decoder(encoder.channels, classes, encoder.spatial_dims)
        self.head_share = 2.0 if frozen else head_share

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """The loss of every scan by itself: (batch,)."""
        assert batch.target is not None
        return (segmentation_loss(self.logits(batch.views[0], learn=progress >= self.head_share), batch.target),)

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """Mean over the scans."""
        return StepOutput(embeddings[0].mean(), embeddings[0].detach()[:, None])

    def logits(self, image: Tensor, learn: bool = False) -> Tensor:
        """(batch, 1, *space) -> (batch, classes, *space); learn: let the gradient into the encoder."""
        with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
            dense = self.backbone(image).dense
        return self.decoder(image, dense)


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the structures, for every scan: (batch, classes, *space), (batch, *space) -> (batch,)."""
    logits = logits.float()
    entropy = F.cross_entropy(logits, target, reduction="none").flatten(1).mean(1)
    probabilities = logits.softmax(1)[:, 1:].flatten(2)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].flatten(2).to(probabilities.dtype)
    overlap = 2 * (probabilities * truth).sum(2) + 1e-3
    return entropy + 1 - (overlap / (probabilities.sum(2) + truth.sum(2) + 1e-3)).mean(1)


def windows_on_structures(maker: ViewMaker, share: float) -> Draw:
    """Augmented windows, of which a share is laid where a structure is."""

    def draw(store: VolumeStore, row: int, key: tuple[int, int, int], num_views: int) -> Sequence[ViewParameters]:
        if generator(key[0], "foreground", key[1], key[2]).random() < share:
            return maker.draw(store.shape(row), store.affine(row), key, num_views, store.boxes(row, "mask"))
        return maker.draw_row(store, row, key, num_views)

    return draw


class SegmentationFits:
    """Segmentation fits of one init. build: draw -> a new encoder; rows: the store's row of every case; tolerance_mm: of surface Dice."""

    def __init__(
        self,
        build: Callable[[int], Encoder],
        store: VolumeStore,
        rows: np.ndarray,
        maker: ViewMaker,
        numbers: Sequence[int],
        draws: Draws,
        budget: Budget,
        tolerance_mm: float,
    ) -> None:
        self.build, self.store, self.rows, self.maker, self.draws, self.budget = build, store, rows, maker, draws, budget
        self.numbers, self.tolerance_mm = tuple(numbers), tolerance_mm

    def fit(self, labelled: np.ndarray, draw: int, learning_rate: float, frozen: bool) -> tuple[Outlined, dict[str, float | str], float]:
        """One fit on the outlined cases of a draw: (what was measured on the test cases, choice, validation Dice)."""
        config = self.budget.config
        method = Segmenter(self.build(draw), len(self.numbers) + 1, config.head_share, frozen)
        batch = min(config.batch, len(labelled))
        batches = Batches(
            self.store,
            self.maker,
            num_views=1,
            world_batch=batch,
            seed=self.budget.seed + draw,
            workers=config.workers,
            rows=self.rows[labelled],
            masks=class_table(self.numbers),
            draw=plain_windows(self.maker) if config.views == "plain" else windows_on_structures(self.maker, config.foreground_share),
            device=self.budget.place.gpu,
        )
        best = BestStep(lambda: (self._dice(method, self.draws.val),), config.num_steps, config.looks)
        self.budget.train(method, batches, learning_rate, batch, best)
        assert best.best is not None
        return self.measure(method, self.draws.test), {"learning_rate": learning_rate, "step": best.step}, best.best[0]

    def measure(self, method: Segmenter, part: np.ndarray) -> Outlined:
        """Dice, 95% Hausdorff distance and surface Dice of every case, mean over structures first, then each; and the slice shown of it."""
        found = [self._measure_row(method, int(row)) for row in self.rows[part]]
        table, said = np.array([numbers for numbers, _ in found]), np.stack([shown for _, shown in found])  # (cases, structures, scores)
        means, each = table.mean(1), table.transpose(0, 2, 1).reshape(len(table), -1)
        if len(self.numbers) == 1:
            return Outlined(SCORES, means, said)
        names = (*SCORES, *(f"{name}_{number}" for name in SCORES for number in self.numbers))
        return Outlined(names, np.concatenate([means, each], axis=1), said)

    def _measure_row(self, method: Segmenter, row: int) -> tuple[list[tuple[float, float, float]], np.ndarray]:
        said, truth = self._both(method, row)
        spacing = geometry.spacing_mm(self.store.affine(row))
        pairs = [(said == number, truth == number) for number in self.numbers]
        shown = labels_there(said, middle_slice(self.maker, self.store, row, np.isin(truth, self.numbers)))
        return [(dice(*pair), *surface_scores(*pair, spacing, self.tolerance_mm)) for pair in pairs], shown

    def _dice(self, method: Segmenter, part: np.ndarray) -> float:
        scores = []
        for row in self.rows[part]:
            said, truth = self._both(method, int(row))
            scores.append(np.mean([dice(said == number, truth == number) for number in self.numbers]))
        return float(np.mean(scores))

    def _both(self, method: Segmenter, row: int) -> tuple[np.ndarray, np.ndarray]:
        truth = self.store.mask(row)
        assert truth is not None
        table = np.array([0, *self.numbers])
        return table[outline(method, self.store, row, self.maker, self.budget.place.device)], truth


def outline(method: Segmenter, store: VolumeStore, row: int, maker: ViewMaker, device: torch.device) -> np.ndarray:
    """Class of every stored voxel (x, y, z): windows over the field, each weighted towards its middle, brought back to the stored grid."""
    shape = store.shape(row)
    total: np.ndarray | None = None
    with torch.inference_mode():
        for window in map(_on_the_grid, maker.windows(shape, store.affine(row))):
            image = as_images(maker.render(store, row, window)[None], maker).to(device)
            said = method.logits(image)[0].float().softmax(0).cpu().numpy()
            said = geometry.rows_and_columns(said[..., None])[..., None] if maker.flat else said
            part = _to_stored(said, window, shape)
            total = part if total is None else total + part
    assert total is not None
    return total.argmax(0)


def _on_the_grid(window: ViewParameters) -> ViewParameters:
    """A window at the stored spacing, moved by less than a voxel so that voxels fall on voxels and none is blurred."""
    if not np.allclose(window.matrix[:, :3], np.eye(3), atol=1e-6):
        return window
    matrix = window.matrix.copy()
    matrix[:, 3] = np.rint(matrix[:, 3])
    return replace(window, matrix=matrix)


def _to_stored(said: np.ndarray, window: ViewParameters, shape: tuple[int, int, int]) -> np.ndarray:
    """(classes, x, y, z) of a window -> weighted probabilities on the stored grid; un-augmented windows are only scaled and moved."""
    from scipy.ndimage import affine_transform

    scale = np.diag(window.matrix[:, :3])
    middle = [np.linspace(-1, 1, length) if length > 1 else np.zeros(1) for length in window.size]
    weight = np.exp(-2 * sum(np.square(axis) for axis in np.meshgrid(*middle, indexing="ij")))
    weight = np.maximum(weight, 1e-3)
    offset = -window.matrix[:, 3] / scale
    moved = [affine_transform(part * weight, 1 / scale, offset=tuple(offset), output_shape=shape, order=1) for part in said]  # pyright: ignore[reportArgumentType]
    return np.stack(moved)


def class_table(numbers: Sequence[int]) -> np.ndarray:
    """Lookup from a mask's number (0..255) to its class: 0 for everything that is not asked for."""
    table = np.zeros(256, dtype=np.int64)
    for place, number in enumerate(numbers, start=1):
        table[number] = place
    return table


def structures(store: VolumeStore, rows: np.ndarray, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """The numbers to learn: `asked`, else all above 0 that occur in the masks of the rows.

    Raises UserError for one that is asked for and in no mask (outlines that miss it would be called perfect), DataError where there is
    none at all.
    """
    found: set[int] = set()
    for row in rows:
        if asked and found.issuperset(asked):
            break
        mask = store.mask(int(row))
        found |= set() if mask is None else {int(number) for number in np.unique(mask)}
    there = tuple(sorted(found - {0}))
    if not there:
        raise DataError("no mask of the training part outlines anything; at least one structure is needed")
    missing = [number for number in asked if number not in found]
    if missing:
        raise UserError(f"task.labels: {missing[0]} is in no mask of the training part; they hold {', '.join(map(str, there))}")
    return tuple(asked) or there


def _convolution(channels: int, out: int, kernel: int, dims: int) -> nn.Module:
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(channels, out, kernel, padding=kernel // 2)


def _block(channels: int, out: int, dims: int) -> nn.Sequential:
    norm = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return nn.Sequential(_convolution(channels, out, 3, dims), norm(out, affine=True), nn.LeakyReLU(0.01))


def _resized(value: Tensor, like: Tensor) -> Tensor:
    mode = "bilinear" if value.ndim == 4 else "trilinear"
    return F.interpolate(value, size=like.shape[2:], mode=mode, align_corners=False)
