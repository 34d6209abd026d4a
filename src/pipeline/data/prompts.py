"""Render, tokenise and select prompts and texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data import datasets
from pipeline.data.positions import check_table
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import encode, is_of_word, with_answer

FEW = 10
"""Prompts of a label and split below which a warning says so."""


def tokenised_prompts(
    frame: pd.DataFrame,
    tokenizer: Any,
    *,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Render and tokenise a dataset; warn if the chat template or its system turn is missing.

    Raises:
        ValueError: the dataset is empty.
    """
    if frame.empty:
        raise ValueError("dataset is empty")
    if not frame["raw"].all():
        chat.announce(tokenizer, system, variables)
    return datasets.tokenise(frame, tokenizer, system=system, variables=variables)


def tokenised_alike(
    frame: pd.DataFrame, prompts: pd.DataFrame, model: LanguageModel
) -> pd.DataFrame:
    """Render and tokenise a dataset, such as counterparts of prompts, as the prompts were.

    Raises:
        ValueError: the prompts have another system text or other template variables than the
            model's.
    """
    render = partial(datasets.tokenise, system=model.system, variables=model.template)
    first = prompts[~prompts["raw"].astype(bool)].head(1)
    if render(first, model.tokenizer)["prompt"].tolist() != first["prompt"].tolist():
        raise ValueError(
            f"{first['instruction'].iloc[0]!r} is not rendered with model.system {model.system!r} "
            f"and model.template {dict(model.template)}, as its counterpart would be; valid: so"
        )
    return render(frame, model.tokenizer)


def doubts(frame: pd.DataFrame) -> list[str]:
    """Describe what makes results of a dataset doubtful: leaks, repeated prompts, tiny classes."""
    found = []
    # A target prompt is the same for all of its source prompts.
    is_target = "source_subject_start" in frame
    text = "source" if is_target else "instruction"
    # Capitals and blanks tell no prompts apart.
    alike = frame[text].str.casefold().str.split().str.join(" ")
    split_counts = frame.groupby(alike)["split"].nunique()
    shared = split_counts[split_counts > 1]
    if len(shared):
        first = frame[text][alike == shared.index[0]].iloc[0]
        found.append(f"dataset: {len(shared)} {text}s are in several splits, such as {first!r}")
    label_counts = frame.groupby([alike, "raw"])["label"].nunique()
    if not is_target and (label_counts > 1).any():
        twice = label_counts[label_counts > 1].index
        first = frame[text][alike == twice[0][0]].iloc[0]
        found.append(f"dataset: {len(twice)} {text}s have several labels, such as {first!r}")
    for column in frame:
        meant = str(column).strip().casefold()
        if column not in datasets.PROMPT_COLUMNS and meant in datasets.PROMPT_COLUMNS:
            found.append(f"dataset: the column {column!r} is not taken as {meant!r}; rename it")
    again = frame.duplicated([text, "label", "split", *(["draw"] if "draw" in frame else [])])
    if not is_target and again.any():
        row = frame[again].iloc[0]
        found.append(
            f"dataset: {int(again.sum())} prompts stand in their split before, such as "
            f"{row[text]!r} in {row['split']}: they count as independent"
        )
    found += _mid_word(frame)
    sizes = frame.groupby(["label", "split"]).size()
    small = [f"{n} of {label} in {split}" for (label, split), n in sizes.items() if n < FEW]
    if small:
        more = f" and {len(small) - 4} more" if len(small) > 4 else ""
        found.append(f"dataset: fewer than {FEW} prompts: {', '.join(small[:4])}{more}")
    return found


def _mid_word(frame: pd.DataFrame) -> list[str]:
    """Describe answers that go on with the last word of a raw prompt: mostly a blank is missing."""
    rows = frame[frame["raw"] & (frame["answer"] != "") & (frame["instruction"] != "")]
    pairs = list(zip(rows["instruction"], rows["answer"], strict=True))
    joined = [pair for pair in pairs if is_of_word(pair[0][-1]) and is_of_word(pair[1][0])]
    if not joined:
        return []
    prompt, answer = joined[0]
    return [
        f"dataset: {len(joined)} answers go on with the last word of their prompt, such as "
        f"{answer!r} after {prompt[-20:]!r}; an answer that is a word begins with a blank"
    ]


def tokenised_texts(path: str | None, tokenizer: Any) -> pd.DataFrame:
    """Tokenise the unrelated texts that side effects are measured on; without a path, no rows.

    Raises:
        ValueError: as `datasets.load_texts`.
    """
    if path is None:
        return pd.DataFrame({"sample": [], "tokens": []})
    texts = datasets.load_texts(path)
    return texts.assign(tokens=[encode(tokenizer, text, raw=True) for text in texts["text"]])


def select_prompts(
    prompts: pd.DataFrame, wanted: Any, splits: list[str] | None = None
) -> pd.DataFrame:
    """Select the rows that an arm or a fit names.

    Args:
        prompts: the dataset.
        wanted: a label; column -> value or list of values; None: every row.
        splits: the splits to select from; None: all.

    Raises:
        ValueError: an unknown column, a value that no row has, or an empty selection; names the
            valid ones.
    """
    columns = {} if wanted is None else wanted
    columns = columns if isinstance(columns, Mapping) else {"label": wanted}
    for column, values in columns.items():
        if column not in prompts:
            raise ValueError(f"no column {column!r}; valid: {', '.join(map(str, prompts))}")
        present = prompts[column].dropna().tolist()
        if any(isinstance(value, list | dict | np.ndarray) for value in present):
            raise ValueError(f"column {column!r} has lists or objects; valid: text or numbers")
        # True equals 1.
        known = {(isinstance(value, bool), value) for value in present}
        chosen = values if isinstance(values, list) else [values]
        for value in chosen:
            if (isinstance(value, bool), value) not in known:
                listed = sorted(map(str, {each for _, each in known}))
                more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
                texts = any(isinstance(text, str) for text in present)
                is_wrong_type = texts and not isinstance(value, str)
                quote = " (no text: quote it in the YAML)" if is_wrong_type else ""
                raise ValueError(
                    f"no prompt has {column} {value!r}{quote}; "
                    f"valid: {', '.join(listed[:20]) or 'none'}{more}"
                )
        prompts = prompts[prompts[column].isin(chosen)]
    if splits is not None:
        of_splits = prompts[prompts["split"].isin(splits)]
        if of_splits.empty:
            raise ValueError(
                f"no prompt of {wanted or 'the dataset'} is in {', '.join(splits)}; "
                f"they are in: {', '.join(sorted(prompts['split'].unique())) or 'none'}"
            )
        prompts = of_splits
    return prompts


def check_columns(prompts: pd.DataFrame, columns: Sequence[str]) -> None:
    """Fail unless prompts are a table, and columns a list of names of theirs.

    Raises:
        ValueError: names the columns and the valid ones.
    """
    check_table(prompts, ())
    # Each of its letters would be taken for a column.
    if isinstance(columns, str):
        raise ValueError(f"columns is one text, {columns!r}; valid: [{columns!r}]")
    for column in columns:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")


def answered_tokens(prompts: pd.DataFrame, tokenizer: Any) -> list[list[int]]:
    """Tokenize prompts with their answers.

    Raises:
        ValueError: a prompt without an answer, or whose tokens change if the answer follows.
    """
    rows = zip(prompts["tokens"], prompts["prompt"], prompts["answer"], prompts["raw"], strict=True)
    tokens = []
    for ids, prompt, answer, raw in rows:
        full, _ = with_answer(tokenizer, prompt, answer, raw=bool(raw))
        if full[: len(ids)] != list(map(int, ids)):
            raise ValueError(f"the tokens of answer {answer!r} do not follow those of {prompt!r}")
        tokens.append(full)
    return tokens


def check_pairs(prompts: pd.DataFrame, column: str, labels: tuple[str, str]) -> None:
    """Fail if a column does not pair each prompt of one label with one of the other.

    Raises:
        ValueError: no such column, or a pair that is not one prompt of each label; names it.
    """
    if column not in prompts:
        raise ValueError(
            f"pairs: no column {column!r} in the dataset; it has: {', '.join(prompts)}"
        )
    counts = pd.crosstab(prompts[column], prompts["label"]).reindex(columns=labels, fill_value=0)
    counts = counts[counts.any(axis=1)]
    unpaired = counts.index[(counts != 1).any(axis=1)]
    if len(unpaired):
        numbers = " and ".join(f"{n} of {label!r}" for label, n in counts.loc[unpaired[0]].items())
        raise ValueError(
            f"pairs: {column} {unpaired[0]!r} names {numbers} in train; valid: one of each"
        )


def select_facts(prompts: pd.DataFrame, wanted: Any, fact: str) -> pd.DataFrame:
    """Select the prompts that edits are fitted to, one of each fact; see `select_prompts`.

    Raises:
        ValueError: as `select_prompts`, no column `fact`, or two prompts of a fact.
    """
    if fact not in prompts:
        raise ValueError(f"no column {fact!r} in the dataset; it has: {', '.join(prompts)}")
    chosen = select_prompts(prompts, wanted)
    twice = chosen.loc[chosen[fact].duplicated(), fact]
    if len(twice):
        raise ValueError(f"rows: several prompts of the fact {twice.iloc[0]!r}; valid: one a fact")
    return chosen.reset_index(drop=True)
