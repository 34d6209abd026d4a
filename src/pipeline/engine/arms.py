"""Build the conditions of the arms of a sweep, and run them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.config.contracts import bound, call, reads
from pipeline.config.errors import at_key
from pipeline.config.inputs import Inputs
from pipeline.config.sections import Sweep
from pipeline.data.prompts import select_prompts
from pipeline.engine.decoding import Decoding
from pipeline.engine.sweeps import COMPLETION_COLUMNS, Part, arm_conditions, complete, score_logits
from pipeline.model.loading import LanguageModel


class NothingToRun(ValueError):  # noqa: N818 - named as `NeedsRun`
    """Raised if an arm's node yields no condition."""


@dataclass(frozen=True, eq=False)
class ArmInputs:
    """What an arm's node may read; named as in `contracts.READS`."""

    model: LanguageModel
    prompts: pd.DataFrame
    fits: Mapping[str, Any]
    seed: int


def arm_part(
    sweep: Sweep, arm: str, splits: Sequence[str], name: str, inputs: Inputs | ArmInputs
) -> Part:
    """Build the part `name`: an arm's conditions, baseline first, and its prompts in `splits`.

    Raises:
        ValueError: no such prompts, options that the arm's node rejects, or two conditions with the
            same axes.
        NothingToRun: the node yields no condition.
        NeedsRun: the node needs the model's weights or a fit, but was given a placeholder.
    """
    with at_key(f"sweep.arms.{arm}.prompts"):
        rows = select_prompts(inputs.prompts, sweep.arm(arm).prompts, list(splits))
    node = sweep.node(arm)
    with at_key(f"sweep.arms.{arm}"):
        read = ArmInputs(inputs.model, rows, inputs.fits, sweep.seed)
        conditions = tuple(call(node, read)) if node else ()
        part = Part(name, arm_conditions(arm, conditions), rows)
    if node and not conditions:
        raise NothingToRun(
            f"sweep.arms.{arm}: no condition to run with these options; valid: one or more"
        )
    return part


def run_parts(
    sweep: Sweep, model: LanguageModel, parts: Sequence[Part], work: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the parts, resuming from `work`; a table that `sweep` does not configure is empty.

    Returns:
        Completions, and the long table of logit-metric scores.
    """
    completions = pd.DataFrame(columns=COMPLETION_COLUMNS)
    if sweep.decoding is not None:
        decoding = Decoding(**asdict(sweep.decoding))
        completions = complete(model, parts, work, decoding=decoding, seed=sweep.seed)
    return completions, score_logits(model, parts, *logit_metrics(sweep), work)


def logit_metrics(
    sweep: Sweep,
) -> tuple[dict[str, Callable[..., Tensor]], dict[str, Callable[..., Tensor]]]:
    """Bind the logit metrics of a sweep: those of the next token, and those of the answer."""
    metrics = {name: bound(node) for name, node in sweep.logit_metrics.items()}
    of_answers = [n for n, node in sweep.logit_metrics.items() if reads(node) == ["answers"]]
    return metrics, {name: metrics.pop(name) for name in of_answers}
