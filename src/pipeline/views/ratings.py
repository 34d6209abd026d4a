"""Ratings of players with and without style control."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from pipeline.measures.ratings import ANCHOR
from pipeline.views.coherence import FRAMES
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_CONTROL = {False: "as judged", True: "length controlled"}


def rating_intervals(readings: Mapping[str, pd.DataFrame], *, reading: str) -> Figure:
    """Draw each player's rating with its 95 % interval, without and with style control.

    Players are in order of their controlled rating, the best one at the top.

    Args:
        readings: tables by name.
        reading: of `pairwise_ratings.pairwise_ratings`.

    Raises:
        ValueError: no such reading.
    """
    table = table_of(readings, reading)
    controlled = select(table, style_control=True).sort_values("rating", ascending=False)
    names = controlled["player"].tolist()
    with panels(1, 9.0, 0.62 * len(names) + 1.3) as (figure, (axis,)):
        axis.grid(False)
        axis.grid(True, axis="x")
        for control, colour in zip(_CONTROL, COLOURS, strict=False):
            rows = select(table, style_control=control).set_index("player").loc[names]
            at = [place + (0.14 if control else -0.14) for place in range(len(names))]
            axis.hlines(at, rows["low"], rows["high"], color=colour, lw=2.4)
            axis.plot(rows["rating"], at, "o", color=colour, ms=7, mec="white")
        axis.axvline(ANCHOR, color="#444444", lw=0.8)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.set_xlabel("rating (400 points: odds of 10 to 1)")
        colours = zip(_CONTROL.values(), COLOURS, strict=False)
        legend(figure, {name: legend_key(color=c, lw=2.4, marker="o") for name, c in colours})
        first = controlled.iloc[0]
        caption(
            figure,
            [
                f"{first['split'].capitalize()} split, n = {first['comparisons']} comparisons over",
                f"{first['topics']} topics, {first['ties']} ties. The answer with the larger",
                f"log p(answer | question) - log p(answer) wins ({FRAMES[first['frame']]}).",
                "Lines: 95 % intervals, resampled over topics. Chance: all players at",
                f"{ANCHOR:g}, the mean. Weight of length, in log-odds for one root mean square of",
                f"(a - b) / (a + b) tokens: {first['style']:+.2f}",
                f"({first['style_low']:+.2f} to {first['style_high']:+.2f}).",
            ],
        )
    return figure
