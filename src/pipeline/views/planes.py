"""Figures of numbers that probes predict: R² by layer, and a plane of two of them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ColumnName, LegendColumn
from pipeline.measures.regression import r_squared_estimate
from pipeline.views.glyphs import drawable, families
from pipeline.views.labels import label_points
from pipeline.views.marks import GREY, draw_curve, legend_key
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels, styles_of
from pipeline.views.probes import (
    FITTED,
    draw_sources,
    fitted_on,
    sources_in_words,
    with_columns,
)
from pipeline.views.readings import table_of
from pipeline.views.selection import select


def probed_values(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    reading: str,
    reference: str = "group mean",
    split: str = "test",
) -> Figure:
    """Plot R² of predicted numbers against the layer, one panel per number.

    Lines: the fitted probe with 95 % intervals at each layer, over clusters; in grey the controls,
    mean and range of draws. Dashed: what the reference column alone predicts. 0: the mean.

    Args:
        prompts: the dataset, for its extra columns.
        readings: tables by name.
        cluster: a dataset column whose values are resampled together.
        seed: of the bootstrap.
        reading: of `linear_probes.probe_by_layer`, of numbers.
        reference: what the reading's reference is called.
        split: of the dataset.

    Raises:
        ValueError: no such reading or column, or a reading without numbers.
    """
    table = with_columns(prompts, select(table_of(readings, reading), split=split), cluster)
    names = [name.removesuffix("_target") for name in table if name.endswith("_target")]
    if not names:
        raise ValueError(f"reading {reading} predicts no numbers; valid: one of columns of numbers")
    layers = sorted(table["layer"].unique().tolist())
    keys = {"probe": legend_key(color=COLOURS[0], lw=2.4, marker=".")}
    referred = f"{names[0]}_reference" in table
    with panels(len(names), 6.2, 4.6) as (figure, axes):
        lowest = 0.0
        for axis, name in zip(axes, names, strict=True):
            scores = _r_squared(table, name, f"{name}_prediction", cluster, seed)
            fitted = scores[scores["source"] == FITTED].set_index("layer").loc[layers]
            axis.fill_between(
                layers,
                fitted["low"].to_numpy(float),
                fitted["high"].to_numpy(float),
                color=COLOURS[0],
                alpha=0.22,
                lw=0,
            )
            draw_curve(axis, layers, fitted["score"], COLOURS[0], label=name)
            keys |= draw_sources(axis, scores, layers)
            lowest = min(lowest, scores["score"].min(), fitted["low"].astype(float).min())
            if referred:
                one = table[(table["source"] == FITTED) & (table["layer"] == layers[0])]
                known = _r_squared(one, name, f"{name}_reference", cluster, seed)["score"][0]
                lowest = min(lowest, known)
                axis.axhline(known, color=COLOURS[1], lw=1.5, ls=(0, (5, 3)))
                axis.annotate(
                    f"{known:.2f}",
                    (0.99, known),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    color=COLOURS[1],
                    ha="right",
                    fontsize=10.5,
                )
            axis.axhline(0, color=GREY, lw=1)
            axis.set_title(name)
            axis.set_xlabel("layer whose input is read")
            layer_axis(axis)
        axes[0].set_ylim(lowest - 0.05 * (1 - lowest), 1.03)
        axes[0].set_ylabel("R²")
        if referred:
            keys[reference] = legend_key(color=COLOURS[1], ls=(0, (5, 3)))
        legend(figure, keys)
        n = f"n = {table['sample'].nunique()} prompts of {table[cluster].nunique()} {cluster}s"
        caption(
            figure,
            [
                f"{split.capitalize()} split, {n}, which {fitted_on(split)}.",
                f"Bands: 95 % at each layer by itself, resampled over {cluster}s.",
                sources_in_words(table),
                "0: the mean of this split, the best constant.",
            ],
        )
    return figure


def probed_plane(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    x: str,
    y: str,
    colour: LegendColumn,
    label: ColumnName = "topic",
    unit: str = "",
    split: str = "test",
) -> Figure:
    """Draw true and predicted points of a plane side by side, at the layer of the best probe.

    The layer is that of the best score in cross-validation on the train split; predictions are
    means over the prompts of a `label`.

    Args:
        prompts: the dataset, for its extra columns.
        readings: tables by name.
        reading: of `linear_probes.probe_by_layer`, of numbers.
        x: a column of numbers that the probe predicts.
        y: another one.
        colour: a column of the dataset.
        label: a column of the dataset; one point for each value.
        unit: of both numbers.
        split: of the dataset.

    Raises:
        ValueError: no such reading, column or split.
    """
    table = select(table_of(readings, reading), split=split, source=FITTED)
    for name in (x, y):
        if f"{name}_prediction" not in table:
            valid = [c.removesuffix("_target") for c in table if c.endswith("_target")]
            raise ValueError(f"reading {reading} does not predict {name!r}; valid: {valid}")
    columns = list(dict.fromkeys((label, colour)))
    table = with_columns(prompts, table, label, colour)
    layer = int(table.groupby("layer")["fit_score"].mean().idxmax())
    rows = table[table["layer"] == layer]
    points = rows.groupby(columns)[
        [f"{name}_{kind}" for name in (x, y) for kind in ("target", "prediction")]
    ].mean()
    values = sorted(points.index.get_level_values(colour).unique())
    styles = styles_of(values, "marker")
    keys = {str(value): legend_key(lw=0, **style) for value, style in styles.items()}
    with panels(2, 8.2, 6.4) as (figure, axes):
        for axis, kind in zip(axes, ("target", "prediction"), strict=True):
            for value, style in styles.items():
                alike = points[points.index.get_level_values(colour) == value]
                at = alike[[f"{x}_{kind}", f"{y}_{kind}"]].to_numpy()
                axis.scatter(at[:, 0], at[:, 1], s=26, zorder=3, lw=0, **style)
            axis.set_xlabel(f"{x} ({unit})" if unit else x)
            axis.grid(True, axis="both")
        both = np.concatenate(
            [points[[f"{x}_{k}", f"{y}_{k}"]].to_numpy() for k in ("target", "prediction")]
        )
        low, high = both.min(0), both.max(0)
        axes[0].set_xlim(low[0] - 0.06 * (high - low)[0], high[0] + 0.12 * (high - low)[0])
        axes[0].set_ylim(low[1] - 0.06 * (high - low)[1], high[1] + 0.06 * (high - low)[1])
        axes[0].set_ylabel(f"{y} ({unit})" if unit else y)
        axes[0].set_title(f"True {x} and {y}")
        axes[1].set_title(f"Read from the input of layer {layer}")
        legend(figure, keys)
        scores = [
            f"{name} {_r_squared(rows, name, f'{name}_prediction', label, 0)['score'][0]:.2f}"
            for name in (x, y)
        ]
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {len(points)} {label}s that {fitted_on(split)};",
                f"predictions are means over {len(rows) / len(points):g} prompts each. R² of",
                f"single prompts: {', '.join(scores)}. The layer was chosen by cross-validation on",
                "the train split. No intervention. Names without room are left out.",
            ],
        )
        names = [
            " ".join(map(drawable, str(value).removeprefix("the ").split()))
            for value in points.index.get_level_values(label)
        ]
        for axis, kind in zip(axes, ("target", "prediction"), strict=True):
            at = points[[f"{x}_{kind}", f"{y}_{kind}"]].to_numpy()
            label_points(figure, axis, at, names, families())
    return figure


def _r_squared(
    table: pd.DataFrame, name: str, predicted: str, cluster: str, seed: int
) -> pd.DataFrame:
    """Estimate R² for each source, draw and layer."""
    rows = []
    for (source, draw, layer), group in table.groupby(["source", "draw", "layer"]):
        r_squared = r_squared_estimate(
            group[f"{name}_target"], group[predicted], group[cluster], seed=seed
        )
        rows.append(
            {
                "source": source,
                "draw": draw,
                "layer": layer,
                "score": r_squared.mean,
                "low": r_squared.low,
                "high": r_squared.high,
            }
        )
    return pd.DataFrame(rows)
