"""Figures of lens readings: token by token for one prompt, and layer means over prompts."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from pipeline.config.declared import ColumnName, Sample
from pipeline.measures.bands import Band
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import bands_in_words, draw_mean_curve, legend_key
from pipeline.views.panels import caption, legend, panels, styles_of
from pipeline.views.readings import column_of, table_of
from pipeline.views.selection import select

_QUANTITIES = {
    "reciprocal_rank": "reciprocal rank",
    "rank": "rank",
    "probability": "probability",
    "entropy": "entropy (nats)",
    "kl": "KL from the model's output (nats)",
    "contribution": "direct contribution to the logit (nats)",
    "agreement": "agreement with the model's top token",
    "surprisal": "surprisal under the model (nats)",
}
"""Suffix of a column -> axis label; the prefix is a column of the dataset."""
_UP_TO_ONE = ("probability", "reciprocal rank", "agreement with the model's top token")
"""The quantities with maximum 1; all but contributions are at least 0."""
_Curve = tuple[str, str, str | None]
"""A reading, its column, and the column of the control."""


def token_map(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    sample: Sample,
    colour: str = "probability",
) -> Figure:
    """Draw the lens's top token at every position (x) and layer (y) of one prompt.

    Args:
        readings: tables by name.
        reading: of `lenses.logit_lens` at all positions, or at some.
        sample: the prompt.
        colour: a column of the reading; ranks are on a logarithmic scale.

    Raises:
        ValueError: no such reading, sample or column.
    """
    rows = select(table_of(readings, reading), sample=sample)
    column_of(rows, colour)
    values = rows.pivot(index="layer", columns="position", values=colour)
    texts = rows.pivot(index="layer", columns="position", values="top_piece")
    pieces = rows.drop_duplicates("position").sort_values("position")["piece"]
    width = float(np.clip(0.86 * values.shape[1] + 2, 7.5, 17))
    most = max(3, int(11.5 * (width - 2) / values.shape[1]))
    with panels(1, width, 0.42 * len(values) + 1.6) as (figure, (axis,)):
        axis.grid(False)
        name, quantity = _named(colour)
        scale, shades = _scale(quantity, values.to_numpy(dtype=float))
        image = axis.imshow(values, aspect="auto", origin="lower", cmap=shades, norm=scale)
        for row, column in np.ndindex(*values.shape):
            red, green, blue, _ = image.cmap(scale(values.iloc[row, column]))
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
            # Perceived brightness.
            style["color"] = "k" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "w"
            text = drawable(texts.iloc[row, column], most)
            axis.text(column, row, text, fontfamily=families(), **style)
        named = [drawable(piece, 16) for piece in pieces]
        turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axis.set_xticks(range(len(named)), named, fontfamily=families(), fontsize=10, **turned)
        _layer_ticks(axis.set_yticks, range(len(values)), values.index.tolist())
        axis.tick_params(length=0)
        axis.set_xlabel("token of the prompt")
        axis.set_ylabel("layer whose input is read")
        axis.set_title("Which token does each layer predict next?")
        label = f"{quantity} of {name}" if name else quantity
        figure.colorbar(image, ax=axis, label=label, pad=0.02)
        first = rows.iloc[0]
        caption(
            figure,
            [
                f"n = 1 prompt: sample {sample} of the {first['split']} split, {first['label']}.",
                "Cells: likeliest next token of the lens, no intervention. Control: the top row",
                "is the model's own output. ␣: the token begins with a blank.",
            ],
        )
    return figure


def mean_by_layer(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    reading: Any,
    values: list[str],
    controls: list[str] | None = None,
    by: ColumnName = "label",
    split: str = "test",
    logarithmic: bool = False,
) -> Figure:
    """Plot means of lens columns against the layer, one panel per value of `by`.

    Lines: the columns of each reading, with 95 % bands over layers, resampled over `cluster`.
    Dashed in the same colour: the control of each.

    Args:
        prompts: the dataset, for its extra columns.
        readings: tables by name.
        cluster: a dataset column whose values are resampled together.
        seed: of the bootstrap.
        reading: one or a list, of `lenses.logit_lens` at one position of each sample, or of
            `lenses.text_lens`.
        values: columns of the reading, all of one quantity, such as `bridge_reciprocal_rank`.
        controls: one column for each of them, or none.
        by: a column of the dataset.
        split: of the dataset.
        logarithmic: whether the y axis is; means of 0, such as the output's KL, are left out.

    Raises:
        ValueError: no such reading or column, several positions of a sample or quantities, or
            another number of controls.
    """
    controls = controls or []
    if controls and len(controls) != len(values):
        raise ValueError(f"{len(controls)} controls of {len(values)} values; valid: one for each")
    names = [reading] if isinstance(reading, str) else list(reading)
    tables = {name: _rows(prompts, readings, name, split, by, cluster) for name in names}
    for value in (*values, *controls):
        for table in tables.values():
            column_of(table, value)
    quantities = sorted({_named(value)[1] for value in (*values, *controls)})
    if len(quantities) != 1:
        raise ValueError(f"quantities {', '.join(quantities)} in one figure; valid: one")
    curves = [
        (name, value, control)
        for name in names
        for value, control in itertools.zip_longest(values, controls)
    ]
    called = _in_legend(curves)
    by_name = styles_of(called, once=bool(controls))
    styles = {curve: by_name[name] for curve, name in zip(curves, called, strict=True)}
    every = pd.concat(tables.values())
    groups = list(every[by].unique())
    layers = sorted(every["layer"].unique().tolist())
    bands: list[Band] = []
    of_blocks = quantities[0] == _QUANTITIES["contribution"]
    within = _range(quantities[0], every[values].to_numpy(dtype=float), logarithmic)
    with panels(len(groups)) as (figure, axes):
        for axis, group in zip(axes, groups, strict=True):
            for (name, value, control), style in styles.items():
                colour = style["color"]
                rows = tables[name][tables[name][by] == group]
                means = rows.groupby("layer")[value].mean()
                read_at = [n for n in layers if n in means and (means[n] > 0 or not logarithmic)]
                band = draw_mean_curve(
                    axis,
                    rows.assign(score=rows[value]),
                    read_at,
                    colour,
                    value,
                    cluster=cluster,
                    seed=seed,
                    within=within,
                    bounded=within[1] == 1,
                    ls=style["ls"],
                )
                bands.append(band)
                if control is not None:
                    heights = rows.groupby("layer")[control].mean()[read_at]
                    axis.plot(read_at, heights, color=colour, lw=1.5, ls="--", label=control)
            rows = every[every[by] == group]
            samples, clusters = rows["sample"].nunique(), rows[cluster].nunique()
            clustered = "" if samples == clusters else f", {clusters} {cluster}s"
            axis.set_title(f"{group}\nn = {samples} samples{clustered}")
            axis.set_xlabel("layer" if of_blocks else "layer whose input is read")
            _layer_ticks(axis.set_xticks, layers, layers, output=not of_blocks)
        if logarithmic:
            axes[0].set_yscale("log", nonpositive="mask")
        elif within[1] == 1:
            axes[0].set_ylim(-0.03, 1.03)
        for axis in axes[::3]:
            axis.set_ylabel(f"mean {quantities[0]}")
        legend(figure, _keys(styles))
        omitted = ", left out where it is 0" if logarithmic else ""
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {every['sample'].nunique()} samples. Lines: mean",
                f"over samples; {bands_in_words(bands, cluster)}, resampled over {cluster}s.",
                "Dashed: control of the same colour." if controls else "No control.",
                "" if of_blocks else f"out: the model's output{omitted}.",
            ],
        )
    return figure


def _rows(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    reading: str,
    split: str,
    by: str,
    cluster: str,
) -> pd.DataFrame:
    """Select a reading's rows of a split, with the columns `by` and `cluster` of the dataset."""
    table = select(table_of(readings, reading), split=split)
    if table.duplicated(["sample", "layer"]).any():
        raise ValueError(f"reading {reading} has several positions a sample; valid: one")
    missing = [column for column in dict.fromkeys((by, cluster)) if column not in table]
    for column in missing:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")
    return table.merge(prompts[["sample", *missing]]) if missing else table


def _named(column: str) -> tuple[str, str]:
    """Split a lens column into dataset column (empty: the whole distribution) and quantity."""
    for ending, quantity in _QUANTITIES.items():
        if column == ending:
            return ("the likeliest token" if ending == "probability" else ""), quantity
        if column.endswith(f"_{ending}"):
            return column.removesuffix(f"_{ending}").replace("_", " "), quantity
    raise ValueError(f"column {column!r} is of no known quantity; valid: {', '.join(_QUANTITIES)}")


def _scale(quantity: str, values: np.ndarray) -> tuple[Normalize, str]:
    if quantity == "rank":
        return LogNorm(1, max(10.0, float(values.max()))), "viridis_r"
    if quantity in _UP_TO_ONE:
        return Normalize(0, 1), "viridis"
    return Normalize(0, float(values.max()) or 1), "viridis_r"


def _range(quantity: str, values: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """Return the range of possible means; on a logarithmic axis, one that can be drawn."""
    if quantity == _QUANTITIES["contribution"]:
        return -np.inf, np.inf
    lowest = float(values[values > 0].min(initial=np.inf)) / 10 if logarithmic else 0.0
    return lowest, 1.0 if quantity in _UP_TO_ONE else np.inf


def _layer_ticks(
    set_ticks: Any, places: Sequence[int], layers: Sequence[int], *, output: bool = True
) -> None:
    """Label layers by number, thinned out if there are many; the last as the model's output."""
    step = -(-len(layers) // 13)
    last = len(layers) - 1
    # A label beside the last one would overlap it.
    nearest = (places[last] - places[0]) / 20
    numbered = [n for n in range(0, last, step) if places[last] - places[n] > nearest]
    numbered = numbered[:-1] if len(numbered) > 1 and last - numbered[-1] < step else numbered
    names = [*(str(layers[n]) for n in numbered), "out" if output else str(layers[last])]
    set_ticks([*(places[n] for n in numbered), places[last]], names)


def _in_legend(curves: Collection[_Curve]) -> list[str]:
    """Name each curve by what tells it apart from the others: its reading, its column, or both."""
    readings, values = ({curve[place] for curve in curves} for place in (0, 1))
    called = []
    for name, value, _ in curves:
        column = _named(value)[0] or value
        text = column if len(readings) == 1 else name.replace("_", " ")
        called.append(f"{text}: {column}" if len(readings) > 1 and len(values) > 1 else text)
    return called


def _keys(styles: Mapping[_Curve, Mapping[str, Any]]) -> dict[str, Any]:
    """Create a legend entry of each curve and its control."""
    controls = [control for *_, control in styles if control is not None]
    keys = {}
    for text, (curve, style) in zip(_in_legend(styles), styles.items(), strict=True):
        keys[text] = legend_key(lw=2.4, **style)
        control = curve[-1]
        if control is not None:
            of_curve = f" of {text}" if controls.count(control) > 1 else ""
            dashed = legend_key(color=style["color"], ls="--")
            keys[f"control{of_curve}: {_named(control)[0]}"] = dashed
    return keys
