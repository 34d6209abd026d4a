"""Faithfulness of linear relations: do they predict the token that the model continues with?"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.config.declared import OneOf
from pipeline.engine.collection import collect
from pipeline.methods.relations.facts import answered, subject_places, top_tokens
from pipeline.methods.relations.fits import relations_of
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits

_UNEMBEDDED = 256
"""States unembedded at a time: 0.3 GB of float32 logits with a vocabulary of 256 000."""


def relation_predictions(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    betas: list[float] = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0],  # noqa: B006 - never changed
    splits: list[Annotated[str, OneOf("train", "val", "test")]] = ["val", "test"],  # noqa: B006 - never changed
) -> pd.DataFrame:
    """Tabulate whether each relation's map predicts the token that the model continues with.

    The prediction is the top token of softmax(W_U norm(beta W h + b)). With beta 0 it does not
    depend on the subject: what a constant answer reaches.

    Args:
        model: the model.
        prompts: facts with `subject` and `answer`.
        fits: the maps, among others.
        fit: their name.
        betas: factors of W.
        splits: those whose prompts are predicted.

    Returns:
        One row per prompt, layer and beta: `sample`, `label`, `split`, `topic`, `layer`, `beta`,
        `correct` (the model's top token is the answer's first), `agrees` (the prediction is the
        model's top token), `predicted_piece`, `top_piece`.

    Raises:
        ValueError: no such fit, split or relation, or maps of another model.
    """
    relations = relations_of(fits, fit, model)
    rows = prompts[prompts["split"].isin(splits)].reset_index(drop=True)
    for relation in rows["label"].unique():
        if relation not in relations.samples:
            raise ValueError(
                f"fit {fit} has no relation {relation!r}; it has: {', '.join(relations.samples)}"
            )
    correct, top = answered(model, rows), top_tokens(model, rows)
    tokens, rule = subject_places(model, rows)
    sites = [Site(layer, "resid_post") for layer in relations.layers]
    states, _ = collect(model, tokens, sites, rule, batch_tokens=model.batch_tokens)
    tables = []
    for relation, group in rows.groupby("label", sort=False):
        at = group.index.to_numpy(copy=True)
        for site in sites:
            for beta in betas:
                z = relations.predict(str(relation), site.layer, states[site][at], beta)
                predicted = _decoded(model, z)
                tables.append(
                    group[["sample", "label", "split", "topic"]].assign(
                        layer=site.layer,
                        beta=beta,
                        correct=correct[at],
                        agrees=(predicted == top[at]).astype(float),
                        predicted_piece=[model.piece(int(token)) for token in predicted],
                        top_piece=[model.piece(int(token)) for token in top[at]],
                    )
                )
    return pd.concat(tables, ignore_index=True)


def _decoded(model: LanguageModel, z: Float64[Tensor, "rows d_model"]) -> np.ndarray:
    """Return the top token of each state through the final norm and the unembedding."""
    tops = [
        lens_logits(model, part.to(model.device, model.dtype)).argmax(-1).cpu()
        for part in z.split(_UNEMBEDDED)
    ]
    return torch.cat(tops).numpy()
