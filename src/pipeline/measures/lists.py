"""Lists, token by token and topic by topic: what each token is, and what ablation changes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.statistics import estimate
from pipeline.measures.text import distinct, list_items

TYPES = ("item", "filler_blank", "line_break", "end")
COLUMNS = ("diversity_mean", "diversity_variance", "n_items_mean", "n_items_variance")


def token_types(pieces: Sequence[str], *, ended: bool) -> list[str]:
    """The type of every token of a generated list, from the tokens' texts.

    A token with a line break is `line_break`, whatever blanks it also has. Blanks are
    `filler_blank` where nothing but blanks follows up to a line break or the end, and belong to the
    `item` before a further word. `end` is one more, for the token that ended the list.
    """
    types: list[str] = []
    closing = True
    for piece in reversed(pieces):
        if "\n" in piece:
            types.append("line_break")
            closing = True
        elif piece.strip() == "" and closing:
            types.append("filler_blank")
        else:
            types.append("item")
            closing = False
    return types[::-1] + (["end"] if ended else [])


def last_item_token(types: Sequence[str]) -> int:
    """Where the last token of the last item stands, counted from the completion's first.

    Raises:
        ValueError: no token is of an item.
    """
    if "item" not in types:
        raise ValueError(f"no item among {len(types)} tokens of types {sorted(set(types))}")
    return len(types) - 1 - list(reversed(types)).index("item")


def blank_over_break(
    logits: Float[Tensor, "rows vocab"], *, blank: int, line_break: int
) -> Float[Tensor, " rows"]:
    """logit(blank) - logit(line break): what the list's last item is to be followed by."""
    return logits[:, blank] - logits[:, line_break]


def by_topic(completions: pd.DataFrame, *, separator: str = "\n") -> pd.DataFrame:
    """`COLUMNS` of every topic, over its completions.

    n_items: items of a completion. diversity of a completion: its distinct items that no earlier
    completion of the topic has (in order of `sample`, `repeat`) / its items, so that the mean
    weighted by items is the topic's distinct items / all items; `diversity_mean` is that ratio,
    `diversity_variance` the variance over completions. Variances divide by n - 1 and are NaN for
    one completion; a completion without items has no diversity.

    Returns:
        Indexed by topic.
    """
    rows = {}
    for topic, own in completions.sort_values(["sample", "repeat"]).groupby("topic"):
        seen: list[str] = []
        counts, shares = [], []
        for text in own["completion"]:
            items = list_items(text, separator)
            new = distinct([*seen, *items]) - distinct(seen)
            seen += items
            counts.append(len(items))
            shares.append(new / len(items) if items else np.nan)
        rows[topic] = {
            "diversity_mean": distinct(seen) / len(seen) if seen else np.nan,
            "diversity_variance": pd.Series(shares, dtype=float).var(),
            "n_items_mean": float(np.mean(counts)),
            "n_items_variance": pd.Series(counts, dtype=float).var(),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def ablation_table(
    completions: pd.DataFrame, *, baseline: str, by: str = "condition", seed: int
) -> pd.DataFrame:
    """Ablated minus base for each of `COLUMNS`, averaged over topics, with 95 % intervals.

    Whole topics are resampled: the differences of a topic are one number for each condition.

    Args:
        completions: `by`, `topic`, `sample`, `repeat`, `completion`.
        baseline: the value of `by` that the others are compared with.
        by: the column that tells conditions apart.
        seed: of the resampling.

    Returns:
        A row for each other condition and column: `by`, `column`, `base`, `ablated` and those of
        `statistics.Estimate` for the difference.

    Raises:
        ValueError: no such baseline, or a condition on other topics.
    """
    found = {name: by_topic(own) for name, own in completions.groupby(by, sort=False)}
    if baseline not in found:
        raise ValueError(f"no {by} {baseline!r}; there are: {', '.join(map(str, found))}")
    base, rows = found.pop(baseline), []
    for name, ablated in found.items():
        alone = base.index.symmetric_difference(ablated.index)
        if len(alone):
            raise ValueError(f"topic {alone[0]!r} is not in both {by} {name!r} and {baseline!r}")
        for column in COLUMNS:
            difference = ablated[column] - base[column]
            result = estimate(
                difference, pd.Series(base.index, base.index), proportion=False, seed=seed
            )
            rows.append(
                {
                    by: name,
                    "column": column,
                    "base": base[column].mean(),
                    "ablated": ablated[column].mean(),
                    **vars(result),
                }
            )
    return pd.DataFrame(rows)
