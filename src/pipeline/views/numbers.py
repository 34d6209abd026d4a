"""A study's main numbers as lines of text."""

from collections.abc import Mapping
from typing import Any

PERCENT = ("refusal", "compliance", "unique_items", "diversity", "self_bleu", "at_length_limit")


def main_numbers(metrics: Mapping[str, Any]) -> str:
    """A line per arm: the metric before and after at the layer taken, and what controls do."""
    return "\n".join(line for arm, numbers in metrics.items() for line in _arm(arm, numbers))


def _arm(arm: str, numbers: Mapping[str, Any]) -> list[str]:
    metric = numbers["metric"]
    before = f"{_estimate(metric, numbers['baseline'])}"
    if "steered" not in numbers:
        return [f"{arm}: {metric} {before}, n = {numbers['baseline']['n']}"]
    place = f"layer {numbers['layer']}, strength {numbers['strength']:g}"
    after = _estimate(metric, numbers["steered"])
    lines = [f"{arm} ({place}): {metric} {before} -> {after}, n = {numbers['steered']['n']}"]
    controls = [
        f"{source} {_number(metric, drawn['mean'])}"
        for source, drawn in numbers["controls"].items()
    ]
    if controls:
        lines.append(f"    controls: {', '.join(controls)}")
    if "perplexity" in numbers:
        text = numbers["perplexity"]
        lines.append(
            f"    perplexity of unrelated text {text['baseline']:.2f} -> {text['steered']:.2f}"
        )
    return lines


def _estimate(metric: str, found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "unscored"
    mean = _number(metric, found["mean"])
    if found["low"] is None:
        return mean
    return f"{mean} [{_number(metric, found['low'])}, {_number(metric, found['high'])}]"


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return "unscored"
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.2f}"
