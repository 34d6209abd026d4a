"""Compose a study's YAML files and check them. The only importer of Hydra."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.contracts import PACKAGES, check_node
from pipeline.config.errors import at_key, explain, one_line
from pipeline.config.overrides import check_overrides
from pipeline.config.sections import Arm, Model, Node, Study
from pipeline.config.text_fields import check_scalars, without_text_types
from pipeline.config.values import check_values


def compose_study(name: str, overrides: Sequence[str] = (), *, root: Path) -> Study:
    """Compose `conf/study/NAME.yaml` with overrides (`sweep.seed=1`) and check it.

    Raises:
        ValueError: no such study, an unknown key, a wrong type or a missing value; one line with
            the full key and the valid ones.
    """
    # Imported here so that stages, which only read composed studies, do not load Hydra.
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException

    known = sorted(file.stem for file in (root / "conf" / "study").glob("*.yaml"))
    if name not in known:
        raise ValueError(f"study {name!r} is unknown; valid: {', '.join(known)}")
    check_overrides(name, overrides, _has_several_values)
    # Only the schema tells Hydra about keys that the YAML leaves at their defaults.
    ConfigStore.instance().store(name="schema", node=without_text_types(Study))
    with initialize_config_dir(str((root / "conf").resolve()), version_base="1.3"):
        try:
            config = compose("config", overrides=[f"study={name}", *map(_forced, overrides)])
        except (HydraException, yaml.YAMLError) as error:
            raise ValueError(one_line(error)) from error
    study = _typed(config)
    with at_key("packages"):
        check_packages(study.packages)
    check_nodes(study)
    check_values(study)
    if study.name != name:
        raise ValueError(f"name: {study.name!r} in conf/study/{name}.yaml; it must be {name!r}")
    return study


def load_study(path: Path) -> Study:
    """Read a composed study back without checking it again.

    Raises:
        ValueError: the file is damaged.
    """
    import yaml

    try:
        return _typed(OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path)))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no composed study: {one_line(error)}") from error


def config_file(folder: Path) -> Path:
    """Locate the composed config of an output folder: inside it for manual runs, or in config/."""
    beside = folder / "config.yaml"
    return beside if beside.is_file() else folder.parent / "config" / f"{folder.name}.yaml"


def save_study(study: Study, path: Path) -> None:
    """Write a composed study as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(study.config)))


def load_model_section(path: Path) -> Model:
    """Load a file of conf/model on its own.

    Raises:
        ValueError: an unknown key, a wrong type or a missing value.
    """
    try:
        values = OmegaConf.load(path)
        check_scalars(OmegaConf.to_container(values), Model, f"conf/model/{path.name}: model")
        section = OmegaConf.merge(OmegaConf.structured(Model), values)
        OmegaConf.to_container(section, throw_on_missing=True)
        model = OmegaConf.to_object(section)
    except OmegaConfBaseException as error:
        raise ValueError(f"conf/model/{path.name}: {explain(error, '')}") from error
    assert isinstance(model, Model)
    return model


def check_nodes(study: Study) -> None:
    """Check every node of the study against its contract, and fill in defaults.

    Raises:
        ValueError: as `contracts.check_node`.
    """
    study.dataset = check_node(study.dataset, "dataset", "dataset", study.packages)
    for key, nodes, kind in _sections(study):
        for name, node in nodes.items():
            nodes[name] = check_node(node, f"{key}.{name}", kind, study.packages)
    if study.sweep is None:
        return
    for name, values in study.sweep.arms.items():
        key = f"sweep.arms.{name}"
        if "_target_" in values:
            study.sweep.arms[name] = check_node(values, key, "arm", study.packages, Arm)
        else:
            study.sweep.arms[name] = _baseline(values, key)


def _sections(study: Study) -> Iterator[tuple[str, dict[str, Node], str]]:
    yield "fits", study.fits, "fit"
    yield "readings", study.readings, "reading"
    yield "score.metrics", study.score.metrics, "metric"
    yield "figures", study.figures, "figure"
    if study.sweep is not None:
        yield "sweep.logit_metrics", study.sweep.logit_metrics, "logit_metric"


def _baseline(values: Node, key: str) -> Node:
    """Check the types of an arm without a node and fill in its defaults."""
    check_scalars(values, Arm, key)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Arm), values)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error, key)) from error
    container = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def check_packages(packages: Sequence[str]) -> None:
    """Fail if a package that a study adds is not installed or has no file.

    Raises:
        ValueError: names the package.
    """
    for package in (*PACKAGES, *packages):
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(
                f"{package!r} is no Python package or module, installed or beside conf/"
            )


def _typed(config: Any) -> Study:
    try:
        plain = OmegaConf.to_container(config, throw_on_missing=True, resolve=True)
        check_scalars(plain, Study, "")
        study = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.create(plain))
        )
    except OmegaConfBaseException as error:
        raise ValueError(explain(error, "")) from error
    assert isinstance(study, Study)
    return study


def _forced(override: str) -> str:
    # `++` allows keys that the YAML leaves at their defaults; the schema still checks them.
    # `fit@fits.saes` is not a key: it selects a config file.
    key, _, _ = override.partition("=")
    is_key = "." in key and "@" not in key and key[0].isalpha()
    return f"++{override}" if is_key else override


def _has_several_values(override: str) -> bool:
    """Whether an override gives a key several values, as for a sweep of Hydra's own.

    Raises:
        ValueError: it cannot be parsed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except OverrideParseException as error:
        raise ValueError(
            f"override {override} cannot be parsed; quote the value within the shell's quotes: "
            "'KEY=\"VALUE\"'"
        ) from error
    several: bool = parsed.is_sweep_override()
    return several
