"""conf -> outputs/STUDY/config.yaml, checked against the model's config and the dataset."""

import sys

from pipeline.config.preflight import check
from pipeline.config.study import compose_study, save_study
from stages import ROOT


def main() -> None:
    """Compose the study that the argument names; an error leaves the earlier config as it was."""
    name = sys.argv[1]
    try:
        study = compose_study(name, root=ROOT)
        check(study)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    save_study(study, ROOT / "outputs" / name / "config.yaml")


if __name__ == "__main__":
    main()
