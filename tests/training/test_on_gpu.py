"""On a GPU: every method learns there what it learns on a CPU, in half precision too, and says what memory it took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medcl.encoders import build_seeded
from medcl.foundation.errors import Stopped, UserError
from medcl.foundation.types import Batch
from medcl.methods import SimCLRConfig
from medcl.training import train
from medcl.training.launch import Place, same_sums
from medcl.training.loop import Run
from tests.encoders.small_encoders import CONFIGS, sides
from tests.training.small_runs import METHODS, Losses, StopAt, final_bytes, made_batches, made_config, made_method, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
every_method = pytest.mark.parametrize("name", sorted(METHODS))


def _losses(name: str, device: str, **settings: object) -> tuple[torch.Tensor, dict[str, float]]:
    """Of every step, and the last figures that were logged."""
    method, losses = made_method(name), Losses()
    config = made_config(num_steps=8, optimizer={"name": "sgd", "lr": 1e-3}, **settings)
    result = train(method, made_batches(method), config, place=Place(torch.device(device)), watchers=[losses])
    return torch.tensor(losses.values), result.figures


@every_method
def test_learns_what_a_cpu_learns(name: str) -> None:
    """Convolutions multiply with ten bits there (TF32), so a loss is right to about a thousandth, and what was learned drifts apart."""
    wanted, _ = _losses(name, "cpu")
    found, figures = _losses(name, "cuda")
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=0)
    assert 0 < figures["gpu_memory_gib"] < 1 and 0 <= figures["waiting_share"] <= 1 and figures["tflop_per_s"] > 0


@every_method
def test_learns_in_half_precision(name: str) -> None:
    wanted, _ = _losses(name, "cuda")
    found, _ = _losses(name, "cuda", precision="bf16")
    assert not torch.equal(found, wanted), "bf16 was not used"
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)


@every_method
def test_an_exact_run_that_was_stopped_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = made_config(num_steps=8, network={"exact": True}, precision="bf16")
    if name == "vox2vec":
        with pytest.raises(UserError, match=r"training\.network\.exact: grid_sampler_2d_backward_cuda"):
            run(name, None, config=config)
        return
    run(name, tmp_path / "whole", config=config)
    with pytest.raises(Stopped):
        run(name, tmp_path / "cut", [StopAt(4)], config)
    run(name, tmp_path / "cut", config=config)
    assert final_bytes(tmp_path / "cut", 8) == final_bytes(tmp_path / "whole", 8)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_encoder_learns_the_same_twice_where_exact(name: str) -> None:
    """In half precision, on views large enough that a GPU adds in parallel."""
    found = []
    for _ in range(2):
        method = build_seeded(SimCLRConfig(projection_dim=8), build_seeded(CONFIGS[name], seed=0), seed=0)
        config = made_config(num_steps=3, network={"exact": True}, precision="bf16")
        shape = sides(CONFIGS[name])
        views = tuple(torch.randn(8, 1, *shape, generator=torch.Generator().manual_seed(view)) for view in range(2))
        place = Place(torch.device("cuda"))
        with same_sums(place.device, True):
            steps = Run(method, config, place, ())
            for step in range(3):
                steps.step(step, Batch(views, torch.arange(8), torch.arange(8)).to(place.device))
        found.append({key: value.cpu() for key, value in method.state_dict().items()})
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
