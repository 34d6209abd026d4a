"""Write an activation store, shard by shard on a background thread; resume at missing shards.

Until the store is finished, each shard has a record `shard-00000.json` with its checksum and rows,
which is written after it. A shard without a matching record counts as missing.
"""

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

from pipeline.runs.scratch import sha256, whole_file
from pipeline.store.index import INDEX, ROWS, Fingerprint, Index, Layout, Shard, intact

ROW_COLUMNS = ("sample", "position", "token")
# One shard is being written and one is queued; a third makes `write` block.
WAITING = 2

logger = logging.getLogger(__name__)


class StoreWriter:
    """Context manager that writes the shards of a plan, and the index on exit.

    If the body raises or is killed, finished shards remain and a writer with the same plan resumes.
    The files are then byte for byte those of an uninterrupted run.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Fingerprint,
        plan: Sequence[Sequence[int]],
        *,
        required_bytes: int,
    ) -> None:
        """Find the finished shards in the folder and check the free disk space.

        Args:
            folder: folder of the store, created if needed.
            fingerprint: provenance of the activations.
            plan: samples of each shard.
            required_bytes: size of all activations.

        Raises:
            ValueError: the plan is empty, or the folder has another fingerprint or plan.
            OSError: the missing shards do not fit on the disk.
        """
        if not plan:
            raise ValueError("the plan has no shard")
        self.folder = folder
        self.fingerprint = fingerprint
        self.plan = [list(map(int, samples)) for samples in plan]
        self._plan_hash = hashlib.sha256(json.dumps(self.plan).encode()).hexdigest()
        self._layout: Layout | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / INDEX).exists():
            self._unfinish()
        self._done = {shard for shard in range(len(self.plan)) if self._counts(shard)}
        present = sum(self._file(shard).stat().st_size for shard in self._done)
        free = shutil.disk_usage(folder).free
        if required_bytes - present > free:
            missing = f"{(required_bytes - present) / 1e9:.2f} GB"
            raise OSError(
                ENOSPC, f"the store needs {missing}, {free / 1e9:.2f} GB is free", str(folder)
            )
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")

    def missing(self) -> list[int]:
        """List the shards of the plan that are not written yet, in order."""
        return [shard for shard in range(len(self.plan)) if shard not in self._done]

    def write(
        self, shard: int, tensors: Mapping[str, Shaped[Tensor, "rows _"]], rows: pd.DataFrame
    ) -> None:
        """Copy a shard to the CPU and queue it for writing; block while two are in the queue.

        Args:
            shard: index of the shard in the plan.
            tensors: activations [rows, width] of every site.
            rows: `sample`, `position` and `token` of each row.

        Raises:
            ValueError: a shard, site, shape, dtype or sample that does not match the plan.
            Exception: an earlier shard could not be written.
        """
        self._settle(WAITING - 1)
        self._check(shard, tensors, rows)
        copies = {
            site: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for site, value in tensors.items()
        }
        columns = {name: rows[name].tolist() for name in ROW_COLUMNS}
        self._done.add(shard)
        self._pending.append(self._thread.submit(self._write, shard, copies, columns))

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._settle(0)
                if self.missing():
                    raise ValueError(f"{self.folder}: shards {self.missing()} were not written")
                self._finish()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def _settle(self, most: int) -> None:
        while self._pending and (len(self._pending) > most or self._pending[0].done()):
            self._pending.popleft().result()

    def _check(self, shard: int, tensors: Mapping[str, Tensor], rows: pd.DataFrame) -> None:
        if shard not in self.missing():
            raise ValueError(f"shard {shard} is not missing; these are: {self.missing()}")
        sites = self.fingerprint.sites
        if set(tensors) != set(sites):
            raise ValueError(
                f"sites {sorted(tensors)}, not those of the fingerprint: {sorted(sites)}"
            )
        if set(rows.columns) != set(ROW_COLUMNS):
            raise ValueError(f"columns {list(rows.columns)}, not {list(ROW_COLUMNS)}")
        unplanned = set(rows["sample"]) - set(self.plan[shard])
        if unplanned:
            raise ValueError(f"samples {sorted(unplanned)} are not planned for shard {shard}")
        for site, value in tensors.items():
            if value.ndim != 2 or len(value) != len(rows):
                raise ValueError(f"{site}: shape {tuple(value.shape)} for {len(rows)} rows")
        layout = {site: (_name(tensors[site].dtype), tensors[site].shape[1]) for site in sites}
        if self._layout is None:
            self._layout = layout
        if layout != self._layout:
            raise ValueError(f"shard {shard} has {layout}, the shards before it {self._layout}")

    def _write(self, shard: int, tensors: dict[str, Tensor], columns: dict[str, list[int]]) -> None:
        # A single key, because safetensors writes several keys in random order.
        metadata = {"actsweep": json.dumps(asdict(self.fingerprint), sort_keys=True)}
        path = self._file(shard)
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        written = Shard(path.name, len(columns["sample"]), path.stat().st_size, sha256(path))
        self._record(shard, written, columns)

    def _record(self, shard: int, written: Shard, columns: dict[str, list[int]]) -> None:
        record = {
            "fingerprint": asdict(self.fingerprint),
            "plan": self._plan_hash,
            "layout": self._layout,
            "shard": asdict(written),
            "rows": columns,
        }
        with whole_file(self._record_file(shard)) as temporary:
            temporary.write_text(json.dumps(record))

    def _counts(self, shard: int) -> bool:
        if not self._record_file(shard).exists():
            return False
        try:
            record = self._read_record(shard)
            fingerprint, written = Fingerprint.parse(record["fingerprint"]), record["shard"]
            is_intact = Shard(**written).intact(self.folder)
        except (ValueError, KeyError, TypeError):
            is_intact = False
        if not is_intact:
            logger.warning("%s is damaged: collecting it again", self._file(shard))
            self._record_file(shard).unlink()
            return False
        self._require(fingerprint, record["plan"])
        self._layout = {site: (dtype, width) for site, (dtype, width) in record["layout"].items()}
        return True

    def _require(self, fingerprint: Fingerprint, plan_hash: str) -> None:
        fingerprint.require(self.fingerprint, str(self.folder))
        if plan_hash != self._plan_hash:
            raise ValueError(
                f"{self.folder} was started with another split of samples into shards: "
                "delete it to start over"
            )

    def _unfinish(self) -> None:
        """Restore the record of every shard, then delete the index."""
        index = Index.read(self.folder)
        self._require(index.fingerprint, index.plan)
        if intact(self.folder / ROWS, index.rows_sha256):
            self._layout = index.layout
            rows = pd.read_parquet(self.folder / ROWS)
            start = 0
            for number, shard in enumerate(index.shards):
                shard_rows = rows.iloc[start : start + shard.rows]
                self._record(
                    number, shard, {name: shard_rows[name].tolist() for name in ROW_COLUMNS}
                )
                start += shard.rows
        else:
            logger.warning("%s is damaged: collecting all shards again", self.folder / ROWS)
        (self.folder / INDEX).unlink()

    def _finish(self) -> None:
        assert self._layout is not None
        schema = pa.schema([(name, pa.int64()) for name in ROW_COLUMNS])
        shards = []
        with (
            whole_file(self.folder / ROWS) as temporary,
            pq.ParquetWriter(temporary, schema) as rows,
        ):
            for shard in range(len(self.plan)):
                record = self._read_record(shard)
                shards.append(Shard(**record["shard"]))
                rows.write_table(pa.table(record["rows"], schema=schema))
        index = Index(
            fingerprint=self.fingerprint,
            plan=self._plan_hash,
            layout=self._layout,
            shards=tuple(shards),
            rows_sha256=sha256(self.folder / ROWS),
        )
        index.write(self.folder)
        for shard in range(len(self.plan)):
            self._record_file(shard).unlink()

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.safetensors"

    def _record_file(self, shard: int) -> Path:
        return self._file(shard).with_suffix(".json")

    def _read_record(self, shard: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self._record_file(shard).read_text())
        return record


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
