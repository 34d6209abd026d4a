"""The stages, one thin script each, and how a stage is run: `python -m stages.NAME STUDY`."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
# A queued experiment runs in a copy of the project; an installed package is still the original.
sys.path.insert(0, str(ROOT / "src"))

from pipeline.config.code import stage_digest  # noqa: E402
from pipeline.config.sections import Study  # noqa: E402
from pipeline.config.study import load_study  # noqa: E402
from pipeline.runs.scratch import sha256  # noqa: E402
from pipeline.runs.tracking import tracked_run  # noqa: E402

ORDER = (
    "generate_dataset",
    "collect_activations",
    "compute_vectors",
    "choose_settings",
    "sweep_layers",
    "score_metrics",
    "plot_figures",
)
"""What follows `compose_config`, each reading what those before it wrote.

A stage is a module with `INPUTS` and `OUTPUTS`, files of the study's folder, `SECTIONS` of the
config, and `run(study, folder, tracked, key)`.
"""
FEATURES = (
    "record_completions",
    "train_autoencoders",
    "attribute_features",
    "ablate_features",
    "report_features",
    "describe_features",
)
"""What a study with autoencoders has besides."""


def order(study: Study) -> tuple[str, ...]:
    """The stages of a study, one after the other."""
    return ORDER + FEATURES if study.autoencoders else ORDER


def with_digests(study: Study) -> Study:
    """The study with a digest of what each of its stages runs on: see `config.code`."""
    code = {}
    for name in order(study):
        module = import_module(f"stages.{name}")
        sections = {section: study.config[section] for section in module.SECTIONS}
        code[name] = stage_digest(f"stages.{name}", sections)
    return replace(study, code=code)


def stage_key(module: ModuleType, study: Study, folder: Path) -> str:
    """Hash of all that a stage's outputs follow from: config, digest, inputs and versions.

    It names the stage's scratch, so that what a killed run left is taken up by the same work only.
    """
    digest = hashlib.sha256()
    sections = {name: study.config[name] for name in module.SECTIONS}
    digest.update(json.dumps(sections, sort_keys=True).encode())
    digest.update(study.code[stage_name(module)].encode())
    for path in (folder / name for name in module.INPUTS):
        digest.update(path.name.encode() + bytes.fromhex(sha256(path)))
    for package in ("torch", "transformers"):
        digest.update(version(package).encode())
    return digest.hexdigest()[:12]


def stage_name(module: ModuleType) -> str:
    """The name of a stage's module, also where it was started as a script."""
    return Path(str(module.__file__)).stem


def made_from(
    study: Study, folder: Path, inputs: Sequence[str], sections: Sequence[str]
) -> dict[str, str]:
    """What a figure or page says of itself: hashes of its inputs and of its sections of the config.

    Nothing that may change while DVC takes the figure for unchanged.
    """
    config = json.dumps({name: study.config[name] for name in sections}, sort_keys=True)
    hashes = {name: sha256(folder / name) for name in inputs}
    return hashes | {"config": hashlib.sha256(config.encode()).hexdigest()}


def run_stage(module: ModuleType, study: Study, folder: Path) -> None:
    """Run a stage on a study's folder as one tracked run."""
    with tracked_run(
        stage=stage_name(module),
        study=study.name,
        study_id=study.id,
        config=study.config,
        inputs={name: folder / name for name in module.INPUTS},
        # The records of a queued experiment, which runs in a copy, belong to the project itself.
        root=Path(os.environ.get("DVC_ROOT", ROOT)),
        mode=study.tracking.mode,
        project=study.tracking.project,
        entity=study.tracking.entity,
    ) as tracked:
        module.run(study, folder, tracked, stage_key(module, study, folder))


def main() -> None:
    """Run the stage that was called as a script on the study that its argument names."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    name = sys.argv[1]
    outputs = ROOT / "outputs"
    try:
        study = load_study(outputs / "config" / f"{name}.yaml")
        run_stage(sys.modules["__main__"], study, outputs / name)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
