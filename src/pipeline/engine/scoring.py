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
from pipeline.engine.limits import (
    check_aligned,
    check_context,
    check_listed,
    check_scored,
    check_sites,
)
from pipeline.engine.memory import in_batches
from pipeline.engine.restart import Prefix, Start
from pipeline.model.hooks import visiting
from pipeline.model.loading import LanguageModel
from pipeline.model.unembedding import lens_logits

Score = Callable[[Prefix, Start, list[int], list[int]], Tensor]
"""Scores of rows from one start, given each row's condition and its place in the block."""

_UNEMBEDDED = 256
"""Positions whose logits exist at a time: 0.3 GB in float32 at a vocabulary of 256 thousand."""


class Reading:
    """What one forward pass says of the token after each row."""

    def __init__(self, prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> None:
        self._prefix, self._rows = prefix, rows
        last, self._streams = prefix.streams(start, owners, rows)
        self._logits: dict[int | None, Tensor] = {None: last}

    @property
    def prompts(self) -> list[int]:
        """Numbers of the rows' prompts in the run."""
        return self._prefix.numbers[self._rows].tolist()

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

    return Scorer(model, prompts, conditions, score, batch_tokens=batch_tokens)()


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
    score = of_reading(measure)
    return Scorer(model, prompts, conditions, score, batch_tokens=batch_tokens, clean=True)(only)


def of_reading(measure: Callable[[Reading], Tensor]) -> Score:
    """The score that `measure` makes of a `Reading` of rows."""

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        return measure(Reading(prefix, start, owners, rows))

    return score


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
    are those of `score_change`; every text has two tokens at least.
    """
    ends = [1] * len(texts)
    return Scorer(model, texts, conditions, mean_loss, batch_tokens=batch_tokens, ends=ends)(only)


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

    log p(answer | prompt) = sum_i log p(answer_i | prompt, answer_<i). `answers` are the tokens of
    each prompt's own, to position rules generated ones. Other arguments and errors are those of
    `score_change`.

    Raises:
        ValueError: not one answer for each prompt, or a prompt or an answer without a token.
    """
    if len(answers) != len(prompts):
        raise ValueError(f"{len(answers)} answers to {len(prompts)} prompts; valid: one to each")

    def score(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        losses, _ = _generated_losses(prefix, start, owners, rows)
        return -losses.sum(1)

    answered = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ends = [len(prompt) for prompt in prompts]
    return Scorer(model, answered, conditions, score, batch_tokens=batch_tokens, ends=ends)(only)


def mean_loss(prefix: Prefix, start: Start, owners: list[int], rows: list[int]) -> Tensor:
    """The score of `cross_entropy`."""
    losses, targets = _generated_losses(prefix, start, owners, rows)
    return losses.sum(1) / targets.sum(1)


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
    loss = partial(torch.nn.functional.cross_entropy, reduction="none")
    return torch.cat([loss(lens_logits(model, hidden).float(), tokens) for hidden, tokens in parts])


class Scorer:
    """A score of prompts under conditions: checked once, computed for some prompts at a time.

    Args:
        model: the model.
        prompts: tokens of all prompts, and of what follows them.
        conditions: what is run on each of them.
        score: of rows of a block.
        batch_tokens: tokens that a batch may have.
        ends: where each prompt ends; None: nothing follows them.
        clean: the score is measured against the clean run.

    Raises:
        ValueError: nothing to run, a sequence longer than the context, or an edit that does not fit
            or never fires.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        score: Score,
        *,
        batch_tokens: int,
        ends: Sequence[int] | None = None,
        clean: bool = False,
    ) -> None:
        _check_any(conditions, prompts)
        self._model, self._prompts, self._score = model, prompts, score
        self._batch_tokens, self._ends, self._clean = batch_tokens, ends, clean
        self._lengths = [len(prompt) for prompt in prompts]
        if ends is not None:
            check_scored(ends, self._lengths)
        check_context(model, prompts)
        check_sites(model, conditions)
        check_aligned(conditions, len(prompts))
        # Nothing is read from the last token of what follows a prompt.
        read = [length - (ends is not None) for length in self._lengths]
        check_listed(conditions, ends or self._lengths, read)
        self._table = EditTable(model, conditions)

    def __call__(
        self, only: Sequence[int] | None = None
    ) -> Float[Tensor, "conditions prompts ..."]:
        """Scores of the prompts with these numbers, in their order; of all if left out.

        Raises:
            ValueError: no prompt, or an edit that never touched a token.
        """
        numbers = range(len(self._prompts)) if only is None else only
        _check_any(self._table.conditions, numbers)
        return in_batches(self._model, self._batch_tokens, partial(self._scores, numbers))

    def _scores(self, numbers: Sequence[int], batch_tokens: int) -> Tensor:
        results: Tensor | None = None
        model, table = self._model, self._table
        table.expect_all()
        lengths = [self._lengths[number] for number in numbers]
        computed = pass_tokens(model, batch_tokens)
        share = block_tokens(batch_tokens, len(table.conditions))
        for members in blocks(lengths, min(computed, share)):
            block = [numbers[n] for n in members]
            ends = None if self._ends is None else [self._ends[number] for number in block]
            prefix = Prefix(model, self._prompts, block, table, ends=ends, clean=self._clean)
            with torch.inference_mode(), visiting(model, table.visits):
                for start, some in _together(prefix, batch_tokens, computed):
                    owners = [condition for condition in some for _ in block]
                    rows = [*range(len(block))] * len(some)
                    scores = self._score(prefix, start, owners, rows).cpu()
                    if results is None:
                        shape = len(table.conditions), len(numbers), *scores.shape[1:]
                        # Made in inference mode it could not be changed outside of it.
                        with torch.inference_mode(False):
                            results = torch.empty(shape, dtype=scores.dtype)
                    places = torch.tensor(some)[:, None], torch.tensor(members)
                    results[places] = scores.unflatten(0, (len(some), len(block)))
            # The next clean run needs the room.
            del prefix
        table.check_fired()
        assert results is not None
        return results


def _check_any(conditions: Sequence[Condition], prompts: Sequence[object]) -> None:
    if not conditions or not prompts:
        raise ValueError(f"{len(conditions)} conditions of {len(prompts)} prompts: nothing to run")


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
