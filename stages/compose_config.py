"""conf -> outputs/config/STUDY.yaml, checked against each study's model config and dataset."""

import sys

from pipeline.config.code import with_digests
from pipeline.config.listing import check_params, read_params
from pipeline.config.preflight import check
from pipeline.config.study import compose_study, save_study
from stages import ROOT


def main() -> None:
    """Compose every study in params.yaml; an invalid study keeps its previous config."""
    errors: list[str] = []
    try:
        params = read_params(ROOT / "params.yaml")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    configs = ROOT / "outputs" / "config"
    for name in params["studies"]:
        try:
            study = compose_study(name, root=ROOT)
            check_params(study, params)
            check(study)
            save_study(with_digests(study, configs), configs / f"{name}.yaml")
        except (ValueError, OSError) as error:
            errors.append(f"error: {name}: {' '.join(str(error).split())}")
    for path in configs.glob("*.yaml"):
        if path.stem not in params["studies"]:
            path.unlink()
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
