"""Rows to fine-tune on: answered prompts, and replayed texts among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import pandas as pd

from pipeline.data.prompts import answered_tokens
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.methods.lenses.maps import text_parts, tokens_of
from pipeline.model.loading import LanguageModel

TARGET, REPLAY = "target", "replay"


@dataclass(frozen=True)
class TrainingRow:
    """A sequence of tokens; the loss counts those from `start` on.

    Attributes:
        kind: `TARGET`, of which the answer counts, or `REPLAY`, of which all but the first token
            counts.
        tokens: of prompt and answer, or of the text.
        start: index of the first token that counts.
    """

    kind: str
    tokens: tuple[int, ...]
    start: int


def target_rows(
    model: LanguageModel, prompts: pd.DataFrame, *, shuffled: bool, seed: int
) -> list[TrainingRow]:
    """Return a row for each prompt and its answer.

    `shuffled` gives each prompt another one's answer, in a random cycle: what is left to learn is
    what answers look like.
    """
    if shuffled:
        cycle = np.random.default_rng(seed).permutation(len(prompts))
        answers = np.empty(len(prompts), dtype=object)
        answers[cycle] = prompts["answer"].to_numpy()[np.roll(cycle, 1)]
        prompts = prompts.assign(answer=answers)
    tokens = answered_tokens(prompts, model.tokenizer)
    return [
        TrainingRow(TARGET, tuple(ids), len(prompt))
        for ids, prompt in zip(tokens, prompts["tokens"], strict=True)
    ]


def replayed_texts(texts: pd.DataFrame, longest: int) -> list[TrainingRow]:
    """Return the train part of the study's texts, each cut after `longest` tokens."""
    listed = tokens_of(text_parts(texts)["train"], longest)
    return [TrainingRow(REPLAY, tuple(ids), 1) for ids in listed if len(ids) > 1]


def own_samples(model: LanguageModel, count: int, longest: int, *, seed: int) -> list[TrainingRow]:
    """Sample texts of the model itself from its first token on, at temperature 1."""
    tokenizer = model.tokenizer
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    decoding = Decoding(max_new_tokens=longest - 1, temperature=1.0, repeats=count)
    completions = generate(
        model, [[first]], [Condition()], decoding, seed=seed, batch_tokens=model.batch_tokens
    )
    return [TrainingRow(REPLAY, (first, *c.tokens), 1) for c in completions if c.tokens]


def batches(
    rows: Sequence[TrainingRow], *, batch: int, replay: float, seed: int
) -> Iterator[list[int]]:
    """Yield indexes of the rows of each batch, without end.

    After t batches, floor(t * batch * replay) rows of all t * batch were replayed. Each kind is
    drawn in random order, all of its rows once before any a second time.
    """
    queues = {
        kind: _shuffled([n for n, row in enumerate(rows) if row.kind == kind], [seed, number])
        for number, kind in enumerate((TARGET, REPLAY))
    }
    done = replayed = 0
    while True:
        done += batch
        # A product such as 20 * 0.15 may lie just below the whole number.
        due = floor(done * replay + 1e-9) - replayed
        replayed += due
        counts = {TARGET: batch - due, REPLAY: due}
        yield [next(queues[kind]) for kind, count in counts.items() for _ in range(count)]


def _shuffled(numbers: Sequence[int], seed: list[int]) -> Iterator[int]:
    generator = np.random.default_rng(seed)
    while True:
        yield from (numbers[place] for place in generator.permutation(len(numbers)))
