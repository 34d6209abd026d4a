"""Analogies in the embedding or unembedding table: is a relation an offset?"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config.declared import NeedsInEach, OneOf
from pipeline.data.prompts import check_columns
from pipeline.measures.text import texts_of
from pipeline.methods.representations.embeddings import SPACES, TABLES, rows_of, similarities
from pipeline.model.loading import LanguageModel

_SIDES = ("first", "second")
_RANKS = ("rank", "rank_with_inputs", "rank_without_offset", "rank_of_other_offset")


def analogies(
    model: LanguageModel,
    prompts: Annotated[pd.DataFrame, NeedsInEach("topic", "topic")],
    seed: int,
    *,
    columns: list[str] = ["instruction", "answer"],  # noqa: B006 - never changed
    table: Annotated[str, OneOf(*TABLES)] = "embedding",
) -> pd.DataFrame:
    """Tabulate the rank of d among all tokens by similarity to b - a + c, for a : b = c : d.

    Every two pairs of a relation make an analogy. Tokens x are ordered by x·(b - a + c), in each of
    `embeddings.SPACES`; for cosines all rows are scaled to unit length first. Usually a, b and c
    are left out of the candidates, as b or c itself is often first otherwise: both ranks are given.
    Two more ranks, with inputs left out, tell what is due to the offset b - a: the rank by
    similarity to c alone, and the rank with the offset of a pair of another relation.

    Args:
        model: the model.
        prompts: pairs of words; rows with an empty second word are skipped. `topic` is the
            relation.
        seed: of the pairs of other relations.
        columns: of the first and of the second word, with the blank before it. Only pairs of
            different single tokens are used.
        table: one of `embeddings.TABLES`.

    Returns:
        One row per analogy and space: `sample` (the row of c and d), `topic`, `split`, `a`, `b`,
        `c`, `d` (texts), `table`, `space`, `rank` (1: first), `rank_with_inputs`,
        `rank_without_offset`, `rank_of_other_offset` (NaN with only one relation), `vocabulary`,
        `pairs` and `left_out` (usable pairs of the relation, and pairs of no two single tokens).

    Raises:
        ValueError: an unknown table or column, not two columns, or a relation with fewer than two
            usable pairs.

    Source: Mikolov et al. 2013; Linzen 2016 for the ranks without offset and with inputs.
    """
    weight = rows_of(model, table)
    pairs = _pairs(model, prompts, columns)
    words, places = torch.tensor(pairs[list(_SIDES)].to_numpy()).unique(return_inverse=True)
    items = _items(pairs, places.numpy(), seed)
    texts = np.array([model.piece(token) for token in words.tolist()], dtype=object)
    rows = pairs.iloc[items["query"]][["sample", "topic", "split", "pairs", "left_out"]]
    rows = rows.assign(**{name: texts[items[name]] for name in "abcd"}, table=table)
    tables = []
    for space in SPACES:
        products = similarities(weight, words, space)
        ranks = [_ranks(products, words, item) for item in items.to_dict("records")]
        tables.append(
            rows.assign(
                space=space,
                **dict(zip(_RANKS, np.array(ranks).T, strict=True)),
                vocabulary=len(weight),
            )
        )
    return pd.concat(tables, ignore_index=True).astype(dict.fromkeys(_RANKS[:3], int))


def _pairs(model: LanguageModel, prompts: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the pairs of different single tokens, `first` and `second`, with counts by relation.

    Raises:
        ValueError: as `analogies`.
    """
    check_columns(prompts, columns)
    if len(columns) != 2:
        raise ValueError(f"columns: {len(columns)} given; valid: two")
    texts = prompts.assign(**{column: texts_of(prompts, column) for column in columns})
    rows = texts[texts[columns[1]] != ""]
    ids = [
        [model.tokenizer.encode(text, add_special_tokens=False) for text in rows[column]]
        for column in columns
    ]
    usable = [len(x) == len(y) == 1 and x != y for x, y in zip(*ids, strict=True)]
    by_relation = pd.Series(usable, index=rows["topic"].to_numpy()).groupby(level=0, sort=False)
    used = by_relation.sum()
    for relation, count in used.items():
        if count < 2:
            raise ValueError(f"{count} pairs of {relation!r} are single tokens; valid: two or more")
    if used.empty:
        raise ValueError(f"no row has a text in column {columns[1]!r}; valid: pairs of words")
    left_out = by_relation.size() - used
    return rows.assign(
        **{side: [x[0] for x in listed] for side, listed in zip(_SIDES, ids, strict=True)},
        pairs=rows["topic"].map(used),
        left_out=rows["topic"].map(left_out),
    )[usable].reset_index(drop=True)


def _items(pairs: pd.DataFrame, places: Int[np.ndarray, "pairs 2"], seed: int) -> pd.DataFrame:
    """List the analogies a : b = c : d of every two pairs of a relation.

    `query` is the row of c and d; `a` to `d` and `other_a`, `other_b` (a pair of another relation,
    -1 if there is none) are numbers of words. Analogies whose d is also an input are left out.
    """
    draw = np.random.default_rng(seed)
    items = []
    for _, rows in pairs.groupby("topic", sort=False):
        query, source = (
            side.ravel() for side in np.meshgrid(rows.index, rows.index, indexing="ij")
        )
        elsewhere = pairs.index.difference(rows.index).to_numpy()
        others = places[draw.choice(elsewhere, len(query))] if len(elsewhere) else None
        columns = {"query": query, "source": source}
        columns |= dict(zip("abcd", [*places[source].T, *places[query].T], strict=True))
        columns["other_a"], columns["other_b"] = (-1, -1) if others is None else others.T
        items.append(pd.DataFrame(columns))
    table = pd.concat(items, ignore_index=True)
    is_input = (table["d"] == table["a"]) | (table["d"] == table["b"]) | (table["d"] == table["c"])
    return table[(table["query"] != table["source"]) & ~is_input]


def _ranks(
    products: Float[Tensor, "words vocab"], words: Int[Tensor, " words"], item: dict[str, int]
) -> list[float]:
    """Rank d in an analogy, in the order of `_RANKS`."""
    a, b, c, d = (item[name] for name in "abcd")
    other_a, other_b = item["other_a"], item["other_b"]
    analogy = products[b] - products[a] + products[c]
    ranks = [
        _rank(analogy, words[d], words[[a, b, c]]),
        _rank(analogy, words[d], words[[]]),
        _rank(products[c], words[d], words[[a, b, c]]),
    ]
    if other_a < 0:
        return [*ranks, np.nan]
    elsewhere = products[other_b] - products[other_a] + products[c]
    return [*ranks, _rank(elsewhere, words[d], words[[other_a, other_b, c]])]


def _rank(scores: Float[Tensor, " vocab"], target: Tensor, left_out: Tensor) -> float:
    above = scores > scores[target]
    return 1.0 + int(above.sum()) - int(above[left_out.unique()].sum())
