"""Whether the values of a composed study can stand together: what needs neither model nor data."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from pipeline.config.sections import Arm, Study


def check_values(study: Study) -> None:
    """Fail in one line at the first value that cannot be.

    Raises:
        ValueError: names the key, the value and the valid ones.
    """
    # torch and pandas are loaded where a study is composed, and not by every stage that reads it.
    from pipeline.engine.decoding import Decoding
    from pipeline.measures.scores import SAMPLE, TEXT_METRIC

    metrics = _metrics(study, TEXT_METRIC)
    if not any(arm.strengths for arm in study.sweep.arms.values()):
        raise ValueError("sweep.arms: no arm has strengths, so nothing would be swept")
    for name, arm in study.sweep.arms.items():
        _check_arm(f"sweep.arms.{name}", arm)
        _among(f"sweep.arms.{name}.metric", arm.metric, metrics)
    for figure, settings in study.figures.items():
        for names, valid in (
            (("arm", "arms"), study.sweep.arms),
            (("metric", "metrics"), [*metrics, TEXT_METRIC]),
        ):
            for name in names:
                given = settings.get(name, [])
                for value in given if isinstance(given, list) else [given]:
                    _among(f"figures.{figure}.{name}", value, valid)
    _among("score.cluster", study.score.cluster, SAMPLE)
    _among("tracking.mode", study.tracking.mode, ("offline", "online", "disabled"))
    if not study.collect.components:
        raise ValueError("collect.components is empty: there would be nothing to fit")
    if study.vectors.positive == study.vectors.negative:
        raise ValueError(f"vectors.negative: {study.vectors.negative!r} is vectors.positive too")
    _at_least("model.batch_tokens", study.model.batch_tokens, 1)
    _at_least("collect.rows_per_shard", study.collect.rows_per_shard, 1)
    for name, count in dataclasses.asdict(study.vectors.controls).items():
        _at_least(f"vectors.controls.{name}", count, 0)
    share = study.vectors.selection.layer_share if study.vectors.selection else 1.0
    if not 0 < share <= 1:
        raise ValueError(f"vectors.selection.layer_share: {share} is not above 0 and at most 1")
    if study.sweep.decoding is not None:
        Decoding(**dataclasses.asdict(study.sweep.decoding))


def _metrics(study: Study, of_texts: str) -> list[str]:
    """Names of all metrics: each once, and of completions where there are any, and only there."""
    of_logits, of_completions = study.sweep.logit_metrics, study.score.metrics
    for section, names in (("sweep.logit_metrics", of_logits), ("score.metrics", of_completions)):
        if of_texts in names:
            raise ValueError(f"{section}.{of_texts}: {of_texts!r} is measured on texts already")
    for name in of_logits:
        if name in of_completions:
            raise ValueError(f"sweep.logit_metrics.{name}: {name!r} is in score.metrics too")
    if study.sweep.decoding is None:
        for name in of_completions:
            raise ValueError(
                f"score.metrics.{name}: there is no completion to score, as sweep.decoding is null"
            )
        if study.autoencoders is not None:
            raise ValueError("sweep.decoding: null, but autoencoders are trained on completions")
    elif not of_completions:
        raise ValueError("score.metrics is empty; sweep.decoding=null makes no completions either")
    return [*of_logits, *of_completions]


def _check_arm(key: str, arm: Arm) -> None:
    for strength in arm.strengths:
        if not math.isfinite(strength):
            raise ValueError(f"{key}.strengths: {strength} is not a finite number")
    for name in ("components", "positions"):
        if arm.strengths and not getattr(arm, name):
            raise ValueError(f"{key}.{name} is empty: the arm would change nothing")
    for name in ("components", "positions", "strengths"):
        values = getattr(arm, name)
        if len(set(map(str, values))) < len(values):
            raise ValueError(f"{key}.{name}: {values} has a value twice")
    _among(f"{key}.goal", arm.goal, ("raise", "lower"))


def _among(key: str, value: Any, valid: Collection[str]) -> None:
    if value not in valid:
        raise ValueError(f"{key}: {value!r} is unknown; valid: {', '.join(valid)}")


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{key}: {value} is less than {least}")
