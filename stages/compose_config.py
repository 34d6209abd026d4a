"""conf -> outputs/config/STUDY.yaml, checked against each study's model config and dataset."""

import sys

from pipeline.config.listing import check_lists, listed_studies
from pipeline.config.preflight import check
from pipeline.config.study import compose_study, save_study
from stages import ROOT, with_digests


def main() -> None:
    """Compose every study that params.yaml lists; one that is wrong keeps its earlier config."""
    errors = []
    lists = listed_studies(ROOT / "params.yaml")
    folder = ROOT / "outputs" / "config"
    for name in lists.studies:
        try:
            study = compose_study(name, root=ROOT)
            check(study)
            check_lists(study, lists)
        except (ValueError, OSError) as error:
            errors.append(f"error: {name}: {' '.join(str(error).split())}")
            continue
        save_study(with_digests(study), folder / f"{name}.yaml")
    for path in folder.glob("*.yaml"):
        if path.stem not in lists.studies:
            path.unlink()
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
