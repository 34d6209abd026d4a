"""Check a study's metrics and their scales, before anything runs."""

import pandas as pd
import torch
from torch import Tensor

from pipeline.config.contracts import bound, imported, reads
from pipeline.config.declared import OfOneScale, OfShares, declared
from pipeline.config.errors import at_key
from pipeline.config.rows import completed
from pipeline.config.sections import Study
from pipeline.measures.logits import NextToken
from pipeline.measures.scale import scale_of
from pipeline.measures.scores import scores_of
from pipeline.model.loading import LanguageModel


def check_cluster(study: Study, prompts: pd.DataFrame) -> None:
    """Fail if a prompt has no value of the study's cluster, or if metrics do not allow the cluster.

    All prompts without a value would count as a single cluster. Scores that are of a whole topic
    are the same for its prompts, which are then no clusters of their own.

    Raises:
        ValueError: names the cluster and the sample, or the metric.
    """
    cluster = study.score.cluster
    for name, node in study.score.metrics.items():
        if scale_of(imported(node["_target_"]), node).of_topic and _splits_topics(study, prompts):
            raise ValueError(
                f"score.cluster: {cluster}: score.metrics.{name} scores all completions of a topic "
                "together; valid: score.cluster=topic"
            )
    if cluster in prompts and (prompts[cluster] == "").any():
        sample = prompts.index[prompts[cluster] == ""][0]
        raise ValueError(
            f"score.cluster: {cluster}: sample {sample} has no {cluster}; all without one would be "
            f"a single cluster; valid: a {cluster} of each prompt, or score.cluster=sample"
        )


def _splits_topics(study: Study, prompts: pd.DataFrame) -> bool:
    """Whether completions of a topic, label and split are in several of the study's clusters."""
    if study.sweep is None or study.score.cluster not in ("sample", "repeat"):
        return False
    together = completed(study.sweep, prompts)
    together = together[together["topic"] != ""]
    several = bool(together.duplicated(["topic", "label", "split"]).any())
    return several or study.score.cluster == "repeat"


def check_scales(study: Study) -> None:
    """Fail if a figure names a metric whose scale it cannot draw.

    Raises:
        ValueError: names the option, the metric and the valid ones.
    """
    nodes = dict(study.score.metrics)
    if study.sweep is not None:
        nodes |= study.sweep.logit_metrics
    scales = {name: scale_of(imported(node["_target_"]), node) for name, node in nodes.items()}
    shares = ", ".join(name for name, scale in scales.items() if scale.share) or "none here"
    percent = [name for name, scale in scales.items() if scale.percent]
    for name, node in study.figures.items():
        function = imported(node["_target_"])
        for option, _, metric in declared(function, node, OfShares):
            if metric not in scales or not scales[metric].share:
                raise ValueError(
                    f"figures.{name}.{option}: metric {metric} is no share; valid: {shares}"
                )
        for option, _, metrics in declared(function, node, OfOneScale):
            if len(metrics) > 1 and not set(metrics) <= set(percent):
                raise ValueError(
                    f"figures.{name}.{option}: {', '.join(metrics)} have no common scale; valid: "
                    f"one, or several of those in per cent: {', '.join(percent) or 'none here'}"
                )


def check_metrics(study: Study, prompts: pd.DataFrame) -> None:
    """Fail if a metric does not score completions of the prompts, or not one score per row.

    Raises:
        ValueError: names the metric and what it does.
    """
    # With an index as the later conditions of a run have.
    samples = prompts.iloc[[0, -1]].set_axis([2, 3])
    # Those of a metric that sorts them come back in another order.
    completed = {"completion": ["b c", "a"], "tokens": [[0, 0], [0]], "n_tokens": [2, 1]}
    samples = samples.assign(condition="", repeat=0, stopped="end", **completed)
    for name, node in study.score.metrics.items():
        with at_key(f"score.metrics.{name}"):
            try:
                scores_of(bound(node), samples)
            # Errors raised by a user's own function.
            except (AttributeError, TypeError, KeyError) as error:
                raise ValueError(f"fails on two completions: {error!r}") from error


def check_logit_metrics(study: Study, model: LanguageModel, prompts: pd.DataFrame) -> None:
    """Fail if a logit metric does not work with the model's tokens or is not one score per row.

    Raises:
        ValueError: names the metric and what it does.
    """
    if study.sweep is None:
        return

    def level(layer: int | None = None) -> Tensor:
        if layer is not None and not 0 <= layer < model.n_layers:
            raise ValueError(f"layer {layer}; valid: 0 to {model.n_layers - 1}")
        return torch.zeros(len(samples), model.config.vocab_size)

    samples = prompts.iloc[[0, -1]].reset_index(drop=True)
    after = NextToken(level, level, model.tokenizer, samples)
    for name, node in study.sweep.logit_metrics.items():
        argument = torch.zeros(len(samples)) if reads(node) == ["answers"] else after
        with at_key(f"sweep.logit_metrics.{name}"):
            try:
                shape = tuple(bound(node)(argument).shape)
            # Errors raised by a user's own function.
            except (AttributeError, TypeError, IndexError) as error:
                raise ValueError(f"fails on logits of two rows: {error}") from error
            if shape != (2,):
                raise ValueError(f"scores {shape} of 2 rows; valid: one score for each row")
