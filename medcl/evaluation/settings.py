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

Mode = Literal["knn", "linear", "finetune", "distill", "frozen", "retrieval", "zeroshot"]
_FROM_LABELS: tuple[Mode, ...] = ("knn", "linear", "finetune")
MODES_OF: dict[str, tuple[Mode, ...]] = {
    "classification": _FROM_LABELS,
    "multilabel": _FROM_LABELS,
    "regression": _FROM_LABELS,
    "segmentation": ("frozen", "finetune"),
    "retrieval": ("retrieval",),
}
ON_REQUEST: dict[str, tuple[Mode, ...]] = {"classification": ("distill", "retrieval", "zeroshot"), "multilabel": ("zeroshot",)}
READS_TEXT: tuple[Mode, ...] = ("retrieval", "zeroshot")  # modes for runs that read reports
PIXELS = "pixels"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
# What may be there -> sentences that say so.
Prompts = dict[
    Annotated[str, Field(coerce_numbers_to_str=True)], Annotated[tuple[Annotated[str, Field(pattern=r"\w")], ...], Field(min_length=1)]
]


def _distinct(labels: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [label for place, label in enumerate(labels) if label in labels[:place]]
    if twice:
        raise ValueError(f"'{twice[0]}' is there twice; name each once, for each counts once in the means")
    return labels


class ClassificationTask(Settings):
    """Tell classes apart. label: column of the data's labels; its values are the classes.

    prompts: for mode `zeroshot`, for each class the sentences by which a report says it.
    """

    name: Literal["classification"] = "classification"
    label: str
    prompts: Prompts = Field(default_factory=dict)


class MultilabelTask(Settings):
    """Say of several findings whether each is there. labels: columns of the data's labels, with 1, 0, or nothing where unknown.

    prompts: for mode `zeroshot`, for each finding the sentences by which a report says that it is absent ("0") and present ("1").
    """

    name: Literal["multilabel"] = "multilabel"
    labels: tuple[str, ...] = Field(min_length=1)
    prompts: dict[str, Prompts] = Field(default_factory=dict)

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(labels)


class RegressionTask(Settings):
    """Tell a quantity. label: column of the data's labels with numbers, or `age_years`, which every manifest has."""

    name: Literal["regression"] = "regression"
    label: str


class SegmentationTask(Settings):
    """Outline the structures of the masks. labels: numbers in the masks; empty: all that occur in training masks.

    tolerance_mm: how far a surface may be from where it should be and still count as right, in the surface Dice.
    """

    name: Literal["segmentation"] = "segmentation"
    labels: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()
    tolerance_mm: float = Field(default=1.0, gt=0)

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct(labels)


class RetrievalTask(Settings):
    """Find the report of an image and the image of a report. Needs no labels, and runs of a method that reads text."""

    name: Literal["retrieval"] = "retrieval"


TaskConfig = Annotated[ClassificationTask | MultilabelTask | RegressionTask | SegmentationTask | RetrievalTask, Field(discriminator="name")]


class DistillConfig(Settings):
    """How a student learns from its teacher, in mode `distill`: the budget of a fine-tune for each of them.

    temperature: of the softmax of both. label_share: weight of the labels beside what the teacher says (equation 3 of SimCLRv2; 0 is
    equation 2, where the teacher alone is learned from).
    """

    temperature: float = Field(default=1.0, gt=0)
    label_share: float = Field(default=0.0, ge=0, lt=1)


class FinetuneConfig(Settings):
    """The budget of every fine-tune, the same for each initialisation and fraction.

    num_steps, batch: of each fit. learning_rates: tried at the first draw of each fraction; validation chooses.
    head_share: part of the steps in which only the new head learns; warmup_share: of the rising learning rate. layer_decay: part of the
    learning rate that each stage of the encoder has of the stage after it; 1: all alike.
    views: `policy` augments as the pretraining's policy allows, `plain` not at all. field_voxels: volumes up to this many voxels
    are shown whole, larger ones in windows. looks: how often validation looks for the best step. foreground_share: of the windows that a
    segmentation learns from, those that are laid where a structure is.
    """

    num_steps: int = Field(default=200, ge=1)
    batch: int = Field(default=32, ge=1)
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-3, 1e-4), min_length=1)
    weight_decay: float = Field(default=0.01, ge=0)
    head_share: float = Field(default=0.15, ge=0, lt=1)
    warmup_share: float = Field(default=0.25, ge=0, lt=1)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    views: Literal["policy", "plain"] = "policy"
    class_weights: bool = True
    field_voxels: int = Field(default=96**3, ge=1)
    looks: int = Field(default=5, ge=1)
    foreground_share: float = Field(default=1 / 3, ge=0, le=1)
    distill: DistillConfig = DistillConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = Field(default=2, ge=0)


class WeightsConfig(Settings):
    """An init whose weights are anyone's file.

    weights: `.safetensors`, or a `.pt` that torch reads without running code. encoder: the network they belong to. prefix: where in the
    file it is, where there are several places. from_colour: its first layer takes colour pictures (ImageNet), and is made to take
    grey ones. inflate: the file holds the 2D weights of this 3D encoder. allow_missing: tensors that the file lacks stay random.
    """

    weights: Path
    encoder: EncoderConfig  # type: ignore[valid-type]
    prefix: str | None = None
    from_colour: bool = False
    inflate: bool = False
    allow_missing: bool = False

    @model_validator(mode="after")
    def _only_volumes_are_inflated(self) -> WeightsConfig:
        if self.inflate and self.encoder.spatial_dims != 3:
            raise ValueError("inflate turns 2D weights into those of a 3D encoder, but encoder.spatial_dims is 2")
        return self


class SupervisedConfig(Settings):
    """An init that is trained first, from scratch, on another label of the study's own training cases.

    label: column of the data's labels; its values are the classes. num_steps, learning_rate: of that training, all else as in `finetune`.
    """

    label: str
    encoder: EncoderConfig  # type: ignore[valid-type]
    num_steps: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


def _kind_of_init(value: Any) -> str:
    if isinstance(value, str | Path):
        return "folder"
    has = value.__contains__ if isinstance(value, dict) else lambda name: hasattr(value, name)
    return "weights" if has("weights") else "supervised" if has("label") else "encoder"


InitConfig = Annotated[
    Annotated[EncoderConfig, Tag("encoder")]  # type: ignore[valid-type]
    | Annotated[Path, Tag("folder")]
    | Annotated[WeightsConfig, Tag("weights")]
    | Annotated[SupervisedConfig, Tag("supervised")],
    Discriminator(_kind_of_init),
]


class StudyConfig(Settings):
    """`medcl evaluate STUDY.yaml`: on which data and task, which initialisations are compared, with how many labels.

    data: a DATA or STORE folder with labels. inits: name -> encoder settings (random weights), the folder of a backbone or RUN,
    anyone's weights (see `WeightsConfig`), or another label to train on first (see `SupervisedConfig`); `random`, else the first,
    is what the others are compared with. fractions: of the training patients. modes: default by task. transductive: pretraining
    may have seen the test patients' images; the title then says so. recipe, views: how scans are shown where no init is a
    backbone that says it. floor: adds raw pixels + PCA + a linear probe as init `pixels`. resamples: of the bootstrap and of the
    permutation test. title: of the page, where the task's own words do not say enough.
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

    @field_validator("modes")
    @classmethod
    def _each_once(cls, modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
        return tuple(dict.fromkeys(modes))  # a fit that counts twice would look like two draws

    @field_validator("inits")
    @classmethod
    def _plain_names(cls, inits: dict[str, Any]) -> dict[str, Any]:
        for name in inits:
            if not _NAME.fullmatch(name) or name == PIXELS:
                raise ValueError(f"'{name}' cannot name an init: take letters, digits, _ . + -, at most 40, and not '{PIXELS}'")
        return inits

    @field_validator("views")
    @classmethod
    def _whole_scans(cls, views: ViewsConfig | None) -> ViewsConfig | None:
        if views and views.local:
            raise ValueError("local views are for pretraining; leave local out")
        return views

    @model_validator(mode="after")
    def _modes_fit_the_task(self) -> StudyConfig:
        legal = {*MODES_OF[self.task.name], *ON_REQUEST.get(self.task.name, ())}
        wrong = [mode for mode in self.modes if mode not in legal]
        if wrong:
            raise ValueError(f"modes: '{wrong[0]}' is not for {self.task.name}; legal: {', '.join(sorted(legal))}")
        prompts = getattr(self.task, "prompts", None)
        if prompts and "zeroshot" not in self.modes:
            raise ValueError("task.prompts: only mode 'zeroshot' reads them; add it to modes, or leave them out")
        if "zeroshot" in self.modes and not prompts:
            way_out = 'for example prompts: {"0": [No effusion.], "1": [Effusion.]}; in multilabel such a pair for each finding'
            raise ValueError(f"task.prompts: mode 'zeroshot' asks with sentences, and there are none; {way_out}")
        return self

    @property
    def reference(self) -> str:
        """The init that the others are compared with."""
        return "random" if "random" in self.inits else next(iter(self.inits))

    @property
    def metric(self) -> str:
        """The number that the figures show."""
        other = {"regression": "r2", "segmentation": "dice", "retrieval": "image_to_text_recall_at_5"}
        return other.get(self.task.name, "auroc")
