"""Side effects of edits of facts: losses of unrelated texts under each fact's edit."""

from collections.abc import Mapping
from typing import Annotated, Any

import pandas as pd

from pipeline.config.declared import ColumnName, NeedsText, OneOrMore, Range
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import cross_entropy
from pipeline.methods.editing.rank_ones import EDITS, conditions_of, edits_of
from pipeline.methods.lenses.maps import text_parts, tokens_of
from pipeline.model.loading import LanguageModel


def edit_side_effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    texts: Annotated[pd.DataFrame, NeedsText()],
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    each: OneOrMore = 4,
    longest: Annotated[int, Range(3)] = 64,
    fact: ColumnName = "fact",
) -> pd.DataFrame:
    """Tabulate the cross-entropy of unrelated texts under every edit, beside random edits.

    Each fact has `each` different texts, from the test part of `text_parts` in turn: several facts
    have the same text if there are fewer than facts times `each`. Random edits have the same u and
    a delta of the same norm.

    Args:
        model: the model.
        prompts: the dataset, for split, label and topic of the facts.
        texts: unrelated texts.
        fits: contains `fit`.
        seed: of the random edits.
        fit: the name of a `RankOneEdits`.
        each: texts of a fact.
        longest: tokens of a text that are used.
        fact: dataset column that names the fact.

    Returns:
        One row per fact, text, layer and kind of edit: `fact`, `split`, `label`, `topic`, `text`,
        `layer`, `edit`, `loss` and `clean_loss` in nats per token, and their difference `change`.

    Raises:
        ValueError: no such fit, or fewer texts than `each`.
    """
    edits = edits_of(fits, fit)
    listed = tokens_of(text_parts(texts)["test"], longest)
    if not 1 <= each <= len(listed):
        raise ValueError(
            f"each: {each} texts of a fact; valid: 1 to {len(listed)}, the texts of the test part"
        )
    owners = [name for name in edits.facts for _ in range(each)]
    numbers = [n % len(listed) for n in range(len(owners))]
    conditions = [
        Condition(),
        *(
            condition
            for edit in EDITS
            for condition in conditions_of(model, edits, owners, edit, seed)
        ),
    ]
    rows = [listed[number] for number in numbers]
    clean, *losses = cross_entropy(model, rows, conditions, batch_tokens=model.batch_tokens)
    about = prompts.drop_duplicates(fact).set_index(fact)[["split", "label", "topic"]]
    table = about.loc[owners].reset_index(names="fact").assign(text=numbers)
    return pd.concat(
        [
            table.assign(
                **condition.axes,
                loss=loss.double().numpy(),
                clean_loss=clean.double().numpy(),
                change=(loss - clean).double().numpy(),
            )
            for condition, loss in zip(conditions[1:], losses, strict=True)
        ],
        ignore_index=True,
    )
