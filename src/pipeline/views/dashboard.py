"""Self-contained HTML page of a feature or neuron: density, logits, histogram and examples."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from pipeline.measures.features import Example, FeatureSummary, Ranked
from pipeline.views.panels import COLOURS

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_WIDTH, _HEIGHT = 1000.0, 170.0
"""Size of the histogram, in SVG units."""


def feature_page(summary: FeatureSummary, piece: Callable[[int], str], *, around: int = 60) -> str:
    """Render a feature as one HTML page with inline style and graphics, without scripts.

    Tokens are shaded by activation, from 0 to the feature's maximum, and in blue below 0; blanks,
    line breaks and characters without a glyph are shown as symbols. Histogram counts are on a
    logarithmic scale.

    Args:
        summary: of the feature.
        piece: token id -> text.
        around: number of tokens to show before and after an example's peak.
    """
    peaks = [float(example.activations[example.peak]) for example in summary.examples]
    largest = max(peaks, default=0.0)
    return _PAGES.get_template("dashboard.html").render(
        summary=summary,
        largest=largest,
        examples=[_shown(example, piece, largest, around) for example in summary.examples],
        sides=[
            ("raises", _bars(summary, summary.top, piece)),
            ("lowers", _bars(summary, summary.bottom, piece)),
        ],
        histogram=_histogram(summary),
        width=_WIDTH,
        height=_HEIGHT,
        colours=COLOURS,
    )


def page_row(summary: FeatureSummary, piece: Callable[[int], str]) -> dict[str, Any]:
    """Return a feature's row of a table of pages.

    `site`, `feature`, `unit` (feature or neuron), the counts `active` and `rows`, `density`, and
    the HTML `page`.
    """
    return {
        "site": summary.site,
        "feature": summary.feature,
        "unit": summary.unit,
        "rows": summary.rows,
        "active": summary.active,
        "density": summary.density,
        "page": feature_page(summary, piece),
    }


def features_index(table: pd.DataFrame) -> str:
    """Render an index of feature pages.

    Args:
        table: columns of `page_row`, and `file`.
    """
    return _PAGES.get_template("features.html").render(
        unit=table["unit"].iloc[0],
        sites=[(site, rows.to_dict("records")) for site, rows in table.groupby("site", sort=False)],
    )


def visible(text: str) -> str:
    """Show blanks, tabs and line breaks as symbols, and characters without a glyph as codes."""
    return "".join(_SIGNS.get(c) or (c if c.isprintable() else _code(c)) for c in text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


Runs = list[tuple[bool, str]]
"""Runs (is a symbol, text) of a visible text."""


def _runs(text: str) -> Runs:
    signs = _SIGNS.values()
    return [(sign, "".join(run)) for sign, run in groupby(visible(text), lambda c: c in signs)]


@dataclass(frozen=True)
class _Token:
    runs: Runs
    shade: float
    title: str
    is_peak: bool
    is_special: bool
    after_gap: bool


@dataclass(frozen=True)
class _Shown:
    sample: int
    activation: float
    cut_before: bool
    tokens: list[_Token]
    cut_after: bool


def _shown(example: Example, piece: Callable[[int], str], largest: float, around: int) -> _Shown:
    start, stop = max(0, example.peak - around), example.peak + around + 1
    positions, ids = example.positions.tolist(), example.tokens.tolist()
    activations = example.activations.tolist()
    tokens = []
    for index in range(start, min(stop, len(ids))):
        position, activation = positions[index], activations[index]
        special = isnan(activation)
        tooltip = f"{activation:.3g} at position {position}"
        tokens.append(
            _Token(
                runs=_runs(piece(ids[index])),
                shade=0.0 if special else max(activation / largest, -1.0),
                title="special token, not counted" if special else tooltip,
                is_peak=index == example.peak,
                is_special=special,
                after_gap=index > start and position != positions[index - 1] + 1,
            )
        )
    return _Shown(example.sample, activations[example.peak], start > 0, tokens, stop < len(ids))


def _bars(
    summary: FeatureSummary, ranked: Ranked, piece: Callable[[int], str]
) -> list[tuple[Runs, str, float]]:
    """Return each token's text, its logit, and its bar's length in per cent of the longest."""
    longest = max((abs(logit) for _, logit in (*summary.top, *summary.bottom)), default=0) or 1
    return [
        (_runs(piece(token)), f"{logit:+.2f}".replace("-", "−"), 100 * abs(logit) / longest)
        for token, logit in ranked
    ]


@dataclass(frozen=True)
class _Histogram:
    """bins: x, width, height, count, range. across, up: positions and labels of the axis ticks."""

    bins: list[tuple[float, float, float, int, str]]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def _histogram(summary: FeatureSummary) -> _Histogram:
    counts, edges = summary.counts, summary.edges
    if not len(counts):
        return _Histogram([], [], [])
    right, tallest = float(edges[-1]), float(np.log10(1 + counts.max()))
    bins = [
        (
            low / right * _WIDTH,
            max((high - low) / right * _WIDTH - 1, 0.8),
            float(np.log10(1 + count)) / tallest * _HEIGHT,
            int(count),
            f"{low:.4g} to {high:.4g}",
        )
        for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        if count
    ]
    across = [
        (tick / right * _WIDTH, f"{tick:g}")
        for tick in MaxNLocator(5).tick_values(0, right)
        if 0 <= tick <= right
    ]
    powers = [10**power for power in range(len(str(int(counts.max()))))]
    up = [(float(np.log10(1 + p)) / tallest * _HEIGHT, _spaced(p)) for p in powers]
    return _Histogram(bins, across, up)


def _spaced(number: int) -> str:
    """Format a number with narrow spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
_PAGES.filters["spaced"] = _spaced
