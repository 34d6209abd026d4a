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

from pipeline.runs.records import flatten, run_file
from pipeline.runs.results import Run, plain
from pipeline.runs.scratch import whole_file
from pipeline.runs.terminal import Once
from pipeline.runs.tracking_settings import check_tracking

VERSIONED = ("torch", "transformers", "numpy", "pandas", "scikit-learn")


class _WarningCollector(logging.Handler):
    """Collects distinct warnings for the summary; does not display them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(Once())
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


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
        "config": plain(config),
        "inputs": {name: md5(path) for name, path in inputs.items()},
    }
    if mode == "disabled":
        run, external = Run(), None
    else:
        # W&B takes a second to import.
        from pipeline.runs.wandb_run import WandbRun, start

        external = start(
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
            "summary": plain(run.values),
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
