"""Prompt sets: tables of instructions with labels and splits, rendered to a model's tokens.

A loader returns the columns of `COLUMNS`; `instruction` and `label` must be in the file, the
others are filled in. A `raw` instruction is a text to be continued: no chat template is put around
it. `subject` and `answer` are what the position rules of the same names look for.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.tables import read_table
from pipeline.model import chat

COLUMNS = ("instruction", "label", "split", "topic", "demand", "subject", "answer", "raw")
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
    """Prompts from a JSON, JSONL, CSV or Parquet file or a dataset of the hub, a row each.

    Args:
        path: the file, a folder of such files, or OWNER/NAME on the hub.
        columns: our column name -> the file's, for files that call them otherwise.
        shares: of train, val and test, drawn within each label when the file has no split.
        seed: of that draw.
        raw: whether the instructions are texts to be continued.
        name: which configuration of a dataset with several.
        part: which split of a dataset on the hub.

    Raises:
        ValueError: no such file, unknown format, no rows, a column that is not there, or a row
            without its instruction, label or split.
    """
    renamed = columns or {}
    texts = [column for column in COLUMNS if column != "raw"]
    unknown = sorted(set(renamed) - set(texts))
    if unknown:
        raise ValueError(f"dataset column {unknown[0]!r} is unknown; valid: {', '.join(texts)}")
    given = read_table(path, name=name, part=part)
    frame = pd.DataFrame(index=given.index)
    for ours in texts:
        theirs = renamed.get(ours, ours)
        if theirs in given:
            empty = given[theirs].isna()
            if empty.any() and ours in ("instruction", "label", "split"):
                raise ValueError(f"{path}: row {empty.idxmax()} has no {theirs}")
            frame[ours] = given[theirs].astype(str).mask(empty, "")
        elif ours in ("instruction", "label") or ours in renamed:
            raise ValueError(
                f"{path} has no column {theirs!r} for {ours}; it has: {', '.join(given.columns)}"
            )
        elif ours != "split":
            frame[ours] = ""
    if "split" not in frame:
        frame["split"] = draw_splits(frame["label"], shares or [0.6, 0.2, 0.2], seed)
    return checked(frame.assign(raw=raw), path)


def fill_templates(
    *, path: str, templates: dict[str, str], subjects: dict[str, str] | None = None
) -> pd.DataFrame:
    """Every topic of a file in every template; the template's name is the label.

    Args:
        path: a file with the columns `topic` and `split`.
        templates: label -> text with `{topic}` in it.
        subjects: label -> what position rule `subject` looks for; the topic without one.

    Raises:
        ValueError: as `load_table`; a template without `{topic}`; a subject of no template.
    """
    topics = read_table(path)
    for column in ("topic", "split"):
        if column not in topics:
            raise ValueError(
                f"{path} has no column {column!r}; it has: {', '.join(topics.columns)}"
            )
    for label, template in templates.items():
        if "{topic}" not in template:
            raise ValueError(f"template {label} has no {{topic}}: {template!r}")
    given = subjects or {}
    for label in given:
        if label not in templates:
            raise ValueError(f"subjects: {label!r} is no template; valid: {', '.join(templates)}")
    rows = [
        {
            "instruction": template.replace("{topic}", str(row["topic"])),
            "label": label,
            "split": row["split"],
            "topic": str(row["topic"]),
            "demand": "",
            "subject": given.get(label, str(row["topic"])),
            "answer": "",
            "raw": False,
        }
        for row in topics.to_dict("records")
        for label, template in templates.items()
    ]
    return checked(pd.DataFrame(rows), path)


def load_texts(path: str) -> pd.DataFrame:
    """Texts of a file's column `text`, numbered by `sample`.

    Raises:
        ValueError: as `load_table`.
    """
    frame = read_table(path)
    if "text" not in frame:
        raise ValueError(f"{path} has no column 'text'; it has: {', '.join(frame.columns)}")
    return pd.DataFrame({"sample": np.arange(len(frame)), "text": frame["text"].astype(str)})


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
            chat.encode(tokenizer, prompt, raw=raw)
            for prompt, raw in zip(prompts, frame["raw"], strict=True)
        ],
    )


def dataset_digest(frame: pd.DataFrame) -> str:
    """Hash of what the model is given: sample numbers and tokens."""
    given = frame[["sample", "tokens"]].to_dict("records")
    content = repr([(int(row["sample"]), [int(t) for t in row["tokens"]]) for row in given])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def draw_splits(labels: pd.Series, shares: list[float], seed: int) -> np.ndarray:
    """Train, val or test for every row, drawn within each label.

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
    """The columns of `COLUMNS`, once the splits are known to be ours."""
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"{path}: split {unknown[0]!r} is unknown; valid: {', '.join(SPLITS)}")
    return frame[list(COLUMNS)].reset_index(drop=True)
