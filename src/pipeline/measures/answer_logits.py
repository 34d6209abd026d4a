"""Logit metrics of the sample's answer, or of another of its texts."""

from typing import Annotated

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.measures.logits import NextToken, at_tokens
from pipeline.measures.scale import Scale


def answer_probability(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("probability of the answer", bounded=True)]:
    """Compute the probability of the first token of each sample's `answer`; NaN without one.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    return at_tokens(after.logits(layer).double().softmax(-1), after.continuations("answer"))


def answer_rank(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("rank of the answer")]:
    """Rank the first token of each sample's `answer` by probability; 0 is the top token.

    Tied tokens share their mean rank. NaN for samples without an answer.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    return _rank(after.logits(layer), after.continuations("answer"))


def answer_is_top(
    after: NextToken, *, column: str = "answer", layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("the {column} is the top token", share=True)]:
    """Score 1 if the first token of the sample's `answer` is the unique top token, else 0.

    `column` names another column with such texts. NaN for samples without a text.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    logits = after.logits(layer)
    rank = _rank(logits, after.continuations(column))
    return (rank == 0).double().where(~rank.isnan(), torch.nan)


def text_is_top(
    after: NextToken, *, column: str, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("the {column} is the top token", share=True)]:
    """Score 1 if the first token of the sample's text in a column is the top token, else 0.

    NaN for samples without a text.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    tokens = after.continuations(column)
    is_top = (after.logits(layer).argmax(-1) == tokens).double()
    return is_top.masked_fill(tokens < 0, torch.nan)


def text_over_text(
    after: NextToken, *, column: str, over: str, layer: int | None = None
) -> Annotated[
    Float64[Tensor, " rows"], Scale("the {column} is likelier than the {over}", share=True)
]:
    """Score 1 if the first token of a sample's `column` is likelier than that of `over`, else 0.

    NaN for samples without either text.

    Raises:
        ValueError: as `NextToken.continuations`, or a sample whose texts begin with the same token.
    """
    tokens, others = after.continuations(column), after.continuations(over)
    same = (tokens == others) & (tokens >= 0)
    if bool(same.any()):
        row = after.samples.iloc[int(same.nonzero()[0, 0])]
        raise ValueError(
            f"{column} {row[column]!r} and {over} {row[over]!r} of {row['prompt']!r} begin with "
            "the same token"
        )
    logits = after.logits(layer)
    level, against = at_tokens(logits, tokens), at_tokens(logits, others)
    return (level > against).double().masked_fill(level.isnan() | against.isnan(), torch.nan)


def answer_over_foil(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("logit(answer) - logit(foil)", "nats")]:
    """Compute logit(answer) - logit(foil) of the first tokens of each sample's `answer` and `foil`.

    In nats; NaN for samples without an answer or a foil.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    logits = after.logits(layer)
    answer, foil = (at_tokens(logits, after.continuations(column)) for column in ("answer", "foil"))
    return answer - foil


def answer_share(
    after: NextToken, *, layer: int | None = None
) -> Annotated[Float64[Tensor, " rows"], Scale("P(answer) / (P(answer) + P(foil))", bounded=True)]:
    """Compute P(answer) / (P(answer) + P(foil)) of the first tokens of each sample's texts.

    The sigmoid of `answer_over_foil`. With choices "(A)" and "(B)", prompts that end in "(", and
    the letters as `answer` and `foil`, it is the score of contrastive activation addition.
    NaN for samples without an answer or a foil. Source: Rimsky et al. 2024.

    Raises:
        ValueError: as `NextToken.continuations`.
    """
    return answer_over_foil(after, layer=layer).sigmoid()


def answer_log_probability(
    answers: Float[Tensor, " rows"],
) -> Annotated[Float64[Tensor, " rows"], Scale("log-probability of the answer", "nats")]:
    """Compute log p of the sample's whole `answer`, teacher-forced, in nats."""
    return answers.double()


def _rank(
    logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " rows"]
) -> Float64[Tensor, " rows"]:
    """Rank each row's token, 0 the top one, ties at their mean rank; NaN for token -1."""
    level = at_tokens(logits, tokens)[:, None]
    likelier, tied = (logits > level).sum(-1), (logits == level).sum(-1)
    return (likelier + (tied - 1) / 2).double().where(~level[:, 0].isnan(), torch.nan)
