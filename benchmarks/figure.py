"""The figure of the benchmark: how many times our seconds the others take."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.aims import AIMS
from pipeline.views.marks import GREY
from pipeline.views.panels import COLOURS, caption, panels

ROW = 0.3
"""Inches."""

LABELS = 0.6
"""Width of the labels, as a share of that of the axes."""

_BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def figure(results: dict[str, Any]) -> Figure:
    """A row for each other side of each work, its ratio to ours as median and range, on log scale.

    Raises:
        ValueError: nothing was measured.
    """
    measured = {name: found for name, found in results.items() if found.get("ratios")}
    if not measured:
        raise ValueError(f"no work was measured: {', '.join(results) or 'no results'}")
    rows = sum(1 + len(found["ratios"]) for found in measured.values())
    with panels(1, width=9.5, height=rows * ROW) as (drawing, (axes,)):
        place, ticks, labels = 0, [], []
        for name, found in measured.items():
            heading = axes.text(-LABELS, place, found["what"], weight="bold", va="center")
            heading.set(transform=axes.get_yaxis_transform(), fontsize=10, bbox=_BLANK)
            # Over labels and axes: the layout is not to make room for it on the right.
            heading.set_in_layout(False)
            for side, ratio in found["ratios"].items():
                place += 1
                _row(axes, place, ratio, AIMS.get(name, {}).get(side))
                ticks.append(place)
                labels.append(side)
            place += 1
        axes.set_yticks(ticks, labels)
        axes.set_ylim(place - 0.3, -0.7)
        _ratio_axis(axes)
        caption(drawing, _sentences(measured))
    return drawing


def _row(axes: Axes, place: int, ratio: dict[str, float], aim: float | None) -> None:
    if aim:
        axes.plot(aim, place, "|", color=GREY, ms=14, mew=2)
    colour = COLOURS[0] if ratio["median"] >= 1 else COLOURS[1]
    axes.hlines(place, ratio["min"], ratio["max"], color=colour, lw=2, alpha=0.5)
    axes.plot(ratio["median"], place, "o", color=colour, ms=6)
    axes.annotate(
        f"{ratio['median']:.3g}",
        # Beside an aim that is missed, not on it.
        (max(ratio["max"], aim or 0), place),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        bbox=_BLANK,
    )


def _ratio_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 1.25) * 1.3)
    axes.axvline(1, color=GREY, lw=1.5, ls=(0, (5, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds of the other side by ours")


def _sentences(measured: dict[str, Any]) -> list[str]:
    machines = {_machine(found) for found in measured.values()}
    rounds = {found["rounds"] for found in measured.values()}
    fewest_to_most = " to ".join(map(str, sorted({min(rounds), max(rounds)})))
    parts = {share for found in measured.values() for share in found["done"].values()}
    small = [name for name, found in measured.items() if found["size"] != "full"]
    return [
        f"Dots: medians; bars: ranges. Sides take turns; rounds: {fewest_to_most}.",
        *([f"Loops over conditions run {_shares(parts)} of them."] if parts else []),
        "Right of the dashed line actsweep is the faster; upright strokes are what it aims at.",
        f"Measured on {'; '.join(sorted(machines))}.",
        *([f"Not at full size: {', '.join(small)}."] if small else []),
    ]


def _shares(shares: set[float]) -> str:
    return " or ".join(f"{share:.0%}" for share in sorted(shares))


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    if found["device"] != "cpu":
        return str(machine["gpu"])
    return f"{machine['processor']}, threads: {machine['threads']}"
