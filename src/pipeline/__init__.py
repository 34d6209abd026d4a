"""actsweep: activation steering and interpretability of language models.

The names below are what a notebook needs; they are imported when first used, so that a stage pays
only for what it takes.
"""

import os
from importlib import import_module
from typing import Any

# Threads of one operation spin while they wait for each other; OpenMP's 300 000 turns cost little
# on idle cores and most of the time where other processes use them. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_NAMES = {
    "ActivationStore": "pipeline.store.store",
    "Add": "pipeline.methods.interventions",
    "Condition": "pipeline.engine.conditions",
    "Decoding": "pipeline.engine.decoding",
    "Edit": "pipeline.engine.conditions",
    "LanguageModel": "pipeline.model.loading",
    "PerPrompt": "pipeline.engine.conditions",
    "PerToken": "pipeline.engine.conditions",
    "ProjectOut": "pipeline.methods.interventions",
    "RankOne": "pipeline.methods.interventions",
    "Replace": "pipeline.methods.interventions",
    "Scale": "pipeline.measures.scale",
    "Site": "pipeline.model.sites",
    "Subtract": "pipeline.methods.interventions",
    "activation_table": "pipeline.methods.notebook",
    "collect": "pipeline.engine.collection",
    "completion_table": "pipeline.methods.notebook",
    "difference_of_means": "pipeline.methods.vectors",
    "generate": "pipeline.engine.generation",
    "load_direction": "pipeline.methods.notebook",
    "log_probabilities": "pipeline.methods.notebook",
    "logit_lens": "pipeline.methods.lenses.logit_lens",
    "logits": "pipeline.methods.notebook",
    "positions_of": "pipeline.methods.notebook",
    "prompt_table": "pipeline.methods.notebook",
    "save_direction": "pipeline.methods.notebook",
}
__all__ = list(_NAMES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)
