"""Figure style, captions, and deterministic saving."""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Okabe and Ito's colour-blind-safe palette."""
_VARIED: dict[str, list[Any]] = {
    "ls": ["-", (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5))],
    "marker": ["o", "s", "^"],
    "hatch": ["", "////", "...."],
}
"""What tells apart lines, points and bars of the same colour; dashed lines are controls."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "figure.facecolor": "white",
    "hatch.color": "#b0b0b0",
    "hatch.linewidth": 0.8,
}
_NUMBER = r"[-+\u2212]?\d[\d.,:]*\b"
_TOGETHER = re.compile(
    r"\[[^][]{1,24}\]"  # an interval: [65, 78]
    r"|\w+\([^()]{1,24}\) [-+\u2212] \w+\([^()]{1,24}\)"  # logit(blank) - logit(line break)
    rf"|(?:[\w-]+ )?(?:= )?{_NUMBER}(?: %)?(?: to {_NUMBER}(?: %)?)?"  # layer 3, n = 9, -1 to +21
    r"|[\w-]+ = \S+"
)
"""What no line of a caption breaks inside."""


def styles_of(
    names: Iterable[Any], varied: str = "ls", *, mixed: bool = False, once: bool = False
) -> dict[Any, dict[str, Any]]:
    """Give each line, point or bar a style of its own: colours by turns, then other lines.

    Args:
        names: in the order of the legend.
        varied: what differs where colours begin again: `ls`, `marker` or `hatch`.
        mixed: it differs between neighbours too, so that lines on top of each other are seen.
        once: no colour comes again, as where a dashed line of the same colour is the control.

    Raises:
        ValueError: more names than styles.
    """
    listed, values = list(dict.fromkeys(names)), _VARIED[varied][: 1 if once else None]
    most = len(COLOURS) * len(values)
    if len(listed) > most:
        shown = ", ".join(map(str, listed[:3]))
        raise ValueError(f"{len(listed)} names in a legend ({shown}, ...); valid: up to {most}")
    return {
        name: {
            "color": COLOURS[number % len(COLOURS)],
            varied: values[(number * mixed + number // len(COLOURS)) % len(values)],
        }
        for number, name in enumerate(listed)
    }


@contextmanager
def panels(
    number: int, width: float = 5.2, height: float = 4.4, *, shared: bool = True, most: int = 3
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Create a figure with at most `most` panels a row in the project's style.

    `shared`: panels share both axes. `width` and `height` are those of a panel, in inches.
    """
    columns = min(number, most)
    rows = -(-number // columns)
    with rc_context(STYLE):
        size = (max(7.5, width * columns), height * rows + 1.2)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).ravel()
        for spare in axes[number:]:
            spare.remove()
        yield figure, list(axes[:number])


def caption(figure: Figure, sentences: list[str]) -> None:
    """Write sentences under the figure in as few, evenly filled lines as possible.

    No line breaks inside what `_TOGETHER` matches.
    """
    text = _TOGETHER.sub(
        lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), " ".join(sentences)
    )
    filled = partial(textwrap.fill, text, break_on_hyphens=False)
    most = int(figure.get_figwidth() * 12.2)
    fewest = filled(most).count("\n") + 1
    # A line that is shorter than a word would break it.
    longest = max(1, *map(len, text.split(" ")))
    widths = range(min(max(len(text) // fewest, longest), most), most + 1)
    text = next(t for w in widths if (t := filled(w)).count("\n") < fewest)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=10.5, color="#333333", linespacing=1.35)


def legend(figure: Figure, keys: Mapping[str, Artist]) -> None:
    """Draw one legend above all panels, in as many columns as its longest text allows."""
    # A character of the legend's font is about 0.085 inches wide; a key with its gaps, 0.7.
    column = 0.7 + 0.085 * max(map(len, keys))
    columns = min(len(keys), max(1, int(figure.get_figwidth() / column)))
    figure.legend(keys.values(), keys.keys(), loc="outside upper left", ncols=columns)


def percent_axis(axes: Axes) -> None:
    """Scale the y axis from 0 to 100 %, with margins for lines at both ends."""
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def layer_axis(axes: Axes) -> None:
    """Restrict x ticks to integers."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))


def save(figure: Figure, path: Path, provenance: dict[str, str]) -> None:
    """Write the figure as PNG, byte-identical for the same figure and provenance.


    `provenance` (study, hashes of configuration and data) becomes a text chunk of the file:
    `actsweep trace FILE` reads it.
    """
    with rc_context(STYLE):
        metadata = {"Software": None, "made_from": json.dumps(provenance, sort_keys=True)}
        figure.savefig(path, format="png", dpi=200, metadata=metadata)
