"""Logit metrics: logits of the token after a prompt to one score, from a single forward pass.

A logit metric is `metric(after, *, parameters) -> scores [rows]`. Nothing is generated for it. With
`layer` it is that of the logit lens there, from the same pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.model.chat import single_tokens


@runtime_checkable
class Logits(Protocol):
    """Logits [rows, vocab] of the token after the prompt.

    With a layer by the logit lens: what the final norm and the head make of what the layer reads.
    """

    def __call__(self, layer: int | None = None, /) -> Tensor:
        """Raises a ValueError if the model has no such layer."""
        ...


@dataclass(frozen=True)
class NextToken:
    """What a model says of the token after the prompt.

    Attributes:
        logits: as the model is run.
        clean: without any edit.
        tokenizer: the model's.
    """

    logits: Logits
    clean: Logits
    tokenizer: Any

    def ids(self, words: Sequence[str]) -> Int[Tensor, " words"]:
        """The token of each word.

        Raises:
            ValueError: a word that is not one token.
        """
        return torch.tensor(single_tokens(self.tokenizer, words), device=self.logits().device)


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
