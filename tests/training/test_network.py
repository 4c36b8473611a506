"""How a network is held changes nothing of what is learned: averaged, computed anew, split over processes, compiled."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from medcl.encoders import Encoder, build_seeded
from medcl.foundation import distributed
from medcl.foundation.errors import Stopped, UserError
from medcl.foundation.types import Batch, Features
from medcl.methods import SimCLRConfig
from medcl.training import train
from medcl.training.checkpoint import TENSORS
from medcl.training.launch import Place
from medcl.training.network import Network, NetworkConfig, blocks, pool_in_order, recompute, shard
from medcl.training.watchers import ProbeWatch
from tests.encoders.small_encoders import CONFIGS, sides
from tests.training.small_runs import METHODS, final_bytes, in_processes, made_batches, made_config, made_method, run

every_method = pytest.mark.parametrize("name", sorted(METHODS))
CPU = Place(torch.device("cpu"))
NUM_STEPS = 4


def _learned(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "checkpoints" / f"step-{NUM_STEPS}" / TENSORS)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}


def _config(optimizer: str = "sgd", **network):
    return made_config(num_steps=NUM_STEPS, checkpoint_every=NUM_STEPS, optimizer={"name": optimizer}, network=network)


def _kept_in(found: list[nn.Module]) -> Callable[[int, nn.Module], None]:
    return lambda step, backbone: found.append(backbone)


def _gradients(method: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    method.zero_grad()
    method(batch, 0.5).loss.backward()
    return {name: distributed.whole(value.grad) for name, value in method.named_parameters() if value.grad is not None}


# --- the running average


def test_the_average_is_what_is_probed_and_exported() -> None:
    method, seen, probed, exported = made_method("simclr"), [], [], []

    class Follow:
        state: dict = {}  # noqa: RUF012

        def look(self, moment, figures) -> dict[str, float]:
            seen.append(copy.deepcopy(moment.method.backbone.state_dict()))
            return {}

        def close(self) -> None:
            pass

    def probe(backbone) -> dict[str, float]:
        probed.append(copy.deepcopy(backbone.state_dict()))
        return {}

    start = copy.deepcopy(method.backbone.state_dict())
    train(
        method,
        made_batches(method),
        _config(ema=0.25),
        watchers=[Follow(), ProbeWatch(NUM_STEPS, probe)],
        on_save=lambda step, backbone: exported.append(copy.deepcopy(backbone.state_dict())),
    )
    for name, wanted in start.items():
        assert torch.equal(exported[0][name], wanted)
        for step, state in enumerate(seen):
            momentum = min(0.25, (1 + step) / (10 + step))
            wanted = momentum * wanted + (1 - momentum) * state[name]
        torch.testing.assert_close(exported[1][name], wanted)
        assert torch.equal(exported[1][name], probed[0][name])
    assert not torch.equal(exported[1]["conv1.weight"], seen[-1]["conv1.weight"])


@every_method
def test_a_stopped_run_goes_on_with_its_average_bit_for_bit(name: str, tmp_path: Path) -> None:
    exported = []
    for folder, cuts in (("whole", ()), ("cut", (1, 2))):
        for _ in cuts:
            with pytest.raises(Stopped):
                run(name, tmp_path / folder, config=_config("adamw", ema=0.9).model_copy(update={"time_limit_s": 1e-6}))
        run(name, tmp_path / folder, config=_config("adamw", ema=0.9), on_save=lambda step, backbone: exported.append((step, backbone)))
    assert final_bytes(tmp_path / "cut", NUM_STEPS) == final_bytes(tmp_path / "whole", NUM_STEPS)
    ends = [backbone.state_dict() for step, backbone in exported if step == NUM_STEPS]
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())
    assert {key.split(".")[0] for key in _learned(tmp_path / "cut")} == {"average", "method"}


def test_an_average_has_what_its_network_remembers() -> None:
    """Nothing passes through the average, so that a BatchNorm of it would count nothing, and be exported so."""
    method = made_method("simclr")
    method.backbone.bn1 = nn.BatchNorm2d(8)
    found: list[nn.Module] = []
    train(method, made_batches(method), _config(ema=0.5), place=CPU, on_save=_kept_in(found))
    assert int(found[-1].bn1.num_batches_tracked) == 2 * NUM_STEPS
    assert torch.equal(found[-1].bn1.running_mean, method.backbone.bn1.running_mean) and float(found[-1].bn1.running_mean.abs().max()) > 0


def test_an_average_begins_from_a_checkpoint_without_one(tmp_path: Path) -> None:
    run("simclr", tmp_path, config=_config())
    method = made_method("simclr")
    more = _config(ema=0.5).model_copy(update={"num_steps": NUM_STEPS + 1})
    before = _learned(tmp_path)["method.backbone.conv1.weight"]
    found: list[nn.Module] = []
    train(method, made_batches(method, 10), more, folder=tmp_path, on_save=_kept_in(found))
    step = NUM_STEPS
    momentum = min(0.5, (1 + step) / (10 + step))
    torch.testing.assert_close(found[0].conv1.weight, momentum * before + (1 - momentum) * method.backbone.conv1.weight.detach())


# --- computing anew


@contextlib.contextmanager
def _kept_bytes() -> Iterator[list[int]]:
    """Bytes that a forward pass keeps for its backward pass, weights not counted."""
    sizes = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    total: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    total.append(sum(sizes.values()))


@every_method
def test_computing_anew_gives_the_same_gradients_with_less_memory(name: str) -> None:
    found, kept = [], []
    for anew in (False, True):
        method = made_method(name)
        if anew:
            recompute(method)
        batch = made_batches(method).at(0)
        with _kept_bytes() as total:
            output = method(batch, 0.5)
        output.loss.backward()
        found.append({key: value.grad for key, value in method.named_parameters() if value.grad is not None})
        kept += total
    assert found[0].keys() == found[1].keys() and all(torch.equal(gradient, found[1][key]) for key, gradient in found[0].items())
    # A loss on points reads the maps of all stages, which are kept for it.
    assert kept[1] < (0.9 if method.num_points else 0.8) * kept[0], kept


@pytest.fixture
def alone_in_a_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_encoder_can_be_computed_anew_and_split(name: str, alone_in_a_group: None) -> None:
    method = build_seeded(SimCLRConfig(projection_dim=8), build_seeded(CONFIGS[name], seed=0), seed=0)
    assert len(list(blocks(method.backbone))) > 2
    views = tuple(torch.randn(2, 1, *sides(CONFIGS[name])) for _ in range(2))
    batch = Batch(views, torch.arange(2), torch.arange(2))
    names = list(method.state_dict())
    wanted = _gradients(method, batch)
    for change in (recompute, lambda method: shard(method, "cpu")):
        change(method)
        found = _gradients(method, batch)
        assert found.keys() == wanted.keys() and list(method.state_dict()) == names
        for key, gradient in wanted.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-6)


# --- in the same order


POOLS = [
    nn.MaxPool3d(3, 2, 1),
    nn.MaxPool3d((2, 3, 1), padding=(1, 1, 0)),
    nn.MaxPool3d(2, (2, 1, 1), dilation=(1, 2, 3), ceil_mode=True),
    nn.AvgPool3d(2, 2),
    nn.AvgPool3d((3, 2, 1), (2, 2, 1), (1, 0, 0), ceil_mode=True, count_include_pad=False),
    nn.AvgPool3d((1, 3, 3), 2, (0, 1, 1)),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooled_in_order_is_pooled(pool: nn.Module) -> None:
    """The same values and the same gradients; of the averages within rounding."""
    image = torch.randn(2, 3, 9, 10, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(pool(image))
    found = []
    for held in (pool, copy.deepcopy(pool)):
        if held is not pool:
            pool_in_order(nn.Sequential(held))
            assert "forward" in vars(held)
        value = held(image)
        (value * weights).sum().backward()
        found.append((value.detach(), image.grad.clone()))
        image.grad = None
    for wanted, other in zip(*found, strict=True):
        torch.testing.assert_close(other, wanted, rtol=1e-12, atol=1e-12)


def test_an_operation_without_an_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method = made_method("simclr")
    monkeypatch.setattr(method, "compare", lambda *_: _raise("some_backward_cuda does not have a deterministic implementation, but"))
    with pytest.raises(UserError, match=r"training\.network\.exact: some_backward_cuda .* set it to false"):
        train(method, made_batches(method), _config(exact=True), place=CPU)


def _raise(message: str) -> None:
    raise RuntimeError(message)


# --- splitting over processes


def _train_split(place: Place, folder: Path, pairs: list[tuple[str, str]]) -> None:
    run("moco", folder / "moco-sgd", config=_config(recompute=True, ema=0.9), place=place)  # not split, but computed anew
    for name, optimizer in pairs:
        exported: list[nn.Module] = []
        more = {"recompute": True} if optimizer == "sgd" else {}
        config = _config(optimizer, shard=True, ema=0.9, **more)
        config = config.model_copy(update={"pieces": 2 if name == "convirt" else 1})
        run(name, folder / f"{name}-{optimizer}", config=config, place=place, on_save=_kept_in(exported))
        if place.rank == 0:
            torch.save(exported[-1].state_dict(), folder / f"{name}-{optimizer}.pt")


@pytest.mark.parametrize("pairs", [[("convirt", "sgd"), ("moco", "adamw")], pytest.param([("simclr", "lars")], marks=pytest.mark.slow)])
def test_two_processes_that_split_the_weights_are_one(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    in_processes(2, _train_split, tmp_path / "two", pairs)
    for name, optimizer in (*pairs, ("moco", "sgd")):
        here = tmp_path / f"{name}-{optimizer}"
        run(name, here, config=_config(optimizer, ema=0.9))
        wanted, found = _learned(here), _learned(tmp_path / "two" / here.name)
        assert wanted.keys() == found.keys()
        for key, tensor in wanted.items():
            if optimizer != "adamw" or tensor.ndim > 1:  # Adam blows the rounding noise of biases up to whole steps
                torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5 if optimizer != "adamw" else 1e-4, msg=key)
        exported = tmp_path / "two" / f"{here.name}.pt"
        for key, tensor in torch.load(exported).items() if exported.exists() else ():
            assert torch.equal(tensor, found[f"average.backbone.{key}"])


def test_a_split_run_goes_on_unsplit_and_back(tmp_path: Path) -> None:
    """Checkpoints are whole: one process, then two that split, then one."""
    config = _config(ema=0.9)
    run("moco", tmp_path / "whole", config=config)
    with pytest.raises(Stopped):
        run("moco", tmp_path / "cut", config=config.model_copy(update={"time_limit_s": 1e-6}))
    in_processes(2, _stop_split, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints" / "LATEST").read_text() == "step-2\n"
    run("moco", tmp_path / "cut", config=config)
    found = _learned(tmp_path / "cut")
    for key, tensor in _learned(tmp_path / "whole").items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=1e-5, msg=key)


def _stop_split(place: Place, folder: Path) -> None:
    with pytest.raises(Stopped):
        run("moco", folder, config=_config(shard=True, ema=0.9).model_copy(update={"time_limit_s": 1e-6}), place=place)


def test_a_method_with_weights_of_its_own_is_not_split() -> None:
    method = made_method("simclr")
    method.scale = nn.Parameter(torch.zeros(()))
    with pytest.raises(UserError, match=r"training\.network\.shard: SimCLR itself holds scale"):
        Network(method, NetworkConfig(shard=True), Place(torch.device("cpu"), 0, 2))


# --- compiling


class _Small(Encoder):
    """An encoder that compiles in seconds."""

    dim, channels, spatial_dims, stride, any_size = 8, (8,), 2, 4, True

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=4)

    def forward(self, image: torch.Tensor) -> Features:
        value = self.conv(image).relu()
        return Features(value.mean(dim=(2, 3)), (value,))

    build = classmethod(lambda cls: cls())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_run_learns_the_same_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    losses = {}
    for folder, compiled, cut in (("plain", False, False), ("whole", True, False), ("cut", True, True)):
        for limit in (1e-6, None) if cut else (None,):
            method = build_seeded(SimCLRConfig(projection_dim=4), build_seeded(_Small, seed=0), seed=0)
            config = _config(compile=compiled).model_copy(update={"time_limit_s": limit})
            with pytest.raises(Stopped) if limit else contextlib.nullcontext():
                losses[folder] = train(method, made_batches(method), config, folder=tmp_path / folder, place=CPU).figures["loss"]
    assert losses["whole"] == pytest.approx(losses["plain"], rel=1e-5) and losses["cut"] == losses["whole"]
    plain, whole = _learned(tmp_path / "plain"), _learned(tmp_path / "whole")
    assert plain.keys() == whole.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(whole[key], tensor, rtol=1e-3, atol=1e-5, msg=key)
    assert final_bytes(tmp_path / "cut", NUM_STEPS) == final_bytes(tmp_path / "whole", NUM_STEPS)


def _compile_on_several(place: Place, folder: Path) -> None:
    warnings.simplefilter("ignore")
    for split in (False, True):
        method = build_seeded(SimCLRConfig(projection_dim=4), build_seeded(_Small, seed=0), seed=0)
        train(method, made_batches(method), _config(compile=True, shard=split), folder=folder / f"split {split}", place=place)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_compiled_may_be_split_too(tmp_path: Path) -> None:
    in_processes(2, _compile_on_several, tmp_path)
    method = build_seeded(SimCLRConfig(projection_dim=4), build_seeded(_Small, seed=0), seed=0)
    train(method, made_batches(method), _config(), folder=tmp_path / "plain", place=CPU)
    for key, tensor in _learned(tmp_path / "plain").items():
        for split in (False, True):
            torch.testing.assert_close(_learned(tmp_path / f"split {split}")[key], tensor, rtol=1e-3, atol=1e-5, msg=key)


def test_a_machine_that_cannot_compile_says_so() -> None:
    from torch._inductor import config

    torch.compiler.reset()  # another test may have compiled here
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(UserError, match=r"training\.network\.compile: torch cannot compile"),
    ):
        Network(made_method("simclr"), NetworkConfig(compile=True), CPU)
