"""The stages, one thin script each, and how a stage is run: `python -m stages.NAME STUDY`."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
# A queued experiment runs in a copy of the project; an installed package is still the original.
sys.path.insert(0, str(ROOT / "src"))

from pipeline.sections import Study  # noqa: E402
from pipeline.study import load_study  # noqa: E402
from pipeline.tracking import Run, tracked_run  # noqa: E402

Stage = Callable[[Study, Path, Run], None]
ORDER = (
    "generate_dataset",
    "collect_activations",
    "compute_vectors",
    "sweep_layers",
    "score_metrics",
    "plot_figures",
)
"""What follows `compose_config`, each reading what those before it wrote."""


def run_stage(module: ModuleType, study: Study, folder: Path) -> None:
    """Run a stage on a study's folder as one tracked run."""
    with tracked_run(
        stage=Path(str(module.__file__)).stem,
        study=study.name,
        study_id=study.id,
        config=study.config,
        inputs={name: folder / name for name in module.INPUTS},
        root=ROOT,
        mode=study.tracking.mode,
        project=study.tracking.project,
        entity=study.tracking.entity,
    ) as tracked:
        module.run(study, folder, tracked)


def main() -> None:
    """Run the stage that was called as a script on the study that its argument names."""
    folder = ROOT / "outputs" / sys.argv[1]
    try:
        run_stage(sys.modules["__main__"], load_study(folder / "config.yaml"), folder)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
