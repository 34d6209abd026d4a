"""The stages of a study, their inputs and outputs, and their entries in params.yaml for DVC."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config.contracts import reads
from pipeline.config.sections import Node, Study

PROMPTS, TEXTS, SETTINGS = "dataset.parquet", "texts.parquet", "settings.json"
CONDITIONS, COMPLETIONS = "conditions.parquet", "completions.parquet"
FIT_OPTIONS = ("fit", "fits", "directions", "variants")
"""Options of nodes that name fits."""


@dataclass(frozen=True)
class Stage:
    """A stage of a study.

    Attributes:
        name: of its module in stages/.
        fit: the fit that it computes, if any.
        sections: keys of the composed study that its result depends on.
        nodes: the nodes that it runs.
        inputs: paths that it reads in the study's output folder.
        outputs: paths that it writes there.
        values: further keys that its nodes read, such as `score.seed`; part of `code`'s digest.
    """

    name: str
    fit: str | None
    sections: tuple[str, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name if self.fit is None else f"{self.name} {self.fit}"


def stages_of(study: Study) -> list[Stage]:
    """List the stages that a study's sections require, in order."""
    return [stage_of(study, name, fit) for name, fit in _names(study, ordered_fits(study))]


def stage_of(study: Study, name: str, fit: str | None = None) -> Stage:
    """Return one stage of a study; only the functions of its own nodes are imported.

    Raises:
        ValueError: the study has no such stage.
    """
    names = list(_names(study, study.fits))
    if (name, fit) not in names:
        called = " ".join(filter(None, (name, fit)))
        valid = ", ".join(" ".join(filter(None, each)) for each in names)
        raise ValueError(f"study {study.name} has no stage {called}; valid: {valid}")
    return _vectors(study, fit) if fit is not None else _BUILDERS[name](study)


def _names(study: Study, fits: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each stage's name and fit, in order; `fits` is in the order to keep."""
    yield "generate_dataset", None
    if study.collect is not None:
        yield "collect_activations", None
    for fit in fits:
        yield "compute_vectors", fit
    if study.sweep is not None:
        if study.sweep.chosen():
            yield "choose_settings", None
        yield "sweep_layers", None
    if study.readings:
        yield "read_activations", None
    if study.sweep is not None:
        yield "score_metrics", None
    if study.figures:
        yield "plot_figures", None


def _dataset(study: Study) -> Stage:
    sections = ("dataset", "model", "text")
    return Stage("generate_dataset", None, sections, (study.dataset,), (), (PROMPTS, TEXTS))


def _activations(study: Study) -> Stage:
    sections = ("collect", "model")
    return Stage("collect_activations", None, sections, (), (PROMPTS,), ("activations",))


def _vectors(study: Study, fit: str) -> Stage:
    nodes = (study.fits[fit],)
    return Stage(
        "compute_vectors",
        fit,
        ("model", f"fits.{fit}"),
        nodes,
        (PROMPTS, *_texts_file(nodes), *_store(nodes), *_fits(study, nodes)),
        (f"fits/{fit}",),
        _score_values(nodes),
    )


def _settings(study: Study) -> Stage:
    assert study.sweep is not None
    # Only metrics that choose a setting: changing any other must not rerun the stage.
    by = {study.sweep.arm(name).metric for name in study.sweep.chosen()}
    metrics = tuple(node for name, node in study.score.metrics.items() if name in by)
    nodes = _run_nodes(study)
    return Stage(
        "choose_settings",
        None,
        ("model", "sweep"),
        (*nodes, *metrics),
        (PROMPTS, *_fits(study, nodes)),
        (SETTINGS, "validation.parquet"),
        ("score.cluster", "score.seed"),
    )


def _conditions(study: Study) -> Stage:
    nodes = _run_nodes(study)
    return Stage(
        "sweep_layers",
        None,
        ("model", "sweep"),
        nodes,
        (PROMPTS, TEXTS, *_settings_file(study), *_fits(study, nodes)),
        (CONDITIONS, COMPLETIONS, "logits.parquet"),
    )


def _readings(study: Study) -> Stage:
    nodes = tuple(study.readings.values())
    completed = (CONDITIONS, COMPLETIONS) if _any_reads(nodes, "completions") else ()
    fits = _fits(study, nodes)
    return Stage(
        "read_activations",
        None,
        ("model", "readings"),
        nodes,
        (PROMPTS, *_texts_file(nodes), *fits, *_store(nodes), *completed),
        ("readings",),
        _score_values(nodes),
    )


def _scores(study: Study) -> Stage:
    return Stage(
        "score_metrics",
        None,
        ("score",),
        tuple(study.score.metrics.values()),
        (PROMPTS, *_settings_file(study), CONDITIONS, COMPLETIONS, "logits.parquet"),
        ("scores.parquet", "summary.parquet", "headline.json", "metrics.json", "curves.csv"),
    )


def _figures(study: Study) -> Stage:
    nodes = tuple(study.figures.values())
    tables = {"readings": "readings", "scores": "scores.parquet", "summary": "summary.parquet"}
    read = [path for name, path in tables.items() if _any_reads(nodes, name)]
    read += ["headline.json"] if study.sweep is not None else []
    sections = ("figures", "question")
    inputs = (PROMPTS, *read)
    values = _score_values(nodes)
    return Stage("plot_figures", None, sections, nodes, inputs, ("figures",), values)


_BUILDERS: dict[str, Callable[[Study], Stage]] = {
    "generate_dataset": _dataset,
    "collect_activations": _activations,
    "choose_settings": _settings,
    "sweep_layers": _conditions,
    "read_activations": _readings,
    "score_metrics": _scores,
    "plot_figures": _figures,
}


def _run_nodes(study: Study) -> tuple[Node, ...]:
    """List the nodes of the sweep's arms and logit metrics."""
    assert study.sweep is not None
    arms = [study.sweep.node(name) for name in study.sweep.arms]
    return (*(node for node in arms if node), *study.sweep.logit_metrics.values())


def used_fits(study: Study, node: Node) -> list[str]:
    """List the study's fits that a node names in its options."""
    if "fits" not in reads(node):
        return []
    values = [value for option in node.values() for value in option_texts(option)]
    return [value for value in dict.fromkeys(values) if value in study.fits]


def ordered_fits(study: Study) -> list[str]:
    """Sort the study's fits topologically: each after the fits that it uses.

    Raises:
        ValueError: cyclic dependencies.
    """
    ordered: list[str] = []
    while len(ordered) < len(study.fits):
        left = [name for name in study.fits if name not in ordered]
        ready = [name for name in left if not set(used_fits(study, study.fits[name])) & set(left)]
        if not ready:
            raise ValueError(f"fits: {', '.join(left)} use each other")
        ordered += ready
    return ordered


def other_studies(study: Study) -> list[str]:
    """List the studies whose outputs this one reads: options `study`, and fits `STUDY/NAME`."""
    nodes = [node for stage in stages_of(study) for node in stage.nodes]
    names = [str(node["study"]) for node in nodes if node.get("study")]
    for node in nodes:
        fits = [value for name in FIT_OPTIONS for value in option_texts(node.get(name))]
        names += [value.partition("/")[0] for value in fits if "/" in value]
    return list(dict.fromkeys(names))


def _texts_file(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return (TEXTS,) if _any_reads(nodes, "texts") else ()


def _score_values(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    """List the keys of section `score` that nodes read."""
    return tuple(f"score.{name}" for name in ("cluster", "seed") if _any_reads(nodes, name))


def _settings_file(study: Study) -> tuple[str, ...]:
    assert study.sweep is not None
    return (SETTINGS,) if study.sweep.chosen() else ()


def _store(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return ("activations",) if _any_reads(nodes, "store") else ()


def _fits(study: Study, nodes: tuple[Node, ...]) -> list[str]:
    return [f"fits/{name}" for node in nodes for name in used_fits(study, node)]


def _any_reads(nodes: tuple[Node, ...], *names: str) -> bool:
    return any(name in reads(node) for node in nodes for name in names)


def option_texts(value: Any) -> Iterator[str]:
    """Yield every text in a node's option, also in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from option_texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from option_texts(item)
