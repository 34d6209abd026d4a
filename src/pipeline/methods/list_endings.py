"""List endings: attribute the end of a list to features, and measure the effect of ablating them.

Follows the study of Gemma 2 2b: a filler blank after an item signals that another item comes;
logit(blank) - logit(line break) after the last item measures the tendency to continue the list.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.config.declared import Selection
from pipeline.data.prompts import select_prompts
from pipeline.data.roles import BASELINE
from pipeline.measures.lists import ablation_table, last_item_token, token_types
from pipeline.methods.sae.attributed import AttributedFeatures, attribute_at_ends
from pipeline.model.loading import LanguageModel

_OF_CONDITIONS = ["condition", "intervention", "source", "draw", "site", "layer", "positions"]
_OF_REFERENCES = ["name", "column", "base", "ablated", "mean", "low", "high", "n"]


def attributed_endings(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    token: str = " ",
    foil: str = "\n",
    select: Any = None,
    top: int = 5,
    checked: int = 50,
    stored: int = 200,
) -> AttributedFeatures:
    """Attribute logit(token) - logit(foil) after the last item of the prompts' recorded lists.

    Only lists that have an end: see `list_ends`. Arguments are those of
    `sae.attributed.attributed_features`.

    Raises:
        ValueError: as `attributed_features`; no list has an end.
    """
    lists = select_prompts(prompts, select)
    ends = list_ends(model.tokenizer, lists)
    rows = lists.set_index("sample").loc[ends.index, ["tokens", "completion_tokens"]]
    tokens = {
        int(sample): [*map(int, prompt), *map(int, completion)][: end + 1]
        for (sample, prompt, completion), end in zip(rows.itertuples(), ends, strict=True)
    }
    return attribute_at_ends(
        model, tokens, fits[fit], token, foil, top=top, checked=checked, stored=stored
    )


def list_ends(tokenizer: Any, lists: pd.DataFrame) -> pd.Series:
    """Locate the last item's last token, as an absolute position, in each list that has an end.

    Indexed by sample. Lists cut at the length limit, whose last item is unknown, and lists without
    an item are dropped.

    Args:
        tokenizer: of the tokens.
        lists: `sample`, `tokens`, `completion_tokens`, `stopped`.

    Raises:
        ValueError: no list is left.
    """
    ends = {
        sample: len(prompt) + last_item_token(types)
        for sample, types, prompt in zip(
            lists["sample"], completion_types(tokenizer, lists), lists["tokens"], strict=True
        )
        if "end" in types and "item" in types
    }
    if not ends:
        raise ValueError(
            f"none of {len(lists)} lists has an item and ended before the length limit "
            "(sweep.decoding.max_new_tokens)"
        )
    return pd.Series(ends)


def completion_types(tokenizer: Any, lists: pd.DataFrame) -> list[list[str]]:
    """Classify every token of each list: see `measures.lists.token_types`."""
    return [
        token_types([tokenizer.decode([token]) for token in tokens], ended=stopped == "end")
        for tokens, stopped in zip(lists["completion_tokens"], lists["stopped"], strict=True)
    ]


def filler_blanks_from_end(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    select: Selection = None,
    first: str | None = None,
) -> pd.DataFrame:
    """Tabulate whether a filler blank follows each item of the prompts' recorded lists.

    Args:
        model: provides the tokenizer.
        prompts: the dataset, with completions.
        select: selection of prompts, as an arm's `prompts`.
        first: the label listed first in the table.

    Returns:
        `label`, `sample`, `from_end` (0 is the last item), `blank`.
    """
    lists = select_prompts(prompts, select)
    lists = lists.sort_values("label", key=lambda label: label != first, kind="stable")
    rows = zip(
        completion_types(model.tokenizer, lists), lists["label"], lists["sample"], strict=True
    )
    return pd.DataFrame(
        [
            {"label": label, "sample": sample, "from_end": from_end, "blank": blank}
            for types, label, sample in rows
            for from_end, blank in _blanks(types)
        ]
    )


def _blanks(types: Sequence[str]) -> Iterator[tuple[int, bool]]:
    pairs = zip(types, [*types[1:], "end"], strict=True)
    followed = [after == "filler_blank" for type_, after in pairs if type_ == "item" != after]
    yield from ((-back, blank) for back, blank in enumerate(reversed(followed)))


def list_changes(completions: pd.DataFrame, seed: int, *, arms: list[str]) -> pd.DataFrame:
    """Tabulate the effect of the arms' conditions on lists: see `measures.lists.ablation_table`.

    Args:
        completions: of all arms.
        seed: of the bootstrap.
        arms: arms to compare, each with its own baseline.

    Returns:
        The table, with the axes of each condition.
    """
    changes = pd.concat([_changes(completions, seed, arm) for arm in arms], ignore_index=True)
    axes = completions.drop_duplicates("condition")[_OF_CONDITIONS]
    return changes.merge(axes, on="condition", validate="many_to_one")


def list_references(
    prompts: pd.DataFrame,
    completions: pd.DataFrame,
    seed: int,
    *,
    arm: str,
    templates: Any,
    arms: dict[str, str],
) -> pd.DataFrame:
    """Tabulate reference effects on lists: other prompts, steering vectors and sampling.

    Args:
        prompts: the dataset, with completions.
        completions: of all arms.
        seed: of the bootstrap.
        arm: the arm whose baseline other prompts are compared with.
        templates: prompts of other labels on the arm's topics, selected as an arm's `prompts`.
        arms: arm with one condition -> display name.

    Returns:
        `name`, and columns of `measures.lists.ablation_table`.
    """
    base = completions[(completions["arm"] == arm) & (completions["role"] == BASELINE)]
    others = select_prompts(prompts, templates)
    # A topic whose lists were all cut off is in no ablation.
    others = others[others["topic"].isin(base["topic"])]
    written = pd.concat(
        [base.assign(name="base"), others.assign(name="template: " + others["label"], repeat=0)]
    )
    tables = [ablation_table(written, baseline="base", by="name", seed=seed)]
    tables += [_changes(completions, seed, other).assign(name=name) for other, name in arms.items()]
    return pd.concat(tables, ignore_index=True)[_OF_REFERENCES]


def _changes(completions: pd.DataFrame, seed: int, arm: str) -> pd.DataFrame:
    rows = completions[completions["arm"] == arm]
    baseline = rows.loc[rows["role"] == BASELINE, "condition"].iloc[0]
    return ablation_table(rows, baseline=baseline, seed=seed)
