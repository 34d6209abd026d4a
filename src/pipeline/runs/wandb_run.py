"""Log the run of a stage to W&B. The only module that imports it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wandb

from pipeline.runs.records import flatten
from pipeline.runs.results import Run, plain

CONNECT_SECONDS = 30
FINISH_SECONDS = 300
"""Data not uploaded by then stays on disk, for `wandb sync`."""

log = logging.getLogger(__name__)


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
        self._run.summary.update(flatten(plain(values)))

    def curve(self, rows: pd.DataFrame) -> None:
        """As `Run.curve`: metrics `layer/COLUMN`, with the layer as their x axis."""
        super().curve(rows)
        for row in rows.to_dict("records"):
            layer = int(row.pop("layer"))
            self._run.log({"layer": layer} | {f"layer/{name}": row[name] for name in row})

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """As `Run.table`."""
        # W&B requires lists in one column to have equal length.
        shown = rows.map(lambda cell: cell if np.isscalar(cell) else str(cell))
        self._run.log({name: wandb.Table(dataframe=shown)})

    def figure(self, path: Path) -> None:
        """As `Run.figure`."""
        super().figure(path)
        self._run.log({path.stem: wandb.Image(str(path))})

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """As `Run.reference`, as an artifact; pass a checksum as metadata, as W&B computes none."""
        artifact = wandb.Artifact(name, type="output", metadata=dict(metadata))
        artifact.add_reference(path.resolve().as_uri(), checksum=False)
        self._run.log_artifact(artifact)


def start(mode: str, **options: Any) -> Any:
    """Start a run, offline if W&B cannot be reached; `options` are those of `wandb.init`."""
    home = Path.home()
    if not (home.is_dir() and os.access(home, os.W_OK)):
        # W&B keeps these below the home folder, which batch jobs often cannot write.
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(name, str(Path(options["dir"]) / "wandb" / "home"))
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
        log.warning("W&B: %s. This run goes on offline; upload it with `wandb sync`.", reason)
    return wandb.init(mode="offline", settings=settings, **options)


def check_settings(project: str, entity: str | None) -> None:
    """Fail if W&B would refuse a project, an entity or a variable of the environment."""
    settings = wandb.Settings()
    for variable, value in os.environ.items():
        with _refusals(f"{variable}: {value!r}"):
            settings.update_from_env_vars({variable: value})
    with _refusals(f"tracking.project: {project!r}"):
        settings.project = project
    with _refusals(f"tracking.entity: {entity!r}"):
        settings.entity = entity


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn the errors of W&B's settings into one line."""
    try:
        yield
    except (ValueError, wandb.Error) as error:
        # Those of pydantic have many lines, and the reason in a list.
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
        raise ValueError(f"{what} is refused by W&B: {reason}") from error
