"""Logit metrics: one score per prompt from the next-token logits of a single forward pass.

A logit metric is `metric(after, *, options) -> scores [rows]` with a `NextToken`, or
`metric(answers, *, options)` with the log-probability of each sample's answer. It needs no
generation. With `layer` it uses the logit lens at that layer, from the same pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.measures.scale import Scale
from pipeline.measures.text import texts_of
from pipeline.model.tokenization import first_token, single_tokens


@runtime_checkable
class Logits(Protocol):
    """Next-token logits [rows, vocab] at the end of the prompt.

    With a layer, by the logit lens: final norm and unembedding applied to that layer's `resid_pre`.
    """

    def __call__(self, layer: int | None = None, /) -> Tensor:
        """Raises a ValueError if the model has no such layer."""
        ...


@dataclass(frozen=True, eq=False)
class NextToken:
    """The next-token logits after each prompt, edited and clean.

    Attributes:
        logits: of the edited model.
        clean: of the unedited model.
        tokenizer: the model's.
        samples: the dataset row of each row of logits, with all columns.
    """

    logits: Logits
    clean: Logits
    tokenizer: Any
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)

    def ids(self, words: Sequence[str]) -> Int[Tensor, " words"]:
        """Return the token id of each word.

        Raises:
            ValueError: a word is not a single token.
        """
        return torch.tensor(single_tokens(self.tokenizer, words), device=self.logits().device)

    def continuations(self, column: str) -> Int[Tensor, " rows"]:
        """Return the first token of each sample's text in a column as it continues the prompt.

        -1 if a sample has no text.

        Raises:
            ValueError: no such column, a value that is no text, or prompt and text do not tokenise
                as prompt + text.
        """
        if column not in self.samples:
            raise ValueError(
                f"the dataset has no column {column!r}; it has: {', '.join(self.samples.columns)}"
            )
        texts = texts_of(self.samples, column)
        rows = zip(self.samples["prompt"], texts, self.samples["raw"], strict=True)
        ids = [
            first_token(self.tokenizer, prompt, text, raw=bool(raw)) if text else -1
            for prompt, text, raw in rows
        ]
        return torch.tensor(ids, device=self.logits().device)


def log_odds(
    after: NextToken, *, tokens: list[str], layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("log-odds of {tokens}", "nats")]:
    """Compute `summed_log_odds` of the tokens, in nats: a refusal score if they begin refusals.

    Raises:
        ValueError: no tokens, a duplicate, or a word that is not a single token.
    """
    if not tokens or len(set(tokens)) < len(tokens):
        raise ValueError(f"tokens = {tokens}; valid: one or more, each once")
    return summed_log_odds(after.logits(layer), after.ids(tokens))


def logit_difference(
    after: NextToken, *, token: str, foil: str, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("logit({token}) - logit({foil})", "nats")]:
    """Compute logit(token) - logit(foil), the log of their probability ratio, in nats.

    Raises:
        ValueError: either is not a single token.
    """
    chosen, against = after.ids([token, foil])
    logits = after.logits(layer)
    return (logits[:, chosen] - logits[:, against]).double()


def group_log_odds(
    after: NextToken, *, tokens: list[str], foils: list[str], layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("log-odds of {tokens} against {foils}", "nats")]:
    """Compute log sum p(tokens) - log sum p(foils), in nats.

    Raises:
        ValueError: an empty group, a duplicate, or a word that is not a single token.
    """
    both = [*tokens, *foils]
    if not tokens or not foils or len(set(both)) < len(both):
        raise ValueError(f"tokens = {tokens}, foils = {foils}; valid: one or more, each once")
    logits = after.logits(layer).double()
    summed, against = (logits[:, after.ids(group)].logsumexp(-1) for group in (tokens, foils))
    return summed - against


def label_log_odds(
    after: NextToken, *, groups: dict[str, list[str]], layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("log-odds of the label's words", "nats")]:
    """Compute log sum p(words of the sample's label) - log sum p(words of all other labels).

    In nats; NaN for samples whose label has no group.

    Args:
        after: the logits, and samples with a `label`.
        groups: label -> words of a single token each.
        layer: see the module.

    Raises:
        ValueError: as `token_groups`.
    """
    levels = group_levels(after.logits(layer), token_groups(after.tokenizer, groups))
    labels = after.samples["label"].tolist()
    columns = torch.tensor(
        [list(groups).index(label) if label in groups else -1 for label in labels],
        device=levels.device,
    )
    is_own = columns[:, None] == torch.arange(len(groups), device=levels.device)
    others = levels.masked_fill(is_own, -torch.inf).logsumexp(-1)
    return at_tokens(levels, columns) - others


def top_token_changes(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("the top token changes", share=True)]:
    """Score 1 if the top token is not that of the unedited model, else 0."""
    return (after.logits(layer).argmax(-1) != after.clean(layer).argmax(-1)).double()


def kl_divergence(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("KL divergence from the unedited model", "nats")]:
    """Compute Σ p0 (log p0 - log p), p0 the unedited model's, in nats and float64."""
    log_p0 = after.clean(layer).double().log_softmax(-1)
    log_p = after.logits(layer).double().log_softmax(-1)
    return (log_p0.exp() * (log_p0 - log_p)).sum(-1)


def token_groups(tokenizer: Any, groups: Mapping[str, Sequence[str]]) -> list[Int[Tensor, "_"]]:
    """Return the token ids of each group of words.

    Raises:
        ValueError: fewer than two groups, an empty group, a word twice, or a word that is not a
            single token.
    """
    words = [word for group in groups.values() for word in group]
    if len(groups) < 2 or not all(groups.values()) or len(set(words)) < len(words):
        raise ValueError(
            f"groups = {dict(groups)}; valid: two labels or more, each with words, each word once"
        )
    return [torch.tensor(single_tokens(tokenizer, group)) for group in groups.values()]


def group_levels(
    logits: Float[Tensor, "rows vocab"], groups: Sequence[Int[Tensor, "_"]]
) -> Float64[Tensor, "rows groups"]:
    """Compute the log of each group's summed probability, in nats.

    Sums over the vocabulary are in the dtype of the logits, those over a group in float64.
    """
    total = logits.logsumexp(-1).double()
    levels = [logits[:, group.to(logits.device)].double().logsumexp(-1) for group in groups]
    return torch.stack(levels, -1) - total[:, None]


def summed_log_odds(
    logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " words"]
) -> Float64[Tensor, " rows"]:
    """Compute log(p + 1e-8) - log(1 - p + 1e-8) in float64, p the tokens' summed probability.

    Source: Arditi et al. 2024.
    """
    p = logits.double().softmax(-1)[:, tokens].sum(-1)
    return (p + 1e-8).log() - (1 - p + 1e-8).log()


def divergence(
    baseline: Float[Tensor, "rows vocab"], changed: Float[Tensor, "rows vocab"]
) -> Float64[Tensor, " rows"]:
    """Compute Σ p0 (log(p0 + 1e-6) - log(p + 1e-6)), p0 the baseline, in nats and float64.

    This is at most 13.8 nats. The selection of directions is by it; `kl_divergence` is exact.

    Source: Arditi et al. 2024.
    """
    p0, p = baseline.double().softmax(-1), changed.double().softmax(-1)
    return (p0 * ((p0 + 1e-6).log() - (p + 1e-6).log())).sum(-1)


def at_tokens(
    values: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " rows"]
) -> Float64[Tensor, " rows"]:
    """Pick each row's value at its own token; NaN for token -1."""
    chosen = values.gather(1, tokens.clamp(min=0)[:, None])[:, 0].double()
    return chosen.masked_fill(tokens < 0, torch.nan)
