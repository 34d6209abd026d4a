"""Check the values of a composed study for consistency, without model or data."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.config.contracts import imported, reads
from pipeline.config.declared import Named, NeedsText, OfSplits, declared, needed
from pipeline.config.errors import at_key
from pipeline.config.sections import Node, Study, Sweep
from pipeline.measures.scale import TEXT_METRIC

CLUSTERS = ("sample", "repeat", "split", "label", "topic")


def check_values(study: Study) -> None:
    """Fail with one line at the first invalid value.

    Raises:
        ValueError: names the key, the value and the valid ones.
    """
    metrics = _metrics(study)
    if study.sweep is not None:
        _check_sweep(study.sweep, metrics)
    for key, node in all_nodes(study):
        _check_reads(study, key, node)
        _check_options(study, key, node, metrics)
    _among("score.cluster", study.score.cluster, CLUSTERS)
    _among("tracking.mode", study.tracking.mode, ("offline", "online", "disabled"))
    _check_seed("score.seed", study.score.seed)
    _at_least("model.batch_tokens", study.model.batch_tokens, 1)
    if study.collect is not None:
        if not study.collect.components and not study.collect.sites:
            raise ValueError("collect.components is empty, as collect.sites is: nothing to keep")
        _at_least("collect.rows_per_shard", study.collect.rows_per_shard, 1)


def all_nodes(study: Study) -> Iterator[tuple[str, Node]]:
    """Yield every node of the study with its key."""
    yield "dataset", study.dataset
    for key, nodes in (
        ("fits", study.fits),
        ("readings", study.readings),
        ("figures", study.figures),
        ("score.metrics", study.score.metrics),
    ):
        yield from ((f"{key}.{name}", node) for name, node in nodes.items())
    if study.sweep is not None:
        for name, node in study.sweep.logit_metrics.items():
            yield f"sweep.logit_metrics.{name}", node
        for arm in study.sweep.arms:
            arm_node = study.sweep.node(arm)
            if arm_node is not None:
                yield f"sweep.arms.{arm}", arm_node


def _metrics(study: Study) -> list[str]:
    """List all metrics; check that names are unique and that scored completions are generated."""
    of_completions = study.score.metrics
    of_logits = study.sweep.logit_metrics if study.sweep is not None else {}
    for section, names in (("sweep.logit_metrics", of_logits), ("score.metrics", of_completions)):
        if TEXT_METRIC in names:
            raise ValueError(
                f"{section}.{TEXT_METRIC}: {TEXT_METRIC!r} is measured on texts already"
            )
    for name in of_logits:
        if name in of_completions:
            raise ValueError(f"sweep.logit_metrics.{name}: {name!r} is in score.metrics too")
    decoded = study.sweep is not None and study.sweep.decoding is not None
    for name in () if decoded else of_completions:
        raise ValueError(
            f"score.metrics.{name}: there is no completion to score, as sweep.decoding is null"
        )
    return [*of_logits, *of_completions]


def _check_seed(key: str, seed: Any) -> None:
    if isinstance(seed, int) and not 0 <= seed < 2**63:
        raise ValueError(f"{key}: {seed} is no seed; valid: 0 to 2^63 - 1")


def _check_sweep(sweep: Sweep, metrics: list[str]) -> None:
    _check_seed("sweep.seed", sweep.seed)
    if not sweep.arms:
        raise ValueError("sweep.arms is empty: nothing would run")
    for name in sweep.arms:
        key, arm = f"sweep.arms.{name}", sweep.arm(name)
        if arm.goal is not None:
            _among(f"{key}.goal", arm.goal, ("raise", "lower"))
            if arm.metric is None:
                raise ValueError(f"{key}.metric: to {arm.goal} needs one; valid: {_list(metrics)}")
            if sweep.node(name) is None:
                raise ValueError(f"{key}.goal: the arm has no _target_, hence nothing to choose")
        if arm.metric is not None:
            _among(f"{key}.metric", arm.metric, metrics)
        for split in arm.splits:
            _among(f"{key}.splits", split, ("train", "val", "test"))
    if sweep.decoding is not None:
        # Imported here so that stages that only read studies do not load torch.
        from pipeline.engine.decoding import Decoding

        with at_key("sweep.decoding"):
            Decoding(**dataclasses.asdict(sweep.decoding))
    elif not sweep.logit_metrics:
        raise ValueError("sweep.logit_metrics is empty and decoding is null: nothing would be made")


def _check_reads(study: Study, key: str, node: Node) -> None:
    """Fail if a node reads an input that no section of the study produces."""
    sections = {
        "store": ("collect", study.collect),
        "completions": ("sweep.decoding", study.sweep and study.sweep.decoding),
        "scores": ("sweep", study.sweep),
        "summary": ("sweep", study.sweep),
        "readings": ("readings", study.readings),
    }
    for name in reads(node):
        section, value = sections.get(name, ("", True))
        if not value:
            raise ValueError(f"{key} reads {name}, but the study has no section `{section}`")
    if study.text is None and any(needed(imported(node["_target_"]), NeedsText)):
        raise ValueError(
            f"{key} needs unrelated text, but text is null; valid: text=FILE, as in conf/study"
        )
    if study.collect is None or "store" not in reads(node):
        return
    collected = f"collect.splits has: {_list(study.collect.splits)}"
    for splits in needed(imported(node["_target_"]), OfSplits):
        for split in splits.splits:
            if split not in study.collect.splits:
                raise ValueError(f"{key} reads activations of {split}; {collected}")
    for split in _listed(node.get("split")):
        if split not in study.collect.splits:
            raise ValueError(f"{key}.split: {split!r} is not collected; {collected}")


def _check_options(study: Study, key: str, node: Node, metrics: list[str]) -> None:
    """Check options whose names have a common meaning in all nodes against the study."""
    arms = study.sweep.arms if study.sweep is not None else {}
    of_texts = [TEXT_METRIC] if study.text is not None else []
    valid_names = {
        "arm": arms,
        "metric": [*metrics, *of_texts],
        "reading": study.readings,
        "fit": study.fits,
    }
    for name, note, value in declared(imported(node["_target_"]), node, Named):
        if note.kind == "axis" or (note.kind == "fit" and "/" in value):
            continue
        _among(f"{key}.{name}", value, valid_names[note.kind.split()[-1]])
        if note.kind == "chosen arm" and study.sweep is not None:
            _check_chosen(f"{key}.{name}", value, study.sweep)
    if not key.startswith(("sweep.", "score.", "dataset")):
        for option in ("arm", "metric", "reading"):
            for name in (option, f"{option}s"):
                for value in _listed(node.get(name)):
                    _among(f"{key}.{name}", value, valid_names[option])
    if key.startswith("figures."):
        for value in _listed(node.get("split")):
            _among(f"{key}.split", value, _drawn_splits(study, node))
    for name in ("fit", "fits"):
        for value in _listed(node.get(name)):
            if "/" not in value:
                _among(f"{key}.{name}", value, study.fits)
    for name, value in node.items():
        if isinstance(value, list):
            if not value and key.startswith("sweep.arms."):
                raise ValueError(f"{key}.{name} is empty: the arm would change nothing")
            # Weights and shares may be equal, but not the values of an arm's axis.
            is_axis = key.startswith("sweep.arms.")
            weights = not is_axis and any(isinstance(each, float) for each in value)
            if not weights and len(set(map(str, value))) < len(value):
                raise ValueError(f"{key}.{name}: {value} has a value twice")
        if name == "seed":
            _check_seed(f"{key}.{name}", value)
        for number in _listed(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key}.{name}: {number} is not a finite number")


def _check_chosen(key: str, arm: str, sweep: Sweep) -> None:
    """Fail if a node draws an arm at its chosen setting, but none is chosen."""
    if arm not in sweep.chosen():
        raise ValueError(
            f"{key}: no setting of arm {arm!r} is chosen, as it has no goal; set "
            f"sweep.arms.{arm}.metric and .goal; valid: {_list(sweep.chosen())}"
        )


def _drawn_splits(study: Study, node: Node) -> list[str]:
    """List the splits that a figure's rows may have: those reported, if it draws scores of arms.

    Of a reading that has an option `split` or reads the store: those that it reads.
    """
    reading = study.readings.get(str(node.get("reading")))
    if reading is not None and "split" in reading:
        return [reading["split"]]
    if reading is not None and study.collect is not None and "store" in reads(reading):
        return study.collect.splits
    if study.sweep is None or not {"scores", "summary"} & set(reads(node)):
        return ["train", "val", "test", "text"]
    named = [*_listed(node.get("arm")), *_listed(node.get("arms"))]
    splits = [split for arm in named or study.sweep.arms for split in study.sweep.arm(arm).splits]
    return [*dict.fromkeys(splits), *(["text"] if study.text is not None else [])]


def _listed(value: Any) -> list[Any]:
    """List the names in an option: a single value, a list, or a mapping's keys."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | dict) else [value]


def _among(key: str, value: Any, valid: Collection[str]) -> None:
    if value not in valid:
        raise ValueError(f"{key}: {value!r} is unknown; valid: {_list(valid)}")


def _list(valid: Collection[str]) -> str:
    return ", ".join(valid) or "none"


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{key}: {value} is less than {least}")
