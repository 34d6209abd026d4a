"""Run sweeps: conditions on prompts, chunk by chunk, into tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.data.prompts import answered_tokens
from pipeline.data.roles import BASELINE
from pipeline.engine.chunks import CHUNK_TOKENS, Chunk, blocks
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import Generation
from pipeline.engine.restart import BaseRun, Start
from pipeline.engine.scorer import Score, Scorer
from pipeline.engine.scoring import RowLogits, log_probability, mean_loss, of_row_logits
from pipeline.measures.logits import NextToken
from pipeline.measures.scale import TEXT_METRIC
from pipeline.measures.scores import SCORE_COLUMNS, TEXT, long_table
from pipeline.model.loading import LanguageModel
from pipeline.runs.scratch import run_or_resume

COMPLETION_COLUMNS = [
    "condition",
    "sample",
    "repeat",
    "completion",
    "tokens",
    "n_tokens",
    "stopped",
]
ON_TEXT = ("all", "after_first", "generated")
"""Position rules that apply to any text; other rules need a prompt."""


@dataclass(frozen=True, eq=False)
class Part:
    """Conditions and the prompts that they run on; `name` is unique in the study."""

    name: str
    conditions: tuple[Condition, ...]
    prompts: pd.DataFrame


def arm_conditions(arm: str, conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Prepend the baseline to an arm's conditions, and add `arm` as their first axis.

    Raises:
        ValueError: two conditions have the same axes, so tables could not tell them apart.
    """
    with_baseline = [Condition(role=BASELINE), *conditions]
    labelled = [replace(each, axes={"arm": arm, **each.axes}) for each in with_baseline]
    by_id = {condition.id: condition for condition in labelled}
    if len(by_id) < len(labelled):
        duplicate = next(c for c in reversed(labelled) if by_id[c.id] is not c)
        raise ValueError(f"two conditions have the same axes: {duplicate}")
    return tuple(labelled)


def conditions_table(parts: Sequence[Part]) -> pd.DataFrame:
    """Tabulate `condition` (the id), `role` and axes of every condition; NA for an unset axis.

    Raises:
        ValueError: an axis that is a number in some conditions and text in others.
    """
    rows = [
        {"condition": condition.id, "role": condition.role, **condition.axes}
        for part in parts
        for condition in part.conditions
    ]
    table = pd.DataFrame(rows)
    for axis in table.columns[2:]:
        examples = {isinstance(row[axis], str): row[axis] for row in rows if axis in row}
        if len(examples) == 2:
            raise ValueError(
                f"axis {axis!r} is a number in some conditions, {examples[False]}, and text in "
                f"others, {examples[True]!r}; valid: one of them"
            )
    integer_axes = [
        name for name in table.columns[2:] if all(isinstance(row.get(name, 0), int) for row in rows)
    ]
    # Nullable integers: with NA in the column, pandas would turn them into floats.
    return table.astype(dict.fromkeys(integer_axes, "Int64"))


def complete(
    model: LanguageModel, parts: Sequence[Part], work: Path, *, decoding: Decoding, seed: int
) -> pd.DataFrame:
    """Complete every prompt under every condition, skipping chunks already finished in `work`.

    `decoding` is for conditions without a decoding of their own.

    Returns:
        One row per condition, sample and repeat, with the columns `COMPLETION_COLUMNS`.
    """
    jobs: dict[str, Callable[[], pd.DataFrame]] = {}
    for part in parts:
        run = part_generation(model, part, decoding=decoding, seed=seed)
        ids = [condition.id for condition in part.conditions]
        jobs |= {
            f"{part.name}-chunk-{chunk.number:05d}": partial(_completed, run, chunk, ids)
            for chunk in run.plan(model.batch_tokens)
        }
    return pd.concat(run_or_resume("completions", jobs, work), ignore_index=True)


def part_generation(
    model: LanguageModel, part: Part, *, decoding: Decoding, seed: int
) -> Generation:
    """Prepare the completions of a part, to run chunk by chunk."""
    return Generation(
        model,
        _tokens(part.prompts),
        part.conditions,
        decoding,
        seed=seed,
        samples=part.prompts["sample"].tolist(),
    )


def _completed(run: Generation, chunk: Chunk, ids: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (
                ids[completion.condition],
                run.samples[completion.prompt],
                completion.repeat,
                completion.text,
                completion.tokens,
                len(completion.tokens),
                completion.stopped,
            )
            for completion in run.complete(chunk)
        ],
        columns=COMPLETION_COLUMNS,
    )


def score_logits(
    model: LanguageModel,
    parts: Sequence[Part],
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    answer_metrics: Mapping[str, Callable[[Tensor], Tensor]],
    work: Path,
) -> pd.DataFrame:
    """Compute logit metrics, skipping jobs already finished in `work`; see `logit_jobs`.

    Returns:
        The long table of scores.
    """
    jobs = logit_jobs(model, parts, metrics, answer_metrics)
    return long_table(run_or_resume("logits", jobs, work))


def logit_jobs(
    model: LanguageModel,
    parts: Sequence[Part],
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    answer_metrics: Mapping[str, Callable[[Tensor], Tensor]],
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Make jobs that score every prompt, under conditions without edits or with prompt edits.

    Conditions that only edit completion tokens are skipped, for both kinds of metrics. `metrics`
    take the next-token logits after the prompt. `answer_metrics` take the log-probability [rows] of
    each sample's answer, summed over its tokens; samples without an answer get no score.
    """
    jobs: dict[str, Callable[[], pd.DataFrame]] = {}
    budget = model.batch_tokens
    for part in parts:
        scored = [condition for condition in part.conditions if is_scored_after_prompt(condition)]
        prompts = part.prompts.reset_index(drop=True)
        if metrics:
            measure = partial(_measured, model, metrics, prompts)
            scorer = partial(Scorer, model, score=of_row_logits(measure), clean=True)
            name = f"{part.name}-logits"
            edited = [_on_prompt(condition) for condition in scored]
            jobs |= _jobs(name, prompts, _tokens(prompts), edited, scorer, [*metrics], budget)
        if answer_metrics:
            answered = prompts[prompts["answer"] != ""].reset_index(drop=True)
            tokens = answered_tokens(answered, model.tokenizer)
            ends = [len(row) for row in answered["tokens"]]
            scorer = partial(Scorer, model, score=_scored_answers(answer_metrics), ends=ends)
            name = f"{part.name}-answers"
            jobs |= _jobs(name, answered, tokens, scored, scorer, [*answer_metrics], budget)
    return jobs


def score_texts(
    model: LanguageModel, texts: pd.DataFrame, conditions: Sequence[Condition], work: Path
) -> pd.DataFrame:
    """Compute losses of unrelated texts, skipping jobs already finished in `work`.

    Returns:
        The long table of scores, with `TEXT` as the split.
    """
    return long_table(run_or_resume("texts", text_jobs(model, texts, conditions), work))


def text_jobs(
    model: LanguageModel, texts: pd.DataFrame, conditions: Sequence[Condition]
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Make jobs that compute the cross-entropy of texts, under conditions that fit any text."""
    scored = [condition for condition in conditions if applies_to_texts(condition)]
    rows = texts.assign(split=TEXT)
    scorer = partial(Scorer, model, score=mean_loss, ends=[1] * len(rows))
    tokens = _tokens(rows)
    return _jobs("texts", rows, tokens, scored, scorer, [TEXT_METRIC], model.batch_tokens)


def is_scored_after_prompt(condition: Condition) -> bool:
    """Whether a condition has no edit, or one that can change the logits after the prompt."""
    return not condition.edits or bool(_on_prompt(condition).edits)


def _on_prompt(condition: Condition) -> Condition:
    """Drop the edits of completion tokens, which a forward pass over a prompt does not have."""

    def is_of_completion(edit: Edit) -> bool:
        rule = (
            edit.positions.rule if isinstance(edit.positions, PromptPositions) else edit.positions
        )
        return rule in ("answer", "generated")

    edits = tuple(edit for edit in condition.edits if not is_of_completion(edit))
    return replace(condition, edits=edits)


def applies_to_texts(condition: Condition) -> bool:
    """Whether a condition's edits need no prompt, so that it applies to unrelated texts."""
    return all(
        edit.positions in ON_TEXT
        and not any(isinstance(value, PerPrompt) for value in vars(edit.intervention).values())
        for edit in condition.edits
    )


def _jobs(
    name: str,
    prompts: pd.DataFrame,
    tokens: Sequence[list[int]],
    conditions: Sequence[Condition],
    make_scorer: Callable[..., Scorer],
    metrics: Sequence[str],
    batch_tokens: int,
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Make one job per chunk of prompts; all conditions run on it and share its clean run.

    Chunks are the same on every device, so that a run can be resumed on another one.
    """
    if not conditions or prompts.empty:
        return {}
    scorer = make_scorer(tokens, conditions, batch_tokens=batch_tokens)
    packed = blocks([len(row) for row in tokens], min(batch_tokens, CHUNK_TOKENS))
    ids = [condition.id for condition in conditions]
    samples = list(zip(prompts["split"], prompts["sample"], strict=True))

    def run(chunk: list[int]) -> pd.DataFrame:
        scores = scorer(chunk).reshape(len(ids), len(chunk), len(metrics))
        return pd.DataFrame(
            [
                (condition, *samples[prompt], 0, metric, value)
                for number, metric in enumerate(metrics)
                for condition, values in zip(ids, scores[..., number].tolist(), strict=True)
                for prompt, value in zip(chunk, values, strict=True)
            ],
            columns=SCORE_COLUMNS,
        )

    return {f"{name}-{number:05d}": partial(run, chunk) for number, chunk in enumerate(packed)}


def _measured(
    model: LanguageModel,
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    prompts: pd.DataFrame,
    row_logits: RowLogits,
) -> Float64[Tensor, "rows metrics"]:
    samples = prompts.iloc[row_logits.prompts].reset_index(drop=True)
    after = NextToken(row_logits.logits, row_logits.clean, model.tokenizer, samples)
    return torch.stack([metric(after).double() for metric in metrics.values()], -1)


def _scored_answers(metrics: Mapping[str, Callable[[Tensor], Tensor]]) -> Score:
    def score(base_run: BaseRun, start: Start, owners: list[int], rows: list[int]) -> Tensor:
        logs = log_probability(base_run, start, owners, rows)
        return torch.stack([metric(logs).double() for metric in metrics.values()], -1)

    return score


def _tokens(prompts: pd.DataFrame) -> list[list[int]]:
    return [list(map(int, row)) for row in prompts["tokens"]]
