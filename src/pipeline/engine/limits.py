"""Check a run's prompts and edits before the model runs."""

import logging
from collections.abc import Sequence

from torch import Tensor

from pipeline.engine.conditions import Condition, Edit, Fitted, PerPrompt, PromptPositions
from pipeline.model.loading import LanguageModel

log = logging.getLogger(__name__)

LARGEST = 1e18
"""Norms are computed in float32, which ends at 3.4e38: the square of a larger activation overflows,
and the normalised state is silently 0.
"""


def check_model(model: object) -> None:
    """Check that a model is loaded.

    Raises:
        ValueError: a path or something else in place of a model.
    """
    if not isinstance(model, LanguageModel):
        raise ValueError(f"model is {model!r}; valid: a model, as `LanguageModel.load(path)` makes")


def check_context(model: LanguageModel, prompts: Sequence[Sequence[int]], new: int = 0) -> None:
    """Check that the longest prompt and `new` more tokens fit into the model's context.

    Raises:
        ValueError: names both lengths.
    """
    limit = model.config.max_position_embeddings
    longest = max(map(len, prompts), default=0) + new
    if longest > limit:
        raise ValueError(
            f"{longest} tokens (prompt and completion) exceed the context of {model.name}: {limit}"
        )


def check_listed_run(
    model: LanguageModel, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition]
) -> None:
    """Check that the model is loaded, prompts are lists of tokens, and conditions a list.

    Raises:
        ValueError: another model, texts, an empty prompt, or a single condition.
    """
    check_model(model)
    if hasattr(prompts, "columns"):
        raise ValueError("prompts is a table; valid: its tokens, as table['tokens'].tolist()")
    if not isinstance(prompts, list | tuple):
        raise ValueError(
            f"prompts is a {type(prompts).__name__}; valid: a list of lists of tokens, as "
            "`model.prompts(texts)` returns it"
        )
    if not isinstance(conditions, Condition | list | tuple):
        raise ValueError(f"conditions is a {type(conditions).__name__}; valid: a list")
    for condition in () if isinstance(conditions, Condition) else conditions:
        if not isinstance(condition, Condition):
            raise ValueError(
                f"a condition is a {type(condition).__name__}; valid: Condition(edits=(edit,))"
            )
    if isinstance(conditions, Condition):
        raise ValueError("conditions is one Condition; valid: a list, such as [Condition(), ...]")
    size = model.hf.get_input_embeddings().weight.shape[0]
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str | int):
            raise ValueError(
                f"prompt {number} is {prompt!r}; valid: its tokens, as `model.prompts(texts)` "
                "returns them"
            )
        if len(prompt) == 0:
            raise ValueError(f"prompt {number} has no tokens")
        wrong = [
            token
            for token in prompt
            if isinstance(token, bool) or not 0 <= token < size or token != int(token)
        ]
        if wrong:
            raise ValueError(f"prompt {number} has token {wrong[0]}; valid: 0 to {size - 1}")


def check_scored(ends: Sequence[int], lengths: Sequence[int]) -> None:
    """Check that every sequence has a prompt and at least one token after it to score.

    Args:
        ends: number of prompt tokens of each sequence.
        lengths: number of all tokens of each sequence.

    Raises:
        ValueError: names the sequence and both numbers.
    """
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        if not 0 < end < length:
            raise ValueError(
                f"sequence {number} of the run has {end} tokens of prompt and {length - end} to "
                f"score; valid: 1 or more of both"
            )


def check_sites(model: LanguageModel, conditions: Sequence[Condition]) -> None:
    """Check that the model has the site of every edit, and that the edit fits it.

    Raises:
        ValueError: names the site and the mismatch, or a value above `LARGEST`.
    """
    for condition in conditions:
        for edit in condition.edits:
            model.check(edit.site)
            _check_size(condition, edit)
            fields = vars(edit.intervention).values()
            fitted = [value for value in fields if isinstance(value, Fitted)]
            for part in [edit.intervention, *fitted]:
                if hasattr(part, "check"):
                    part.check(model, edit.site)


def check_rule_of(positions: object, n_prompts: int) -> None:
    """Check that positions that differ by prompt are those of the run's prompts.

    Raises:
        ValueError: names both numbers.
    """
    if isinstance(positions, PromptPositions) and len(positions.of) != n_prompts:
        raise ValueError(
            f"positions {positions.rule!r} are of {len(positions.of)} prompts; the run has "
            f"{n_prompts}"
        )


def _check_size(condition: Condition, edit: Edit) -> None:
    """Fail if the product of an edit's fields, such as strength and direction, is too large."""
    product = 1.0
    for value in vars(edit.intervention).values():
        values = value.of if isinstance(value, PerPrompt) else value
        if isinstance(values, Tensor):
            product *= float(values.abs().max()) if values.numel() else 1.0
        elif isinstance(values, int | float):
            product *= abs(values)
    if product != product:
        raise ValueError(f"{condition}: the edit at {edit.site} has values that are not a number")
    if product > LARGEST:
        raise ValueError(
            f"{condition}: the edit at {edit.site} has values up to {product:.3g}, which overflow "
            f"in the norm; valid: up to {LARGEST:g}"
        )


def check_aligned(conditions: Sequence[Condition], n_prompts: int) -> None:
    """Check that `PerPrompt` and `PromptPositions` have one entry per prompt of the run.

    Raises:
        ValueError: names the condition, the site, the field and both numbers.
    """
    for condition in conditions:
        for edit in condition.edits:
            fields = [*vars(edit.intervention).items(), ("positions", edit.positions)]
            for name, value in fields:
                if isinstance(value, PerPrompt | PromptPositions) and len(value.of) != n_prompts:
                    raise ValueError(
                        f"{condition}: the edit at {edit.site} has {name} of {len(value.of)} "
                        f"prompts; the run has {n_prompts}"
                    )


def check_listed(
    conditions: Sequence[Condition], ends: Sequence[int], lengths: Sequence[int]
) -> None:
    """Check that every edit's position rule selects a token of at least one sequence.

    Warns of positions in a list that some sequences do not have, once for all conditions of an arm.

    Args:
        conditions: conditions that will run on every prompt.
        ends: number of prompt tokens of each sequence, for position rules.
        lengths: most tokens of each sequence that the model is fed.

    Raises:
        ValueError: names the condition, the site and the positions.
    """
    warnings: dict[str, None] = {}
    for condition in conditions:
        for edit in condition.edits:
            rule = edit.positions
            if isinstance(rule, PromptPositions):
                listed: Sequence[tuple[int, ...]] = rule.of
            elif isinstance(rule, tuple):
                listed = [rule] * len(ends)
            elif rule == "generated":
                listed = [(end,) for end in ends]
            elif rule == "after_first":
                listed = [(1,)] * len(ends)
            else:
                continue
            sequences = list(zip(listed, ends, lengths, strict=True))
            if not any(-end <= at < most for named, end, most in sequences for at in named):
                raise ValueError(
                    f"{condition}: the edit at {edit.site} never fires: no sequence has positions "
                    f"{rule!r}"
                )
            for at in rule if isinstance(rule, tuple) else ():
                missing = sum(not -end <= at < most for _, end, most in sequences)
                if missing:
                    arm = f"arm {condition.axes['arm']}: " if "arm" in condition.axes else ""
                    warnings[
                        f"{arm}an edit names position {at}, which {missing} of {len(sequences)} "
                        "prompts do not have: they are not edited there"
                    ] = None
    for warning in warnings:
        log.warning("%s", warning)
