"""Score prompts under conditions with one forward pass each, without storing logits."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.engine.conditions import Condition
from pipeline.engine.restart import BaseRun, Start
from pipeline.engine.scorer import Score, Scorer
from pipeline.model.finite import check_finite, is_finite
from pipeline.model.loading import LanguageModel
from pipeline.model.unembedding import lens_logits

_UNEMBEDDED = 256
"""Positions unembedded at a time: 0.3 GB of float32 logits with a vocabulary of 256 000."""


class RowLogits:
    """Next-token logits of rows from one forward pass, edited and clean, with the logit lens."""

    def __init__(self, base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> None:
        self._base_run, self._rows = base_run, rows
        last, self._streams = base_run.streams(start, owners, rows)
        self._logits: dict[int | None, Tensor] = {None: last}

    @property
    def prompts(self) -> list[int]:
        """Index in the run of each row's prompt."""
        return self._base_run.numbers[self._rows].tolist()

    def logits(self, layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """Return the logits of rows under their conditions; with a layer, by the logit lens.

        The logit lens applies the final norm and the unembedding to the layer's `resid_pre`.

        Raises:
            ValueError: the model has no such layer.
        """
        if layer in self._streams and layer not in self._logits:
            self._logits[layer] = lens_logits(self._base_run.model, self._streams[layer])
        if layer in self._logits:
            return self._logits[layer]
        return self._base_run.logits(self._rows, layer)

    def clean(self, layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """Return the same logits from the clean run."""
        return self._base_run.clean.logits(self._rows, layer)


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
        conditions: conditions to run on every prompt.
        measure: maps logits [rows, vocab] after each row's last token to scores.
        batch_tokens: token budget of a batch.

    Raises:
        ValueError: nothing to run, a prompt longer than the context, or an edit that never fires.
    """

    def score(base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        logits, _ = base_run.restart(start, owners, rows)
        return measure(logits)

    return Scorer(model, prompts, conditions, score, batch_tokens=batch_tokens)()


def score_change(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measure: Callable[[RowLogits], Tensor],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "conditions prompts ..."]:
    """Score prompts under every condition against the clean run, which the conditions share.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        conditions: conditions to run on every prompt.
        measure: maps the `RowLogits` of rows to scores. For its logit lens, each pass stores every
            block's `resid_pre` at the last token.
        batch_tokens: token budget of a batch.
        only: indexes of the prompts to run, in the order of the scores; None for all.
    """
    score = of_row_logits(measure)
    return Scorer(model, prompts, conditions, score, batch_tokens=batch_tokens, clean=True)(only)


def of_row_logits(measure: Callable[[RowLogits], Tensor]) -> Score:
    """Turn a function of `RowLogits` into a `Score`."""

    def score(base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        return measure(RowLogits(base_run, start, owners, rows))

    return score


def cross_entropy(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "conditions texts"]:
    """Compute each text's mean cross-entropy in nats per token, without its first token.

    To position rules, the first token is the prompt and the others are generated. Every text needs
    at least two tokens. Other arguments and errors as for `score_change`.
    """
    ends = [1] * len(texts)
    return Scorer(model, texts, conditions, mean_loss, batch_tokens=batch_tokens, ends=ends)(only)


def log_probability(base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> Tensor:
    """Compute the log-probability of rows' generated tokens, in nats, summed over tokens.

    log p(answer | prompt) = sum_i log p(answer_i | prompt, answer_<i)
    """
    losses, _ = _generated_losses(base_run, start, owners, rows)
    return -losses.sum(1)


def mean_loss(base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> Tensor:
    """Compute the score of `cross_entropy` for rows."""
    losses, targets = _generated_losses(base_run, start, owners, rows)
    return losses.sum(1) / targets.sum(1)


def log_probability_and_match(
    base_run: BaseRun, start: Start, owners: list[int], rows: list[int]
) -> Tensor:
    """Compute the log-probability of rows' generated tokens, and whether decoding begins with them.

    The second score is 1 if each token is the top one after the prompt and the tokens before, else
    0.
    """
    losses, targets = _generated_scores(base_run, start, owners, rows, _losses_and_tops)
    losses, tops = losses.unbind(-1)
    return torch.stack([-losses.sum(1), (tops.bool() | ~targets).all(1).float()], -1)


def score_answers(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int,
    only: Sequence[int] | None = None,
    score: Score = log_probability,
) -> Float[Tensor, "conditions prompts ..."]:
    """Score each prompt's answer: by default log p(answer | prompt), in nats.

    `answers` are the tokens of one answer per prompt; position rules see them as generated tokens.
    Other arguments and errors as for `score_change`.

    Raises:
        ValueError: not one answer per prompt, or a prompt or answer without a token.
    """
    if len(answers) != len(prompts):
        raise ValueError(f"{len(answers)} answers to {len(prompts)} prompts; valid: one per prompt")
    answered = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    ends = [len(prompt) for prompt in prompts]
    scorer = Scorer(model, answered, conditions, score, batch_tokens=batch_tokens, ends=ends)
    return scorer(only)


def _generated_losses(
    base_run: BaseRun, start: Start, owners: list[int], rows: list[int]
) -> tuple[Float[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Return the loss of each token after the prompt, 0 elsewhere, and the mask of these tokens.

    Losses are negative log-probabilities.
    """
    return _generated_scores(base_run, start, owners, rows, _losses)


def _generated_scores(
    base_run: BaseRun,
    start: Start,
    owners: list[int],
    rows: list[int],
    score: Callable[[LanguageModel, Tensor, Tensor], Tensor],
) -> tuple[Float[Tensor, "rows pos ..."], Bool[Tensor, "rows pos"]]:
    """Return the scores of each token after the prompt, 0 elsewhere, and the mask of these tokens.

    The first position is the one after the start's column. `score` is given the model, the final
    residual stream before each token and the tokens.
    """
    stream = base_run.stream(start, owners, rows)
    ids = base_run.ids[rows, start.column + 1 :]
    targets = base_run.generated[rows, start.column + 1 :]
    scored = score(base_run.model, stream[:, :-1][targets], ids[targets])
    scores = torch.zeros(*targets.shape, *scored.shape[1:], device=ids.device)
    scores[targets] = scored
    under = [base_run.conditions[owner] for owner in owners]
    check_finite(is_finite(scores.flatten(1)), base_run.model.dtype, "log-probabilities", under)
    return scores, targets


def _losses_and_tops(
    model: LanguageModel, stream: Float[Tensor, "n d_model"], targets: Int[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """Return each target's negative log-probability, and 1 where it is the top token, else 0."""
    scores = []
    for hidden, tokens in zip(stream.split(_UNEMBEDDED), targets.split(_UNEMBEDDED), strict=True):
        logits = lens_logits(model, hidden).float()
        losses = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
        scores.append(torch.stack([losses, (logits.argmax(-1) == tokens).float()], -1))
    return torch.cat(scores)


def _losses(
    model: LanguageModel, stream: Float[Tensor, "n d_model"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the negative log-probability of each target, given the final residual stream."""
    parts = zip(stream.split(_UNEMBEDDED), targets.split(_UNEMBEDDED), strict=True)
    loss = partial(torch.nn.functional.cross_entropy, reduction="none")
    return torch.cat([loss(lens_logits(model, hidden).float(), tokens) for hidden, tokens in parts])
