"""Measure generated lists: token types, measures by topic, and the effect of ablation."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.measures.statistics import estimate
from pipeline.measures.text import list_items, self_bleu_scores

TYPES = ("item", "filler_blank", "line_break", "end")
LIST_MEASURES = (
    "diversity_mean",
    "diversity_variance",
    "n_items_mean",
    "n_items_variance",
    "self_bleu",
)


def token_types(pieces: Sequence[str], *, ended: bool) -> list[str]:
    """Classify every token of a generated list from the tokens' texts.

    A token that contains a line break is `line_break`. A blank token is `filler_blank` if only
    blanks follow up to the next line break or the end, otherwise part of the `item`. `ended`
    appends `end`, for the token that ended the list.
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
    """Return the index in the completion of the last item's last token.

    Raises:
        ValueError: no token belongs to an item.
    """
    if "item" not in types:
        raise ValueError(f"no item among {len(types)} tokens of types {sorted(set(types))}")
    return len(types) - 1 - list(reversed(types)).index("item")


def by_topic(completions: pd.DataFrame, *, separator: str = "\n") -> pd.DataFrame:
    """Compute `LIST_MEASURES` of every topic over its completions, in any order.

    n_items: items per completion. `diversity_mean`: distinct items / all items of the topic, after
    case folding. `diversity_variance`: variance over completions i of u_i = items of i that occur
    in no other completion of the topic / items of i. `self_bleu`: mean BLEU (4-grams) of a
    completion against the topic's others; high if lists are similar. Variances divide by n - 1;
    they and self-BLEU are NaN for a single completion. A completion without items has no u_i and
    no BLEU.

    Returns:
        Indexed by topic.
    """
    rows = {}
    for topic, of_topic in completions.groupby("topic"):
        lists = [
            [item.strip().casefold() for item in list_items(text, separator)]
            for text in of_topic["completion"]
        ]
        holders = Counter(item for items in lists for item in set(items))
        all_items = [item for items in lists for item in items]
        unshared = [
            sum(holders[item] == 1 for item in items) / len(items) if items else np.nan
            for items in lists
        ]
        spoken = [text for text in of_topic["completion"] if text.strip(" ")]
        counts = pd.Series([len(items) for items in lists], dtype=float)
        rows[topic] = {
            "diversity_mean": len(holders) / len(all_items) if all_items else np.nan,
            "diversity_variance": pd.Series(unshared, dtype=float).var(),
            "n_items_mean": counts.mean(),
            "n_items_variance": counts.var(),
            "self_bleu": np.mean(self_bleu_scores(spoken, 4)) if len(spoken) > 1 else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(LIST_MEASURES))


def ablation_table(
    completions: pd.DataFrame, *, baseline: str, by: str = "condition", seed: int
) -> pd.DataFrame:
    """Average ablated minus base of each of `LIST_MEASURES` over topics, with 95 % intervals.

    The bootstrap resamples whole topics: each topic has one difference per condition.

    Args:
        completions: `by`, `topic`, `sample`, `repeat`, `completion`.
        baseline: the value of `by` to compare the others with.
        by: the column that identifies conditions.
        seed: of the bootstrap.

    Returns:
        One row per other condition and measure: `by`, `column`, `base`, `ablated` and the fields of
        `statistics.Estimate` for the difference.

    Raises:
        ValueError: no such baseline, or a condition with other topics than the baseline.
    """
    measures = {name: by_topic(lists) for name, lists in completions.groupby(by, sort=False)}
    if baseline not in measures:
        raise ValueError(f"no {by} {baseline!r}; there are: {', '.join(map(str, measures))}")
    base, rows = measures.pop(baseline), []
    for name, ablated in measures.items():
        unmatched = base.index.symmetric_difference(ablated.index)
        if len(unmatched):
            raise ValueError(
                f"topic {unmatched[0]!r} is not in both {by} {name!r} and {baseline!r}"
            )
        for column in LIST_MEASURES:
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
