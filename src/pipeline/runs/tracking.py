"""Track the run of a stage in a JSON record and, unless disabled, in W&B."""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import numpy as np
import pandas as pd

from pipeline.runs.records import flatten, run_file
from pipeline.runs.scratch import whole_file
from pipeline.runs.terminal import Once
from pipeline.runs.tracking_settings import check_tracking

CONNECT_SECONDS = 30
# Data not uploaded by then stays on disk, for `wandb sync`.
FINISH_SECONDS = 300
VERSIONED = ("torch", "transformers", "numpy", "pandas", "scikit-learn")

logger = logging.getLogger(__name__)


class _WarningCollector(logging.Handler):
    """Collects distinct warnings for the summary; does not display them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(Once())
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Run:
    """Results that a stage reports; this base class only keeps the summary for the run record."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def summary(self, values: Mapping[str, Any]) -> None:
        """Add summary numbers; an estimate is a dict of mean, low, high, stderr and n."""
        self.values.update(values)

    def curve(self, rows: pd.DataFrame) -> None:
        """Log curves over layers: a column `layer`, and one column per curve.

        Raises:
            ValueError: no column `layer`, or a row without a layer.
        """
        if "layer" not in rows or rows["layer"].isna().any():
            raise ValueError(f"columns {list(rows)}: each row of a curve needs a layer")

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """Log a table."""

    def figure(self, path: Path) -> None:
        """Log a PNG under its name.

        Raises:
            ValueError: another kind of file.
        """
        if path.suffix != ".png":
            raise ValueError(f"figure {path.name}: expected a PNG")

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """Log the path and metadata of a large output, without an upload."""


class WandbRun(Run):
    """A run that is logged to W&B as well."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run
        run.define_metric("layer", summary="none")
        # Without a summary: it would be the last layer's value, by which runs would be sorted.
        run.define_metric("layer/*", step_metric="layer", summary="none")

    def summary(self, values: Mapping[str, Any]) -> None:
        """As `Run.summary`, with nested names joined by dots."""
        super().summary(values)
        self._run.summary.update(flatten(_plain(values)))

    def curve(self, rows: pd.DataFrame) -> None:
        """As `Run.curve`: metrics `layer/COLUMN`, with the layer as their x axis."""
        super().curve(rows)
        for row in rows.to_dict("records"):
            layer = int(row.pop("layer"))
            self._run.log({"layer": layer} | {f"layer/{name}": row[name] for name in row})

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """As `Run.table`."""
        import wandb

        # W&B requires lists in one column to have equal length.
        shown = rows.map(lambda cell: cell if np.isscalar(cell) else str(cell))
        self._run.log({name: wandb.Table(dataframe=shown)})

    def figure(self, path: Path) -> None:
        """As `Run.figure`."""
        super().figure(path)
        import wandb

        self._run.log({path.stem: wandb.Image(str(path))})

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """As `Run.reference`, as an artifact; pass a checksum as metadata, as W&B computes none."""
        import wandb

        artifact = wandb.Artifact(name, type="output", metadata=dict(metadata))
        artifact.add_reference(path.resolve().as_uri(), checksum=False)
        self._run.log_artifact(artifact)


@contextmanager
def tracked_run(
    stage: str,
    study: str,
    study_id: str,
    config: Mapping[str, Any],
    *,
    inputs: Mapping[str, Path],
    root: Path,
    mode: str,
    project: str,
    entity: str | None,
) -> Iterator[Run]:
    """Track the run of one stage; write its record when the body ends, even if it raises.

    In W&B a run is called `STUDY/STAGE`. The runs of a study form a group, named after the study's
    id or, in a DVC experiment, after the experiment. An online run that cannot connect within 30 s
    logs a warning and continues offline; nothing ever prompts. Warnings are added to the summary.

    Args:
        stage: name of the stage, which is the job type in W&B.
        study: name of the study.
        study_id: hash of its config.
        config: resolved config, nested.
        inputs: files or folders whose MD5 is recorded; for an activation store, its index.
        root: DVC root of the project, so that records of queued experiments outlive their copies.
        mode: "online", "offline" or "disabled"; the variable WANDB_MODE overrides it.
        project: project in W&B.
        entity: user or team in W&B; None for the user's default.

    Raises:
        ValueError: as `check_tracking`.
    """
    mode = check_tracking(mode, project, entity)
    experiment = os.environ.get("DVC_EXP_NAME")
    record: dict[str, Any] = {
        "stage": stage,
        "study": study,
        "study_id": study_id,
        "experiment": experiment,
        **_commit(root),
        "config": _plain(config),
        "inputs": {name: md5(path) for name, path in inputs.items()},
    }
    if mode == "disabled":
        run, external = Run(), None
    else:
        external = _start(
            mode,
            dir=os.environ.get("WANDB_DIR") or str(root),
            project=project,
            entity=entity,
            name=f"{study}/{stage}",
            group=experiment or study_id,
            job_type=stage,
            config=flatten({**record["config"], "study_id": study_id, "inputs": record["inputs"]}),
        )
        run = WandbRun(external)
    started, clock = datetime.now(UTC), time.monotonic()
    error: BaseException | None = None
    warnings = _WarningCollector()
    logging.getLogger().addHandler(warnings)
    try:
        yield run
    except BaseException as raised:
        error = raised
        raise
    finally:
        logging.getLogger().removeHandler(warnings)
        if warnings.messages:
            run.summary({"warnings": warnings.messages})
        record |= {
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "versions": _versions(),
            "summary": _plain(run.values),
            "status": "failed" if error else "finished",
            "error": repr(error) if error else None,
        }
        path = run_file(root, study, study_id, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        if external is not None:
            external.finish(exit_code=1 if error else 0)


def md5(path: Path) -> str:
    """Compute the MD5 of a file or a folder as dvc.lock has it; a folder's ends in `.dir`."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
        listed = [
            {"md5": md5(file), "relpath": name} for name, file in files.items() if file.is_file()
        ]
        listed.sort(key=itemgetter("relpath"))
        return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _start(mode: str, **options: Any) -> Any:
    home = Path.home()
    if not (home.is_dir() and os.access(home, os.W_OK)):
        # W&B keeps these below the home folder, which batch jobs often cannot write.
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(name, str(Path(options["dir"]) / "wandb" / "home"))
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        init_timeout=CONNECT_SECONDS,
        finish_timeout=FINISH_SECONDS,
    )
    if mode == "online":
        wandb.setup(settings)
        try:
            if wandb.login(prompt=False, verify=False):
                return wandb.init(mode="online", settings=settings, **options)
            reason = "no API key is configured"
        except wandb.Error as error:
            reason = str(error).splitlines()[0]
        logger.warning("W&B: %s. This run goes on offline; upload it with `wandb sync`.", reason)
    return wandb.init(mode="offline", settings=settings, **options)


def _commit(root: Path) -> dict[str, Any]:
    commit = _git(root, "rev-parse", "HEAD")
    # Ignore files that the stages write themselves.
    changed = _git(root, "status", "--porcelain", "--", ".", ":!outputs", ":!dvc.lock")
    return {"commit": commit, "dirty": bool(changed) if commit else None}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = run_command(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _versions() -> dict[str, str]:
    modules = {"scikit-learn": "sklearn"}
    used = [name for name in VERSIONED if modules.get(name, name) in sys.modules]
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "actsweep": version("actsweep")} | {n: version(n) for n in used}


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
