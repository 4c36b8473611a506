"""Fine-tuning learns, in the order it says: the head first, then everything; and the best step comes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medcl.encoders import build_seeded
from medcl.evaluation.classes import Classes
from medcl.evaluation.finetune import BestStep, Budget, FinetuneFits, Headed, field_maker, plain_windows
from medcl.evaluation.label_fraction import SplitConfig, split_cases
from medcl.evaluation.settings import ClassificationTask, FinetuneConfig
from medcl.evaluation.study_data import Draws, study_cases
from medcl.foundation.types import Batch
from medcl.store.volume_store import VolumeStore
from medcl.training.launch import Place
from medcl.views.batched import ViewMaker
from medcl.views.policy import LocalViewsConfig
from tests.evaluation.made_stores import PICTURE_ENCODER, SIDE, views

HERE = Place(torch.device("cpu"))


CLASSES = Classes(np.array([0, 0, 0, 1]), ("0", "1"))


def _classifier(head_share: float = 0.5) -> Headed:
    return Headed(build_seeded(PICTURE_ENCODER, seed=0), 2, CLASSES.loss(np.arange(4), balanced=True), head_share)


def _batch() -> Batch:
    return Batch((torch.randn(4, 1, SIDE, SIDE),), torch.arange(4), torch.arange(4), target=torch.tensor([0, 1, 0, 1]))


def test_head_learns_first_then_everything() -> None:
    method = _classifier()
    torch.nn.init.normal_(method.head.weight)
    for progress, learns in ((0.0, False), (0.49, False), (0.5, True)):
        method.zero_grad()
        method(_batch(), progress).loss.backward()
        assert method.head.weight.grad is not None
        assert (next(method.backbone.parameters()).grad is not None) is learns


def test_loss_is_weighted_by_class() -> None:
    method = _classifier()
    logits, target = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    expected = (torch.log(torch.tensor(1 + np.exp(-2.0))) + 3 * torch.log(torch.tensor(1 + np.exp(2.0)))) / 4
    assert method.compare((logits, target), 1.0).loss.item() == pytest.approx(expected.item())


def test_best_step_comes_back() -> None:
    method, scores = _classifier(), iter([(0.6,), (0.9,), (0.7,)])
    watcher = BestStep(lambda: next(scores), num_steps=6, looks=3)
    for step in range(1, 7):
        torch.nn.init.constant_(method.head.bias, float(step))
        moment: Any = SimpleNamespace(step=step, num_steps=6, method=method)
        watcher.look(moment, {})
    watcher.restore(method)
    assert (watcher.step, watcher.best) == (4, (0.9,))
    assert method.head.bias.tolist() == [4.0, 4.0]


def _fits(pictures: VolumeStore, **budget: Any) -> tuple[FinetuneFits, Draws]:
    cases = study_cases([pictures], ClassificationTask(label="blob"))
    draws = Draws(split_cases(cases.cases, SplitConfig()), {}, (1.0,), ())
    config = FinetuneConfig(**{"num_steps": 60, "batch": 16, "looks": 3, "workers": 0, **budget})
    maker = views("xray", (SIDE, SIDE))
    build = lambda draw: build_seeded(PICTURE_ENCODER, seed=draw)  # noqa: E731
    return FinetuneFits(build, pictures, cases.rows_of(pictures), maker, cases.target, draws, Budget(config, HERE, 0)), draws


def test_finds_the_blob_and_is_deterministic(pictures: VolumeStore) -> None:
    fits, draws = _fits(pictures)
    found = fits.fit(draws.train, 0, 3e-3)
    right = found.outcome.probabilities.argmax(1) == found.outcome.label
    assert right.mean() > 0.75
    assert found.outcome.probabilities.sum(1) == pytest.approx(np.ones(len(draws.test)))
    again, _ = _fits(pictures)
    assert np.array_equal(again.fit(draws.train, 0, 3e-3).outcome.probabilities, found.outcome.probabilities)


def test_probabilities_know_how_common_a_class_is(pictures: VolumeStore) -> None:
    """Weights make the classes equal in the loss; a head that learned nothing must then say the prior."""
    fits, draws = _fits(pictures, num_steps=1, looks=1)
    label = fits.target.label
    few = np.concatenate([draws.train[label[draws.train] == 0][:9], draws.train[label[draws.train] == 1][:3]])
    found = fits.fit(few, 0, 1e-9)
    assert found.outcome.probabilities[0] == pytest.approx([0.75, 0.25], abs=1e-3)


@pytest.mark.parametrize("layer_decay, moves", [(1.0, True), (1e-6, False)])
def test_layer_decay_keeps_early_stages_where_they_were(pictures: VolumeStore, layer_decay: float, moves: bool) -> None:
    fits, draws = _fits(pictures, num_steps=4, looks=1, head_share=0.0, layer_decay=layer_decay)
    method, _ = fits.learn(draws.train, 0, 1e-2)
    before, after = (next(encoder.parameters()) for encoder in (fits.build(0), method.backbone))
    assert bool((before - after).abs().max() > 1e-4) is moves


def test_plain_views_are_not_augmented(pictures: VolumeStore) -> None:
    draw = plain_windows(views("xray", (SIDE, SIDE)))
    one, other = (draw(pictures, 4, (0, step, 4), 1)[0] for step in (0, 7))
    assert np.array_equal(one.matrix, other.matrix) and one.values == {}


def test_field_maker_shows_whole_volumes_at_the_same_resolution(outlined: VolumeStore) -> None:
    maker = views("mr", (12, 12, 12))
    rows = np.arange(len(outlined))
    field = field_maker(maker, outlined, rows, 32**3)
    assert tuple(field.config.size) == (24, 24, 16)
    for row in rows[:3]:
        (window,) = field.windows(outlined.shape(row), outlined.affine(row))
        assert window.spacing_mm == pytest.approx((1, 1, 1))
    assert len(maker.windows(outlined.shape(0), outlined.affine(0))) > 1
    assert field_maker(maker, outlined, rows, 1000) is maker, "too large to be shown whole"
    beside = maker.config.model_copy(update={"local": LocalViewsConfig(size=(12, 12, 12)), "overlap": 0.9})
    assert field_maker(ViewMaker(beside, maker.recipe), outlined, rows, 32**3).size == field.size, (
        "a flat field is no matter of local views"
    )
    pictures = views("xray", (SIDE, SIDE))
    assert field_maker(pictures, outlined, rows, 32**3) is pictures
