"""Find the output folders of studies, and of runs with overrides, by name."""

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sections import Study
from pipeline.config.study import config_file, load_study
from pipeline.config.wiring import stages_of
from pipeline.runs.records import shortest_overrides

log = logging.getLogger(__name__)


class Output(NamedTuple):
    """An output folder: name, study, model's path, last change, and whether all stages ended."""

    name: str
    study: str
    model: str
    written: datetime
    finished: bool


def outputs(root: Path) -> list[Output]:
    """List the output folders of a project, newest first."""
    return sorted(_outputs(root), key=lambda output: output.written, reverse=True)


def find_output(root: Path, name: str) -> Path:
    """Return the output folder of a name.

    A study's name means what `dvc repro` has made for it, else its newest finished run by hand; the
    id that `actsweep run` prints means that run.

    Raises:
        ValueError: no such outputs; names those that there are.
    """
    folder = root / "outputs" / name
    if config_file(folder).is_file() and folder.is_dir():
        return folder
    listed = outputs(root)
    for output in sorted(listed, key=lambda output: not output.finished):
        if output.study == name:
            return root / "outputs" / output.name
    if name in uncomposed(root):
        raise ValueError(
            f"outputs/{name} has no config here, as after `dvc checkout`: dvc repro compose"
        )
    known = ", ".join(sorted({each for output in listed for each in (output.name, output.study)}))
    raise ValueError(f"{name!r} has no results in outputs; there are: {known or 'none'}")


def uncomposed(root: Path) -> list[str]:
    """List output folders without a config, such as those of `dvc checkout` in a new clone."""
    folders = [file.parent for file in root.glob("outputs/*/dataset.parquet")]
    return sorted(folder.name for folder in folders if not config_file(folder).is_file())


def is_finished(folder: Path, study: Study) -> bool:
    """Whether all stages of a study have ended."""
    return all((folder / path).exists() for stage in stages_of(study) for path in stage.outputs)


def command_of(folder: Path, study: Study) -> str:
    """Return the command that makes an output folder or goes on with it, or why there is none."""
    if folder.name == study.name and not (folder / "config.yaml").is_file():
        return f"dvc repro figures@{study.name}"
    root = folder.parent.parent
    try:
        overrides = shortest_overrides(study, root)
    except ValueError as error:
        return f"no command, as the study does not compose now: {error}"
    return " ".join(["actsweep run", study.name, *overrides])


def _outputs(root: Path) -> Iterator[Output]:
    for file in root.glob("outputs/*/dataset.parquet"):
        folder = file.parent
        config = config_file(folder)
        if config.is_file():
            try:
                study = load_study(config)
            except ValueError as error:
                log.warning("%s", error)
                continue
            newest = max(path.stat().st_mtime for path in folder.iterdir())
            written = datetime.fromtimestamp(newest)
            ended = is_finished(folder, study)
            yield Output(folder.name, study.name, study.model.path, written, ended)
