"""Trace a figure or page to its study, configuration, data and code."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import run as run_command

import yaml

from pipeline.config.sections import Study
from pipeline.config.study import config_file, load_study
from pipeline.config.wiring import Stage, stage_of
from pipeline.runs.outputs import command_of
from pipeline.runs.records import run_file
from pipeline.runs.tracking import md5

KEY = "made_from"
"""Text chunk of a PNG, and comment of a page, with the record as JSON."""


def with_record(page: str, made_from: Mapping[str, str]) -> str:
    """Append the record of what a page was made from."""
    return f"{page}<!-- {KEY}: {json.dumps(dict(made_from), sort_keys=True)} -->\n"


def options_digest(study: Study, stage: Stage) -> str:
    """Hash what a stage's figures are drawn by, besides its inputs and code."""
    options = {key: study.value(key) for key in (*stage.sections, *stage.values)}
    return hashlib.md5(json.dumps(options).encode()).hexdigest()


def trace(file: Path, root: Path) -> Iterator[tuple[str, str]]:
    """Yield pairs of a subject and a finding: study, figure, config, data, code, and the command.

    Each input's MD5 is that of dvc.lock, and is compared with the file that is there now.

    Raises:
        ValueError: a file without a record.
    """
    record = read_record(file)
    name, options = record.pop("study"), record.pop("config")
    folder = root / "outputs" / name
    config = config_file(folder)
    by_dvc = folder.name + ".yaml" == config.name
    yield "study", name
    if config.is_file():
        study = load_study(config)
        yield "question", study.question
        yield "model", study.model.path
        yield "dataset", json.dumps(study.dataset)
        figures = yaml.safe_dump(study.figures, sort_keys=False).strip()
        yield "figures now", figures.replace("\n", "\n" + " " * 13)
        now = options_digest(study, stage_of(study, "plot_figures"))
        state = "as now" if now == options else "changed"
    else:
        state = "not here"
    yield "options", f"hash {options} of the figures' options: {state}"
    for path, checksum in record.items():
        there = folder / path
        state = (
            "not here" if not there.exists() else "as now" if md5(there) == checksum else "changed"
        )
        yield "data", f"{there.relative_to(root)}, md5 {checksum}: {state}"
    by_hand = config.is_file() and not by_dvc
    yield "code", _of_run(root, study.name, name) if by_hand else _of_lock(root, record.values())
    made_by = command_of(folder, study) if config.is_file() else f"dvc repro figures@{name}"
    yield "remake", made_by


def read_record(file: Path) -> dict[str, str]:
    """Read the record of a PNG or an HTML page.

    Raises:
        ValueError: no such file, a damaged one, or no record in it.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist")
    if file.suffix == ".png":
        from PIL import Image

        try:
            with Image.open(file) as image:
                text = getattr(image, "text", {}).get(KEY)
        except OSError as error:
            raise ValueError(f"{file} is no complete PNG: {error}") from error
    else:
        found = re.findall(rf"<!-- {KEY}: (.*) -->", file.read_text(errors="replace"))
        text = found[-1] if found else None
    if text is None:
        raise ValueError(f"{file} has no record of what it was made from")
    record: dict[str, str] = json.loads(text)
    return record


def _of_run(root: Path, study: str, study_id: str) -> str:
    """Say at which commit a run by hand drew its figures."""
    file = run_file(root, study, study_id, "plot_figures")
    if not file.is_file():
        return "the run has no record here: .actsweep/runs is of another copy of the project"
    run = json.loads(file.read_text())
    changed = ", with changes that were not committed" if run["dirty"] else ""
    return f"commit {run['commit']}{changed}" if run["commit"] else "no commit"


def _of_lock(root: Path, checksums: Iterable[str]) -> str:
    commit = _commit(root, list(checksums))
    if commit is None:
        return "no commit has a dvc.lock with all of this data"
    return f"commit {commit}, which put this data into dvc.lock"


def _commit(root: Path, checksums: Sequence[str]) -> str | None:
    """Return the commit that brought the newest dvc.lock with all of the checksums, if any."""

    def git(*arguments: str) -> str:
        done = run_command(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    brought = None
    for commit in git("log", "--format=%h", "--", "dvc.lock").split():
        lock = git("show", f"{commit}:./dvc.lock")
        if checksums and all(checksum in lock for checksum in checksums):
            brought = commit
        elif brought is not None:
            break
    return brought
