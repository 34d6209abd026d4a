"""The stages, one script each, and their runner: `python -m stages.NAME STUDY [FIT]`."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A queued DVC experiment runs in a copy of the project, but an installed package is the original.
sys.path.insert(0, str(ROOT / "src"))

from pipeline.config.contracts import call  # noqa: E402
from pipeline.config.inputs import Inputs  # noqa: E402
from pipeline.config.sections import Node, Study  # noqa: E402
from pipeline.config.study import load_study  # noqa: E402
from pipeline.config.wiring import SETTINGS, Stage, stage_of  # noqa: E402
from pipeline.measures.settings import Setting  # noqa: E402
from pipeline.runs.results import Run  # noqa: E402
from pipeline.runs.scratch import full_disk_named, scratch, sha256  # noqa: E402
from pipeline.runs.terminal import prepared, status  # noqa: E402
from pipeline.runs.trace import options_digest  # noqa: E402
from pipeline.runs.tracking import md5, tracked_run  # noqa: E402


@dataclass(frozen=True)
class Job:
    """A running stage of a study, passed to `run` of the stage's module."""

    study: Study
    stage: Stage
    folder: Path
    tracked: Run

    @contextmanager
    def scratch(self, output: str) -> Iterator[Path]:
        """Open a scratch folder whose `output` is moved to the study: see `scratch.scratch`."""
        with scratch(self.folder / output, self.key, root=ROOT) as work:
            yield work

    @cached_property
    def key(self) -> str:
        """See `stage_key`."""
        return stage_key(self.study, self.stage, self.folder)

    @cached_property
    def inputs(self) -> Inputs:
        """The inputs of the study's nodes."""
        return Inputs(self.study, self.folder)

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The chosen setting of each arm with a goal."""
        if SETTINGS not in self.stage.inputs:
            return {}
        recorded = json.loads((self.folder / SETTINGS).read_text())
        return {name: Setting(**setting) for name, setting in recorded.items()}

    def call(self, node: Node, **others: Any) -> Any:
        """Call a node with its inputs, some of them replaced by `others`."""
        return call(node, self.inputs.replaced(**others) if others else self.inputs)

    def made_from(self) -> dict[str, str]:
        """Record what a figure or page is made from: the study, and MD5s as in dvc.lock.

        Contains nothing that can change without DVC rerunning the stage.
        """
        hashes = {name: md5(self.folder / name) for name in self.stage.inputs}
        config = options_digest(self.study, self.stage)
        return {"study": self.folder.name, "config": config} | hashes


def stage_key(study: Study, stage: Stage, folder: Path) -> str:
    """Hash everything that a stage's outputs depend on: config, digest, inputs and versions.

    It names the scratch folder, so that a killed run is resumed only by an identical one.
    """
    key = hashlib.sha256()
    sections = {name: study.value(name) for name in stage.sections}
    key.update(json.dumps(sections).encode())
    code = study.code[stage.name]
    key.update((code if stage.fit is None else code[stage.fit]).encode())
    for name in stage.inputs:
        key.update(f"{name} {digest(folder / name)}".encode())
    for package in ("torch", "transformers"):
        key.update(version(package).encode())
    return key.hexdigest()[:12]


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, of a folder's files, or of an activation store's index."""
    path = _index(path)
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _index(path: Path) -> Path:
    """Return an activation store's index, which has its shards' checksums; else the path."""
    index = path / "index.json"
    return index if index.is_file() else path


def run_stage(study: Study, stage: Stage, folder: Path) -> None:
    """Run a stage on a study's folder as one tracked run."""
    with tracked_run(
        stage=str(stage).replace(" ", "-"),
        study=study.name,
        study_id=study.id,
        config=study.sections,
        inputs={name: _index(folder / name) for name in stage.inputs},
        # A queued experiment runs in a copy; its run records belong in the original project.
        root=Path(os.environ.get("DVC_ROOT", ROOT)),
        mode=study.tracking.mode,
        project=study.tracking.project,
        entity=study.tracking.entity,
    ) as tracked:
        import_module(f"stages.{stage.name}").run(Job(study, stage, folder, tracked))


def main() -> None:
    """Run the stage invoked as a script on the study named by its argument."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    name, fit = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    outputs = ROOT / "outputs"
    called = Path(sys.argv[0]).stem
    try:
        with prepared(), full_disk_named(outputs / name):
            study = load_study(outputs / "config" / f"{name}.yaml")
            run_stage(study, stage_of(study, called, fit), outputs / name)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt as interrupt:
        print(f"interrupted; `dvc repro` goes on with {called} of {name}", file=sys.stderr)
        sys.exit(status(interrupt))
