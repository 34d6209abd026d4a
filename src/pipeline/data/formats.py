"""Read files of several formats: text stays as the file has it (`007`, `NA`, `1.50`)."""

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_file(file: Path) -> dict[str, list[Any]]:
    """Read the columns of a JSON, JSONL, CSV or Parquet file.

    Raises:
        ValueError: a missing or empty file, an unknown format, or none of its format; in one line.
    """
    path = str(file)
    reader = READERS.get(file.suffix)
    if not file.is_file():
        raise ValueError(f"dataset file {path!r} does not exist")
    if reader is None:
        raise ValueError(f"dataset file {path!r}: unknown format; valid: {', '.join(READERS)}")
    if file.stat().st_size == 0:
        raise ValueError(f"dataset file {path!r} is empty")
    try:
        return reader(file)
    except (ValueError, csv.Error) as error:
        raise _no_format(file, error) from error


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
        raise _no_format(file, error) from error


def _no_format(file: Path, error: Exception) -> ValueError:
    if isinstance(error, UnicodeDecodeError):
        return ValueError(f"dataset file {str(file)!r} is not UTF-8, save it as such: {error}")
    return ValueError(f"dataset file {str(file)!r} is no {file.suffix[1:] or 'json'}: {error}")


def named(value: Any) -> str:
    """Name the type of a value that is not what it should be."""
    names = {list: "a list", dict: "an object", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


class _Written(float):
    """A number that prints as the file writes it, such as 1.50 or 1e5."""

    def __new__(cls, text: str) -> "_Written":
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


class Rounded(float):
    """A number of a file that is read without the digits in which it is written."""


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
            raise ValueError(f"row {number} is {named(row)}, not an object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(file: Path) -> dict[str, list[Any]]:
    # Not by pandas: it turns integers with missing values into floats.
    from pyarrow import parquet

    table = parquet.read_table(file)
    # An index with a name is a column of the table, such as `split`; pandas numbers the others.
    unnamed = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    kept: dict[str, list[Any]] = table.drop_columns(unnamed).to_pydict()
    return kept


READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_objects,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
