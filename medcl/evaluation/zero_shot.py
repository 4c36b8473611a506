"""Zero-shot: a run that read reports says what an image shows by the prompt it agrees with; no label is used.

Radford et al. 2021 (CLIP, https://arxiv.org/abs/2103.00020), section 3.1. A finding is there or not by a softmax over both, as in
Tiu et al. 2022 (CheXzero, https://doi.org/10.1038/s41551-022-00936-9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medcl.evaluation.fits import Fit, FitKey
from medcl.evaluation.initialisations import Initialisation
from medcl.evaluation.knn import unit_length
from medcl.evaluation.retrieval import ImageTextModel
from medcl.evaluation.settings import MultilabelTask
from medcl.evaluation.study_data import StudyCases
from medcl.foundation.errors import UserError

PRESENCE = ("0", "1")


def questions(task: Any, classes: Sequence[str]) -> list[list[Sequence[str]]]:
    """What is asked of an image: for each question the sentences of each answer, in the order of the class numbers.

    One question for classes, one for each finding (absent, present). classes: those of the data, or the names of the findings. Raises
    UserError for prompts that do not fit them.
    """
    if not isinstance(task, MultilabelTask):
        return [_answers("task.prompts", f"class of '{task.label}'", task.prompts, classes)]
    asked = _answers("task.prompts", "finding of task.labels", task.prompts, classes)
    return [_answers(f"task.prompts.{name}", "answer", own, PRESENCE) for name, own in zip(classes, asked, strict=True)]


def _answers(field: str, kind: str, given: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
    known = ", ".join(f"'{name}'" for name in wanted)
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise UserError(f"{field}: '{unknown[0]}' is no {kind}; there are {known}")
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(f"{field}: '{missing[0]}' has no sentence; give at least one for every {kind}: {known}")
    return [given[name] for name in wanted]


def fit_nothing(key: FitKey, init: Initialisation, cases: StudyCases, test: np.ndarray, task: Any, device: torch.device) -> Fit:
    """What the run of an init says of the test cases. test: numbers of cases.

    Without labels no class is known to be more frequent than another: decisions count them all the same.
    """
    assert init.folder is not None
    model = ImageTextModel(init.folder, device)
    images = model.embed_images(init.store, cases.rows_of(init.store)[test], init.maker)
    asked = questions(task, cases.classes)
    answers = [probabilities(images, [model.embed_reports(own) for own in sentences], model.temperature) for sentences in asked]
    said = np.stack([own[:, 1] for own in answers], axis=1) if isinstance(task, MultilabelTask) else answers[0]
    count = sum(len(own) for sentences in asked for own in sentences)
    return Fit(key, 0, 0, cases.target.outcome(said, test[:0], test), {"temperature": model.temperature, "prompts": count})


def probabilities(images: np.ndarray, prompts: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """(cases, answers): softmax of cosine similarity / temperature.

    images: (cases, dim); prompts: of each answer (sentences, dim); unit vectors. An answer is the mean of its sentences, at unit length
    again (CLIP, section 3.1.4).
    """
    from scipy.special import softmax

    answers = unit_length(np.stack([own.mean(0) for own in prompts]))
    return softmax(images @ answers.T / temperature, axis=1)
