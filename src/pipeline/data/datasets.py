"""Load prompt sets: tables of instructions with labels and splits, tokenised for a model.

A loader returns the columns of `PROMPT_COLUMNS`, then the file's further columns. `instruction` and
`label` are required in the file, the others have defaults. A `raw` instruction is continued as is,
without a chat template. The position rules `subject` and `answer` locate the texts in the columns
of the same names; `subject_start` is the index of the subject in the instruction, -1 for its last
mention.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.column_names import NOT_IN_DATASETS, NOT_IN_FILES
from pipeline.data.tables import own_column, read_table, text_column
from pipeline.model import chat
from pipeline.model.tokenization import encode, last_mention

PROMPT_COLUMNS = (
    "instruction",
    "label",
    "split",
    "topic",
    "demand",
    "subject",
    "subject_start",
    "answer",
    "raw",
)
SPLITS = ("train", "val", "test")


def load_table(
    *,
    path: str,
    columns: dict[str, str] | None = None,
    shares: list[float] | None = None,
    seed: int = 0,
    raw: bool = False,
    name: str | None = None,
    part: str = "train",
) -> pd.DataFrame:
    """Load prompts from a JSON, JSONL, CSV or Parquet file or a Hub dataset, one per row.

    Args:
        path: the file, a folder of such files, or OWNER/NAME on the Hub.
        columns: our column name -> the file's, if they differ.
        shares: of train, val and test, drawn within each label if the file has no split.
        seed: of that draw.
        raw: whether instructions are continued as is, without a chat template.
        name: the dataset configuration, if there are several.
        part: the split of a Hub dataset.

    Raises:
        ValueError: no such file, an unknown format, no rows, a missing column, a row without
            instruction, label or split, or a list where there must be text.
    """
    renamed = columns or {}
    texts = [column for column in PROMPT_COLUMNS if column not in ("subject_start", "raw")]
    unknown = sorted(set(renamed) - set(texts))
    if unknown:
        raise ValueError(f"dataset column {unknown[0]!r} is unknown; valid: {', '.join(texts)}")
    table = read_table(path, name=name, part=part)
    for column in NOT_IN_FILES:
        if column in table:
            raise ValueError(f"{path}: a column may not be called {column!r}; rename it")
    frame = pd.DataFrame(index=table.index)
    for ours in texts:
        theirs = renamed.get(ours, ours)
        if theirs in table:
            needed = ours in ("instruction", "label", "split")
            frame[ours] = text_column(table, theirs, path, needed=needed)
        elif ours in ("instruction", "label") or ours in renamed:
            raise ValueError(
                f"{path} has no column {theirs!r} for {ours}; it has: {', '.join(table.columns)}"
            )
        elif ours != "split":
            frame[ours] = ""
    read = {renamed.get(ours, ours) for ours in texts}
    for column in table.columns:
        # A column that has one of our names, but is not the one that `columns` renames to it.
        if column not in read and column not in texts:
            frame[column] = own_column(table, column, path)
    if shares is not None and "split" in frame:
        raise ValueError(f"dataset.shares: {shares}, but {path} has splits; valid: null")
    if "split" not in frame:
        frame["split"] = draw_splits(frame["label"], shares or [0.6, 0.2, 0.2], seed)
    return checked(frame.assign(subject_start=-1, raw=raw), path)


def load_tables(
    *,
    paths: list[str],
    raw: bool = False,
    chat: list[str] = [],  # noqa: B006 - never changed
) -> pd.DataFrame:
    """Load prompts from several files, one after another.

    In the rows of a file that lacks another's column, it is an empty text, or missing if it holds
    anything else than texts.

    Args:
        paths: files, as of `load_table`.
        raw: whether instructions are continued as is, without a chat template.
        chat: further files, whose instructions are put into the chat template in any case.

    Raises:
        ValueError: no files, files that give a column values of several types, or as `load_table`.
    """
    if not paths:
        raise ValueError("dataset.paths: there is none; valid: one file or more")
    tables = [load_table(path=path, raw=raw).astype(object) for path in paths]
    tables += [load_table(path=path).astype(object) for path in chat]
    frame = pd.concat(tables, ignore_index=True)
    frame = frame.where(frame.notna(), None)
    named = ", ".join([*paths, *chat])
    return frame.assign(**{column: own_column(frame, column, named) for column in frame})


def fill_templates(
    *,
    path: str,
    templates: dict[str, str],
    subjects: dict[str, str] | None = None,
    draws: int = 1,
    raw: bool = False,
) -> pd.DataFrame:
    """Fill every template with every topic of a file; the template's name is the label.

    Args:
        path: a file with the columns `topic` and `split`; further columns are kept, but none may be
            called as what is set here, such as `instruction`, `label` or `subject`.
        templates: label -> text containing `{topic}`.
        subjects: label -> text that position rule `subject` locates, in which `{topic}` is filled
            too; default: the topic.
        draws: number of samples per prompt, `draw` 0, 1, ... Draws are ordered one after another,
            so that adding draws does not change the sample numbers, and thus the sampling noise, of
            earlier ones.
        raw: whether instructions are continued as is, without a chat template.

    Raises:
        ValueError: as `load_table`; a template without `{topic}`; a subject without a template; no
            draws.
    """
    if draws < 1:
        raise ValueError(f"dataset.draws: {draws} is less than 1")
    if not templates:
        raise ValueError("dataset.templates: there is none; valid: {label: text with {topic}, ...}")
    table = read_table(path)
    topics, splits = (text_column(table, column, path) for column in ("topic", "split"))
    given = {
        column: text_column(table, column, path, needed=False)
        if column in table
        else [""] * len(table)
        for column in ("demand", "answer")
    }
    for column in (*NOT_IN_FILES, "instruction", "label", "subject"):
        if column in table:
            raise ValueError(f"{path}: a column may not be called {column!r}; rename it")
    for label, template in templates.items():
        if "{topic}" not in template:
            raise ValueError(f"template {label} has no {{topic}}: {template!r}")
    subject_of = subjects or {}
    for label in subject_of:
        if label not in templates:
            raise ValueError(f"subjects: {label!r} is no template; valid: {', '.join(templates)}")
    rows = [
        {
            "instruction": template.replace("{topic}", topic),
            "label": label,
            "split": split,
            "topic": topic,
            "demand": demand,
            "subject": subject_of.get(label, "{topic}").replace("{topic}", topic),
            "subject_start": _subject_at(template, subject_of.get(label, "{topic}"), topic),
            "answer": answer,
            "raw": raw,
        }
        for topic, split, demand, answer in zip(topics, splits, *given.values(), strict=True)
        for label, template in templates.items()
    ]
    further = {
        column: own_column(table, column, path).repeat(len(templates)).to_numpy()
        for column in table
        if column not in PROMPT_COLUMNS
    }
    prompts = checked(pd.DataFrame(rows).assign(**further), path)
    if draws == 1:
        return prompts
    return pd.concat([prompts.assign(draw=draw) for draw in range(draws)], ignore_index=True)


def _subject_at(template: str, subject: str, topic: str) -> int:
    """Return the index of a template's own subject after both are filled, -1 if it has none.

    The topic may contain the subject's word too.
    """
    if subject == "{topic}":
        return filled_at(template, "{topic}", topic)
    start = last_mention(template, subject)
    before = template.count("{topic}", 0, max(start, 0))
    return start + before * (len(topic) - len("{topic}")) if start >= 0 else -1


def filled_at(template: str, placeholder: str, text: str) -> int:
    """Return the index of a template's last placeholder after all are replaced by a text."""
    before = template.count(placeholder) - 1
    return template.rindex(placeholder) + before * (len(text) - len(placeholder))


def load_texts(path: str) -> pd.DataFrame:
    """Load the texts of a file's column `text`, numbered by `sample`.

    Raises:
        ValueError: as `load_table`.
    """
    texts = text_column(read_table(path), "text", path)
    return pd.DataFrame({"sample": np.arange(len(texts)), "text": texts})


def tokenise(
    frame: pd.DataFrame,
    tokenizer: Any,
    *,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Add to each row its `sample` number, rendered `prompt` and `tokens`; see `chat.render`."""
    prompts = [
        text if raw else chat.render(tokenizer, text, system=system, variables=variables)
        for text, raw in zip(frame["instruction"], frame["raw"], strict=True)
    ]
    return frame.assign(
        sample=np.arange(len(frame)),
        prompt=prompts,
        tokens=[
            encode(tokenizer, prompt, raw=raw)
            for prompt, raw in zip(prompts, frame["raw"], strict=True)
        ],
    )


def dataset_digest(frame: pd.DataFrame) -> str:
    """Hash the model's input: sample numbers and tokens."""
    inputs = frame[["sample", "tokens"]].to_dict("records")
    content = repr([(int(row["sample"]), [int(t) for t in row["tokens"]]) for row in inputs])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def draw_splits(labels: pd.Series, shares: list[float], seed: int) -> np.ndarray:
    """Assign train, val or test to every row, stratified by label.

    Raises:
        ValueError: the shares do not sum to 1.
    """
    if len(shares) != 3 or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ValueError(f"dataset shares {shares} are not three shares that sum to 1")
    splits = np.empty(len(labels), dtype=object)
    rng = np.random.default_rng(seed)
    for label in sorted(labels.unique()):
        rows = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum([0, *shares]) * len(rows)).astype(int)
        for split, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True):
            splits[rows[start:end]] = split
    return splits


def checked(frame: pd.DataFrame, path: str) -> pd.DataFrame:
    """Check names, labels and splits; return the columns of `PROMPT_COLUMNS`, then all others.

    Raises:
        ValueError: a reserved column name, an unknown split, or a label, split or topic that begins
            or ends with a blank: it would be another class than the same word without.
    """
    for column in frame.columns:
        if column in NOT_IN_DATASETS:
            raise ValueError(f"{path}: a column may not be called {column!r}; rename it")
    for column in ("label", "split", "topic"):
        for value in frame[column].unique():
            if value != value.strip():
                raise ValueError(
                    f"{path}: {column} {value!r} begins or ends with a blank; valid: "
                    f"{value.strip()!r}"
                )
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"{path}: split {unknown[0]!r} is unknown; valid: {', '.join(SPLITS)}")
    frame = frame.assign(subject_start=frame.get("subject_start", -1))
    extra_columns = [column for column in frame.columns if column not in PROMPT_COLUMNS]
    return frame[[*PROMPT_COLUMNS, *extra_columns]].reset_index(drop=True)
