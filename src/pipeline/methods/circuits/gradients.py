"""Attribution patching of heads and MLPs: effects of patching, estimated by gradients."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config.declared import OneOrMore, Selection
from pipeline.data.prompts import select_prompts
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.methods.circuits.components import (
    answer_ids,
    axes_of,
    components,
    corrupted_tokens,
    tokens_of,
)
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, undivided
from pipeline.runs.progress import progress

EMBED = Site(0, "embed")
ROLES = ("answer", "foil", "foil again", "last", "other")
"""Roles of a prompt's tokens: where the answer is mentioned, the foil first, the foil again, the
last token, and all others."""


class Attributions(NamedTuple):
    """Estimated change of the logit difference if a component's output at a token is patched.

    Both by component, padded at the end. `gradient`: at the clean prompt. `integrated`: the mean of
    gradients on the path of the inputs from the corrupted prompt to the clean one.
    """

    gradient: dict[Site, Float[Tensor, "prompts tokens"]]
    integrated: dict[Site, Float[Tensor, "prompts tokens"]]


class Batch(NamedTuple):
    """Left-padded prompts of a pass, clean and corrupted, and the objective of its rows."""

    numbers: list[int]
    ids: Int[Tensor, "rows pos"]
    corrupted: Int[Tensor, "rows pos"]
    mask: Int[Tensor, "rows pos"]
    objective: Callable[[Tensor], Tensor]


def component_attributions(
    model: LanguageModel, prompts: pd.DataFrame, *, steps: int
) -> Attributions:
    """Estimate the effect of patching each head and MLP from the corrupted counterpart, by token.

    attribution = (a_corrupted - a) ∂m/∂a, summed over the width of the output a, with m = logit(
    answer) - logit(foil); its sum over tokens estimates the effect of patching at all tokens.
    Integrated: ∂m/∂a is the mean over inputs e' + k/steps (e - e'), k = 1 ... steps, with e and e'
    the embeddings of the clean and the corrupted prompt.

    Args:
        model: the model.
        prompts: with `answer`, `foil` and `corrupted`.
        steps: of the path.

    Raises:
        ValueError: fewer than 1 step, or as `components.corrupted_tokens` and `answer_ids`.

    Source: Nanda 2023 (attribution patching); Hanna et al. 2024, "Have faith in faithfulness"
    (integrated gradients on the path of the inputs).
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} is less than 1")
    run = partial(_attributions, model, prompts, steps)
    return in_batches(model, model.batch_tokens, run)


def attributions_by_role(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    split: str = "test",
    select: Selection = None,
    steps: OneOrMore = 5,
) -> pd.DataFrame:
    """Tabulate `component_attributions` by sample, component and role of the token.

    Args:
        model: the model.
        prompts: the dataset, with `answer`, `foil` and `corrupted`.
        split: of the prompts.
        select: selection of prompts, as an arm's `prompts`.
        steps: of the path of integrated gradients.

    Returns:
        `sample`, `topic`, `layer`, `component`, `role` (of `ROLES`), `gradient`, `integrated`: sums
        over the tokens of the role, in nats.

    Raises:
        ValueError: as `component_attributions`, or no such prompts.
    """
    rows = select_prompts(prompts, select, [split]).reset_index(drop=True)
    estimates = component_attributions(model, rows, steps=steps)
    roles = token_roles(model, rows)
    tables = []
    for site in components(model):
        sums = [
            torch.stack([(values[site] * (roles == n)).sum(1) for n in range(len(ROLES))], 1)
            for values in estimates
        ]
        for n, role in enumerate(ROLES):
            table = rows[["sample", "topic"]].assign(**axes_of(site), role=role)
            gradient, integrated = (each[:, n].numpy() for each in sums)
            tables.append(table.assign(gradient=gradient, integrated=integrated))
    return pd.concat(tables, ignore_index=True)


def token_roles(model: LanguageModel, prompts: pd.DataFrame) -> Int[Tensor, "prompts tokens"]:
    """Return the index in `ROLES` of each token of each prompt, padded at the end with -1."""
    tokens, ids = tokens_of(prompts), answer_ids(model, prompts)
    roles = torch.full((len(tokens), max(map(len, tokens))), -1)
    for number, row in enumerate(tokens):
        answer, foil = (int(ids[name][number]) for name in ("answer", "foil"))
        mentions = [position for position, token in enumerate(row) if token == foil]
        roles[number, : len(row)] = ROLES.index("other")
        for position, token in enumerate(row):
            if token == answer:
                roles[number, position] = ROLES.index("answer")
            elif token == foil:
                role = "foil" if position == mentions[0] else "foil again"
                roles[number, position] = ROLES.index(role)
        roles[number, len(row) - 1] = ROLES.index("last")
    return roles


def batches(model: LanguageModel, prompts: pd.DataFrame, batch_tokens: int) -> Iterator[Batch]:
    """Group prompts with their corrupted counterparts into passes."""
    clean, corrupted = tokens_of(prompts), corrupted_tokens(model, prompts)
    ids = answer_ids(model, prompts)
    check_context(model, clean)
    split = passes(model, list(map(len, clean)), batch_tokens)
    for block in progress(split, "attribution", "batch", brief=True):
        (rows, mask), (others, _) = (
            model.pad([tokens[number] for number in block]) for tokens in (clean, corrupted)
        )
        named = [ids[name][block][:, None].to(model.device) for name in ("answer", "foil")]
        yield Batch(block, rows, others, mask, partial(_difference, *named))


def path_hooks(
    model: LanguageModel, batch: Batch, steps: int
) -> Iterator[Mapping[Site, hooks.Hook]]:
    """Yield hooks that put the inputs at e' + k/steps (e - e'), for k = 1 ... steps."""
    clean, corrupted = (
        hooks.read(model, [EMBED], ids, batch.mask)[EMBED] for ids in (batch.ids, batch.corrupted)
    )
    for k in range(1, steps + 1):
        mixed = corrupted.lerp(clean, k / steps)
        yield {EMBED: partial(_put, mixed)}


def at_ends(
    values: Float[Tensor, "rows pos"], mask: Int[Tensor, "rows pos"], tokens: int
) -> Float[Tensor, "rows tokens"]:
    """Move left-padded values to the start of rows of so many tokens, 0 elsewhere."""
    moved = torch.zeros(len(values), tokens)
    for row, (value, real) in enumerate(zip(values.cpu(), mask.cpu() > 0, strict=True)):
        moved[row, : int(real.sum())] = value[real].float()
    return moved


def _put(mixed: Tensor, hidden: Tensor) -> Tensor:
    return mixed.to(hidden.dtype)


def _difference(
    answer: Int[Tensor, "rows 1"], foil: Int[Tensor, "rows 1"], logits: Float[Tensor, "rows vocab"]
) -> Float[Tensor, " rows"]:
    return (logits.gather(1, answer) - logits.gather(1, foil))[:, 0].float()


def _attributions(
    model: LanguageModel, prompts: pd.DataFrame, steps: int, batch_tokens: int
) -> Attributions:
    sites = components(model)
    read_at = undivided(sites)
    longest = max(map(len, prompts["tokens"]))
    results = Attributions(
        *({site: torch.zeros(len(prompts), longest) for site in sites} for _ in "ab")
    )
    for batch in batches(model, prompts, batch_tokens):
        clean, corrupted = (
            hooks.read(model, read_at, ids, batch.mask) for ids in (batch.ids, batch.corrupted)
        )
        gradients: dict[Site, Tensor] = {}
        sums = {site: torch.zeros_like(clean[site], dtype=torch.float32) for site in read_at}
        for at_input in path_hooks(model, batch, steps):
            with hooks.with_hooks(model, at_input):
                _, gradients, _ = hooks.differentiate(
                    model, read_at, batch.ids, batch.mask, batch.objective
                )
            for site in read_at:
                sums[site] += gradients[site].float() / steps
        for site in read_at:
            difference = corrupted[site].float() - clean[site].float()
            # The last step of the path is the clean prompt.
            for estimates, gradient in zip(results, (gradients[site], sums[site]), strict=True):
                parts = (difference * gradient.float()).unflatten(-1, (_units(model, site), -1))
                for unit, part in enumerate(parts.sum(-1).unbind(-1)):
                    of_unit = Site(site.layer, "z", unit) if site.component == "z" else site
                    estimates[of_unit][batch.numbers] = at_ends(part, batch.mask, longest)
    return results


def _units(model: LanguageModel, site: Site) -> int:
    return model.n_heads if site.component == "z" else 1
