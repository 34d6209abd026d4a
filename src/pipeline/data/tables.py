"""Read tables from files, from folders, and from the Hugging Face Hub.

Nothing is guessed: text stays as the file has it (`007`, `NA`), and only an empty field is empty.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.formats import READERS, Rounded, named, read_file
from pipeline.model.hub import check_dataset, is_hub_id

log = logging.getLogger(__name__)


def read_table(path: str, *, name: str | None = None, part: str = "train") -> pd.DataFrame:
    """Read a file, or one split of a dataset given by its Hub id or a folder in the Hub's layout.

    Cells are Python values, None where the file has none. All cells of a CSV file are text.

    Args:
        path: a JSON, JSONL, CSV or Parquet file, a folder, or OWNER/NAME.
        name: the dataset configuration, if there are several.
        part: the split; files have none.

    Raises:
        ValueError: a missing path, an unknown format, split or configuration, no rows, or a row
            with more or fewer fields than the header.
    """
    if not path:
        raise ValueError("dataset.path is empty")
    file = Path(path)
    if file.is_dir():
        columns = _read_folder(file, path, name, part)
    elif is_hub_id(path) and file.suffix not in READERS:
        columns = _read_hub(path, name, part)
    else:
        columns = read_file(file)
    table = pd.DataFrame(columns, dtype=object)
    if table.empty:
        raise ValueError(f"dataset file {path!r} is empty")
    return table


def text_column(table: pd.DataFrame, column: str, path: str, *, needed: bool = True) -> list[str]:
    """Return a column's texts.

    Args:
        table: a table from `read_table`.
        column: its column.
        path: its path, for errors.
        needed: whether missing values, empty text and blanks are errors; otherwise missing values
            are empty text.

    Raises:
        ValueError: no such column, an empty needed value, or a value that is no text; names the
            row.
    """
    if column not in table:
        raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(table.columns)}")
    texts = []
    for row, value in enumerate(table[column]):
        text = "" if _is_missing(value) else as_text(value, f"{path}: row {row}: {column}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"{path}: row {row}: {column} has half of a surrogate pair: {text!r}")
        if needed and not text.strip():
            raise ValueError(f"{path}: row {row} has no {column}" + (", only blanks" * bool(text)))
        texts.append(text)
    return texts


def as_text(value: Any, where: str) -> str:
    """Return a text, or a number as the file writes it.

    Raises:
        ValueError: anything else, such as a list; names it after `where`.
    """
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        if _is_missing(value):
            raise ValueError(f"{where} holds nothing, not text")
        if isinstance(value, Rounded):
            raise ValueError(
                f"{where} holds the number {float(value)}, maybe written otherwise: `datasets` "
                "keeps no digits of JSON; write it as text, or use the file itself"
            )
        return str(value)
    raise ValueError(f"{where} holds {named(value)}, not text")


def own_column(table: pd.DataFrame, column: str, path: str) -> pd.Series:
    """Return a column with its values as they are; of texts, a missing one is an empty text.

    Raises:
        ValueError: values of several types, or integers over 64 bits, which Parquet cannot hold.
    """
    import pyarrow

    given = [value for value in table[column] if not _is_missing(value)]
    if given and all(isinstance(value, str) for value in given):
        return table[column].where(table[column].notna(), "")
    values = table[column].infer_objects()
    try:
        pyarrow.array(values, from_pandas=True)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"{path}: column {column!r} mixes types: {error}") from error
    if len(given) < len(values) and all(type(value) is int for value in given):
        # Without it, a missing value makes floats of all.
        return values.astype("Int64")
    return values


def _read_folder(folder: Path, path: str, name: str | None, part: str) -> dict[str, list[Any]]:
    """Read a split of a folder, whose layout `datasets` knows, with the readers of single files."""
    import datasets

    formats = {file.suffix for file in folder.rglob("*") if file.suffix in READERS}
    if len(formats) > 1:
        raise ValueError(
            f"dataset {path!r} has files of several formats: {', '.join(sorted(formats))}; valid: "
            "one format"
        )
    try:
        files = datasets.load_dataset_builder(path, name).config.data_files or {}
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {path!r}: {' '.join(str(error).split())}") from error
    if part not in files:
        valid = ", ".join(map(str, files)) or "none"
        raise ValueError(f"dataset {path!r} has no part {part!r}; valid: {valid}")
    if len(files) > 1:
        log.warning(
            "dataset %r has the parts %s: %s is read", path, ", ".join(map(str, files)), part
        )
    tables = [read_file(Path(file)) for file in files[part]]
    names = dict.fromkeys(column for table in tables for column in table)
    sizes = [len(next(iter(table.values()), [])) for table in tables]
    return {
        column: [
            value
            for table, size in zip(tables, sizes, strict=True)
            for value in table.get(column, [None] * size)
        ]
        for column in names
    }


def _read_hub(path: str, name: str | None, part: str) -> dict[str, list[Any]]:
    import datasets

    check_dataset(path)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(path, name, split=part)
        if rows.info.builder_name == "csv":
            # Read again as text: the first reading guessed numbers and missing values.
            text = datasets.Features(dict.fromkeys(rows.column_names, datasets.Value("string")))
            rows = datasets.load_dataset(
                path, name, split=part, features=text, keep_default_na=False
            )
        columns: dict[str, list[Any]] = rows.to_dict()
        if rows.info.builder_name == "json":
            columns = {
                name: [Rounded(cell) if type(cell) is float else cell for cell in cells]
                for name, cells in columns.items()
            }
        return columns
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {path!r}: {' '.join(str(error).split())}") from error


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
