"""Heat maps of a table's column over two others."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.views.panels import panels
from pipeline.views.selection import label_of, shown_times


@contextmanager
def map_of_means(
    means: pd.DataFrame, x: str, y: str, framed: Collection[tuple[Any, Any]] = ()
) -> Iterator[tuple[Figure, Axes, str]]:
    """Draw the means of a summary over two axes; yield figure, axes and the name of a cell."""
    factor = shown_times(means)
    percent = factor == 100
    called = label_of(means) + (" (%)" if percent else "")
    grid = grid_of(means, x, y, "mean", means) * factor
    width, height = size_of(grid, 17.0)
    with panels(1, width, height) as (figure, (axis,)):
        largest = 100.0 if percent else None
        draw_map(axis, grid, called, width=width, largest=largest, framed=framed)
        yield figure, axis, called


def grid_of(rows: pd.DataFrame, x: str, y: str, value: str, every: pd.DataFrame) -> pd.DataFrame:
    """Pivot the means of a column over two axes, largest y first, with all values in `every`."""
    grid = rows.pivot_table(index=y, columns=x, values=value, aggfunc="mean")
    across, upward = (sorted(every[axis].dropna().unique()) for axis in (x, y))
    grid = grid.reindex(index=upward[::-1], columns=across).astype(float)
    return grid.rename_axis(index=y, columns=x)


def size_of(grid: pd.DataFrame, widest: float) -> tuple[float, float]:
    """Compute width and height of a grid's panel, in inches."""
    rows, columns = grid.shape
    return float(np.clip(0.6 * columns + 1.8, 5.2, widest)), float(np.clip(0.5 * rows + 1.2, 3, 9))


def draw_map(
    axis: Axes,
    grid: pd.DataFrame,
    label: str,
    *,
    width: float,
    largest: float | None,
    framed: Collection[tuple[Any, Any]] = (),
) -> None:
    """Draw a heat map; cells that were not measured or not scored are hatched.

    Args:
        axis: the axes to draw on.
        grid: of `grid_of`.
        label: of the colour bar.
        width: of the panel, in inches.
        largest: upper end of a scale from 0, printed as whole numbers; None: the range of values.
        framed: cells (x, y) to frame.
    """
    # Imported here: seaborn loads scipy.stats, which composing a study does not need.
    import seaborn as sns

    axis.set_facecolor("#ededed")
    axis.patch.set_hatch("///")
    axis.grid(False)
    limits: dict[str, Any] = {} if largest is None else {"vmin": 0, "vmax": largest}
    sns.heatmap(
        grid,
        ax=axis,
        cmap="viridis",
        annot=True,
        fmt=".3g" if largest is None else ".0f",
        annot_kws={"size": min(11, 24 * (width - 2) / grid.shape[1])},
        linewidths=0.6,
        cbar_kws={"label": label, "pad": 0.02},
        **limits,
    )
    style: dict[str, Any] = {"fill": False, "edgecolor": "#D55E00", "lw": 3, "clip_on": False}
    for x, y in framed:
        corner = (grid.columns.get_loc(x), grid.index.get_loc(y))
        axis.add_patch(Rectangle(corner, 1, 1, **style))
    axis.set_xticklabels(map(tick, grid.columns), rotation=0)
    axis.set_yticklabels(map(tick, grid.index), rotation=0)
    axis.tick_params(length=0)
    axis.set_xlabel(in_words(str(grid.columns.name)))
    axis.set_ylabel(in_words(str(grid.index.name)))


def tick(value: Any) -> str:
    """Format a tick label."""
    return value if isinstance(value, str) else f"{value:g}"


def in_words(axis: str) -> str:
    """Format the name of a condition axis as a label."""
    return axis.replace("_", " ")
