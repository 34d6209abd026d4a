"""Attention patterns of every head, and what each head attends to on average."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.declared import OneOrMore, Sample
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.tokenization import encode

SCORES = ("first", "previous", "duplicate", "induction")
"""Scores that are the mean weight, over queries, on the keys that `_targets` names."""

DATASET, RANDOM = "dataset", "repeated random tokens"
"""The texts of a summary."""


def attention_patterns(
    model: LanguageModel, prompts: pd.DataFrame, *, samples: list[Sample]
) -> pd.DataFrame:
    """Tabulate the attention weights of all layers and heads in some prompts.

    Args:
        model: the model.
        prompts: a dataset with tokens.
        samples: the prompts to read.

    Returns:
        One row per sample, layer, head, query and earlier or same key: `sample`, `label`, `split`,
        `layer`, `head`, `query`, `key` (positions), `query_piece`, `key_piece`, `weight`. The
        weights of a query sum to 1.

    Raises:
        ValueError: no samples, an unknown one, or a prompt longer than the context.
    """
    rows = prompts.set_index("sample", drop=False)
    unknown = [sample for sample in samples if sample not in rows.index]
    if unknown or not samples:
        raise ValueError(
            f"samples: {unknown or samples}; valid: some of {rows.index.min()} to "
            f"{rows.index.max()}"
        )
    tables = []
    for row in rows.loc[samples].to_dict("records"):
        tokens = [int(token) for token in row["tokens"]]
        check_context(model, [tokens])
        ids, mask = model.pad([tokens])
        read = hooks.read(model, _sites(model), ids, mask)
        weights = torch.stack([read[site][0].float().cpu() for site in _sites(model)])
        query, key = np.tril_indices(len(tokens))
        layers, heads = weights.shape[:2]
        pieces = np.array([model.piece(token) for token in tokens], dtype=object)
        pairs = pd.DataFrame(
            {"query": query, "key": key, "query_piece": pieces[query], "key_piece": pieces[key]}
        )
        table = pd.concat([pairs] * (layers * heads), ignore_index=True)
        table.insert(0, "head", np.tile(np.repeat(np.arange(heads), len(pairs)), layers))
        table.insert(0, "layer", np.repeat(np.arange(layers), heads * len(pairs)))
        for name in ("split", "label", "sample"):
            table.insert(0, name, row[name])
        table["weight"] = weights[:, :, query, key].reshape(-1).numpy()
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def attention_summary(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    sequences: OneOrMore = 20,
    length: OneOrMore = 25,
    batch_tokens: OneOrMore = 4096,
) -> pd.DataFrame:
    """Tabulate what each head attends to, in the dataset and in repeated random tokens.

    A[i, j] is the weight of query i on key j, and the sequence's first query does not count.

    - first: mean_i A[i, 0]
    - previous: mean_i A[i, i - 1]
    - duplicate: Σ_j A[i, j] over earlier j with the token of i
    - induction: Σ_j A[i, j] over earlier j that follow a token equal to that of i
    - entropy: mean_i -Σ_j A[i, j] log A[i, j], in nats

    `duplicate` and `induction` are means over the queries that have such keys. Each score has its
    chance level: the same number for uniform attention, A[i, j] = 1 / (i + 1), whatever window a
    layer may have.

    A repeated sequence is what the tokenizer puts before a text, `length` random tokens without
    replacement, and the same tokens again; its induction score is the usual one.

    Args:
        model: the model.
        prompts: a dataset with tokens.
        seed: of the random tokens.
        sequences: number of repeated random sequences.
        length: tokens of such a sequence before they are repeated.
        batch_tokens: maximum tokens per forward pass; patterns of one layer are held at a time.

    Returns:
        One row per text, sample, layer and head: `text` (`DATASET` or `RANDOM`), `sample`, `topic`
        (of random tokens: the sample), `layer`, `head`, and for each score S: S and `S_chance`, NaN
        in a prompt without a query that counts.

    Raises:
        ValueError: fewer than 1 sequence or token, more tokens than the vocabulary has, or a text
            longer than the context.

    Source: Olsson et al. 2022 (induction); Wang et al. 2023 (duplicate tokens).
    """
    vocabulary = _ordinary_tokens(model)
    for name, value, most in (
        ("sequences", sequences, None),
        ("length", length, len(vocabulary)),
    ):
        if value < 1 or (most is not None and value > most):
            raise ValueError(f"{name} = {value}; valid: 1 {f'to {most}' if most else 'or more'}")
    rng = np.random.default_rng(seed)
    start = encode(model.tokenizer, "", raw=True)
    drawn = [rng.choice(vocabulary, length, replace=False).tolist() for _ in range(sequences)]
    texts = {
        DATASET: [[int(token) for token in row] for row in prompts["tokens"]],
        RANDOM: [[*start, *tokens, *tokens] for tokens in drawn],
    }
    named = {
        DATASET: prompts[["sample", "topic"]].reset_index(drop=True),
        RANDOM: pd.DataFrame({"sample": range(sequences), "topic": map(str, range(sequences))}),
    }
    tables = []
    columns = [name for score in (*SCORES, "entropy") for name in (score, f"{score}_chance")]
    for text, rows in texts.items():
        check_context(model, rows)
        scores = in_batches(model, batch_tokens, partial(_scores, model, rows)).numpy()
        _, layers, heads, _ = scores.shape
        table = named[text].loc[np.repeat(np.arange(len(rows)), layers * heads)]
        table = table.reset_index(drop=True)
        table.insert(0, "text", text)
        table["layer"] = np.tile(np.repeat(np.arange(layers), heads), len(rows))
        table["head"] = np.tile(np.arange(heads), len(rows) * layers)
        table[columns] = scores.reshape(-1, len(columns))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _sites(model: LanguageModel) -> list[Site]:
    return [Site(layer, "pattern") for layer in range(model.n_layers)]


def _ordinary_tokens(model: LanguageModel) -> list[int]:
    rows = model.hf.get_input_embeddings().weight.shape[0]
    special = set(model.tokenizer.all_special_ids)
    return [token for token in range(min(len(model.tokenizer), rows)) if token not in special]


def _scores(
    model: LanguageModel, rows: Sequence[Sequence[int]], batch_tokens: int
) -> Float[Tensor, "rows layer head values"]:
    sites = _sites(model)
    result: Tensor | None = None
    for block in passes(model, [len(row) for row in rows], batch_tokens):
        ids, mask = model.pad([rows[number] for number in block])
        # Reduced during the pass: the patterns of all layers would not fit on the device.
        read = hooks.read(model, sites, ids, mask, partial(summary_of, ids, mask.bool()))
        values = torch.stack([read[site].cpu() for site in sites], 1)
        if result is None:
            result = torch.empty(len(rows), *values.shape[1:])
        result[block] = values
    assert result is not None
    return result


def summary_of(
    ids: Tensor, real: Bool[Tensor, "batch pos"], pattern: Float[Tensor, "batch head query key"]
) -> Float[Tensor, "batch head values"]:
    """Compute each score of `attention_summary` and its chance level, for left-padded rows."""
    ids, real = ids.to(pattern.device), real.to(pattern.device)
    causal = torch.ones_like(pattern[0, 0], dtype=torch.bool).tril()
    seen = causal & real[:, None, :] & real[:, :, None]
    weights = pattern.float().masked_fill(~seen[:, None], 0)
    uniform = (seen / seen.sum(-1, keepdim=True).clamp(min=1))[:, None]
    later = real & (real.cumsum(-1) > 1)
    targets = _targets(ids, real, seen)
    values = []
    for name in SCORES:
        keys = targets[name]
        counted = later & keys.any(-1) if name in ("duplicate", "induction") else later
        for attention in (weights, uniform):
            on_keys = (attention * keys[:, None]).sum(-1)
            values.append(_mean(on_keys, counted).expand(pattern.shape[:2]))
    for attention in (weights, uniform):
        values.append(_mean(torch.special.entr(attention).sum(-1), later).expand(pattern.shape[:2]))
    return torch.stack(values, -1)


def _targets(
    ids: Tensor, real: Bool[Tensor, "batch pos"], seen: Bool[Tensor, "batch query key"]
) -> dict[str, Bool[Tensor, "batch query key"]]:
    """Return, for each score, which keys of each query count."""
    width = ids.shape[1]
    at = torch.arange(width, device=ids.device)
    first = real & (real.cumsum(-1) == 1)
    earlier = seen & (at[:, None] > at)
    same = earlier & (ids[:, :, None] == ids[:, None, :])
    follows = torch.zeros_like(same)
    follows[:, :, 1:] = same[:, :, :-1]
    return {
        "first": seen & first[:, None, :],
        "previous": earlier & (at[:, None] == at + 1),
        "duplicate": same,
        "induction": follows & earlier,
    }


def _mean(
    values: Float[Tensor, "batch head query"], counted: Bool[Tensor, "batch query"]
) -> Float[Tensor, "batch head"]:
    """Average over the queries that count; NaN without one."""
    return (values * counted[:, None]).sum(-1) / counted.sum(-1, keepdim=True)
