"""Lists, token by token and topic by topic: what each token is, and what ablation changes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from pipeline.measures.statistics import estimate
from pipeline.measures.text import list_items, self_bleu_scores

TYPES = ("item", "filler_blank", "line_break", "end")
COLUMNS = (
    "diversity_mean",
    "diversity_variance",
    "n_items_mean",
    "n_items_variance",
    "self_bleu",
)


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
    """`COLUMNS` of every topic, over its completions; none depends on their order.

    n_items: items of a completion. `diversity_mean`: distinct items / all items of the topic, after
    case folding. `diversity_variance`: the variance over completions i of u_i = items of i that no
    other completion of the topic has / items of i. `self_bleu`: BLEU of a completion against the
    topic's others (4-grams), averaged: high where lists are alike. Variances divide by n - 1 and
    are NaN for one completion, as self-BLEU is; a completion without items has no u_i and no BLEU.

    Returns:
        Indexed by topic.
    """
    rows = {}
    for topic, own in completions.groupby("topic"):
        lists = [
            [item.strip().casefold() for item in list_items(text, separator)]
            for text in own["completion"]
        ]
        holders = Counter(item for items in lists for item in set(items))
        every = [item for items in lists for item in items]
        unshared = [
            sum(holders[item] == 1 for item in items) / len(items) if items else np.nan
            for items in lists
        ]
        spoken = [text for text in own["completion"] if text.strip(" ")]
        counts = pd.Series([len(items) for items in lists], dtype=float)
        rows[topic] = {
            "diversity_mean": len(holders) / len(every) if every else np.nan,
            "diversity_variance": pd.Series(unshared, dtype=float).var(),
            "n_items_mean": counts.mean(),
            "n_items_variance": counts.var(),
            "self_bleu": np.mean(self_bleu_scores(spoken, 4)) if len(spoken) > 1 else np.nan,
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
