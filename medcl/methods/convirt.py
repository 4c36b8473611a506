"""ConVIRT: an image agrees with a sentence of its report, both ways. Zhang et al. 2020, https://arxiv.org/abs/2010.00747"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from medcl.encoders.contract import Encoder
from medcl.encoders.heads import ProjectionHead
from medcl.encoders.text_transformer import TextTransformerConfig
from medcl.foundation.config import Settings
from medcl.foundation.types import Batch, StepOutput, Text
from medcl.methods.method import Method
from medcl.methods.parts import RunningMoments, standardised, unit
from medcl.monitoring.collapse import alignment
from medcl.objectives import Rows, info_nce_both_ways


class ConVIRTConfig(Settings):
    """Settings of ConVIRT; temperature, image_weight (lambda) and projection_dim as in the paper. text: the network that reads reports."""

    name: Literal["convirt"] = "convirt"
    temperature: float = Field(default=0.1, gt=0)
    image_weight: float = Field(default=0.75, ge=0, le=1)
    projection_dim: int = Field(default=512, ge=2)
    text: TextTransformerConfig = TextTransformerConfig()

    def build(self, encoder: Encoder) -> ConVIRT:
        """The method around an encoder."""
        return ConVIRT(self, encoder)


class ConVIRT(Method):
    """`v = g_v(f_v(x))`, `u = g_u(f_u(t))`, and `lambda l(v->u) + (1 - lambda) l(u->v)` (eq. 2 to 4).

    The paper starts from ImageNet and clinical BERT. From scratch, each side's embeddings share one direction and the
    loss is lowest, at first, where they do not differ at all (reports/README.md): v and u are standardised over the world
    batch before they are compared, and by their running moments when an image or a text comes alone.
    """

    num_views = 1
    uses_text = True
    least_items = 3  # two rows, standardised, are 1 and -1 whatever they were

    def __init__(self, config: ConVIRTConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.backbone = encoder
        self.text = config.text.build()
        self.image_head = ProjectionHead(encoder.dim, config.projection_dim, bias=False)
        self.text_head = ProjectionHead(self.text.dim, config.projection_dim, bias=False)
        self.image_moments = RunningMoments(config.projection_dim)
        self.text_moments = RunningMoments(config.projection_dim)

    def encode(self, batch: Batch, progress: float) -> tuple[Tensor, ...]:
        """Projections of the image and of the sentence, the items and their patients."""
        if batch.text is None:
            raise ValueError("ConVIRT needs Batch.text: one tokenised sentence for each image")
        return self.image_head(self.backbone(batch.views[0]).pooled), self.text_head(self.text(batch.text)), batch.item, batch.patient

    def encode_text(self, text: Text) -> Tensor:
        """u, unit length, by the running moments: what retrieval compares with the images' v."""
        return unit(self.text_moments(self.text_head(self.text(text))))

    def encode_image(self, image: Tensor) -> Tensor:
        """v, unit length, by the running moments."""
        return unit(self.image_moments(self.image_head(self.backbone(image).pooled)))

    def compare(self, embeddings: tuple[Tensor, ...], progress: float) -> StepOutput:
        """InfoNCE both ways; the positive of an image is the sentence drawn for it."""
        seen, told, item, patient = embeddings
        image, text = unit(standardised(seen)), unit(standardised(told))
        loss, to_text, to_image = info_nce_both_ways(
            Rows(image, item, patient),
            Rows(text, item, patient),
            temperature=self.config.temperature,
            left_weight=self.config.image_weight,
        )
        scalars = {"alignment": alignment(image, text), "loss_image_to_text": to_text, "loss_text_to_image": to_image}
        return StepOutput(loss, image.detach(), scalars, carry=(seen.detach(), told.detach()))

    def after_step(self, output: StepOutput, progress: float) -> None:
        """The running moments follow."""
        seen, told = output.carry
        self.image_moments.follow(seen)
        self.text_moments.follow(told)
