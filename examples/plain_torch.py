"""A medcl method in a loop of your own, without settings files, stores or commands: MoCo on images that are made here.

python examples/plain_torch.py

What a loop has to do for any method: `loss = method(batch, progress).loss`, then `backward`, the optimizer's step, and `after_step`.
"""

from __future__ import annotations

import torch

from medcl.encoders import ResNetConfig
from medcl.foundation.types import Batch
from medcl.methods import MoCoConfig


def main(num_steps: int = 30, items: int = 16) -> list[float]:
    """Train for a moment; returns the losses."""
    torch.manual_seed(0)
    method = MoCoConfig(queue_size=64, momentum=0.9).build(ResNetConfig(depth=10, spatial_dims=2, width=8, stem_kernel=3).build())
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    images = torch.nn.functional.interpolate(torch.randn(items, 1, 6, 6), size=32)
    item = torch.arange(items)
    losses = []
    for step in range(num_steps):
        # Your own loader and augmentations go here: two views of every item, and whose they are.
        views = tuple(images + 0.1 * torch.randn_like(images) for _ in range(method.num_views))
        output = method(Batch(views, item=item, patient=item), progress=step / num_steps)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step(output, progress=step / num_steps)
        losses.append(float(output.loss.detach()))
    return losses


if __name__ == "__main__":
    found = main()
    print(f"loss {found[0]:.2f} -> {found[-1]:.2f}; method.backbone is the network to keep")
