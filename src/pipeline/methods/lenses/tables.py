"""What a lens says at a position and layer, and the table of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.config.errors import at_key
from pipeline.data.prompts import check_columns
from pipeline.methods.lenses.maps import COMPONENT, LensMaps
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.tokenization import first_token


def tabulated(
    model: LanguageModel,
    rows: pd.DataFrame,
    layers: Sequence[int],
    measured: Float64[Tensor, "positions layer values"],
    columns: Sequence[str],
) -> pd.DataFrame:
    """Tabulate `lens_values` of the rows' positions, a row for each position and layer.

    `rows` has `sample`, `label`, `split`, `topic`, `position` and `token`; see
    `lenses.logit_lens` for the columns of the result.
    """
    values = measured.flatten(0, 1).T.numpy()
    pieces = {int(token): model.piece(int(token)) for token in np.unique(values[0])}
    repeated = rows.iloc[np.repeat(np.arange(len(rows)), len(layers))]
    table = repeated.drop(columns="token").assign(
        piece=np.repeat([model.piece(int(token)) for token in rows["token"]], len(layers)),
        layer=np.tile(layers, len(rows)),
        top_token=values[0].astype(int),
        top_piece=[pieces[int(token)] for token in values[0]],
        probability=values[1],
        entropy=values[2],
        kl=values[3],
    )
    for number, column in enumerate(columns):
        rank, probability = values[4 + 2 * number : 6 + 2 * number]
        table[f"{column}_rank"] = rank.astype(int)
        table[f"{column}_reciprocal_rank"] = 1 / rank
        table[f"{column}_probability"] = probability
    return table.reset_index(drop=True)


def checked_maps(model: LanguageModel, fits: Mapping[str, Any], fit: str | None) -> LensMaps | None:
    """Return the lens of a name after checking it at all of its layers; None for the logit lens."""
    if fit is None:
        return None
    maps: LensMaps = fits[fit]
    for layer in maps.layers:
        maps.check(model, Site(layer, COMPONENT))
    return maps


def _first_tokens(model: LanguageModel, row: dict[str, Any], column: str) -> list[int]:
    """Return the distinct first tokens of a column's texts as they continue the prompt."""
    value = row[column]
    texts = [value] if isinstance(value, str) else value
    listed = isinstance(texts, list | tuple | np.ndarray) and len(texts) > 0
    if not listed or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{column} of sample {row['sample']} is {value!r}; valid: text, or a list of texts"
        )
    return list(dict.fromkeys(_first_token(model, row, column, text) for text in texts))


def _first_token(model: LanguageModel, row: dict[str, Any], column: str, text: str) -> int:
    with at_key(f"{column} of sample {row['sample']}"):
        token = first_token(model.tokenizer, row["prompt"], text, raw=bool(row["raw"]))
        model.check_token(token)
    return token


def named_tokens(
    model: LanguageModel, prompts: pd.DataFrame, columns: Sequence[str]
) -> Int[Tensor, "prompts columns texts"]:
    """Return the distinct first tokens of columns' texts after each prompt, padded with -1.

    Raises:
        ValueError: an unknown column, or a text that merges with the prompt's last token.
    """
    check_columns(prompts, columns)
    rows = prompts.to_dict("records")
    named = [[_first_tokens(model, row, column) for column in columns] for row in rows]
    most = max((len(tokens) for columns in named for tokens in columns), default=1)
    padded = [[[*tokens, *[-1] * (most - len(tokens))] for tokens in row] for row in named]
    return torch.tensor(padded, dtype=torch.long).reshape(len(named), -1, most)


def lens_values(
    logits: Float[Tensor, "rows vocab"],
    final: Float64[Tensor, "rows vocab"],
    named: Int[Tensor, "rows columns texts"],
) -> Float64[Tensor, "rows values"]:
    """Return top token, its probability, entropy, KL(final || logits), named ranks and probs."""
    logs = logits.double().log_softmax(-1)
    p = logs.exp()
    top = p.max(-1)
    entropy = torch.special.entr(p).sum(-1)
    divergence = (final.exp() * (final - logs)).sum(-1)
    parts = [top.indices.double(), top.values, entropy, divergence]
    for tokens in named.unbind(1):
        absent = tokens < 0
        level = logits.gather(1, tokens.clamp(min=0)).masked_fill(absent, -torch.inf).amax(-1, True)
        parts.append((logits > level).sum(-1).double() + 1)
        parts.append(p.gather(1, tokens.clamp(min=0)).masked_fill(absent, 0).sum(-1))
    return torch.stack(parts, -1)
