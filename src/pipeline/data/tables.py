"""Read tables from files of several formats, from folders, and from the Hugging Face Hub.

Nothing is guessed: text stays as the file has it (`007`, `NA`), and only an empty field is empty.
"""

import csv
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

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
    elif is_hub_id(path) and file.suffix not in _READERS:
        columns = _read_hub(path, name, part)
    else:
        columns = _read_file(file, path)
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
        return str(value)
    raise ValueError(f"{where} holds {_named(value)}, not text")


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


class _Written(float):
    """A number that prints as the file writes it, such as 1.50 or 1e5."""

    def __new__(cls, text: str) -> "_Written":
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: a missing file, or no JSON.
    """
    if not file.is_file():
        raise ValueError(f"dataset file {str(file)!r} does not exist")
    try:
        return _parsed(file.read_text("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"dataset file {str(file)!r} is no json: {error}") from error


def _parsed(text: str) -> Any:
    return json.loads(
        text,
        parse_float=_Written,
        parse_int=lambda digits: _Written(digits) if digits == "-0" else int(digits),
        parse_constant=_Written,
        object_pairs_hook=_object,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; plain `json` would keep the last of two values with the same key."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in record if keys.count(key) > 1)
        raise ValueError(f"an object has two values of {twice!r}")
    return record


def _read_file(file: Path, path: str) -> dict[str, list[Any]]:
    if not file.is_file():
        raise ValueError(f"dataset file {path!r} does not exist")
    reader = _READERS.get(file.suffix)
    if reader is None:
        raise ValueError(f"dataset file {path!r}: unknown format; valid: {', '.join(_READERS)}")
    if file.stat().st_size == 0:
        raise ValueError(f"dataset file {path!r} is empty")
    try:
        return reader(file)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"dataset file {path!r} is no {file.suffix[1:]}: {error}") from error


def _read_csv(file: Path) -> dict[str, list[Any]]:
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = next(reader, [])
        rows = list(reader)
    while rows and not rows[-1]:
        rows.pop()
    # A blank line is no row, but the empty value of a single column.
    rows = [row or [""] for row in rows] if len(header) == 1 else [row for row in rows if row]
    if len(set(header)) < len(header):
        raise ValueError(f"two columns have the same name: {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} fields; the header has {len(header)}")
    return {name: [row[n] for row in rows] for n, name in enumerate(header)}


def _read_jsonl(file: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(_parsed(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return _columns(rows)


def _read_objects(file: Path) -> dict[str, list[Any]]:
    rows = _parsed(file.read_text("utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError("it must be a list of objects")
    return _columns(rows)


def _columns(rows: list[Any]) -> dict[str, list[Any]]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is {_named(row)}, not an object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(file: Path) -> dict[str, list[Any]]:
    # Not by pandas: it turns integers with missing values into floats.
    from pyarrow import parquet

    table = parquet.read_table(file)
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    kept: dict[str, list[Any]] = table.drop_columns(
        [name for name in index if name in table.column_names]
    ).to_pydict()
    return kept


_READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_objects,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_folder(folder: Path, path: str, name: str | None, part: str) -> dict[str, list[Any]]:
    """Read a split of a folder, whose layout `datasets` knows, with the readers of single files."""
    import datasets

    formats = {file.suffix for file in folder.rglob("*") if file.suffix in _READERS}
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
    tables = [_read_file(Path(file), str(file)) for file in files[part]]
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
        return columns
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {path!r}: {' '.join(str(error).split())}") from error


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _named(value: Any) -> str:
    names = {list: "a list", dict: "an object", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")
