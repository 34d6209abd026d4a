"""ROME: rank-one edits of a feed-forward layer that map a subject's key to a new value."""

from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.config.declared import ColumnName, NeedsText, OneOrMore, Range, Selection, ZeroOrMore
from pipeline.data.datasets import dataset_digest
from pipeline.data.positions import locate
from pipeline.data.prompts import select_facts, tokenised_alike
from pipeline.engine.chunks import passes
from pipeline.engine.collection import collect
from pipeline.engine.conditions import PromptPositions
from pipeline.engine.memory import in_batches
from pipeline.methods.editing.optimisation import Contexts, Recipe, new_values
from pipeline.methods.editing.rank_ones import RankOneEdits
from pipeline.methods.key_values import continuation_tokens
from pipeline.methods.lenses.maps import text_parts, tokens_of
from pipeline.methods.provenance import Provenance
from pipeline.methods.relations.fits import expanded_layers
from pipeline.model import chat, hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.runs.progress import progress

_PREFIX_TOKENS = (5, 10)
"""Lengths of prefixes in turn, as in the reference implementation."""


def rome(
    model: LanguageModel,
    prompts: pd.DataFrame,
    texts: Annotated[pd.DataFrame, NeedsText()],
    seed: int,
    *,
    rows: Selection = None,
    layers: Any = "all",
    target: ColumnName = "target",
    fact: ColumnName = "fact",
    prefixes: ZeroOrMore = 4,
    essence: str = "{subject} is a",
    longest: Annotated[int, Range(3)] = 128,
    steps: OneOrMore = 20,
    rate: Annotated[float, Range(above=0)] = 0.5,
    divergence: Annotated[float, Range(0)] = 0.0625,
    decay: Annotated[float, Range(0)] = 0.5,
    most: Annotated[float, Range(above=0)] = 4.0,
    enough: Annotated[float, Range(0)] = 0.05,
) -> RankOneEdits:
    """Fit W + delta uT at each layer's down projection, so that a fact's subject gets a new object.

    k is the projection's input at the subject's last token, its mean over the prompt behind each
    prefix and the bare prompt. u = C^-1 k / ||C^-1 k||, with C = E[k kT] over the tokens of a
    corpus. v* is the output at the same token that makes the new object likely: see `new_values`.
    delta = (v* - v) / (k0 . u), with k0 and v the projection's input and output in the bare prompt,
    which therefore answers k0 with v* exactly. This is ROME; R-ROME takes the mean k for k0 too.
    Every layer is edited alone.

    Args:
        model: the model.
        prompts: a dataset with `subject` and the target.
        texts: the corpus: the train part of `text_parts`, without first tokens, whose activations
            are outliers. Prefixes are the first tokens of random ones of them. The reference takes
            100,000 texts of Wikipedia, and lets the model write the prefixes.
        seed: of the prefixes.
        rows: the prompts to edit, one of each fact: a label, or column -> value or values.
        layers: `all` but the last, in which the last token does not read the subject, or a list.
        target: dataset column with the new object, of which the first token is written.
        fact: dataset column that names the fact.
        prefixes: how many, of 5 and 10 tokens in turn; the reference has 20.
        essence: a prompt about the `{subject}`, whose continuation should stay as it is.
        longest: tokens of a text of the corpus that are used.
        steps: of Adam; its rate, and the losses, are explained in `new_values`.
        rate: of Adam.
        divergence: weight of the essence's KL divergence.
        decay: weight of the norm of v* - v.
        most: largest norm of v* - v, in norms of v.
        enough: a fact whose loss is below this is no longer changed.

    Raises:
        ValueError: an unknown column, layer or prompt, two prompts of a fact, an essence without
            `{subject}`, a number out of range, too few texts, fewer tokens than neurons, or
            tokens that are too much alike.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT"; Gupta et al. 2024
    (R-ROME).
    """
    recipe = Recipe(steps, rate, divergence, decay, most, enough)
    chosen = expanded_layers(model, layers)
    if "{subject}" not in essence:
        raise ValueError(f"essence {essence!r} has no {{subject}}")
    if prefixes < 0:
        raise ValueError(f"prefixes = {prefixes}; valid: 0 or more")
    edited = select_facts(prompts, rows, fact)
    corpus = text_parts(texts)["train"]
    tokens = tokens_of(corpus, longest)
    width, count = model.width(Site(0, "mlp_act")), sum(len(row) - 1 for row in tokens)
    if count < width:
        raise ValueError(f"{count} tokens of text for {width} neurons; valid: {width} or more")
    targets = continuation_tokens(model, edited, [target])[:, 0]
    contexts = contexts_of(model, edited, _prefixes(model, corpus, prefixes, seed), essence)
    by_layer = {}
    for layer in progress(chosen, "edits", "layer"):
        moment = in_batches(
            model,
            model.batch_tokens,
            partial(_second_moment, model, tokens, Site(layer, "mlp_act")),
        )
        keys = _states(model, contexts, Site(layer, "mlp_act"))[: prefixes + 1]
        u = _whitened(moment, keys.mean(0), layer)
        values = new_values(model, contexts, targets, layer, recipe)
        delta = values.change.double() / (keys[0] * u).sum(-1, keepdim=True)
        table = values.table.assign(fact=edited[fact].to_numpy(), layer=layer)
        by_layer[layer] = u.float(), delta.float(), table
    return RankOneEdits(
        {layer: u for layer, (u, _, _) in by_layer.items()},
        {layer: delta for layer, (_, delta, _) in by_layer.items()},
        edited[fact].tolist(),
        pd.concat([table for *_, table in by_layer.values()], ignore_index=True),
        Provenance(
            model.weights,
            chat.template_digest(model.tokenizer),
            dataset_digest(edited),
            tuple(f"blocks.{layer}.mlp_down" for layer in chosen),
            f"ROME towards {target!r}, {prefixes} prefixes, C of {count} tokens, {recipe}",
        ),
    )


def contexts_of(
    model: LanguageModel, edited: pd.DataFrame, prefixes: list[str], essence: str
) -> Contexts:
    """Build each fact's bare prompt, the prompt behind every prefix, and the essence prompt."""
    starts = edited["subject_start"]
    frames = [edited]
    for prefix in prefixes:
        frames.append(
            edited.assign(
                instruction=prefix + edited["instruction"],
                subject_start=np.where(starts < 0, -1, starts + len(prefix)),
            )
        )
    asked = [essence.replace("{subject}", subject) for subject in edited["subject"]]
    frames.append(edited.assign(instruction=asked, subject_start=essence.index("{subject}")))
    joined = pd.concat(frames, ignore_index=True)
    located = tokenised_alike(joined, edited, model)
    tokens, places = locate(located, model.tokenizer, "subject", variables=model.template)
    return Contexts(
        [[int(token) for token in row] for row in tokens.values()],
        [position for (position,) in places.values()],
        len(edited),
    )


def _prefixes(model: LanguageModel, corpus: pd.DataFrame, count: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed).choice(len(corpus), count, replace=count > len(corpus))
    rows = [corpus["tokens"].iloc[number] for number in drawn]
    lengths = [_PREFIX_TOKENS[n % len(_PREFIX_TOKENS)] for n in range(count)]
    texts = [model.decode(list(map(int, row))[:n]) for row, n in zip(rows, lengths, strict=True)]
    return [" ".join(text.split()) + ". " for text in texts]


def _states(
    model: LanguageModel, contexts: Contexts, site: Site
) -> Float64[Tensor, "contexts facts width"]:
    rule = PromptPositions("subject", [(position,) for position in contexts.positions])
    states, _ = collect(model, contexts.tokens, [site], rule, batch_tokens=model.batch_tokens)
    return states[site].double().unflatten(0, (-1, contexts.facts))


def _second_moment(
    model: LanguageModel, tokens: list[list[int]], site: Site, batch_tokens: int
) -> Float64[Tensor, "width width"]:
    """Compute E[k kT] over all tokens but the first of each text."""
    total = torch.zeros(model.width(site), model.width(site), dtype=torch.float64)
    count = 0
    split = passes(model, [len(row) for row in tokens], batch_tokens)
    for block in progress(split, f"keys of {site}", "batch", brief=True):
        ids, mask = model.pad([tokens[number] for number in block])
        used = (mask == 1) & (hooks.token_positions(mask) > 0)
        keys = hooks.read(model, [site], ids, mask, partial(_rows_of, used))[site].double()
        total += (keys.T @ keys).cpu()
        count += len(keys)
    return total / count


def _whitened(
    moment: Float64[Tensor, "width width"], keys: Float64[Tensor, "facts width"], layer: int
) -> Float64[Tensor, "facts width"]:
    """Compute C^-1 k / ||C^-1 k||.

    Raises:
        ValueError: C is singular.
    """
    factor, failed = torch.linalg.cholesky_ex(moment)
    if int(failed):
        raise ValueError(
            f"layer {layer}: the second moment of the corpus' keys is singular; valid: more texts, "
            "or a larger `longest`"
        )
    solved = torch.cholesky_solve(keys.T, factor).T
    return solved / solved.norm(dim=-1, keepdim=True)


def _rows_of(used: Tensor, hidden: Tensor) -> Float[Tensor, "rows width"]:
    return hidden[used.to(hidden.device)]
