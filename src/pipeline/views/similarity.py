"""Figures of the similarity of a word's states within and between its senses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.measures.bands import Band
from pipeline.views.marks import (
    GREY,
    bands_in_words,
    draw_mean_curve,
    legend_key,
)
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_TITLES = {
    "raw": "cosine",
    "relative": "cosine / different words",
    "centred": "cosine about the mean state",
}
_CURVES = {"same": "same sense", "different": "different senses"}
_LAYERS = {"resid_pre": "layer whose input is read", "resid_post": "layer whose output is read"}


def similarity_curves(
    readings: Mapping[str, pd.DataFrame], seed: int, *, reading: str, split: str = "test"
) -> Figure:
    """Plot the similarity of a word's states by layer, and how much more alike a sense's are.

    Columns: the measures of the reading. Above: pairs of contexts of the same and of different
    senses, and of different words. Below: same - different, with the range of shuffled labels.

    Args:
        readings: tables by name.
        seed: of the bootstrap over words.
        reading: of `similarity.similarity_by_layer`.
        split: of the dataset.

    Raises:
        ValueError: no such reading or split.
    """
    table = select(table_of(readings, reading), split=split)
    labelled, shuffled = table[table["shuffle"] == 0], table[table["shuffle"] > 0]
    layers = sorted(table["layer"].unique().tolist())
    bands: list[Band] = []
    differences: dict[str, Band] = {}
    with panels(2 * len(_TITLES), width=4.6, height=3.5, shared=False) as (figure, axes):
        for number, (measure, title) in enumerate(_TITLES.items()):
            rows = select(labelled, measure=measure)
            upper, lower = axes[number], axes[number + len(_TITLES)]
            upper.set_title(title)
            for column, colour in zip(_CURVES, COLOURS, strict=False):
                bands.append(_draw(upper, rows, column, layers, colour, seed))
            upper.plot(layers, rows.groupby("layer")["unrelated"].first(), color=GREY, ls="--")
            band = _draw(lower, rows, "difference", layers, COLOURS[2], seed)
            bands.append(band)
            differences[measure] = band
            _draw_shuffled(lower, shuffled[shuffled["measure"] == measure], layers)
            for axis in (upper, lower):
                layer_axis(axis)
            lower.set_xlabel(_LAYERS.get(table["component"].iloc[0], "layer"))
        axes[0].set_ylabel("mean over words")
        axes[len(_TITLES)].set_ylabel("same - different")
        keys = {
            name: legend_key(color=colour, lw=2.4)
            for name, colour in zip(_CURVES.values(), COLOURS, strict=False)
        }
        keys["different words"] = legend_key(ls="--")
        keys["same - different"] = legend_key(color=COLOURS[2], lw=2.4)
        if len(shuffled):
            keys["shuffled senses"] = legend_key(lw=8, alpha=0.35)
        legend(figure, keys)
        contexts = labelled["contexts"].unique()
        sizes = f"{contexts.min()}" + (f" to {contexts.max()}" if len(contexts) > 1 else "")
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {labelled['topic'].nunique()} words in {sizes}",
                f"contexts each, no intervention. Lines: mean over words; {_bands(bands)}.",
                "Similarity of a word's states in two contexts; dashed: of two words' states.",
                "About the mean state: after subtraction of the layer's mean.",
                f"Control, grey: 95 % of {shuffled['shuffle'].nunique()} labellings with shuffled"
                if len(shuffled)
                else "No control.",
                "senses, at each layer by itself." if len(shuffled) else "",
                *(_onset(layers, differences[measure], measure) for measure in ("raw", "centred")),
            ],
        )
    return figure


def _draw(
    axis: Axes, rows: pd.DataFrame, column: str, layers: list[int], colour: str, seed: int
) -> Band:
    scores = rows.assign(score=rows[column])
    return draw_mean_curve(axis, scores, layers, colour, column, cluster="topic", seed=seed)


def _draw_shuffled(axis: Axes, shuffled: pd.DataFrame, layers: list[int]) -> None:
    axis.axhline(0, color="#444444", lw=0.8)
    if shuffled.empty:
        return
    means = shuffled.groupby(["shuffle", "layer"])["difference"].mean().unstack()[layers]
    low, high = means.quantile([0.025, 0.975]).to_numpy()
    axis.fill_between(layers, low, high, color=GREY, alpha=0.35, lw=0)


def _bands(bands: Sequence[Band]) -> str:
    return f"{bands_in_words(bands, 'word')}, resampled over words"


def _onset(layers: list[int], band: Band, measure: str) -> str:
    """State from which layer on the band of a difference stays above zero."""
    above = np.asarray(band.low > 1e-9)  # Equal states differ by rounding errors.
    first = len(layers) - int(np.argmin(above[::-1])) if not above.all() else 0
    if first == len(layers):
        return f"At the last layer the {measure} difference cannot be told from 0."
    best = int(np.argmax(band.mean))
    return (
        f"The {measure} difference is above 0 from layer {layers[first]} on; largest at layer "
        f"{layers[best]}: {band.mean[best]:.3f}, {band.low[best]:.3f} to {band.high[best]:.3f}."
    )
