"""Format a study's headline numbers as lines of text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.views.selection import POSITIONS


def main_numbers(metrics: Mapping[str, Any], arms: Iterable[str] = ()) -> str:
    """Format one line per arm: the metric at baseline and at the chosen setting, and controls.

    Of an arm without a goal, which has no chosen setting, only the baseline; figures show the rest.

    Args:
        metrics: headline numbers by arm.
        arms: the study's; those without a metric of their own are named in a line.
    """
    lines = [line for arm, numbers in metrics.items() for line in _arm(arm, numbers)]
    others = [arm for arm in arms if arm not in metrics]
    if others:
        lines.append(f"{', '.join(others)}: no metric of the arm; see the figures")
    return "\n".join(lines)


def setting_in_words(numbers: Mapping[str, Any]) -> str:
    """Describe an arm's setting in words: layer 3, strength 1, at the last position."""
    words = []
    for axis, value in numbers["setting"].items():
        if axis == "positions":
            words.append(POSITIONS.get(value, f"at {value}"))
        else:
            shown = f"{value:g}" if isinstance(value, int | float) else value
            words.append(f"{axis.replace('_', ' ')} {shown}")
    return ", ".join(words)


def _arm(arm: str, numbers: Mapping[str, Any]) -> list[str]:
    metric, unit = numbers["metric"], numbers["unit"]
    before = f"{_estimate(unit, numbers['baseline'])}"
    if "steered" not in numbers:
        n = numbers["baseline"]["n"]
        return [f"{arm} (no setting chosen): {metric} {before} without intervention, n = {n}"]
    after = _estimate(unit, numbers["steered"])
    n = numbers["steered"]["n"]
    lines = [f"{arm} ({setting_in_words(numbers)}): {metric} {before} -> {after}, n = {n}"]
    if numbers["tied"] > 1:
        lines.append(
            f"    validation cannot separate {numbers['tied']} of {numbers['candidates']} settings"
        )
    controls = [
        f"{source} {_drawn(unit, drawn['draws'])}" for source, drawn in numbers["controls"].items()
    ]
    if controls:
        lines.append(f"    controls, each draw: {'; '.join(controls)}")
    if "perplexity" in numbers:
        text = numbers["perplexity"]
        lines.append(
            "    perplexity of unrelated text "
            f"{_interval(text['baseline'])} -> {_interval(text['steered'])}"
        )
    return lines


def _drawn(unit: str, draws: Sequence[float | None]) -> str:
    """List the means of draws; of more than six, their range."""
    scored = sorted(mean for mean in draws if mean is not None)
    if len(draws) <= 6:
        return ", ".join(_number(unit, mean) for mean in draws)
    if not scored:
        return "unscored"
    ends = f"{_number(unit, scored[0])} to {_number(unit, scored[-1])}"
    return f"{ends} ({len(draws)} draws)"


def _estimate(unit: str, found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "unscored"
    mean = _number(unit, found["mean"])
    if found["low"] is None:
        return mean
    return f"{mean} [{_number(unit, found['low'])}, {_number(unit, found['high'])}]"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _number(unit: str, value: float | None) -> str:
    if value is None:
        return "unscored"
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.2f}"
