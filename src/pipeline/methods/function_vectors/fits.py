"""Function vectors: heads that carry an in-context task, and the vector that they write."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.datasets import dataset_digest
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.engine.scoring import RowLogits, score_change
from pipeline.measures.significance import benjamini_hochberg, p_above_zero
from pipeline.methods.function_vectors.task_vectors import (
    FunctionVectors,
    by_task,
    check_top,
    train_prompts,
)
from pipeline.methods.interventions import Replace
from pipeline.methods.provenance import Provenance
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.output_projections import head_outputs
from pipeline.model.sites import Site
from pipeline.model.tokenization import first_token

ALL_TASKS = "all"
"""Task of the rows of `head_effects` that average over tasks."""


def function_vectors(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    shown: str = "shown",
    corrupted: str = "shuffled",
    top: int = 10,
) -> FunctionVectors:
    """Find the heads with the largest indirect effect on in-context tasks, and what they write.

    Mean of head h for task t: its `z` at the last token, over the train prompts of t labelled
    `shown`. Indirect effect of h on a train prompt labelled `corrupted`: p(y | h := mean) - p(y) at
    the last token, y the first token of the true answer; its mean over the prompts of each task,
    then over tasks, ranks the heads. Function vector of t: the sum of the `top` heads' means
    through the output projection.

    Unlike the paper, prompts that the model gets wrong are not left out.

    Args:
        model: the model.
        prompts: a dataset with the task as topic, such as `data.in_context`.
        shown: label of the prompts whose activations are averaged.
        corrupted: label of the prompts that effects are measured on; `shuffled` in the paper.
        top: number of heads.

    Raises:
        ValueError: no such prompts in train, a task with only one of both labels, or more heads
            than the model has.

    Source: Todd et al. 2024, "Function vectors in large language models"; mean states: Hendel et
    al. 2023, "In-context learning creates task vectors".
    """
    check_top(top, model.n_layers * model.n_heads)
    demonstrated, spoilt = train_prompts(prompts, shown, corrupted)
    tasks = tuple(demonstrated["topic"].unique())
    sites = [Site(layer, name) for layer in range(model.n_layers) for name in ("z", "resid_post")]
    rows = _tokens(demonstrated)
    activations, _ = collect(model, rows, sites, "last", batch_tokens=model.batch_tokens)
    means = {
        site: by_task(values.float(), tuple(demonstrated["topic"]), tasks)
        for site, values in activations.items()
    }
    z = torch.stack([means[Site(layer, "z")] for layer in range(model.n_layers)], 1)
    states = torch.stack([means[Site(n, "resid_post")] for n in range(model.n_layers)], 1)
    outputs = [head_outputs(model, n, z[:, n].to(model.device)) for n in range(model.n_layers)]
    order = [tasks.index(task) for task in spoilt["topic"]]
    effects = indirect_effects(model, spoilt, z[order].unflatten(-1, (model.n_heads, -1)))
    effect_tasks = tuple(spoilt["topic"])
    strongest = by_task(effects, effect_tasks, tasks).mean(0).flatten().argsort(descending=True)
    return FunctionVectors(
        tasks,
        states,
        torch.stack([part.cpu() for part in outputs], 1),
        effects,
        effect_tasks,
        corrupted,
        tuple((n // model.n_heads, n % model.n_heads) for n in strongest[:top].tolist()),
        Provenance(
            model.weights,
            chat.template_digest(model.tokenizer),
            dataset_digest(prompts),
            tuple(map(str, sites)),
            f"{top} heads of the largest indirect effect on {corrupted}, means of {shown}",
        ),
    )


def indirect_effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    means: Float[Tensor, "prompt layer head head_dim"],
) -> Float[Tensor, "prompt layer head"]:
    """Compute p(y | head := mean) - p(y) for every head and prompt, y the answer's first token.

    The head's `z` is replaced at the last token only.

    Raises:
        ValueError: a prompt without an answer.
    """
    answers = torch.tensor(
        [
            first_token(model.tokenizer, prompt, answer, raw=bool(raw))
            for prompt, answer, raw in zip(
                prompts["prompt"], prompts["answer"], prompts["raw"], strict=True
            )
        ],
        device=model.device,
    )

    def probability(row_logits: RowLogits) -> Tensor:
        logits = row_logits.logits().float()
        level = logits.gather(1, answers[row_logits.prompts][:, None])[:, 0]
        return (level - logits.logsumexp(-1)).exp()

    _, layers, heads, _ = means.shape
    replaced = [
        Condition(
            {"layer": layer, "head": head},
            (Edit(Site(layer, "z", head), Replace(PerPrompt(means[:, layer, head])), "last"),),
        )
        for layer in range(layers)
        for head in range(heads)
    ]
    scores = score_change(
        model,
        _tokens(prompts),
        [Condition(), *replaced],
        probability,
        batch_tokens=model.batch_tokens,
    )
    return (scores[1:] - scores[0]).T.unflatten(1, (layers, heads))


def head_effects(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Tabulate the indirect effects of all heads by task, and averaged over tasks.

    Args:
        fits: the function vectors, among others.
        fit: their name.

    Returns:
        One row per task, and one for `ALL_TASKS`, by layer and head: `task`, `layer`, `head`,
        `label` of the prompts, `effect`, `stderr` over prompts (stratified by task), `n` prompts,
        `p` (one-sided, of no effect), `p_adjusted` (Benjamini-Hochberg over all heads), `is_top`;
        `stderr` and p are NaN for a task of one prompt, and for all tasks if one has only one.

    Raises:
        ValueError: no such fit.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    vectors: FunctionVectors = fits[fit]
    of = np.array(vectors.effect_tasks)
    means, errors, counts = [], [], []
    for task in vectors.tasks:
        rows = vectors.effects[torch.from_numpy(of == task)].double().numpy()
        counts.append(len(rows))
        means.append(rows.mean(0))
        # A single prompt has no variance.
        error = rows.std(0, ddof=1) if len(rows) > 1 else np.full(rows.shape[1:], np.nan)
        errors.append(error / np.sqrt(len(rows)))
    means.append(np.mean(means, 0))
    errors.append(np.sqrt(np.sum(np.square(errors), 0)) / len(vectors.tasks))
    counts.append(sum(counts))
    tables = []
    for task, mean, error, n in zip(
        (*vectors.tasks, ALL_TASKS), means, errors, counts, strict=True
    ):
        layer, head = np.indices(mean.shape).reshape(2, -1)
        p = p_above_zero(mean.ravel(), error.ravel(), np.full(mean.size, float(n)))
        table = pd.DataFrame({"task": task, "layer": layer, "head": head, "effect": mean.ravel()})
        tables.append(
            table.assign(stderr=error.ravel(), n=n, p=p, p_adjusted=benjamini_hochberg(p))
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(
        label=vectors.corrupted,
        is_top=[pair in vectors.top for pair in zip(table["layer"], table["head"], strict=True)],
    )


def _tokens(prompts: pd.DataFrame) -> list[list[int]]:
    return [list(map(int, row)) for row in prompts["tokens"]]
