"""Causality of linear relations: edit a subject so that the model answers another one's object."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.config.declared import OneOf, OneOrMore
from pipeline.data.prompts import tokenised_alike
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.methods.interventions import Add, Replace
from pipeline.methods.relations.facts import subject_places
from pipeline.methods.relations.fits import relations_of
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.tokenization import last_mention

EDITS = ("relation", "random", "target_state")


def relation_edit(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    ranks: list[OneOrMore],
    edit: Annotated[str, OneOf(*EDITS)] = "relation",
) -> Iterator[Condition]:
    """Yield edits of the subject's state towards another subject, by layer and rank.

    `relation`: h + V_r S_r^-1 U_r^T (z_target - z), with U S V^T = W the relation's map at this
    layer, z the last block's output at the last token of the prompt and z_target that of the same
    prompt with `target_subject`. `random`: h plus a random direction of the same norm, a control.
    `target_state`: h becomes the target subject's state, without ranks, as a reference.

    Args:
        model: the model.
        prompts: facts in the order of the run, with `subject` and `target_subject`.
        fits: the maps, among others.
        seed: of the random directions.
        fit: name of the maps, a `relations.LinearRelations`.
        ranks: numbers r of singular values that are inverted, the largest ones.
        edit: one of `EDITS`.

    Yields:
        Conditions with the axes `layer`, `rank` and `edit`; of `target_state`, without `rank`.

    Raises:
        ValueError: an unknown edit or fit, ranks that are not from 1 to d_model, a missing column,
            or maps of another model.

    Source: Hernandez et al. 2024 (low-rank inverse).
    """
    if edit not in EDITS:
        raise ValueError(f"edit {edit!r} is unknown; valid: {', '.join(EDITS)}")
    if not ranks or not all(1 <= rank <= model.d_model for rank in ranks):
        raise ValueError(f"ranks {list(ranks)}; valid: 1 to {model.d_model}")
    relations = relations_of(fits, fit, model)
    layers = relations.layers
    tokens, rule = subject_places(model, prompts)
    others, other_rule = subject_places(model, target_facts(model, prompts))
    if edit == "target_state":
        sites = [Site(layer, "resid_post") for layer in layers]
        states, _ = collect(model, others, sites, other_rule, batch_tokens=model.batch_tokens)
        for site in sites:
            replaced = Edit(site, Replace(PerPrompt(states[site])), rule)
            yield Condition({"layer": site.layer, "edit": edit}, (replaced,), role=CONTROL)
        return
    last = Site(model.n_layers - 1, "resid_post")
    z, z_target = (
        collect(model, rows, [last], "last", batch_tokens=model.batch_tokens)[0][last].double()
        for rows in (tokens, others)
    )
    labels = prompts["label"].to_numpy()
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        shifts = torch.empty(len(ranks), *z.shape, dtype=torch.float64)
        for relation in dict.fromkeys(labels):
            rows = torch.tensor(labels == relation)
            weight, _ = relations.maps[relation, layer]
            shifts[:, rows] = low_rank_shifts(weight, (z_target - z)[rows], ranks)
        for rank, shift in zip(ranks, shifts, strict=True):
            if edit == "random":
                drawn = torch.randn(shift.shape, generator=generator, dtype=torch.float64)
                shift = drawn * (shift.norm(dim=-1) / drawn.norm(dim=-1))[:, None]
            moved = Add(PerPrompt(shift.to(model.dtype)))
            yield Condition(
                {"layer": layer, "rank": rank, "edit": edit},
                (Edit(Site(layer, "resid_post"), moved, rule),),
                role=CONTROL if edit == "random" else CANDIDATE,
            )


def low_rank_shifts(
    weight: Float[Tensor, "d_model d_model"],
    difference: Float64[Tensor, "rows d_model"],
    ranks: list[int],
) -> Float64[Tensor, "ranks rows d_model"]:
    """Compute V_r S_r^-1 U_r^T (z_target - z), with U S V^T = W, for several ranks r.

    Singular values below 1e-10 of the largest one are not inverted.
    """
    u, s, vh = torch.linalg.svd(weight.double())
    inverse = torch.where(s > 1e-10 * s[0], 1 / s, 0.0)
    coordinates = (difference @ u) * inverse
    return torch.stack([coordinates[:, :rank] @ vh[:rank] for rank in ranks])


def target_facts(model: LanguageModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """Replace each prompt's subject by its target subject, where it is marked.

    Where it is not, its last mention as a whole word is replaced: where `subject` locates it.

    Raises:
        ValueError: a missing column, a prompt without its subject, or as `tokenised_alike`.
    """
    if "target_subject" not in prompts:
        raise ValueError(
            "no column 'target_subject' in the dataset, which data.facts makes; it has: "
            f"{', '.join(prompts)}"
        )
    texts, starts = [], []
    columns = ["instruction", "subject", "subject_start", "target_subject"]
    for text, subject, start, target in prompts[columns].itertuples(index=False):
        start = last_mention(text, subject) if start < 0 else start
        if start < 0:
            raise ValueError(f"subject {subject!r} is not in {text!r}")
        texts.append(text[:start] + target + text[start + len(subject) :])
        starts.append(start)
    frame = prompts.assign(
        instruction=texts, subject=prompts["target_subject"], subject_start=starts
    )
    return tokenised_alike(frame, prompts, model)
