"""Which studies `dvc repro` makes: params.yaml, held against the studies' own sections."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.config.sections import Study


@dataclass(frozen=True)
class Lists:
    """What params.yaml lists."""

    studies: tuple[str, ...]
    autoencoder_studies: tuple[str, ...]


def listed_studies(path: Path) -> Lists:
    """Read params.yaml in any form that YAML allows: lists, or mappings whose keys are the names.

    Raises:
        ValueError: no list of studies.
    """
    params = yaml.safe_load(path.read_text())
    if not isinstance(params, dict) or not params.get("studies"):
        raise ValueError(f"{path.name} lists no `studies`")
    return Lists(tuple(params["studies"]), tuple(params.get("autoencoder_studies") or ()))


def check_lists(study: Study, lists: Lists) -> None:
    """Fail if a study stands in a list that its sections do not ask for, or misses one.

    Raises:
        ValueError: names the line to add or remove.
    """
    listed = study.name in lists.autoencoder_studies
    wanted = study.autoencoders is not None
    if listed != wanted:
        verb, has = ("add", "has a") if wanted else ("remove", "has no")
        raise ValueError(
            f"params.yaml: {verb} {study.name!r} in autoencoder_studies; the study {has} section "
            "`autoencoders`"
        )
