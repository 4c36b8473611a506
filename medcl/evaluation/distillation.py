"""Distillation: a student learns, from images without labels too, what a fine-tuned teacher says of them."""

from __future__ import annotations

from torch import Tensor, nn


class Distillation(nn.Module):
    """The third stage of SimCLRv2 (Chen et al. 2020, https://arxiv.org/abs/2006.10029, equations 2 and 3).

    What the student learns from an image: with weight 1 - label_share what the teacher says of it, both at `temperature`; with weight
    `label_share` its label, where it has one.
    """

    def __init__(self, of_label: nn.Module, temperature: float, label_share: float) -> None:
        super().__init__()
        self.of_label, self.temperature, self.label_share = of_label, temperature, label_share

    def forward(self, outputs: Tensor, lessons: Tensor) -> Tensor:
        """outputs: (batch, classes); lessons: (batch, 2, classes), the teacher's logits and the label as 0 and 1, all 0 where unknown."""
        teacher, truth = lessons.unbind(1)
        says = (teacher / self.temperature).softmax(1)
        loss = (1 - self.label_share) * -(says * (outputs / self.temperature).log_softmax(1)).sum(1).mean()
        known = truth.sum(1) > 0
        if self.label_share and bool(known.any()):
            loss = loss + self.label_share * known.float().mean() * self.of_label(outputs[known], truth[known].argmax(1))
        return loss
