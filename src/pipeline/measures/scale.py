"""The scale of a metric's scores, declared in the metric's return annotation."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

TEXT_METRIC = "cross_entropy"
"""Metric of unrelated text: mean negative log-probability per token, in nats."""


@dataclass(frozen=True)
class Scale:
    """How a metric's scores are labelled and averaged.

    Attributes:
        name: axis label; `{option}` is replaced by the value of the metric's option.
        unit: `nats`, `items`, ...; empty for shares.
        share: all scores are 0 or 1; means are shares in per cent with Wilson's interval.
        bounded: all scores are in [0, 1]; shown in per cent with bootstrap intervals.
        of_topic: a score depends on all completions of a topic, which cannot be separate clusters.

    A metric declares its scale as `-> Annotated[Series, Scale("refuses", share=True)]`.
    """

    name: str
    unit: str = ""
    share: bool = False
    bounded: bool = False
    of_topic: bool = False

    @property
    def percent(self) -> bool:
        """Whether scores are shown in per cent."""
        return self.share or self.bounded

    @property
    def label(self) -> str:
        """Axis label: name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def check_bounded(scores: pd.DataFrame, scales: Mapping[str, Scale]) -> None:
    """Fail if scores lie outside the bounds that their metric declares; `summarise` checks shares.

    Raises:
        ValueError: names the metric and the score.
    """
    bounded = [name for name, scale in scales.items() if scale.bounded]
    # Beyond the rounding of a mean or a ratio.
    outside = scores["metric"].isin(bounded) & ((scores["score"] - 0.5).abs() > 0.5 + 1e-6)
    if outside.any():
        row = scores[outside].iloc[0]
        raise ValueError(
            f"{row['metric']} is bounded, but scores {row['score']}; valid: from 0 to 1, NaN"
        )


def scale_of(metric: Callable[..., Any], options: Mapping[str, Any] | None = None) -> Scale:
    """Return the scale declared in a metric's return annotation.

    Raises:
        ValueError: the metric declares none.
    """
    annotation = inspect.signature(metric, eval_str=True).return_annotation
    for note in getattr(annotation, "__metadata__", ()):
        if isinstance(note, Scale):
            shown = {
                name: _listed(value) if isinstance(value, list) else value
                for name, value in (options or {}).items()
            }
            return replace(note, name=note.name.format(**shown))
    raise ValueError(f"metric {metric} declares no Scale in its return annotation")


def _listed(values: list[Any]) -> str:
    """List values for a label; of more than three the first two, and how many there are."""
    shown = ", ".join(map(repr, values if len(values) <= 3 else values[:2]))
    return shown if len(values) <= 3 else f"{shown} ... ({len(values)})"


TEXT_SCALE = Scale("cross-entropy of unrelated text", "nats per token")
