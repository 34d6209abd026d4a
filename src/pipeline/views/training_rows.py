"""Figure of how likely training rows were before the training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.measures.statistics import estimate
from pipeline.views.panels import COLOURS, caption, panels
from pipeline.views.readings import table_of


def row_likelihoods(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    reading: str,
    names: dict[str, str] = {},  # noqa: B006 - never changed
) -> Figure:
    """Draw the perplexity of training answers and replayed rows before the training.

    Rows that several variants train on are drawn once.

    Args:
        readings: tables by name.
        seed: of the bootstrap, and of the vertical spread of points.
        reading: of `training_rows`.
        names: variant -> its name in the figure, if another.

    Raises:
        ValueError: no such reading.
    """
    table = table_of(readings, reading)
    groups: dict[str, pd.DataFrame] = {}
    for (kind, variant), rows in table.groupby(["kind", "variant"], sort=False):
        known = any(
            len(other) == len(rows) and np.allclose(other["loss"], rows["loss"], atol=1e-3)
            for other in groups.values()
        )
        if not known:
            what = "answers to train on" if kind == "target" else "replayed rows"
            groups[f"{what}:\n{names.get(variant, variant)}"] = rows
    generator = np.random.default_rng(seed)
    with panels(1, 7.5, 0.9 * len(groups) + 0.6) as (figure, (axis,)):
        for place, rows in enumerate(groups.values()):
            colour = COLOURS[place % len(COLOURS)]
            spread = place + generator.uniform(-0.26, 0.26, len(rows))
            axis.plot(np.exp(rows["loss"]), spread, ".", color=colour, alpha=0.35, ms=6)
            mean = estimate(
                rows["loss"], rows["row"], proportion=False, seed=seed, within=(0.0, np.inf)
            )
            low, high = np.exp([mean.low, mean.high])
            axis.plot([low, high], [place, place], color="black", lw=2.2, zorder=4)
            axis.plot(np.exp(mean.mean), place, "D", color="black", ms=7, zorder=5)
            axis.text(
                1.01,
                place,
                f"{_rounded(np.exp(mean.mean))}\nn = {len(rows)}",
                transform=axis.get_yaxis_transform(),
                va="center",
                fontsize=10.5,
            )
        axis.set_yticks(range(len(groups)), list(groups))
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.grid(True, axis="x")
        axis.grid(False, axis="y")
        axis.set_xlabel("perplexity under the unchanged model")
        axis.set_title("How likely the rows were before the training")
        caption(
            figure,
            [
                "Points: rows that were trained on; perplexity = exp(mean loss of the tokens that",
                "count). Diamonds and lines, numbers on the right: exp of the mean over rows with",
                "its 95 % interval. Reference: 1, a model that is certain.",
            ],
        )
    return figure


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
