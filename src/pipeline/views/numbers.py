"""A study's main numbers as lines of text."""

from collections.abc import Mapping
from typing import Any

from pipeline.views.selection import POSITIONS

PERCENT = ("refusal", "compliance", "unique_items", "diversity", "self_bleu", "at_length_limit")


def main_numbers(metrics: Mapping[str, Any]) -> str:
    """A line per arm: the metric before and after at the layer taken, and what controls do."""
    return "\n".join(line for arm, numbers in metrics.items() for line in _arm(arm, numbers))


def setting_in_words(numbers: Mapping[str, Any]) -> str:
    """The layer, strength and positions that an arm is reported at."""
    where = POSITIONS.get(numbers["positions"], f"at {numbers['positions']}")
    return f"layer {numbers['layer']}, strength {numbers['strength']:g}, {where}"


def _arm(arm: str, numbers: Mapping[str, Any]) -> list[str]:
    metric = numbers["metric"]
    before = f"{_estimate(metric, numbers['baseline'])}"
    if "steered" not in numbers:
        return [f"{arm}: {metric} {before}, n = {numbers['baseline']['n']}"]
    after = _estimate(metric, numbers["steered"])
    n = numbers["steered"]["n"]
    lines = [f"{arm} ({setting_in_words(numbers)}): {metric} {before} -> {after}, n = {n}"]
    controls = [
        f"{source} {_number(metric, drawn['mean'])}"
        for source, drawn in numbers["controls"].items()
    ]
    if controls:
        lines.append(f"    controls: {', '.join(controls)}")
    if "perplexity" in numbers:
        text = numbers["perplexity"]
        lines.append(
            "    perplexity of unrelated text "
            f"{_interval(text['baseline'])} -> {_interval(text['steered'])}"
        )
    return lines


def _estimate(metric: str, found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "unscored"
    mean = _number(metric, found["mean"])
    if found["low"] is None:
        return mean
    return f"{mean} [{_number(metric, found['low'])}, {_number(metric, found['high'])}]"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "unscored"
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.2f}"
