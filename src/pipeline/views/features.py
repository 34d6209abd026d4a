"""Figures of autoencoder features: one feature over all layers, and concept coverage by size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipeline.measures.statistics import estimate
from pipeline.model.sites import Site
from pipeline.views.dashboard import visible
from pipeline.views.marks import GREY, draw_clusters, draw_estimates, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels

HALVES = "chosen for each concept on one half of the samples, F1 on the other"
SEED = 0
"""Seed of the bootstrap intervals."""


def feature_by_layer(
    matrix: Float[np.ndarray, "layer pos"],
    pieces: Sequence[str],
    *,
    feature: int,
    site: str,
    left_out: Sequence[int] = (),
) -> Figure:
    """Draw a feature's activation at every token of a text and layer as a heat map.

    Args:
        matrix: activations; row 0 is layer 0, drawn at the bottom.
        pieces: token texts.
        feature: its index.
        site: of the autoencoder; its layer is framed.
        left_out: positions drawn grey and excluded from the scale, such as special tokens.

    Raises:
        ValueError: the number of texts differs from the number of tokens.
    """
    layers, length = matrix.shape
    if len(pieces) != length:
        raise ValueError(f"{len(pieces)} tokens' texts for {length} positions")
    origin = Site.parse(site)
    values = np.ma.masked_array(matrix, np.zeros(matrix.shape, dtype=bool))
    values[:, list(left_out)] = np.ma.masked
    width = float(np.clip(0.36 * length + 2.4, 7.5, 17))
    with panels(1, width, float(np.clip(0.34 * layers + 2.2, 3.6, 12))) as (figure, (axes,)):
        axes.grid(False)
        axes.set_facecolor("#e4e4e4")
        largest = float(values.max()) if values.count() else 0.0
        image = axes.imshow(
            values,
            aspect="auto",
            interpolation="none",
            origin="lower",
            cmap="Oranges",
            vmin=0,
            vmax=largest or 1,
        )
        frame = (-0.5, origin.layer - 0.5)
        axes.add_patch(Rectangle(frame, length, 1, fill=False, ec=COLOURS[0], lw=2, clip_on=False))
        axes.set_xticks(range(length), [visible(piece) for piece in pieces], rotation=90)
        axes.tick_params(axis="x", labelsize=min(11, 900 / (2 * length)), length=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=13, integer=True))
        axes.set_ylabel("layer")
        axes.set_title(f"Where is feature {feature} active?")
        figure.colorbar(image, ax=axes, label="activation", pad=0.02)
        grey = "Grey: special tokens, left out." if len(left_out) else ""
        caption(
            figure,
            [
                f"The encoder of the autoencoder at {site} (framed), applied to {origin.component}",
                "of every layer. It was trained at the framed one only.",
                grey,
            ],
        )
    return figure


def coverage_by_size(table: pd.DataFrame, halves: str = HALVES) -> Figure:
    """Plot F1 of the best feature for a concept against dictionary size, one panel per kind.

    Points: mean over concepts with a 95 % interval, resampled over concepts; faint dots: single
    concepts. Grey: shuffled labels; grey dashed: a feature that is always active.

    Args:
        table: of `sae.coverage.coverage`.
        halves: the rows on which features are chosen and reported, for the caption.
    """
    groups = list(table.groupby(["site", "kind"], sort=False))
    names = {
        "best feature": legend_key(color=COLOURS[0], lw=2, marker="o"),
        "a concept": legend_key(color=COLOURS[0], lw=0, marker="o", ms=4, alpha=0.4),
        "labels shuffled": legend_key(marker="s", mfc="white", ms=5),
        "always active": legend_key(ls="--"),
    }
    with panels(len(groups)) as (figure, axes):
        for axis, ((site, kind), of_panel) in zip(axes, groups, strict=True):
            sizes = of_panel.groupby("n_features")
            rows = []
            for size, group in sizes:
                mean_f1 = estimate(
                    group["f1"], group["concept"], proportion=False, seed=SEED, within=(0.0, 1.0)
                )
                rows.append({"n_features": size, **vars(mean_f1)})
            draw_clusters(
                axis,
                of_panel.pivot(index="concept", columns="n_features", values="f1"),
                COLOURS[0],
                0.0,
            )
            draw_estimates(axis, pd.DataFrame(rows), "n_features", COLOURS[0], 0.0, "best feature")
            style: dict[str, Any] = {"color": GREY, "lw": 1.5}
            shuffled, chance = sizes["shuffled"].mean(), sizes["chance"].mean()
            axis.plot(shuffled, marker="s", mfc="white", ms=5, label="shuffled", **style)
            axis.plot(chance, ls="--", label="chance", **style)
            axis.set_xscale("log", base=2)
            axis.minorticks_off()
            axis.set_xticks(list(chance.index), [f"{size}" for size in chance.index])
            axis.set_xlabel("features of the autoencoder")
            axis.set_title(f"{site}\n{kind}")
        axes[0].set_ylim(-0.03, 1.03)
        axes[0].set_ylabel("F1 of the best feature")
        legend(figure, names)
        caption(
            figure,
            [
                f"{table['concept'].nunique()} concepts, {table['rows'].iloc[0]} rows.",
                f"A feature says yes where it is active; {halves}.",
                "Bars: 95 % interval over concepts.",
            ],
        )
    return figure
