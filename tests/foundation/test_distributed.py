from __future__ import annotations

import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from medcl.foundation import distributed


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = torch.arange(4.0).reshape(2, 2) + 10 * rank
    rows.requires_grad_()
    gathered = distributed.gather(rows)
    (gathered**2).sum().backward()
    stop = distributed.any_process(rank == 1)
    whole = distributed.gather(torch.tensor([rank]))
    torch.save({"gathered": gathered.detach(), "grad": rows.grad, "stop": stop, "int": whole}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gather_in_rank_order_with_the_gradient_that_ddp_averages_to_the_whole(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(_free_port(), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for rank, result in enumerate(results):
        assert torch.equal(result["gathered"], torch.tensor([[0.0, 1], [2, 3], [10, 11], [12, 13]]))
        own = result["gathered"][2 * rank : 2 * rank + 2]
        assert torch.equal(result["grad"], 2 * own * 2)  # derivative of the square, times the number of processes
        assert result["stop"] is True
        assert torch.equal(result["int"], torch.tensor([0, 1]))


def test_one_process_gathers_nothing() -> None:
    rows = torch.ones(2, 2)
    assert distributed.gather(rows) is rows
    assert distributed.world_size() == 1 and distributed.rank() == 0 and distributed.any_process(True)
