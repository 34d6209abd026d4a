"""Feed-forward layers as key-value memories: what values say, and which writes an answer."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.config.declared import NeedsText, OneOrMore, Range
from pipeline.data.prompts import check_columns
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.measures.text import texts_of
from pipeline.methods.lenses.maps import text_parts, tokens_of
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers
from pipeline.model.tokenization import first_token
from pipeline.model.unembedding import (
    direct_logits,
    final_factors,
    post_norm_factors,
    readout_vectors,
    value_vectors,
)
from pipeline.runs.progress import progress

_VALUES = 256
"""Value vectors unembedded at a time: 0.25 GB for a vocabulary of 256 thousand."""

_CONTEXT = 8
"""Tokens of a context that are shown."""


def value_tokens(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    *,
    layers: Any = "all",
    top: OneOrMore = 5,
    longest: Annotated[int, Range(3)] = 128,
) -> pd.DataFrame:
    """Tabulate the top tokens of every value vector, and the context that activates its key most.

    A value v is a row of a down projection (`unembedding.value_vectors`); its tokens are the
    largest of W_U (scale * v), without a norm's denominator. Its context is the text up to the
    token at which its neuron's activation is largest. The value agrees with its key if its top
    token is the one that follows that context in the text. By chance, the value of one neuron
    agrees with the context of another with probability Σ_t P(value's top = t) P(next token = t)
    over the layer: the mean of all pairings, exactly.

    Args:
        model: the model; gated MLPs too.
        texts: texts with tokens; the train part of `lens_maps.text_parts` is read. First tokens
            are left out, as their activations are outliers, and last ones, which nothing follows.
        layers: `all`, or a list.
        top: tokens of a value to list.
        longest: tokens of a text that are used.

    Returns:
        One row per layer and value: `layer`, `value`, `pieces` (the texts of the top
        tokens), `top_token`, `activation`, `context`, `next_piece`, `agrees`, and `chance`, the
        same for all values of a layer.

    Raises:
        ValueError: a layer that the model does not have, a number out of range, or too few texts.

    Source: Geva et al. 2021, "Transformer feed-forward layers are key-value memories".
    """
    chosen = chosen_layers(layers, model.n_layers, model.name)
    if not 1 <= top <= model.config.vocab_size:
        raise ValueError(f"top = {top} tokens; valid: 1 to {model.config.vocab_size}")
    tokens = [row for row in tokens_of(text_parts(texts)["train"], longest) if len(row) > 2]
    check_context(model, tokens)
    best, places = in_batches(
        model, model.batch_tokens, partial(_strongest_contexts, model, tokens, chosen)
    )
    tables = []
    for row, layer in enumerate(chosen):
        ids = torch.cat([logits.topk(top).indices.cpu() for logits in _unembedded(model, layer)])
        contexts = [(tokens[prompt], position) for prompt, position in places[row].tolist()]
        following = np.array([text[position + 1] for text, position in contexts])
        top_tokens = ids[:, 0].numpy()
        agrees = top_tokens == following
        width = model.config.vocab_size
        shares = [
            np.bincount(part, minlength=width) / len(part) for part in (top_tokens, following)
        ]
        tables.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "value": np.arange(len(ids)),
                    "pieces": [[model.piece(token) for token in listed] for listed in ids.tolist()],
                    "top_token": top_tokens,
                    "activation": best[row].numpy(),
                    "context": [_shown(model, text, position) for text, position in contexts],
                    "next_piece": [model.piece(int(token)) for token in following],
                    "agrees": agrees,
                    "chance": float(shares[0] @ shares[1]),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def answer_contributions(
    model: LanguageModel, prompts: pd.DataFrame, *, columns: list[str]
) -> pd.DataFrame:
    """Tabulate what each layer's values add directly to the logits of a prompt's continuations.

    At the last token, neuron i of layer l with activation a_i and value v_i adds a_i v_i . r / σ to
    the logit of a token with readout vector r, σ the denominator of the final norm, and of a
    post-norm if any. Its effects through later layers are not counted, nor are biases.

    Args:
        model: the model.
        prompts: a dataset.
        columns: dataset columns with possible continuations, such as `answer`; the first token of
            each is read.

    Returns:
        One row per sample and layer: `sample`, `label`, `split`, `topic`, `layer`, and for each
        column C `C_contribution`, the sum over the layer's values in nats; `C_value`, the value
        that adds most; `C_largest_contribution` and `C_activation`, what it adds and its neuron's
        activation.

    Raises:
        ValueError: an unknown column, or a text whose tokens do not follow the prompt's.
    """
    named = continuation_tokens(model, prompts, columns)
    rows = []
    for number, layer, activations, parts in contributions(model, prompts, named):
        largest = parts.max(-1)
        row: dict[str, Any] = {"number": number, "layer": layer}
        for place, column in enumerate(columns):
            value = int(largest.indices[place])
            row[f"{column}_contribution"] = float(parts[place].double().sum())
            row[f"{column}_value"] = value
            row[f"{column}_largest_contribution"] = float(largest.values[place])
            row[f"{column}_activation"] = float(activations[value])
        rows.append(row)
    table = pd.DataFrame(rows).sort_values(["number", "layer"])
    samples = prompts[["sample", "label", "split", "topic"]].reset_index(drop=True)
    joined = samples.loc[table.pop("number")].reset_index(drop=True)
    return pd.concat([joined, table.reset_index(drop=True)], axis=1)


def continuation_tokens(
    model: LanguageModel, prompts: pd.DataFrame, columns: Sequence[str]
) -> Int[Tensor, "prompts columns"]:
    """Return the first tokens of columns' texts as they continue the prompts.

    Raises:
        ValueError: an unknown column, no text, or a text whose tokens do not follow the prompt's.
    """
    check_columns(prompts, columns)
    texts = prompts.assign(**{column: texts_of(prompts, column) for column in columns})
    tokens = [
        [
            first_token(model.tokenizer, row["prompt"], row[column], raw=bool(row["raw"]))
            for column in columns
        ]
        for row in texts.to_dict("records")
    ]
    return torch.tensor(tokens, dtype=torch.long).reshape(len(prompts), len(columns))


def contributions(
    model: LanguageModel, prompts: pd.DataFrame, named: Int[Tensor, "prompts columns"]
) -> Iterator[tuple[int, int, Float[Tensor, " neurons"], Float[Tensor, "columns neurons"]]]:
    """Yield prompt number, layer, activations and contributions of every value, on the CPU."""
    tokens = [[int(token) for token in row] for row in prompts["tokens"]]
    check_context(model, tokens)
    downs = [Site(layer, "mlp_down") for layer in range(model.n_layers)]
    last = Site(model.n_layers - 1, "resid_post")
    blocks = passes(model, [len(row) for row in tokens], model.batch_tokens)
    readouts = readout_vectors(model, named.flatten()).unflatten(0, named.shape)
    states: list[dict[Site, Tensor]] = []
    for block in blocks:
        ids, mask = model.pad([tokens[number] for number in block])
        states.append(hooks.read(model, [*downs, last], ids, mask, lambda hidden: hidden[:, -1]))
    final = [final_factors(model, state[last]).cpu() for state in states]
    # One layer's value vectors at a time: together they would be as large as the model's MLPs.
    for down in downs:
        values = value_vectors(model, down.layer)
        for block, state, final_factor in zip(blocks, states, final, strict=True):
            activations, outputs = state[down].tensor_split([len(values)], -1)
            factors = post_norm_factors(model, down.layer, outputs).cpu() * final_factor
            read = readouts[block].to(values.device) @ values.T
            parts = (activations[:, None].float() * read).cpu() * factors[:, None, None]
            yield from (
                (number, down.layer, activations[row].float().cpu(), parts[row])
                for row, number in enumerate(block)
            )


def _strongest_contexts(
    model: LanguageModel, texts: Sequence[Sequence[int]], layers: Sequence[int], batch_tokens: int
) -> tuple[Float[Tensor, "layer neurons"], Int[Tensor, "layer neurons 2"]]:
    """Return each neuron's largest activation, and the text and position where it is."""
    sites = [Site(layer, "mlp_act") for layer in layers]
    width = model.width(sites[0])
    best = torch.full((len(layers), width), -torch.inf)
    places = torch.zeros(len(layers), width, 2, dtype=torch.long)
    split = passes(model, [len(text) for text in texts], batch_tokens)
    for block in progress(split, "keys", "batch", brief=True):
        ids, mask = model.pad([texts[number] for number in block])
        positions = hooks.token_positions(mask)
        valid = (mask == 1) & (positions > 0)
        valid[:, -1] = False
        owners = valid.nonzero()[:, 0].cpu()
        listed = torch.stack([torch.tensor(block)[owners], positions[valid].cpu()], -1)
        states = hooks.read(model, sites, ids, mask, partial(_rows_of, valid))
        for row, site in enumerate(sites):
            strongest = states[site].float().cpu().max(0)
            above = strongest.values > best[row]
            best[row][above] = strongest.values[above]
            places[row][above] = listed[strongest.indices[above]]
    return best, places


def _rows_of(mask: Bool[Tensor, "batch pos"], hidden: Tensor) -> Tensor:
    return hidden[mask.to(hidden.device)]


def _unembedded(model: LanguageModel, layer: int) -> Iterator[Float[Tensor, "values vocab"]]:
    site = Site(layer, "mlp_act")
    for rows in torch.eye(model.width(site)).split(_VALUES):
        yield direct_logits(model, site, rows)


def _shown(model: LanguageModel, text: Sequence[int], position: int) -> str:
    first = max(0, position + 1 - _CONTEXT)
    start = "…" if first else ""
    return start + "".join(model.piece(token) for token in text[first : position + 1])
