"""The recorded lists of a study: those that features are attributed and ablated in."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.sections import Study
from pipeline.data.recording import drawn, whole
from pipeline.measures.lists import last_item_token, token_types


def recorded_lists(study: Study, folder: Path) -> pd.DataFrame:
    """The lists of the autoencoders' label, as `all_lists` has them."""
    assert study.autoencoders is not None
    lists = all_lists(study, folder)
    return lists[lists["label"] == study.autoencoders.label].reset_index(drop=True)


def all_lists(study: Study, folder: Path) -> pd.DataFrame:
    """Recorded lists of all prompts, as many draws as the sweep has repeats.

    Args:
        study: has autoencoders.
        folder: of the study, with its prompts and recorded completions.

    Returns:
        The rows of the dataset, a sample each, with its `completion`, the tokens of that as
        `generated`, `stopped`, and `whole`, the tokens of prompt and completion.
    """
    assert study.autoencoders is not None and study.sweep.decoding is not None
    prompts = drawn(pd.read_parquet(folder / "dataset.parquet"), study.autoencoders.recorded)
    prompts = prompts[prompts["draw"] < study.sweep.decoding.repeats]
    completions = pd.read_parquet(folder / "completions.parquet")
    own = completions[completions["sample"].isin(prompts["sample"])]
    tokens = whole(prompts, own)
    found = own.set_index("sample")
    return prompts.assign(
        completion=prompts["sample"].map(found["completion"]),
        generated=prompts["sample"].map(found["tokens"]),
        stopped=prompts["sample"].map(found["stopped"]),
        whole=prompts["sample"].map(tokens),
    ).reset_index(drop=True)


def types(tokenizer: Any, lists: pd.DataFrame) -> list[list[str]]:
    """The type of every generated token of each list: `measures.lists.token_types`."""
    return [
        token_types([tokenizer.decode([token]) for token in tokens], ended=stopped == "end")
        for tokens, stopped in zip(lists["generated"], lists["stopped"], strict=True)
    ]


def list_ends(tokenizer: Any, lists: pd.DataFrame) -> pd.Series:
    """The absolute position of the last item's last token in each list that has an end.

    By the index of `lists`, without those cut off at the length limit, whose last item is not
    known, and those without an item.

    Raises:
        ValueError: none is left.
    """
    ends = {
        number: len(prompt) + last_item_token(own)
        for number, own, prompt in zip(
            lists.index, types(tokenizer, lists), lists["tokens"], strict=True
        )
        if "end" in own and "item" in own
    }
    if not ends:
        raise ValueError(
            f"none of {len(lists)} lists has an item and ended before the length limit "
            "(sweep.decoding.max_new_tokens)"
        )
    return pd.Series(ends)
