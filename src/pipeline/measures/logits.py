"""Logit metrics: logits of the token after a prompt to one score, from a single forward pass.

A logit metric is `metric(after, *, parameters) -> scores [rows]`. Nothing is generated for it. With
`layer` it is measured by the logit lens there, in the same pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.model.chat import single_tokens


@dataclass(frozen=True)
class NextToken:
    """What a model makes of the token after each of some prompts.

    Attributes:
        logits: as the model is run.
        clean: without any edit.
        tokenizer: the model's.
        lens: both, if the final norm and the head read what a layer reads.
    """

    logits: Float[Tensor, "rows vocab"]
    clean: Float[Tensor, "rows vocab"]
    tokenizer: Any
    lens: Callable[[int], tuple[Tensor, Tensor]]

    def at(self, layer: int | None) -> "NextToken":
        """The same by the logit lens before a layer; itself if there is none.

        Raises:
            ValueError: the model has no such layer.
        """
        if layer is None:
            return self
        logits, clean = self.lens(layer)
        return replace(self, logits=logits, clean=clean)

    def ids(self, words: Sequence[str]) -> Int[Tensor, " words"]:
        """The token of each word.

        Raises:
            ValueError: a word that is not one token.
        """
        return torch.tensor(single_tokens(self.tokenizer, words), device=self.logits.device)


def log_odds(
    after: NextToken, *, tokens: list[str], layer: int | None = None
) -> Float64[Tensor, " rows"]:
    """`summed_log_odds` of the tokens, in nats: of refusing, where they begin a refusal.

    Raises:
        ValueError: none is named, one twice, or one that is not a single token.
    """
    if not tokens or len(set(tokens)) < len(tokens):
        raise ValueError(f"tokens = {tokens}; valid: one or more, each once")
    return summed_log_odds(after.at(layer).logits, after.ids(tokens))


def logit_difference(
    after: NextToken, *, token: str, other: str, layer: int | None = None
) -> Float64[Tensor, " rows"]:
    """logit(token) - logit(other): the log of how many times as likely, in nats.

    Raises:
        ValueError: either is not a single token.
    """
    chosen, against = after.ids([token, other])
    logits = after.at(layer).logits
    return (logits[:, chosen] - logits[:, against]).double()


def kl_divergence(after: NextToken, *, layer: int | None = None) -> Float64[Tensor, " rows"]:
    """`divergence` from the unedited model, in nats."""
    seen = after.at(layer)
    return divergence(seen.clean, seen.logits)


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
