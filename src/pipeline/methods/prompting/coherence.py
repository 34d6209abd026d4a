"""Coherence of question and answer: log p(answer | question) - log p(answer), or by a judge."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float64

from pipeline.config.declared import OneOf
from pipeline.measures.statistics import topics_or_samples
from pipeline.methods.prompting.completion_scores import log_probabilities_after
from pipeline.model import chat
from pipeline.model.cross_encoder import CrossEncoder
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import encode

FRAMES = ("chat", "raw")
"""What the model reads before the answer. `chat`: the question in the chat template. `raw`: the
question and a line break."""
CROSS_ENCODER = "cross-encoder"
"""The frame of a cross-encoder's scores, which are logits and not nats of the model itself."""
CONTEXTS = ("own", "other")
"""The question before the answer: that of the completion, or of another prompt, the control."""


def coherence(
    model: LanguageModel,
    prompts: pd.DataFrame,
    completions: pd.DataFrame,
    seed: int,
    *,
    frames: list[Annotated[str, OneOf(*FRAMES)]] = list(FRAMES),  # noqa: B006 - never changed
    cross_encoder: str | None = None,
) -> pd.DataFrame:
    """Tabulate log p(answer | question) - log p(answer) of every completion, in nats.

    The pointwise mutual information of question and answer under the unedited model. Both terms
    have the same frame, however the completion was prompted; in log p(answer) its question is
    empty; a system prompt is left out. Every frame favours answers of its own style: read several.
    Coherence grows with the answer's length. The control puts another question before the same
    answer: a question drawn for each topic, or prompt without one, never its own.

    Args:
        model: the unedited model.
        prompts: a dataset with `instruction` and `topic`.
        completions: completions of the prompts under conditions.
        seed: of the draw of other questions.
        frames: of `FRAMES`.
        cross_encoder: folder or Hub id of a cross-encoder, such as
            `cross-encoder/ms-marco-MiniLM-L-6-v2`, which is a further judge: its rows have the
            frame `cross-encoder`, its logits as `coherence`, and no log-probabilities.

    Returns:
        One row per completion, frame and `context` (`own` or `other`): the columns of `completions`
        but `tokens`, `frame`, `context`, `log_p_given`, `log_p`, `coherence`; NaN for an empty
        completion.

    Raises:
        ValueError: no judge, an unknown frame, a single topic, or as `CrossEncoder.load`.
    """
    if not frames and cross_encoder is None:
        raise ValueError(f"no frames; valid: {', '.join(FRAMES)}")
    for frame in frames:
        check_frame(frame)
    questions = completions["instruction"].tolist()
    of_topic = prompts.set_index(topics_or_samples(prompts))["instruction"]
    of_topic = of_topic[~of_topic.index.duplicated()]
    others = _other_topics(of_topic.index.tolist(), seed)
    asked = {
        "own": questions,
        "other": [of_topic[others[topic]] for topic in topics_or_samples(completions)],
    }
    answers = completions["tokens"].tolist()
    rows = completions.drop(columns="tokens").reset_index(drop=True)
    tables = []
    for frame in frames:
        log_p = log_p_in(model, frame, [""] * len(answers), answers)
        for context, texts in asked.items():
            given = log_p_in(model, frame, texts, answers)
            columns = {"log_p_given": given, "log_p": log_p, "coherence": given - log_p}
            tables.append(rows.assign(frame=frame, context=context, **columns))
    if cross_encoder is not None:
        judge = CrossEncoder.load(cross_encoder)
        replies = completions["completion"].tolist()
        tables += [
            rows.assign(
                frame=CROSS_ENCODER,
                context=context,
                log_p_given=np.nan,
                log_p=np.nan,
                coherence=np.where(rows["n_tokens"] > 0, judge.score(texts, replies), np.nan),
            )
            for context, texts in asked.items()
        ]
    return pd.concat(tables, ignore_index=True)


def check_frame(frame: str) -> None:
    """Raise a ValueError if there is no such frame."""
    if frame not in FRAMES:
        raise ValueError(f"frame {frame!r} is unknown; valid: {', '.join(FRAMES)}")


def log_p_in(
    model: LanguageModel, frame: str, questions: Sequence[str], answers: Sequence[Sequence[int]]
) -> Float64[np.ndarray, " answers"]:
    """Compute log p(answer | question) in a frame, in nats; log p(answer) if the question is ""."""
    tokens = {text: _framed(model, text, frame) for text in dict.fromkeys(questions)}
    return log_probabilities_after(model, [tokens[text] for text in questions], answers)


def _framed(model: LanguageModel, question: str, frame: str) -> list[int]:
    if frame == "raw":
        tokens = encode(model.tokenizer, f"{question}\n", raw=True)
    else:
        rendered = chat.render(model.tokenizer, question, variables=model.template)
        tokens = encode(model.tokenizer, rendered)
    # Some tokenizers make no token of an empty question's line break.
    return tokens or [model.tokenizer.bos_token_id]


def _other_topics(topics: list[str], seed: int) -> dict[str, str]:
    """Draw another topic for every one: the next in a random circle."""
    if len(topics) < 2:
        raise ValueError(f"{len(topics)} topics; valid: 2 or more, for another question")
    order = [topics[n] for n in np.random.default_rng(seed).permutation(len(topics))]
    return dict(zip(order, [*order[1:], order[0]], strict=True))
