"""An init that is trained first on another label, as much pretraining is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from medcl.encoders import Encoder
from medcl.evaluation.classes import Classes
from medcl.evaluation.finetune import Budget, FinetuneFits
from medcl.evaluation.fits import basis_of
from medcl.evaluation.given import Given
from medcl.evaluation.label_fraction import Splits
from medcl.evaluation.settings import SupervisedConfig
from medcl.evaluation.study_data import Draws, StudyCases, hash_of_store, label_words
from medcl.foundation.errors import DataError
from medcl.foundation.files import write_bytes
from medcl.store.volume_store import VolumeStore
from medcl.views.batched import ViewMaker

INITIAL = "initial"


def learn_weights(
    config: SupervisedConfig,
    build: Callable[[int], Encoder],
    store: VolumeStore,
    maker: ViewMaker,
    cases: StudyCases,
    draws: Draws,
    budget: Budget,
    study: Path,
) -> Given:
    """Train an encoder on another label of the study's training cases; validation cases choose the step, test cases are never seen.

    What was learned is kept in the study and not learned again. Raises DataError where the label has fewer than two classes
    among the training or the validation cases.
    """
    rows = cases.rows_of(store)
    words = np.array(label_words(store.index, store.labels, config.label))[rows]
    known = words != ""
    names = tuple(sorted(set(words[known])))
    parts = Draws(Splits(np.where(known, draws.splits.name, ""), draws.splits.origin), {}, (), ())
    for part, chosen in (("training", parts.train), ("validation", parts.val)):
        if len(set(words[chosen])) < 2:
            raise DataError(f"label '{config.label}': the {part} cases hold {len(set(words[chosen]))} of its classes; two are needed")
    label = np.where(known, np.searchsorted(names, words), 0)
    digest = basis_of(
        settings=config.model_dump(mode="json"),
        budget=budget.config.model_dump(mode="json", exclude={"workers", "learning_rates", "distill"}),
        seed=budget.seed,
        views=maker.resolved(),
        store=hash_of_store(store),
        cases=[cases.volume[chosen].tolist() for chosen in (parts.train, parts.val)],
        label=label.tolist(),
    )
    said = f"trained from scratch on label '{config.label}' of {len(parts.train)} training cases, {config.num_steps} steps"
    path = study / INITIAL / f"{digest[:24]}.safetensors"
    try:
        return Given("supervised", load_file(path), digest, said)
    except (OSError, SafetensorError):
        pass
    longer = budget.config.model_copy(update={"num_steps": config.num_steps, "head_share": 0.0})
    own = Budget(longer, budget.place, budget.seed)
    method, _ = FinetuneFits(build, store, rows, maker, Classes(label, names), parts, own).learn(parts.train, 0, config.learning_rate)
    state = {name: tensor.cpu().contiguous() for name, tensor in method.backbone.state_dict().items()}
    write_bytes(path, save(state))
    return Given("supervised", state, digest, said)
