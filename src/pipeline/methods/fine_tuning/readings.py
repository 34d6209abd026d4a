"""What a fine-tuned model gains on the trained skill, and loses on everything else."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.declared import NeedsText, OneOf, Range, Selection
from pipeline.data.prompts import answered_tokens, select_prompts
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import (
    cross_entropy,
    log_probability_and_match,
    score_answers,
)
from pipeline.methods.fine_tuning.weights import TunedWeights
from pipeline.methods.lenses.maps import text_parts, tokens_of
from pipeline.methods.prompting.completion_scores import log_probabilities_after
from pipeline.model.loading import LanguageModel
from pipeline.model.replaced_weights import replaced_weights
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits
from pipeline.runs.scratch import run_or_resume

UNCHANGED = "unchanged"
"""Variant of the model as it was before the training, at step 0."""
_ROWS = 256
"""Positions unembedded at a time."""


def tuned_answers(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    work: Path,
    *,
    variants: list[str],
    trained: Selection,
    splits: list[Annotated[str, OneOf("train", "val", "test")]] = ["test"],  # noqa: B006 - never changed
) -> pd.DataFrame:
    """Tabulate log p of every prompt's answer, and whether greedy decoding begins with it.

    Args:
        model: the model before the training.
        prompts: a dataset with answers, those of the trained skill and of others.
        fits: contains the variants.
        work: scratch folder; a killed run resumes at the first missing variant and checkpoint.
        variants: names of fits of `fine_tuned`.
        trained: the prompts of the trained skill: a label, or column -> value or values, as `rows`
            of the fits.
        splits: of the prompts.

    Returns:
        One row per prompt, variant and checkpoint, those of `UNCHANGED` first: `sample`, `label`,
        `topic`, `split`, `trained`, whether the prompt is of the trained skill; `variant`, `step`,
        `log_p` in nats, and `right`, 1 or 0.

    Raises:
        ValueError: no such fit, one of another model, or a prompt without an answer.
    """
    chosen = select_prompts(prompts, None, splits).reset_index(drop=True)
    rows = [list(map(int, row)) for row in chosen["tokens"]]
    answers = [
        full[len(row) :]
        for full, row in zip(answered_tokens(chosen, model.tokenizer), rows, strict=True)
    ]
    of_skill = select_prompts(chosen, trained)["sample"]
    table = chosen[["sample", "label", "topic", "split"]].assign(
        trained=chosen["sample"].isin(of_skill)
    )

    def scored() -> pd.DataFrame:
        log_p, right = score_answers(
            model,
            rows,
            answers,
            [Condition()],
            batch_tokens=model.batch_tokens,
            score=log_probability_and_match,
        )[0].T
        return table.assign(log_p=log_p.double().numpy(), right=right.double().numpy())

    return _of_variants(f"answers-{_digest(rows, answers)}", model, fits, variants, work, scored)


def tuned_texts(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    fits: Mapping[str, Any],
    work: Path,
    *,
    variants: list[str],
    longest: Annotated[int, Range(3)] = 64,
    most: Annotated[int, Range(2)] = 40,
) -> pd.DataFrame:
    """Tabulate the loss of unrelated texts, and how far the model's predictions have moved.

    kl = mean over positions of sum_v p(v) (log p(v) - log q(v)), p before the training and q after.
    The texts are the test part of `text_parts`, of which no row is replayed.

    Args:
        model: the model before the training.
        texts: the study's `text`.
        fits: contains the variants.
        work: scratch folder; see `tuned_answers`.
        variants: names of fits of `fine_tuned`.
        longest: tokens of a text that are used.
        most: texts that are used.

    Returns:
        One row per text, variant and checkpoint, those of `UNCHANGED` first: `text`, `variant`,
        `step`, `n_tokens`, `loss` and `kl` in nats per token.

    Raises:
        ValueError: no such fit, one of another model, or too few texts.
    """
    if most < 2:
        raise ValueError(f"most = {most} texts; valid: 2 or more")
    parts = tokens_of(text_parts(texts)["test"], longest)
    listed = [row for row in parts if len(row) > 1][:most]
    final = Site(model.n_layers - 1, "resid_post")
    collected = partial(collect, model, listed, [final], "all", batch_tokens=model.batch_tokens)
    before = collected()[0][final]

    def scored() -> pd.DataFrame:
        (losses,) = cross_entropy(model, listed, [Condition()], batch_tokens=model.batch_tokens)
        states, rows = collected()
        divergences = _divergences(model, before, states[final])
        means = pd.Series(divergences.numpy()).groupby(rows["prompt"].to_numpy()).mean()
        columns = {"text": range(len(listed)), "n_tokens": [len(row) - 1 for row in listed]}
        return pd.DataFrame({**columns, "loss": losses.double().numpy(), "kl": means.to_numpy()})

    return _of_variants(f"texts-{_digest(listed)}", model, fits, variants, work, scored)


def training_rows(
    model: LanguageModel, fits: Mapping[str, Any], *, variants: list[str]
) -> pd.DataFrame:
    """Tabulate how likely each training row was to the model before it was trained on it.

    Args:
        model: the model before the training.
        fits: contains the variants.
        variants: names of fits of `fine_tuned`.

    Returns:
        One row per variant and row that was in a batch: `variant`, `kind` (`target` or `replay`),
        `row`, `times`, how often it was in a batch, `n_tokens` that the loss counts, and `loss`,
        their mean loss in nats, whose exponential is the perplexity.

    Raises:
        ValueError: no such fit, or one of another model.
    """
    tables = []
    for variant in variants:
        fit: TunedWeights = fits[variant]
        fit.check(model, Site(0, "resid_pre"))
        rows = fit.rows[fit.rows["times"] > 0]
        split = [
            (list(map(int, tokens[:start])), list(map(int, tokens[start:])))
            for tokens, start in zip(rows["tokens"], rows["start"], strict=True)
        ]
        logs = log_probabilities_after(model, *map(list, zip(*split, strict=True)))
        counts = [len(counted) for _, counted in split]
        columns = {"row": rows.index, "n_tokens": counts, "loss": -logs / counts}
        tables.append(rows[["kind", "times"]].assign(variant=variant, **columns))
    return pd.concat(tables, ignore_index=True)


def _of_variants(
    what: str,
    model: LanguageModel,
    fits: Mapping[str, Any],
    variants: Sequence[str],
    work: Path,
    scored: Callable[[], pd.DataFrame],
) -> pd.DataFrame:
    """Tabulate scores of the unchanged model and of it with each variant's weights at each step.

    Raises:
        ValueError: no variants, one twice or named as the unchanged model, or as
            `TunedWeights.of_step`.
    """
    if not variants or len({*variants, UNCHANGED}) <= len(variants):
        raise ValueError(
            f"variants = {[*variants]}; valid: fits, each once, none of them named {UNCHANGED!r}"
        )

    def under(variant: str, step: int) -> pd.DataFrame:
        with replaced_weights(model, fits[variant].of_step(model, step) if step else {}):
            return scored().assign(variant=variant, step=step)

    for variant in variants:
        fits[variant].check(model, Site(0, "resid_pre"))
    pairs = [(UNCHANGED, 0), *((name, step) for name in variants for step in fits[name].steps)]
    jobs = {f"{what}-{name}-{step}": partial(under, name, step) for name, step in pairs}
    return pd.concat(run_or_resume(what.split("-")[0], jobs, work), ignore_index=True)


def _digest(*tokens: Sequence[Sequence[int]]) -> str:
    """Hash sequences of tokens: readings of the same kind share the scratch folder."""
    return hashlib.sha256(repr(tokens).encode()).hexdigest()[:12]


@torch.inference_mode()
def _divergences(
    model: LanguageModel,
    before: Float[Tensor, "rows d_model"],
    after: Float[Tensor, "rows d_model"],
) -> Float[Tensor, " rows"]:
    """Compute KL(p || q) of the outputs at two final residual streams, in nats and float64."""
    parts = []
    for rows in torch.arange(len(before)).split(_ROWS):
        log_p, log_q = (
            lens_logits(model, states[rows].to(model.device)).double().log_softmax(-1)
            for states in (before, after)
        )
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1).cpu())
    return torch.cat(parts)
