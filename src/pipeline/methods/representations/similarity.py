"""One word in several contexts: cosine similarity of its states by layer and sense."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from pipeline.config.declared import NeedsInEach, ZeroOrMore
from pipeline.methods.representations.stored_layers import stored_layers, stored_samples
from pipeline.store.store import ActivationStore

MEASURES = ("raw", "relative", "centred")


def similarity_by_layer(
    store: ActivationStore,
    prompts: Annotated[pd.DataFrame, NeedsInEach("topic", "topic")],
    seed: int,
    *,
    component: str = "resid_pre",
    layers: Any = "all",
    shuffles: ZeroOrMore = 99,
) -> pd.DataFrame:
    """Tabulate how similar a word's states are within a sense, and between its senses, by layer.

    For the states x_i of all contexts of a word, `same` is the mean cosine of pairs i < j with the
    same label, `different` that of pairs with different labels, `difference` same - different. A
    layer's states all point in similar directions, so cosines of layers compare only relative to
    `unrelated`, the mean cosine of two states of different words of the split. Measures:

    - `raw`: cosine of x_i and x_j.
    - `relative`: raw / unrelated; NaN unless unrelated > 0.
    - `centred`: cosine of x_i - m and x_j - m, m the mean over words of their mean state.

    Control: labels shuffled among the contexts of each word.

    Args:
        store: one position of each sample, such as the word's last token (rule `subject`). In a
            causal model the state at a word depends on the text before it only.
        prompts: the dataset; `topic` is the word, `label` the sense.
        seed: of the shuffles.
        component: of the collected sites.
        layers: `all`, or a list.
        shuffles: number of shuffled labellings; 0 for no control.

    Returns:
        One row per split, word, layer, measure and labelling: `split`, `topic`, `component`,
        `layer`, `measure`, `shuffle` (0: the labels, from 1: shuffled), `contexts`, `unrelated`,
        `same`, `different`, `difference`.

    Raises:
        ValueError: several positions of a sample, a component or layer that was not collected, a
            word without two contexts of a label or without two labels, only one word in a split, or
            a negative number of shuffles.

    Source: Ethayarajh 2019, "How contextual are contextualized word representations?", which
    subtracts the mean similarity of random words; we divide by it, or subtract the mean state.
    """
    if shuffles < 0:
        raise ValueError(f"shuffles = {shuffles}; valid: 0 or more")
    samples = stored_samples(store, prompts)
    words = [
        (
            split,
            word,
            rows.index.to_numpy(),
            *_pairs(word, rows["label"].to_numpy(), shuffles, seed),
        )
        for (split, word), rows in samples.groupby(["split", "topic"], sort=False)
    ]
    for split, count in samples.groupby("split")["topic"].nunique().items():
        if count == 1:
            raise ValueError(f"split {split} has only one word (topic); valid: two or more")
    tables = []
    for layer, states in stored_layers(store, component, layers):
        for split in samples["split"].unique():
            chosen = [word[1:] for word in words if word[0] == split]
            for measure, cosines, unrelated in _measures(states, [rows for _, rows, *_ in chosen]):
                for word, rows, first, second, alike in chosen:
                    values = cosines[rows[first], rows[second]]
                    same = (alike @ values) / alike.sum(1)
                    different = (~alike @ values) / (~alike).sum(1)
                    columns = {
                        "split": split,
                        "topic": word,
                        "component": component,
                        "layer": layer,
                        "measure": measure,
                        "shuffle": np.arange(shuffles + 1),
                        "contexts": len(rows),
                        "unrelated": unrelated,
                        "same": same,
                        "different": different,
                        "difference": same - different,
                    }
                    tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _pairs(
    word: str, labels: np.ndarray, shuffles: int, seed: int
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "labelling pair"]]:
    """List the pairs of contexts of a word, and which are alike under each labelling.

    Raises:
        ValueError: no pair of the same label, or none of different labels.
    """
    first, second = np.triu_indices(len(labels), 1)
    # A word's shuffles do not depend on the other words.
    draw = np.random.default_rng([seed, *word.encode()])
    labellings = np.stack([labels, *(draw.permutation(labels) for _ in range(shuffles))])
    alike = labellings[:, first] == labellings[:, second]
    if not alike[0].any() or alike[0].all():
        counts = pd.Series(labels).value_counts()
        listed = ", ".join(f"{label} {count}" for label, count in counts.items())
        raise ValueError(
            f"contexts of {word!r} by label: {listed}; valid: two labels, one with two"
        )
    return first, second, alike


def _measures(
    states: Float64[np.ndarray, "rows width"], words: list[np.ndarray]
) -> Iterator[tuple[str, Float64[np.ndarray, "rows rows"], float]]:
    """Yield each measure's cosines of all rows, and the mean over pairs of different words."""
    raw = _cosines(states)
    unrelated = _between(raw, words)
    yield "raw", raw, unrelated
    yield "relative", raw / (unrelated if unrelated > 0 else np.nan), 1.0
    centred = _cosines(states - np.mean([states[rows].mean(0) for rows in words], 0))
    yield "centred", centred, _between(centred, words)


def _cosines(states: Float64[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows rows"]:
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    return unit @ unit.T


def _between(cosines: Float64[np.ndarray, "rows rows"], words: list[np.ndarray]) -> float:
    """Average over all pairs of rows of different words."""
    every = np.concatenate(words)
    total, pairs = cosines[np.ix_(every, every)].sum(), len(every) ** 2
    for rows in words:
        total -= cosines[np.ix_(rows, rows)].sum()
        pairs -= len(rows) ** 2
    return float(total / pairs)
