"""Sentences with dependency trees: their words, and the states of these in a store."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.measures.trees import parse_heads, tree_distances
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import subject_positions, template_tail
from pipeline.store.store import ActivationStore

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass(frozen=True, eq=False)
class Sentences:
    """The states of the words of some sentences, padded, with their trees.

    Attributes:
        rows: numbers of the store's rows, one for each word, sentence by sentence.
        counts: words of each sentence.
        parents: of each sentence; see `measures.trees.parse_heads`.
        samples: the dataset's rows.
    """

    rows: Int[np.ndarray, " words"]
    counts: list[int]
    parents: list[list[int]]
    samples: pd.DataFrame

    @property
    def real(self) -> Bool[Tensor, "sentences words"]:
        """Which places of the padded sentences are words."""
        return torch.arange(max(self.counts)) < torch.tensor(self.counts)[:, None]

    def states(self, store: ActivationStore, site: str) -> Float[Tensor, "sentences words d_model"]:
        """Read the states of all words, 0 in padding."""
        flat = store[site][self.rows].float()
        padded = torch.zeros(*self.real.shape, flat.shape[1])
        padded[self.real] = flat
        return padded

    def distances(self, rng: np.random.Generator | None) -> Float[Tensor, "sentences words words"]:
        """Return the distances of every tree; with a generator, of the tree on permuted words."""
        most = max(self.counts)
        padded = torch.zeros(len(self.counts), most, most)
        for number, (parents, n) in enumerate(zip(self.parents, self.counts, strict=True)):
            distances = tree_distances(parents)
            order = np.arange(n) if rng is None else rng.permutation(n)
            padded[number, :n, :n] = torch.from_numpy(distances[order][:, order]).float()
        return padded


def stored_sentences(
    model: LanguageModel, store: ActivationStore, prompts: pd.DataFrame, split: str, heads: str
) -> Sentences:
    """Find the words of a split's sentences in a store.

    Raises:
        ValueError: no sentences of the split in the store, heads that are no tree of the words, or
            a word whose last token is not in the store.
    """
    stored = store.rows
    number = {
        (sample, position): row
        for row, (sample, position) in enumerate(
            zip(stored["sample"], stored["position"], strict=True)
        )
    }
    samples = prompts[(prompts["split"] == split) & prompts["sample"].isin(stored["sample"])]
    if samples.empty:
        raise ValueError(f"no activations of the split {split}; collect.splits must name it")
    rows, parents = [], []
    tail = template_tail(model.tokenizer, variables=model.template)
    for row in samples.to_dict("records"):
        words, tree = words_of(row, heads)
        parents.append(tree)
        for place in _last_tokens(model, row, words, tail):
            if (row["sample"], place) not in number:
                raise ValueError(
                    f"token {place} of sample {row['sample']} is not in the store; "
                    "collect.positions must be all"
                )
            rows.append(number[row["sample"], place])
    counts = [len(tree) for tree in parents]
    return Sentences(np.array(rows), counts, parents, samples.reset_index(drop=True))


def words_of(row: Mapping[str, Any], heads: str) -> tuple[list[re.Match[str]], list[int]]:
    """Return the words of a sentence, and the parent of each.

    Raises:
        ValueError: no such column, or heads that are no tree of two or more words.
    """
    if heads not in row:
        raise ValueError(f"no column {heads!r} in the dataset; it has: {', '.join(map(str, row))}")
    words = list(_WORD.finditer(row["instruction"]))
    parents = parse_heads(row[heads])
    if len(words) != len(parents) or len(words) < 2:
        raise ValueError(
            f"sample {row['sample']} has {len(words)} words and {len(parents)} {heads}; "
            "valid: equally many, and two or more"
        )
    return words, parents


def _last_tokens(
    model: LanguageModel, row: Mapping[str, Any], words: list[re.Match[str]], tail: str
) -> Iterator[int]:
    for word in words:
        yield subject_positions(
            model.tokenizer,
            row["prompt"],
            word.group(),
            instruction=row["instruction"],
            start=word.start(),
            tail=tail,
            raw=row["raw"],
        )[-1]
