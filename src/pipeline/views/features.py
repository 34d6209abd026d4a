"""Figures of autoencoders' features: one over the layers of a sentence, and what all cover."""

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

SEED = 0
"""Of the resampling behind intervals."""


def feature_by_layer(
    matrix: Float[np.ndarray, "layer pos"],
    pieces: Sequence[str],
    *,
    feature: int,
    site: str,
    left_out: Sequence[int] = (),
) -> Figure:
    """A feature's activation at every token of a sentence and layer, as a heat map.

    Args:
        matrix: activations, layer 0 first, which is drawn at the bottom.
        pieces: texts of the tokens.
        feature: its number.
        site: the autoencoder's; its layer is framed.
        left_out: positions that are drawn grey and do not set the scale, such as special tokens.

    Raises:
        ValueError: texts for another number of tokens.
    """
    layers, length = matrix.shape
    if len(pieces) != length:
        raise ValueError(f"{len(pieces)} tokens' texts for {length} positions")
    place = Site.parse(site)
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
        frame = (-0.5, place.layer - 0.5)
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
                f"The encoder of the autoencoder at {site} (framed), applied to {place.component}",
                "of every layer. It was trained at the framed one only.",
                grey,
            ],
        )
    return figure


def coverage_by_size(table: pd.DataFrame) -> Figure:
    """F1 of the best feature for a concept against the dictionary's size, a panel for each kind.

    Points: mean over concepts with a 95 % interval, resampled over concepts; faint dots: single
    concepts. Grey: labels shuffled, and, dashed, a feature that is always active.

    Args:
        table: of `sae_coverage.coverage`.
    """
    groups = list(table.groupby(["site", "kind"], sort=False))
    names = {
        "best feature": legend_key(color=COLOURS[0], lw=2, marker="o"),
        "a concept": legend_key(color=COLOURS[0], lw=0, marker="o", ms=4, alpha=0.4),
        "labels shuffled": legend_key(marker="s", mfc="white", ms=5),
        "always active": legend_key(ls="--"),
    }
    with panels(len(groups)) as (figure, axes):
        for axis, ((site, kind), own) in zip(axes, groups, strict=True):
            sizes = own.groupby("n_features")
            rows = []
            for size, group in sizes:
                found = estimate(group["f1"], group["concept"], proportion=False, seed=SEED)
                rows.append({"n_features": size, **vars(found)})
            draw_clusters(
                axis, own.pivot(index="concept", columns="n_features", values="f1"), COLOURS[0], 0.0
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
                f"{table['concept'].nunique()} concepts, {table['rows'].iloc[0]} rows of lists.",
                "A feature says yes where it is active; chosen for each concept on even draws of a",
                "prompt, F1 on odd ones: other lists of the same prompts, on most of which the",
                "autoencoder was trained. Bars: 95 % interval over concepts.",
            ],
        )
    return figure
