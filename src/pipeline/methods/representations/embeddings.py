"""Nearest neighbours in the embedding or unembedding table."""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.config.declared import OneOf, OneOrMore
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import single_tokens

TABLES = ("embedding", "unembedding")
SPACES = ("cosine", "dot", "centred cosine", "centred dot")
"""How the similarity of two rows e and w is measured: e·w (`dot`) or e·w / (|e| |w|) (`cosine`), or
the same of e - m and w - m (`centred`), m the mean row.
"""

_ROWS = 16384
"""Rows of the table that are converted to float32 at a time."""


def nearest_tokens(
    model: LanguageModel,
    *,
    words: list[str],
    table: Annotated[str, OneOf(*TABLES)] = "embedding",
    top: OneOrMore = 5,
) -> pd.DataFrame:
    """Tabulate the tokens most similar to words, in each of `SPACES`, without the word itself.

    Args:
        model: the model.
        words: each a single token, mostly with the blank before it: " king".
        table: one of `TABLES`; the same in models that tie them.
        top: neighbours of a word.

    Returns:
        One row per word, space and rank: `word`, `token`, `table`, `space`, `rank` (1:
        nearest), `neighbour` (its token), `piece` (its text), `similarity`.

    Raises:
        ValueError: an unknown table, a word of several tokens, no words, or `top` outside 1 to the
            vocabulary less one.
    """
    weight = rows_of(model, table)
    tokens = single_tokens(model.tokenizer, words)
    if not tokens:
        raise ValueError("words is empty; valid: one or more")
    if not 1 <= top < len(weight):
        raise ValueError(f"top = {top} tokens; valid: 1 to {len(weight) - 1}")
    tables = []
    for space in SPACES:
        similarity = similarities(weight, torch.tensor(tokens), space)
        similarity[torch.arange(len(tokens)), tokens] = -torch.inf
        best = similarity.topk(top)
        tables.append(
            pd.DataFrame(
                {
                    "word": np.repeat(words, top),
                    "token": np.repeat(tokens, top),
                    "table": table,
                    "space": space,
                    "rank": np.tile(np.arange(1, top + 1), len(tokens)),
                    "neighbour": best.indices.flatten().numpy(),
                    "piece": [model.piece(token) for token in best.indices.flatten().tolist()],
                    "similarity": best.values.flatten().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def rows_of(model: LanguageModel, table: str) -> Float[Tensor, "vocab d_model"]:
    """Return the rows of a table that the tokenizer has tokens for.

    Raises:
        ValueError: an unknown table.
    """
    if table not in TABLES:
        raise ValueError(f"table: {table!r} is unknown; valid: {', '.join(TABLES)}")
    hf = model.hf
    module = hf.get_input_embeddings() if table == "embedding" else hf.get_output_embeddings()
    # Some tables are padded to a round number of rows.
    return module.weight.detach()[: len(model.tokenizer)]


def similarities(
    weight: Float[Tensor, "vocab d_model"], words: Int[Tensor, " words"], space: str
) -> Float[Tensor, "words vocab"]:
    """Compute the similarities of words to all tokens, in a space."""
    mean = torch.zeros(weight.shape[1], device=weight.device)
    if space.startswith("centred"):
        total = sum(part.sum(0, dtype=torch.float64) for part in weight.split(_ROWS))
        mean = (total / len(weight)).float()

    def rows(part: Tensor) -> Tensor:
        shifted = part.float() - mean
        return normalize(shifted, dim=-1) if space.endswith("cosine") else shifted

    vectors = rows(weight[words.to(weight.device)])
    return torch.cat([(vectors @ rows(part).T).cpu() for part in weight.split(_ROWS)], 1)
