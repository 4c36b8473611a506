"""What a study's YAML may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from medcl.encoders import EncoderConfig
from medcl.evaluation.label_fraction import SplitConfig
from medcl.foundation.config import Settings
from medcl.views.policy import ViewsConfig

Mode = Literal["knn", "linear", "finetune", "frozen", "retrieval"]
MODES_OF: dict[str, tuple[Mode, ...]] = {
    "classification": ("knn", "linear", "finetune"),
    "segmentation": ("frozen", "finetune"),
    "retrieval": ("retrieval",),
}
PIXELS = "pixels"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")


class ClassificationTask(Settings):
    """Tell classes apart. label: column of the data's labels; its values are the classes."""

    name: Literal["classification"] = "classification"
    label: str


class SegmentationTask(Settings):
    """Outline the structures of the masks. labels: numbers in the masks; empty: all that occur in training masks."""

    name: Literal["segmentation"] = "segmentation"
    labels: tuple[int, ...] = ()


class RetrievalTask(Settings):
    """Find the report of an image and the image of a report. Needs no labels, and runs of a method that reads text."""

    name: Literal["retrieval"] = "retrieval"


TaskConfig = Annotated[ClassificationTask | SegmentationTask | RetrievalTask, Field(discriminator="name")]


class FinetuneConfig(Settings):
    """The budget of every fine-tune, the same for each initialisation and fraction.

    num_steps, batch: of each fit. learning_rates: tried at the first draw of each fraction; validation chooses.
    head_share: part of the steps in which only the new head learns; warmup_share: of the rising learning rate.
    views: `policy` augments as the pretraining's policy allows, `plain` not at all. field_voxels: volumes up to this many voxels
    are shown whole, larger ones in windows. looks: how often validation looks for the best step.
    """

    num_steps: int = Field(default=200, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-3, 1e-4), min_length=1)
    weight_decay: float = Field(default=0.01, ge=0)
    head_share: float = Field(default=0.15, ge=0, lt=1)
    warmup_share: float = Field(default=0.25, ge=0, lt=1)
    views: Literal["policy", "plain"] = "policy"
    class_weights: bool = True
    field_voxels: int = Field(default=96**3, ge=1)
    looks: int = Field(default=5, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = Field(default=2, ge=0)


def _kind_of_init(value: Any) -> str:
    return "folder" if isinstance(value, str | Path) else "encoder"


InitConfig = Annotated[Annotated[EncoderConfig, Tag("encoder")] | Annotated[Path, Tag("folder")], Discriminator(_kind_of_init)]  # type: ignore[valid-type]


class StudyConfig(Settings):
    """`medcl evaluate STUDY.yaml`: on which data and task, which initialisations are compared, with how many labels.

    data: a DATA or STORE folder with labels. inits: name -> encoder settings (random weights) or the folder of a backbone or
    RUN; `random`, else the first, is what the others are compared with. fractions: of the training patients. modes: default
    by task. transductive: pretraining may have seen the test patients' images; the title then says so. recipe, views: how
    scans are shown where no init is a backbone that says it. floor: adds raw pixels + PCA + logistic regression as init
    `pixels`. resamples: of the bootstrap and of the permutation test. title: of the page, where the task's own words do not
    say enough.
    """

    data: Path
    task: TaskConfig
    inits: dict[str, InitConfig] = Field(min_length=1)
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.01, 0.05, 0.1, 1.0), min_length=1)
    draws: int = Field(default=5, ge=1, le=100)
    modes: tuple[Mode, ...] = Field(default=(), min_length=1)
    seed: int = Field(default=0, ge=0)
    transductive: bool = False
    split: SplitConfig = SplitConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    recipe: str | None = None
    views: ViewsConfig | None = None
    floor: bool = True
    resamples: int = Field(default=2000, ge=100)
    title: str = Field(default="", max_length=120)

    @model_validator(mode="before")
    @classmethod
    def _modes_of_the_task(cls, content: Any) -> Any:
        task = content.get("task") if isinstance(content, dict) else None
        if isinstance(task, dict) and "modes" not in content:
            return {**content, "modes": MODES_OF.get(task.get("name", "classification"), ())}
        return content

    @field_validator("fractions")
    @classmethod
    def _ascending(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(fractions)))

    @field_validator("inits")
    @classmethod
    def _plain_names(cls, inits: dict[str, Any]) -> dict[str, Any]:
        for name in inits:
            if not _NAME.fullmatch(name) or name == PIXELS:
                raise ValueError(f"'{name}' cannot name an init: take letters, digits, _ . + -, at most 40, and not '{PIXELS}'")
        return inits

    @model_validator(mode="after")
    def _modes_fit_the_task(self) -> StudyConfig:
        legal = {*MODES_OF[self.task.name], *(("retrieval",) if self.task.name == "classification" else ())}
        wrong = [mode for mode in self.modes if mode not in legal]
        if wrong:
            raise ValueError(f"modes: '{wrong[0]}' is not for {self.task.name}; legal: {', '.join(sorted(legal))}")
        return self

    @property
    def reference(self) -> str:
        """The init that the others are compared with."""
        return "random" if "random" in self.inits else next(iter(self.inits))

    @property
    def metric(self) -> str:
        """The number that the figures show."""
        return {"classification": "auroc", "segmentation": "dice", "retrieval": "image_to_text_recall_at_5"}[self.task.name]
