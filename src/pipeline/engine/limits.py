"""What cannot work in any packing of a run's rows, said before it runs."""

from collections.abc import Sequence

from pipeline.engine.conditions import Condition, Fitted, PerPrompt, Places
from pipeline.model.loading import LanguageModel


def check_context(model: LanguageModel, prompts: Sequence[Sequence[int]], new: int = 0) -> None:
    """Fail if a sequence would not fit into the model's context.

    Raises:
        ValueError: names both lengths.
    """
    limit = model.config.max_position_embeddings
    longest = max(map(len, prompts), default=0) + new
    if longest > limit:
        raise ValueError(
            f"{longest} tokens (prompt and completion) pass the context of {model.name}: {limit}"
        )


def check_scored(ends: Sequence[int], lengths: Sequence[int]) -> None:
    """Fail if a sequence has no prompt, or no token behind it to score.

    Args:
        ends: how many tokens are each sequence's prompt.
        lengths: how many each has.

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
    """Fail if an edit is at a site that the model does not have or that the edit does not fit.

    Raises:
        ValueError: names the site and what does not fit.
    """
    for condition in conditions:
        for edit in condition.edits:
            model.check(edit.site)
            fields = vars(edit.intervention).values()
            fitted = [value for value in fields if isinstance(value, Fitted)]
            for part in [edit.intervention, *fitted]:
                if hasattr(part, "check"):
                    part.check(model, edit.site)


def check_aligned(conditions: Sequence[Condition], n_prompts: int) -> None:
    """Fail if what an edit has for each prompt is not of as many prompts as the run has.

    Raises:
        ValueError: names the condition, the site and both numbers.
    """
    for condition in conditions:
        for edit in condition.edits:
            fields = [*vars(edit.intervention).items(), ("positions", edit.positions)]
            for name, value in fields:
                if isinstance(value, PerPrompt | Places) and len(value.of) != n_prompts:
                    raise ValueError(
                        f"{condition}: the edit at {edit.site} has {name} of {len(value.of)} "
                        f"prompts; the run has {n_prompts}"
                    )


def check_listed(
    conditions: Sequence[Condition], ends: Sequence[int], lengths: Sequence[int]
) -> None:
    """Fail if no sequence of the run has a position that an edit names.

    Args:
        conditions: what will run on every prompt.
        ends: where to position rules each prompt ends.
        lengths: how many tokens of its sequence the model can be fed at most.

    Raises:
        ValueError: names the condition, the site and the positions.
    """
    for condition in conditions:
        for edit in condition.edits:
            rule = edit.positions
            if isinstance(rule, Places):
                listed: Sequence[tuple[int, ...]] = rule.of
            elif isinstance(rule, tuple):
                listed = [rule] * len(ends)
            elif rule == "generated":
                listed = [(end,) for end in ends]
            elif rule == "after_first":
                listed = [(1,)] * len(ends)
            else:
                continue
            named = (
                -end <= position < length
                for own, end, length in zip(listed, ends, lengths, strict=True)
                for position in own
            )
            if not any(named):
                raise ValueError(
                    f"{condition}: the edit at {edit.site} never fires: no sequence has positions "
                    f"{rule!r}"
                )
