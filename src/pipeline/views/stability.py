"""Figures of how much fitted vectors depend on their training prompts."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from pipeline.views.marks import GREY, draw_curve, draw_spread, legend_key
from pipeline.views.panels import caption, layer_axis, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import select


def stability_by_layer(readings: Mapping[str, pd.DataFrame], *, reading: str) -> Figure:
    """Plot how alike vectors of other training prompts are by layer, a colour per contrast.

    Left: of resampled prompts, with the vector of all. Right: of two halves of the prompts. Bands:
    95 % of the draws. Grey: the same with shuffled labels, over all contrasts.

    Args:
        readings: tables by name.
        reading: of `vector_readings.vector_stability`.

    Raises:
        ValueError: no such reading.
    """
    table = table_of(readings, reading)
    fitted, shuffled = (select(table, labels=name) for name in ("fitted", "shuffled"))
    names = list(dict.fromkeys(table["contrast"]))
    styles = styles_of(names)
    titles = {"bootstrap": "Resampled prompts against all", "halves": "Two halves of the prompts"}
    with panels(2) as (figure, axes):
        for axis, (column, title) in zip(axes, titles.items(), strict=True):
            draw_spread(axis, shuffled, "layer", column, GREY)
            for name, style in styles.items():
                colour = style["color"]
                rows = select(fitted, contrast=name)
                draw_spread(axis, rows, "layer", column, colour, alpha=0.2)
                medians = rows.groupby("layer")[column].median()
                draw_curve(axis, medians.index.tolist(), medians, colour, name, ls=style["ls"])
            axis.set_title(title)
            axis.set_xlabel("layer of the vector")
            layer_axis(axis)
        axes[0].set_ylabel("cosine between the two vectors")
        keys = {name: legend_key(lw=2.4, **style) for name, style in styles.items()}
        legend(figure, keys | {"shuffled labels": legend_key(lw=8, alpha=0.35)})
        sizes = fitted.groupby("contrast", sort=False)[["prompts", "clusters"]].first()
        counted = ", ".join(
            f"{name} {row['prompts']} in {row['clusters']}" for name, row in sizes.iterrows()
        )
        caption(
            figure,
            [
                "Differences of means on the train split; prompts in clusters, which are drawn",
                f"together: {counted}. Lines: median, bands: 95 % of {fitted['draw'].nunique()}",
                "draws. Control, grey: 95 % with shuffled labels, all contrasts together; noise",
                "that is resampled keeps a cosine of about 0.71 with the whole.",
            ],
        )
    return figure
