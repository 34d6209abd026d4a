"""Scores of prompts under conditions from one forward pass each, without keeping their logits."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.chunks import block_tokens, blocks, pass_tokens
from pipeline.engine.conditions import Condition
from pipeline.engine.edit_table import EditTable
from pipeline.engine.limits import check_aligned, check_context, check_listed
from pipeline.engine.memory import in_batches
from pipeline.engine.restart import Prefix, Start
from pipeline.model.hooks import visiting
from pipeline.model.loading import LanguageModel
from pipeline.model.unembedding import lens_logits

_Score = Callable[[Prefix, Start, list[int], list[int]], Tensor]
"""Scores of rows from one start, given each row's condition and its place in the block."""

_UNEMBEDDED = 256
"""Positions whose logits exist at a time: 0.3 GB in float32 at a vocabulary of 256 thousand."""


class Reading:
    """What one forward pass says of the token after each row.

    `prompts` are the numbers of the rows' prompts in the run.
    """

    def __init__(self, prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> None:
        self._prefix, self._rows = prefix, rows
        self.prompts: list[int] = prefix.numbers[rows].tolist()
        last, self._streams = prefix.streams(start, owners, rows)
        self._logits: dict[int | None, Tensor] = {None: last}

    def logits(self, layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """Logits of rows under their conditions; with a layer by the logit lens.

        That is, if the final norm and the head read what the layer's block reads.

        Raises:
            ValueError: the model has no such layer.
        """
        if layer in self._streams and layer not in self._logits:
            self._logits[layer] = lens_logits(self._prefix.model, self._streams[layer])
        return self._logits[layer] if layer in self._logits else self.clean(layer)

    def clean(self, layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """The same of their prompts without an edit."""
        return self._prefix.clean(self._rows, layer)


def score_last(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measure: Callable[[Tensor], Tensor],
    *,
    batch_tokens: int,
) -> Float[Tensor, "conditions prompts ..."]:
    """Reduce the logits after each prompt's last token to scores, under every condition.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        conditions: what is run on each of them.
        measure: from logits [rows, vocab] after each row's last token to scores.
        batch_tokens: tokens that a batch may have.

    Raises:
        ValueError: nothing to run, a prompt longer than the context, or an edit that never fires.
    """

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        logits, _ = prefix.restart(start, owners, rows)
        return measure(logits)

    return _run(model, prompts, conditions, score, None, batch_tokens=batch_tokens)


def score_change(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measure: Callable[[Reading], Tensor],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "conditions prompts ..."]:
    """The same, measured against the clean run, which the conditions share.

    `measure` is given a `Reading` of rows, for which each pass keeps what every block reads at the
    last token; `only` are numbers of the prompts to run, in the order of the scores, all if left
    out.
    """

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        return measure(Reading(prefix, start, owners, rows))

    return _run(model, prompts, conditions, score, only, batch_tokens=batch_tokens, clean=True)


def cross_entropy(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "conditions texts"]:
    """Mean negative log-probability of each text's tokens, in nats per token, the first left out.

    To position rules the first token is the prompt and the rest is generated. Arguments and errors
    are those of `score_change`.
    """
    if min(map(len, texts)) < 2:
        raise ValueError("a text of fewer than 2 tokens has no cross-entropy")

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        losses, targets = _generated_losses(prefix, start, owners, rows)
        return losses.sum(1) / targets.sum(1)

    ends = [1] * len(texts)
    return _run(model, texts, conditions, score, only, batch_tokens=batch_tokens, ends=ends)


def score_answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "conditions prompts"]:
    """Log-probability of each prompt's answer after it, in nats, summed over the answer's tokens.

    log p(answer | prompt) = sum_i log p(answer_i | prompt, answer_<i). To position rules the
    answer's tokens are generated ones. Other arguments and errors are those of `score_change`.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        answers: tokens of each prompt's answer.
        conditions: what is run on each of them.
        batch_tokens: tokens that a batch may have.
        only: numbers of the prompts to run, in the order of the scores; all if left out.

    Raises:
        ValueError: not one answer for each prompt, or a prompt or an answer without a token.
    """
    if len(answers) != len(prompts):
        raise ValueError(f"{len(answers)} answers to {len(prompts)} prompts; valid: one to each")
    for what, rows in (("prompt", prompts), ("the answer to prompt", answers)):
        for number, tokens in enumerate(rows):
            if not len(tokens):
                raise ValueError(f"{what} {number} has no token")

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        losses, _ = _generated_losses(prefix, start, owners, rows)
        return -losses.sum(1)

    answered = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ends = [len(prompt) for prompt in prompts]
    return _run(model, answered, conditions, score, only, batch_tokens=batch_tokens, ends=ends)


def _generated_losses(
    prefix: Prefix, start: Start, owners: list[int], rows: list[int]
) -> tuple[Float[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Negative log-probability of each token behind its row's prompt, and where these tokens are.

    0 elsewhere; positions begin behind the start's column.
    """
    stream = prefix.stream(start, owners, rows)
    ids = prefix.ids[rows, start.column + 1 :]
    targets = prefix.generated[rows, start.column + 1 :]
    losses = torch.zeros(targets.shape, device=ids.device)
    losses[targets] = _losses(prefix.model, stream[:, :-1][targets], ids[targets])
    return losses, targets


def _losses(
    model: LanguageModel, stream: Float[Tensor, "n d_model"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Negative log-probability of each target after the residual stream before the final norm."""
    parts = zip(stream.split(_UNEMBEDDED), targets.split(_UNEMBEDDED), strict=True)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(
                lens_logits(model, hidden).float(), own, reduction="none"
            )
            for hidden, own in parts
        ]
    )


def _run(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    score: _Score,
    only: Sequence[int] | None,
    *,
    batch_tokens: int,
    ends: Sequence[int] | None = None,
    clean: bool = False,
) -> Tensor:
    numbers = range(len(prompts)) if only is None else only
    if not conditions or not numbers:
        raise ValueError(f"{len(conditions)} conditions of {len(numbers)} prompts: nothing to run")
    check_context(model, prompts)
    check_aligned(conditions, len(prompts))
    lengths = [len(prompt) for prompt in prompts]
    # No token is read from the last one of what follows a prompt.
    read = lengths if ends is None else [length - 1 for length in lengths]
    check_listed(conditions, lengths if ends is None else ends, read)

    run = partial(_scores, model, prompts, conditions, score, numbers, ends=ends, clean=clean)
    return in_batches(model, batch_tokens, run)


def _scores(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    score: _Score,
    numbers: Sequence[int],
    batch_tokens: int,
    *,
    ends: Sequence[int] | None,
    clean: bool,
) -> Tensor:
    results: Tensor | None = None
    table = EditTable(model, conditions)
    lengths = [len(prompts[number]) for number in numbers]
    computed = pass_tokens(model, batch_tokens)
    for own in blocks(lengths, min(computed, block_tokens(batch_tokens, len(conditions)))):
        block = [numbers[n] for n in own]
        block_ends = None if ends is None else [ends[number] for number in block]
        prefix = Prefix(model, prompts, block, table, ends=block_ends, clean=clean)
        with torch.inference_mode(), visiting(model, table.visits):
            for start, some in _together(prefix, batch_tokens, computed):
                owners = [condition for condition in some for _ in block]
                rows = [*range(len(block))] * len(some)
                scores = score(prefix, start, owners, rows).cpu()
                if results is None:
                    shape = len(conditions), len(numbers), *scores.shape[1:]
                    # Made in inference mode it could not be changed outside of it.
                    with torch.inference_mode(False):
                        results = torch.empty(shape, dtype=scores.dtype)
                places = torch.tensor(some)[:, None], torch.tensor(own)
                results[places] = scores.unflatten(0, (len(some), len(block)))
        # The next clean run needs the room.
        del prefix
    table.check_fired()
    assert results is not None
    return results


def _together(prefix: Prefix, held: int, computed: int) -> Iterator[tuple[Start, list[int]]]:
    """Conditions that run in one pass of a block: those of a start, as many as the budgets let.

    Of the budgets, the first is of all tokens that rows hold, the second of those in the pass.
    """
    alike: dict[Start, list[int]] = defaultdict(list)
    for number, start in enumerate(prefix.starts):
        alike[start].append(number)
    for start, members in sorted(alike.items()):
        fed = len(prefix.ids) * max(1, prefix.width - start.column)
        at_once = max(1, min(held // prefix.ids.numel(), computed // fed))
        for first in range(0, len(members), at_once):
            yield start, members[first : first + at_once]
