"""The stages of a study, their inputs and outputs, and their entries in params.yaml for DVC."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.config.contracts import reads
from pipeline.config.sections import Node, Study

PROMPTS, TEXTS = "dataset.parquet", "texts.parquet"
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
    return list(_stages(study))


def _stages(study: Study) -> Iterator[Stage]:
    yield Stage(
        "generate_dataset",
        None,
        ("dataset", "model", "text"),
        (study.dataset,),
        (),
        (PROMPTS, TEXTS),
    )
    if study.collect is not None:
        yield Stage(
            "collect_activations", None, ("collect", "model"), (), (PROMPTS,), ("activations",)
        )
    for name in ordered_fits(study):
        node = study.fits[name]
        yield Stage(
            "compute_vectors",
            name,
            ("model", f"fits.{name}"),
            (node,),
            (PROMPTS, *_texts_file((node,)), *_store(node), *_fits(study, (node,))),
            (f"fits/{name}",),
            _score_values((node,)),
        )
    if study.sweep is not None:
        yield from _sweep_stages(study)
    if study.readings:
        nodes = tuple(study.readings.values())
        completions = ("conditions.parquet", "completions.parquet")
        inputs = [PROMPTS, *_texts_file(nodes), *_fits(study, nodes)]
        inputs += ["activations"] if any(map(_store, nodes)) else []
        inputs += completions if any("completions" in reads(node) for node in nodes) else []
        yield Stage(
            "read_activations",
            None,
            ("model", "readings"),
            nodes,
            tuple(inputs),
            ("readings",),
            _score_values(nodes),
        )
    if study.sweep is not None:
        yield Stage(
            "score_metrics",
            None,
            ("score",),
            tuple(study.score.metrics.values()),
            (
                PROMPTS,
                "settings.json",
                "conditions.parquet",
                "completions.parquet",
                "logits.parquet",
            ),
            ("scores.parquet", "summary.parquet", "headline.json", "metrics.json", "curves.csv"),
        )
    if study.figures:
        nodes = tuple(study.figures.values())
        tables = {"readings": "readings", "scores": "scores.parquet", "summary": "summary.parquet"}
        read = [path for name, path in tables.items() if _any_reads(nodes, name)]
        read += ["headline.json"] if study.sweep is not None else []
        yield Stage(
            "plot_figures",
            None,
            ("figures", "question"),
            nodes,
            (PROMPTS, *read),
            ("figures",),
            _score_values(nodes),
        )


def _sweep_stages(study: Study) -> Iterator[Stage]:
    assert study.sweep is not None
    arms = [study.sweep.node(name) for name in study.sweep.arms]
    nodes = (*(node for node in arms if node), *study.sweep.logit_metrics.values())
    # Only metrics that choose a setting: changing any other must not rerun the stage.
    by = {study.sweep.arm(name).metric for name in study.sweep.chosen()}
    metrics = tuple(node for name, node in study.score.metrics.items() if name in by)
    fits = _fits(study, nodes)
    yield Stage(
        "choose_settings",
        None,
        ("model", "sweep"),
        (*nodes, *metrics),
        (PROMPTS, *fits),
        ("settings.json", "validation.parquet"),
        ("score.cluster", "score.seed") if by else (),
    )
    yield Stage(
        "sweep_layers",
        None,
        ("model", "sweep"),
        nodes,
        (PROMPTS, TEXTS, "settings.json", *fits),
        ("conditions.parquet", "completions.parquet", "logits.parquet"),
    )


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


def _store(node: Node) -> tuple[str, ...]:
    return ("activations",) if "store" in reads(node) else ()


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
