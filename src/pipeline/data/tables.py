"""Read tables from files of several formats, from folders, and from the Hugging Face Hub."""

import sys
from pathlib import Path

import pandas as pd

from pipeline.model.hub import check_dataset, is_hub_id

_READERS = {".jsonl": "lines", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read_table(path: str, *, name: str | None = None, part: str = "train") -> pd.DataFrame:
    """Read a file, or one split of a dataset given by its Hub id or a folder in the Hub's layout.

    Args:
        path: a JSON, JSONL, CSV or Parquet file, a folder, or OWNER/NAME.
        name: the dataset configuration, if there are several.
        part: the split; files have none.

    Raises:
        ValueError: a missing path, an unknown format, split or configuration, or no rows.
    """
    file = Path(path)
    if file.is_dir() or (is_hub_id(path) and file.suffix not in _READERS):
        frame = _read_dataset(path, name, part)
    else:
        frame = _read_file(file, path)
    if frame.empty:
        raise ValueError(f"dataset file {path!r} is empty")
    return frame


def _read_file(file: Path, path: str) -> pd.DataFrame:
    if not file.is_file():
        raise ValueError(f"dataset file {path!r} does not exist")
    kind = _READERS.get(file.suffix)
    if kind is None:
        raise ValueError(f"dataset file {path!r}: unknown format; valid: {', '.join(_READERS)}")
    if file.stat().st_size == 0:
        raise ValueError(f"dataset file {path!r} is empty")
    try:
        if kind == "csv":
            return pd.read_csv(file)
        if kind == "parquet":
            return pd.read_parquet(file)
        return pd.read_json(file, lines=kind == "lines")
    except ValueError as error:
        raise ValueError(f"dataset file {path!r} is no {file.suffix[1:]}: {error}") from error


def _read_dataset(path: str, name: str | None, part: str) -> pd.DataFrame:
    import datasets

    if not Path(path).is_dir():
        check_dataset(path)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, name, split=part).to_pandas()
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset {path!r}: {' '.join(str(error).split())}") from error
