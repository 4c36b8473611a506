"""Seconds and memory of contrastive losses: medcl's beside the full matrix, checkpointed chunks and MONAI's ContrastiveLoss.

python benchmarks/objectives.py [--rounds 5] [--out reports/training/objectives.md]

Forward and backward, float32, embeddings of 128 numbers, temperature 0.1, one thread. The arms of a size take turns within every round;
times are the processor's, so that a busy neighbour does not count. Memory is measured once in a process of its own: the highest
resident size during the call less the size before it (Linux); above 4,096 pairs that call is the only one. The full matrix is written as
well as torch allows (one product, one cross-entropy). With five rounds about four minutes of one core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import monai
import torch
import torch.nn.functional as F
from monai.losses.contrastive import ContrastiveLoss
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medcl.objectives import Rows, info_nce, info_nce_both_ways, nt_xent, siglip

DIM, TEMPERATURE, QUEUE = 128, 0.1, 65536
Loss = Callable[[Tensor, Tensor], Tensor]
PLAN: dict[str, tuple[tuple[int, ...], list[str]]] = {
    "SimCLR": ((256, 4096, 16384), ["medcl", "full matrix", "checkpointed chunks", "MONAI"]),
    "ConVIRT": ((4096,), ["medcl", "full matrix"]),
    "SigLIP": ((4096,), ["medcl", "full matrix"]),
    "MoCo, queue of 65,536": ((256,), ["medcl", "full matrix"]),
}
LARGEST = {"MONAI": 256, "full matrix": 4096, "checkpointed chunks": 4096}
ONCE = 4096  # above this size one call is timed, the one whose memory is measured


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description="Seconds and memory of contrastive losses.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=16384, help="leave out sizes above this")
    parser.add_argument("--out", type=Path, default=None)
    said = parser.parse_args()
    torch.set_num_threads(1)
    cases = [
        (loss, pairs, [arm for arm in arms if pairs <= LARGEST.get(arm, pairs)])
        for loss, (sizes, arms) in PLAN.items()
        for pairs in sizes
        if pairs <= said.largest
    ]
    # Memory first, each in a child of a process that has computed nothing yet: no freed memory to take again unseen.
    alone = {(loss, pairs, arm): _alone(loss, arm, pairs) for loss, pairs, arms in cases for arm in arms}
    rows = [row for case in cases for row in _measured(*case, said.rounds, alone)]
    text = _table(rows, said.rounds)
    print(text)
    if said.out is not None:
        said.out.write_text(text + "\n", encoding="utf-8")


def _measured(
    loss: str, pairs: int, arms: list[str], rounds: int, alone: dict[tuple[str, int, str], tuple[float, float]]
) -> list[tuple[str, ...]]:
    given = _embeddings(pairs)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    found: dict[str, list[Tensor]] = {}
    if pairs > ONCE:
        rounds, times = 0, {arm: [alone[loss, pairs, arm][1]] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            begin = time.process_time()
            found[arm] = _run(_arm(loss, arm, pairs), given)
            times[arm].append(time.process_time() - begin)
    rows = []
    for arm in arms:
        median = statistics.median(times[arm])
        ratio = median / statistics.median(times["medcl"])
        spread = f"{min(times[arm]):.3f} - {max(times[arm]):.3f}"
        differences = "" if arm == "medcl" or not rounds else _differences(found["medcl"], found[arm], given)
        peak = f"{alone[loss, pairs, arm][0]:,.0f}"
        rows.append((loss, f"{pairs:,}", arm, f"{median:.3f}", spread, f"{ratio:.1f}", peak, differences))
    return rows


def _embeddings(pairs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = F.normalize(torch.randn(pairs, DIM, generator=generator), dim=1)
    return first, F.normalize(first + 0.8 * DIM**-0.5 * torch.randn(pairs, DIM, generator=generator), dim=1)


def _run(loss: Loss, given: tuple[Tensor, Tensor]) -> list[Tensor]:
    first, second = (rows.detach().requires_grad_() for rows in given)
    value = loss(first, second)
    value.backward()
    return [value.detach(), *(rows.grad for rows in (first, second) if rows.grad is not None)]


def _differences(ours: list[Tensor], theirs: list[Tensor], given: tuple[Tensor, Tensor]) -> str:
    """Of the loss, and of the gradient along the sphere against its largest entry: MONAI's loss makes its rows unit vectors itself."""
    loss = abs(float(ours[0] / theirs[0]) - 1)
    pairs = [(_along_sphere(a, rows), _along_sphere(b, rows)) for a, b, rows in zip(ours[1:], theirs[1:], given, strict=False)]
    gradient = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return f"{loss:.0e} / {gradient:.0e}"


def _along_sphere(gradient: Tensor, rows: Tensor) -> Tensor:
    return gradient - (gradient * rows).sum(dim=1, keepdim=True) * rows


def _arm(loss: str, arm: str, pairs: int) -> Loss:
    own = torch.arange(pairs)
    if loss == "SimCLR":
        ours: Loss = lambda a, b: nt_xent(Rows(torch.cat([a, b]), own.repeat(2), own.repeat(2)), temperature=TEMPERATURE)  # noqa: E731
        peers: dict[str, Loss] = {"full matrix": _full_simclr, "checkpointed chunks": _chunked_simclr}
        return {"medcl": ours, "MONAI": ContrastiveLoss(temperature=TEMPERATURE), **peers}[arm]
    if loss == "ConVIRT":
        ours = lambda a, b: info_nce_both_ways(Rows(a, own, own), Rows(b, own, own), temperature=TEMPERATURE, left_weight=0.5)[0]  # noqa: E731
        return {"medcl": ours, "full matrix": _full_both_ways}[arm]
    if loss == "SigLIP":
        ours = lambda a, b: siglip(Rows(a, own, own), Rows(b, own, own), scale=10.0, bias=-10.0)  # noqa: E731
        return {"medcl": ours, "full matrix": _full_siglip}[arm]
    queue = F.normalize(torch.randn(QUEUE, DIM, generator=torch.Generator().manual_seed(1)), dim=1)
    queued = Rows(queue, None, torch.arange(QUEUE) + pairs)
    columns = queue.T.contiguous()  # as MoCo's own code keeps it
    ours = lambda a, b: info_nce(Rows(a, own, own), Rows(b.detach(), own, own), queued, temperature=TEMPERATURE)  # noqa: E731
    return {"medcl": ours, "full matrix": lambda a, b: _full_moco(a, b.detach(), columns)}[arm]


def _full_simclr(first: Tensor, second: Tensor) -> Tensor:
    views = torch.cat([first, second])
    logits = (views @ views.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


def _chunked_simclr(first: Tensor, second: Tensor) -> Tensor:
    views = torch.cat([first, second])
    partner = torch.arange(len(views)).roll(len(first))

    def part(start: int, stop: int) -> Tensor:
        logits = views[start:stop] @ views.T / TEMPERATURE
        logits[torch.arange(stop - start), torch.arange(start, stop)] = -torch.inf
        return F.cross_entropy(logits, partner[start:stop], reduction="sum")

    starts = range(0, len(views), 512)
    parts = [checkpoint(part, start, min(start + 512, len(views)), use_reentrant=False) for start in starts]
    return torch.stack(parts).sum() / len(views)  # type: ignore[arg-type]


def _full_both_ways(first: Tensor, second: Tensor) -> Tensor:
    logits = first @ second.T / TEMPERATURE
    own = torch.arange(len(first))
    return 0.5 * F.cross_entropy(logits, own) + 0.5 * F.cross_entropy(logits.T, own)


def _full_siglip(first: Tensor, second: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(first)) - 1
    return -F.logsigmoid(signs * (10.0 * first @ second.T - 10.0)).sum() / len(first)


def _full_moco(query: Tensor, key: Tensor, columns: Tensor) -> Tensor:
    logits = torch.cat([query @ key.T, query @ columns.clone()], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.arange(len(query)))


def _alone(loss: str, arm: str, pairs: int) -> tuple[float, float]:
    """MiB and seconds of one call in a process of its own."""
    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    child = fork.Process(target=lambda: answer.put(_peak_mib(loss, arm, pairs)))
    child.start()
    child.join()
    found = answer.get()
    print(f"{loss}, {pairs} pairs, {arm}: {found[0]:,.0f} MiB, {found[1]:.2f} s", file=sys.stderr, flush=True)
    return found


def _peak_mib(loss: str, arm: str, pairs: int) -> tuple[float, float]:
    _run(_arm(loss, arm, 8), _embeddings(8))  # what every arm loads once
    function, given = _arm(loss, arm, pairs), _embeddings(pairs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status_kib("VmRSS")
    begin = time.process_time()
    _run(function, given)
    spent = time.process_time() - begin
    return (_status_kib("VmHWM") - before) / 1024, spent


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _table(rows: list[tuple[str, ...]], rounds: int) -> str:
    head = ("loss", "pairs", "arm", "s, median", f"s, of {rounds} rounds", "ratio", "MiB", "medcl's difference")
    return "\n".join(
        [
            f"Forward and backward, {DIM} numbers a row, float32, one thread, processor seconds, {rounds} rounds, the arms taking turns; "
            f"{platform.machine()}, torch {torch.__version__}, MONAI {monai.__version__}. Ratio: against medcl. MiB: highest resident size "
            "of a process of its own above that before the call, the gradients of the inputs included. Difference: relative, of the "
            "loss / of the gradient along the unit sphere, against its largest entry.",
            "",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


if __name__ == "__main__":
    main()
