"""Logit metrics: logits of the token after a prompt to one score, from a single forward pass.

A logit metric is `metric(after, *, parameters) -> scores [rows]`. Nothing is generated for it. With
`layer` it is that of the logit lens there, from the same pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.model.chat import first_token, single_tokens


@runtime_checkable
class Logits(Protocol):
    """Logits [rows, vocab] of the token after the prompt.

    With a layer by the logit lens: what the final norm and the head make of what the layer reads.
    """

    def __call__(self, layer: int | None = None, /) -> Tensor:
        """Raises a ValueError if the model has no such layer."""
        ...


@dataclass(frozen=True, eq=False)
class NextToken:
    """What a model says of the token after the prompt.

    Attributes:
        logits: as the model is run.
        clean: without any edit.
        tokenizer: the model's.
        samples: the dataset's row of each row of logits, with all columns of the dataset.
    """

    logits: Logits
    clean: Logits
    tokenizer: Any
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)

    def ids(self, words: Sequence[str]) -> Int[Tensor, " words"]:
        """The token of each word.

        Raises:
            ValueError: a word that is not one token.
        """
        return torch.tensor(single_tokens(self.tokenizer, words), device=self.logits().device)

    def continuations(self, column: str) -> Int[Tensor, " rows"]:
        """The first token of each sample's text in a column, as it follows the prompt; -1: no text.

        Raises:
            ValueError: no such column, or a text whose tokens do not follow those of its prompt.
        """
        if column not in self.samples:
            raise ValueError(
                f"the dataset has no column {column!r}; it has: {', '.join(self.samples.columns)}"
            )
        rows = zip(self.samples["prompt"], self.samples[column], self.samples["raw"], strict=True)
        ids = [
            first_token(self.tokenizer, prompt, text, raw=bool(raw))
            if isinstance(text, str) and text
            else -1
            for prompt, text, raw in rows
        ]
        return torch.tensor(ids, device=self.logits().device)


def log_odds(
    after: NextToken, *, tokens: list[str], layer: int | None = None
) -> Float64[Tensor, " rows"]:
    """`summed_log_odds` of the tokens, in nats: of refusing, where they begin a refusal.

    Raises:
        ValueError: none is named, one twice, or one that is not a single token.
    """
    if not tokens or len(set(tokens)) < len(tokens):
        raise ValueError(f"tokens = {tokens}; valid: one or more, each once")
    return summed_log_odds(after.logits(layer), after.ids(tokens))


def logit_difference(
    after: NextToken, *, token: str, other: str, layer: int | None = None
) -> Float64[Tensor, " rows"]:
    """logit(token) - logit(other): the log of how many times as likely, in nats.

    Raises:
        ValueError: either is not a single token.
    """
    chosen, against = after.ids([token, other])
    logits = after.logits(layer)
    return (logits[:, chosen] - logits[:, against]).double()


def group_log_odds(
    after: NextToken, *, tokens: list[str], others: list[str], layer: int | None = None
) -> Float64[Tensor, " rows"]:
    """log sum p(tokens) - log sum p(others), in nats.

    Raises:
        ValueError: a group without tokens, a token twice, or one that is not a single token.
    """
    both = [*tokens, *others]
    if not tokens or not others or len(set(both)) < len(both):
        raise ValueError(f"tokens = {tokens}, others = {others}; valid: one or more, each once")
    logits = after.logits(layer).double()
    summed, against = (logits[:, after.ids(group)].logsumexp(-1) for group in (tokens, others))
    return summed - against


def answer_probability(after: NextToken, *, layer: int | None = None) -> Float64[Tensor, " rows"]:
    """p of the first token of the sample's own `answer`; NaN for samples without one.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    return _at(after.logits(layer).double().softmax(-1), after.continuations("answer"))


def answer_rank(after: NextToken, *, layer: int | None = None) -> Float64[Tensor, " rows"]:
    """How many tokens are likelier than the first of the sample's own `answer`; 0 is the top.

    Of tokens that are as likely each has the mean of their ranks: half of the others count. NaN for
    samples without an answer.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    logits = after.logits(layer)
    level = _at(logits, after.continuations("answer"))[:, None]
    likelier, alike = (logits > level).sum(-1), (logits == level).sum(-1)
    return (likelier + (alike - 1) / 2).double().where(~level[:, 0].isnan(), torch.nan)


def answer_over_foil(after: NextToken, *, layer: int | None = None) -> Float64[Tensor, " rows"]:
    """logit(answer) - logit(foil) of the first tokens of the sample's own `answer` and `foil`.

    In nats; NaN for samples that lack one of them.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    logits = after.logits(layer)
    answer, foil = (_at(logits, after.continuations(column)) for column in ("answer", "foil"))
    return answer - foil


def kl_divergence(after: NextToken, *, layer: int | None = None) -> Float64[Tensor, " rows"]:
    """`divergence` from the unedited model, in nats."""
    return divergence(after.clean(layer), after.logits(layer))


def summed_log_odds(
    logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " words"]
) -> Float64[Tensor, " rows"]:
    """log(p + 1e-8) - log(1 - p + 1e-8) in float64, p the summed probability of the tokens.

    Source: Arditi et al. 2024.
    """
    p = logits.double().softmax(-1)[:, tokens].sum(-1)
    return (p + 1e-8).log() - (1 - p + 1e-8).log()


def divergence(
    baseline: Float[Tensor, "rows vocab"], changed: Float[Tensor, "rows vocab"]
) -> Float64[Tensor, " rows"]:
    """Σ p0 (log(p0 + 1e-6) - log(p + 1e-6)) from logits, p0 the baseline, in nats, float64.

    Source: Arditi et al. 2024.
    """
    p0, p = baseline.double().softmax(-1), changed.double().softmax(-1)
    return (p0 * ((p0 + 1e-6).log() - (p + 1e-6).log())).sum(-1)


def _at(
    values: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " rows"]
) -> Float64[Tensor, " rows"]:
    """The value of each row at its own token; NaN at -1."""
    chosen = values.gather(1, tokens.clamp(min=0)[:, None])[:, 0].double()
    return chosen.masked_fill(tokens < 0, torch.nan)
