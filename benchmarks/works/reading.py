"""Reading activations back from disk."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.arithmetic import Need
from benchmarks.shapes import Size
from benchmarks.work import Work, near
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter

WIDTH = 512
SHARDS = 8
BLOCK = 4096
"""Rows added up in float32, and read from a column at a time."""
SITE = "blocks.0.resid_post"


def read_back(size: Size, folder: Path, *, cold: bool) -> Work:
    """Means of two classes of bfloat16 rows."""
    store, columns, again = (folder / name for name in ("store", "columns", "again"))
    store.mkdir()
    columns.mkdir()
    _write(store, columns, size.rows // SHARDS)
    # Below a virtual disk another cache keeps one copy and not the other: they change hands.
    shutil.copytree(store, again)
    own, plain = cycle((store, again)), cycle((again, store))
    bytes_ = size.rows * WIDTH * 2
    return Work(
        what=f"means of two classes of {bytes_ / 2**30:.2g} GB, "
        + ("page cache dropped" if cold else "from the page cache"),
        sides={
            "actsweep": lambda: _means(_ours(next(own)), size.rows),
            "plain pass over the files": lambda: _means(_plain(next(plain)), size.rows),
            "datasets column": lambda: _means(_column(columns), size.rows),
        },
        same=near,
        need=lambda _: Need(flop=2 * 2 * size.rows * WIDTH, bytes=bytes_),
        prepare=partial(_settle, folder, drop=cold),
    )


def _write(store: Path, columns: Path, per: int) -> None:
    """The same rows as a store and as Arrow files, which `datasets` maps.

    Arrow has no bfloat16. float16 has as many bytes, and all of these numbers but the tiniest.
    """
    mark = Fingerprint("random", "", "", "", "", (SITE,), "last")
    plan = [range(n * per, (n + 1) * per) for n in range(SHARDS)]
    with StoreWriter(store, mark, plan, required_bytes=0) as writer:
        for number, samples in enumerate(plan):
            generator = torch.Generator().manual_seed(number)
            values = torch.randn(per, WIDTH, generator=generator).bfloat16()
            rows = pd.DataFrame({"sample": list(samples), "position": 0, "token": 0})
            writer.write(number, {SITE: values}, rows)
            flat = pa.array(values.half().numpy().ravel())
            table = pa.table({SITE: pa.FixedSizeListArray.from_arrays(flat, WIDTH)})
            path = str(columns / f"{number}.arrow")
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table, max_chunksize=BLOCK)


def _settle(folder: Path, *, drop: bool) -> None:
    """Waits for what is still to be written to disk, and drops it from the page cache if asked."""
    for file in folder.glob("*/*"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            if drop:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _ours(store: Path) -> Iterator[Tensor]:
    for _, values in ActivationStore(store)[SITE]:
        yield from values.split(BLOCK)


def _plain(store: Path) -> Iterator[Tensor]:
    for file in sorted(store.glob("*.safetensors")):
        with safe_open(file, "pt") as stream:
            yield from stream.get_tensor(SITE).split(BLOCK)


def _column(columns: Path) -> Iterator[Tensor]:
    parts = [datasets.Dataset.from_file(str(file)) for file in sorted(columns.glob("*.arrow"))]
    for batch in datasets.concatenate_datasets(parts).with_format("torch").iter(BLOCK):
        yield batch[SITE]


def _means(blocks: Iterator[Tensor], rows: int) -> Tensor:
    """Means of the even and of the odd rows, summed in float32 per block and float64 across."""
    sums = torch.zeros(2, WIDTH, dtype=torch.float64)
    for block in blocks:
        own = torch.arange(len(block)) % 2
        classes = torch.stack([own == 0, own == 1]).float()
        sums += (classes @ block.float()).double()
    return sums / (rows / 2)
