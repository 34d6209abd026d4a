"""Find the output folders of studies, and of runs with overrides, by name."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.config.study import config_file, load_study
from pipeline.config.wiring import stages_of


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
    known = ", ".join(sorted({each for output in listed for each in (output.name, output.study)}))
    raise ValueError(f"{name!r} has no results in outputs; there are: {known or 'none'}")


def _outputs(root: Path) -> Iterator[Output]:
    for file in root.glob("outputs/*/dataset.parquet"):
        folder = file.parent
        config = config_file(folder)
        if config.is_file():
            study = load_study(config)
            newest = max(path.stat().st_mtime for path in folder.iterdir())
            ended = all(
                (folder / path).exists() for stage in stages_of(study) for path in stage.outputs
            )
            written = datetime.fromtimestamp(newest)
            yield Output(folder.name, study.name, study.model.path, written, ended)
