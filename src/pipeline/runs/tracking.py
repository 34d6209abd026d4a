"""A stage's run: a plain `run.json` always, and a W&B run beside it unless that is disabled."""

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
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import pandas as pd

from pipeline.runs.records import flatten, run_file
from pipeline.runs.scratch import whole_file

MODES = ("online", "offline", "disabled")
CONNECT_SECONDS = 30
# What is not sent by then stays on disk, for `wandb sync`.
FINISH_SECONDS = 300
VERSIONED = ("torch", "transformers", "numpy", "pandas", "scikit-learn")

logger = logging.getLogger(__name__)


class _Warnings(logging.Handler):
    """Keeps what is warned of; showing it is for the handlers of whoever started the program."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Run:
    """What a stage reports; by itself it keeps the summary, which `run.json` gets."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def summary(self, values: Mapping[str, Any]) -> None:
        """Numbers to remember the run by; an estimate is a dict of mean, low, high, stderr, n."""
        self.values.update(values)

    def curve(self, rows: pd.DataFrame) -> None:
        """Curves over layers: a column `layer`, and a column per curve.

        Raises:
            ValueError: no column `layer`, or a row without a layer.
        """
        if "layer" not in rows or rows["layer"].isna().any():
            raise ValueError(f"columns {list(rows)}: each row of a curve needs a layer")

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """A table to browse."""

    def figure(self, path: Path) -> None:
        """A PNG, shown under its name; any other kind of file is a ValueError."""
        if path.suffix != ".png":
            raise ValueError(f"figure {path.name}: a PNG is meant")

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """A large output, noted by its place and metadata and not uploaded."""


class WandbRun(Run):
    """A run that W&B shows as well."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = run
        run.define_metric("layer")
        run.define_metric("layer/*", step_metric="layer")

    def summary(self, values: Mapping[str, Any]) -> None:
        """As `Run.summary`; nested names are joined by dots."""
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

        self._run.log({name: wandb.Table(dataframe=rows)})

    def figure(self, path: Path) -> None:
        """As `Run.figure`."""
        super().figure(path)
        import wandb

        self._run.log({path.stem: wandb.Image(str(path))})

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """As `Run.reference`, an artifact; give the checksum as metadata, W&B takes none."""
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
    """The run of one stage, recorded under `root` when the body ends, also when it raises.

    In W&B a run is called `STUDY/STAGE`; the runs of a study form a group, named by the study's id
    or, within a DVC experiment, by that experiment. An online run that cannot connect within 30 s
    says so and goes on offline; nothing ever prompts. What is warned of is in the summary.

    Args:
        stage: the stage, which is the job type in W&B.
        study: name of the study.
        study_id: hash of its config.
        config: the resolved config, nested.
        inputs: files or folders whose MD5 is recorded. (Of an activation store, its index.)
        root: the project; its DVC root, so that the runs of queued experiments outlive them.
        mode: "online", "offline" or "disabled", unless the variable WANDB_MODE is set.
        project: project in W&B.
        entity: user or team in W&B; None is the user's default.

    Raises:
        ValueError: a mode that is none of these.
    """
    mode = os.environ.get("WANDB_MODE") or mode
    if mode not in MODES:
        raise ValueError(f"tracking mode {mode!r}: valid are {', '.join(MODES)}")
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
            dir=str(root),
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
    heard = _Warnings()
    logging.getLogger().addHandler(heard)
    try:
        yield run
    except BaseException as raised:
        error = raised
        raise
    finally:
        logging.getLogger().removeHandler(heard)
        if heard.said:
            run.summary({"warnings": heard.said})
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
    """MD5 of a file, or of the names and MD5s of the files in a folder, in hexadecimal."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path).as_posix()} {md5(file)}\n" for file in files]
        return hashlib.md5("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _start(mode: str, **options: Any) -> Any:
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
        logger.warning("W&B: %s. This run goes on offline; send it with `wandb sync`.", reason)
    return wandb.init(mode="offline", settings=settings, **options)


def _commit(root: Path) -> dict[str, Any]:
    commit = _git(root, "rev-parse", "HEAD")
    # What the stages themselves write does not make a commit dirty.
    changed = _git(root, "status", "--porcelain", "--", ".", ":!outputs", ":!dvc.lock")
    return {"commit": commit, "dirty": bool(changed) if commit else None}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = run_command(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    modules = {"scikit-learn": "sklearn"}
    used = [name for name in VERSIONED if modules.get(name, name) in sys.modules]
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "actsweep": version("actsweep")} | {n: version(n) for n in used}


def _plain(value: Any) -> Any:
    """The value as JSON has it: what is not finite becomes None."""
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
    return value
