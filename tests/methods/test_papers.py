"""Each method's loss is its paper's equation, written as a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medcl.encoders import ResNetConfig, TextTransformerConfig, build_seeded
from medcl.foundation.types import Batch, Text
from medcl.methods import ConVIRT, ConVIRTConfig, Method, MoCo, MoCoConfig, SimCLR, SimCLRConfig, SwAV, SwAVConfig, Vox2Vec, Vox2VecConfig
from medcl.methods.parts import KeyQueue, RunningMoments, standardised
from medcl.methods.vox2vec import levels_at
from medcl.objectives import sinkhorn_codes


def _encoder():
    return build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3, stem_stride=1), seed=0)


def _build(config) -> Method:
    return build_seeded(config, _encoder(), seed=0)


def _rows(n: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def _exp(a: Tensor, b: Tensor, temperature: float) -> float:
    return math.exp(float(a.double() @ b.double()) / temperature)


def _batch(n: int = 4, patients: Tensor | None = None, text: Text | None = None) -> Batch:
    views = tuple(torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(view)) for view in range(2))
    return Batch(views, torch.arange(n), torch.arange(n) if patients is None else patients, text)


def test_simclr_is_nt_xent() -> None:
    """Chen et al. 2020, eq. 1 and algorithm 1: mean over both directions of all positive pairs."""
    method = _build(SimCLRConfig(temperature=0.3))
    first, second, items = _rows(5, 8, 0), _rows(5, 8, 1), torch.arange(5)
    z = torch.cat([first, second])
    losses = []
    for i in range(10):
        j = (i + 5) % 10
        others = sum(_exp(z[i], z[k], 0.3) for k in range(10) if k != i)
        losses.append(-math.log(_exp(z[i], z[j], 0.3) / others))
    output = method.compare((first, second, items, items), 0.0)
    assert float(output.loss) == pytest.approx(sum(losses) / 10, rel=1e-5)


def test_vox2vec_is_its_equation() -> None:
    """Goncharov et al. 2023, eq. 1: a voxel against its other view, all other voxels of all scans as negatives, also of one patient."""
    method = _build(Vox2VecConfig(temperature=0.3, num_points=3))
    assert isinstance(method, Vox2Vec)
    first, second = 5 * _rows(6, 8, 0), 0.1 * _rows(6, 8, 1)
    z = F.normalize(torch.cat([first, second]), dim=1)
    losses = []
    for i in range(12):
        others = sum(_exp(z[i], z[k], 0.3) for k in range(12) if k != i)
        losses.append(-math.log(_exp(z[i], z[(i + 6) % 12], 0.3) / others))
    output = method.compare((first.reshape(2, 24), second.reshape(2, 24)), 0.0)
    assert float(output.loss) == pytest.approx(sum(losses) / 12, rel=1e-5)
    assert output.embeddings.shape == (6, 8)


def test_vox2vec_takes_voxels_from_every_level() -> None:
    """At the middle of a voxel its own value, between two of them the mean, beyond the last one the last; axes in the order of `*space`."""
    fine, coarse = torch.arange(24.0).reshape(1, 1, 2, 3, 4), torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1)
    points = torch.tensor([[[-0.5, 0.0, 0.25], [-0.5, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    found = levels_at((fine, coarse), points)
    assert found.shape == (1, 3, 3)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([float(fine[0, 0, 0, 1, 2]), float(fine[0, 0, 0, 1, 1:3].mean()), 23.0]))
    torch.testing.assert_close(found[0, :, 1:], torch.tensor([[1.0, 3.0]]).repeat(3, 1))


def _standard_rows(rows: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1, then rows of length 1, number by number."""
    columns = []
    for column in rows.T.tolist():
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / math.sqrt(variance) for value in column])
    return torch.tensor([[value / math.hypot(*row) for value in row] for row in zip(*columns, strict=True)])


def test_moco_is_its_equations() -> None:
    """He et al. 2020, eq. 1 (query against its key, the batch's other keys and the queue) and eq. 2 (momentum)."""
    method = _build(MoCoConfig(temperature=0.2, queue_size=6, momentum=0.9, projection_dim=8))
    assert isinstance(method, MoCo)
    queued = _rows(4, 8, 2)
    method.queue.push(queued, torch.arange(100, 104))
    projected, target = 5 + 3 * _rows(3, 8, 0), 2 - 4 * _rows(3, 8, 1)
    query, key = _standard_rows(projected), _standard_rows(target)
    losses = []
    for i in range(3):
        own = _exp(query[i], key[i], 0.2)
        others = [key[j] for j in range(3) if j != i] + list(queued)
        losses.append(-math.log(own / (own + sum(_exp(query[i], other, 0.2) for other in others))))
    output = method.compare((projected, target, torch.arange(3)), 0.0)
    assert float(output.loss) == pytest.approx(sum(losses) / 3, rel=1e-5)

    before = [parameter.clone() for parameter in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.head.parameters()]:
            parameter.add_(1.0)
    method.after_step(output, 0.0)
    for old, new in zip(before, method.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * (old + 1.0))
    torch.testing.assert_close(method.queue.keys[[4, 5, 0]], key)
    assert method.queue.patients.tolist() == [2, 101, 102, 103, 0, 1]


def test_swav_is_its_equations() -> None:
    """Caron et al. 2020, eq. 1, 2 and 6: codes of the pair, predicted from all other views, a local one among them."""
    method = _build(SwAVConfig(num_prototypes=5, projection_dim=8, temperature=0.2, sharpness=0.1))
    assert isinstance(method, SwAV)
    with torch.no_grad():
        method.prototypes.mul_(3.0)
    projected = [5 + 3 * _rows(6, 8, 0), 2 - 4 * _rows(6, 8, 1), 1 + _rows(6, 8, 2)]
    prototypes = F.normalize(method.prototypes.detach(), dim=1)
    scores = [_standard_rows(view) @ prototypes.T for view in projected]
    losses = []
    for own in range(2):
        code = sinkhorn_codes(scores[own], sharpness=0.1)
        for view in range(3):
            if view != own:
                for i in range(6):
                    total = sum(math.exp(float(scores[view][i, k]) / 0.2) for k in range(5))
                    said = [math.exp(float(scores[view][i, k]) / 0.2) / total for k in range(5)]
                    losses.append(-sum(float(code[i, k]) * math.log(said[k]) for k in range(5)))
    output = method.compare(tuple(projected), 0.0)
    assert float(output.loss.detach()) == pytest.approx(sum(losses) / 24, rel=1e-5)


def test_moco_starts_with_an_empty_queue_and_an_equal_teacher() -> None:
    method = _build(MoCoConfig(queue_size=6))
    batch = _batch()
    same = Batch((batch.views[0], batch.views[0]), batch.item, batch.patient)
    query, key, _ = method.encode(same, 0.0)
    torch.testing.assert_close(query, key)
    assert query.requires_grad and not key.requires_grad
    assert float(method(batch, 0.0).loss.detach()) > 0.0, "the batch's own keys are there before the queue is"
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_moco_starts_from_given_weights_on_both_sides() -> None:
    method = _build(MoCoConfig(queue_size=6))
    weights = build_seeded(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3, stem_stride=1), seed=9).state_dict()
    method.start_from(weights)
    for side in (method.backbone, method.teacher.backbone):
        assert all(torch.equal(value, weights[key]) for key, value in side.state_dict().items())


def test_convirt_is_its_equations() -> None:
    """Zhang et al. 2020, eq. 2 to 4, on standardised embeddings."""
    method = _build(ConVIRTConfig(text=TextTransformerConfig(vocab_size=300, length=8, width=16, layers=1, heads=2)))
    seen, told, items = _rows(4, 8, 0), _rows(4, 8, 1), torch.arange(4)
    image, text = (torch.nn.functional.normalize((rows - rows.mean(0)) / rows.std(0, correction=0)) for rows in (seen, told))
    to_text, to_image = [], []
    for i in range(4):
        own = _exp(image[i], text[i], 0.1)
        to_text.append(-math.log(own / sum(_exp(image[i], text[k], 0.1) for k in range(4))))
        to_image.append(-math.log(own / sum(_exp(text[i], image[k], 0.1) for k in range(4))))
    wanted = sum(0.75 * a + 0.25 * b for a, b in zip(to_text, to_image, strict=True)) / 4
    assert float(method.compare((seen, told, items, items), 0.0).loss) == pytest.approx(wanted, rel=1e-5)


def test_moments_that_run_standardise_one_by_one_as_a_batch_is() -> None:
    rows = torch.cat([3 + 2 * torch.randn(256, 3, generator=torch.Generator().manual_seed(0)), torch.full((256, 1), 5.0)], dim=1)
    moments = RunningMoments(4)
    for part in rows.split(64):
        moments.follow(part)
    alone = torch.cat([moments(row[None]) for row in rows])
    torch.testing.assert_close(alone, standardised(rows), rtol=0.05, atol=0.05)
    assert not alone[:, 3].any(), "what does not vary says nothing"


def test_convirt_names_what_it_misses() -> None:
    method = _build(ConVIRTConfig(text=TextTransformerConfig(vocab_size=300, length=8, width=16, layers=1, heads=2)))
    assert isinstance(method, ConVIRT)
    with pytest.raises(ValueError, match=r"Batch\.text"):
        method.encode(_batch(), 0.0)


@pytest.mark.parametrize("config", [SimCLRConfig(), ConVIRTConfig(text=TextTransformerConfig(vocab_size=300, length=8, width=16, heads=2))])
def test_another_scan_of_the_same_patient_is_neither_positive_nor_negative(config) -> None:
    method = _build(config)
    left, right, items, one_patient = _rows(3, 8, 0), _rows(3, 8, 1), torch.arange(3), torch.zeros(3, dtype=torch.int64)
    assert float(method.compare((left, right, items, one_patient), 0.0).loss) == pytest.approx(0, abs=1e-6)  # nothing to tell apart
    assert float(method.compare((left, right, items, items), 0.0).loss) > 0.1


def test_moco_leaves_out_queued_keys_of_the_same_patient() -> None:
    method = _build(MoCoConfig(queue_size=6, projection_dim=8))
    assert isinstance(method, MoCo)
    method.queue.push(_rows(4, 8, 2), torch.tensor([7, 0, 8, 0]))
    query, key = _rows(2, 8, 0), _rows(2, 8, 1)
    before = method.compare((query, key, torch.tensor([0, 0])), 0.0).loss
    method.queue.keys[[1, 3]] = _rows(2, 8, 3)
    assert torch.equal(method.compare((query, key, torch.tensor([0, 0])), 0.0).loss, before)
    assert not torch.equal(method.compare((query, key, torch.tensor([7, 7])), 0.0).loss, before)


def test_the_same_item_twice_in_a_batch_is_no_negative() -> None:
    method = _build(SimCLRConfig())
    first, second = _rows(3, 8, 0), _rows(3, 8, 1)
    items = torch.tensor([4, 4, 5])
    loss = method.compare((first, second, items, items), 0.0).loss
    assert torch.isfinite(loss)


def test_queue_keeps_the_newest() -> None:
    queue = KeyQueue(5, 2)
    pushed: list[int] = []
    for batch in (3, 4, 12, 1):
        new = list(range(len(pushed), len(pushed) + batch))
        queue.push(torch.tensor(new, dtype=torch.float32)[:, None].repeat(1, 2), torch.tensor(new))
        pushed += new
        keys, patients = queue.filled()
        assert sorted(patients.tolist()) == pushed[-5:] and torch.equal(keys[:, 0].long(), patients)
        assert int(queue.count) == len(pushed)
    for number in pushed[-5:]:  # where a key lands depends on its number alone
        assert int(queue.patients[number % 5]) == number


def test_simclr_sees_both_views() -> None:
    method = _build(SimCLRConfig())
    assert isinstance(method, SimCLR)
    first, second, item, patient = method.encode(_batch(), 0.0)
    assert not torch.allclose(first, second) and torch.equal(item, torch.arange(4)) and torch.equal(patient, item)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(4))
