"""Figures of the sum of two steering vectors."""

from typing import Annotated

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, ValueOnAxis
from pipeline.measures.bands import Band, band_over
from pipeline.views.marks import (
    GREY,
    bands_in_words,
    draw_band,
    draw_curve,
    draw_reference,
    legend_key,
)
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels, percent_axis
from pipeline.views.selection import (
    baseline_of,
    controls_of,
    counts_in_words,
    fitted_of,
    label_of,
    rows_told_apart,
    rule_in_words,
    select,
    steered_of,
)


def vector_sums(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arm: ArmName,
    metrics: list[str],
    strength: Annotated[float, ValueOnAxis("strength")] | None = None,
    split: str = "test",
) -> Figure:
    """Plot what two vectors do alone and together, against the layer, a panel per metric.

    Lines: a, b and a + b, with 95 % bands. Dashed: a and b with a shuffled control of the other,
    mean over its draws, in the colour of a and b.

    Args:
        summary: means of conditions.
        scores: of samples under conditions.
        cluster: the column whose values are resampled together.
        seed: of the bootstrap.
        arm: an arm of `vector_sums.add_sum`.
        metrics: such as one for each vector.
        strength: of the vectors, if the arm has several.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, strength or split, or several strengths.
    """
    summary = select(summary, split=split, arm=arm, metric=metrics)
    scores = select(scores, split=split, arm=arm, metric=metrics)
    bands: list[Band] = []
    with panels(len(metrics), shared=False) as (figure, axes):
        for axis, metric in zip(axes, metrics, strict=True):
            means, rows = select(summary, metric=metric), select(scores, metric=metric)
            percent = bool(means["percent"].all())
            steered, samples = steered_of(means), fitted_of(rows)
            if strength is not None:
                steered = select(steered, strength=strength)
                samples = select(samples, strength=strength)
            draw_reference(axis, baseline_of(means), GREY)
            names = list(dict.fromkeys(fitted_of(steered)["vectors"]))
            for name, colour in zip(names, COLOURS, strict=False):
                fitted = rows_told_apart(select(fitted_of(steered), vectors=name), ["layer"])
                layers = fitted["layer"].astype(int).tolist()
                band = band_over(
                    select(samples, vectors=name),
                    "layer",
                    layers,
                    cluster=cluster,
                    share=bool(means["share"].iloc[0]),
                    bounded=percent,
                    seed=seed,
                )
                bands.append(band)
                draw_band(axis, layers, band, colour, within=(0.0, 1.0) if percent else None)
                draw_curve(axis, layers, fitted["mean"], colour, label=name)
            for control, colour in zip(_controls(names), COLOURS, strict=False):
                drawn = controls_of(steered)
                drawn = drawn[drawn["vectors"] == control].groupby("layer")["mean"].mean()
                axis.plot(drawn.index.astype(int), drawn, color=colour, ls="--", lw=1.5)
            axis.set_title(label_of(means)[0].upper() + label_of(means)[1:])
            axis.set_xlabel("layer of the vectors")
            layer_axis(axis)
            if percent:
                percent_axis(axis)
        axes[0].set_ylabel(f"mean ({split} split)")
        keys = {
            name: legend_key(color=colour, lw=2.4)
            for name, colour in zip(names, COLOURS, strict=False)
        }
        keys["with a shuffled control of the other"] = legend_key(ls="--", lw=1.5)
        legend(figure, keys)
        labels = " and ".join(sorted(scores["label"].unique()))
        draws = controls_of(steered)["draw"].nunique()
        caption(
            figure,
            [
                f"{split.capitalize()} split, prompts labelled {labels},",
                f"{counts_in_words(steered)}; {rule_in_words(steered)}, strength",
                f"{steered['strength'].iloc[0]:g}. Lines: one vector or both;",
                f"{bands_in_words(bands, cluster)}.",
                "Grey dashes: no intervention, strip: its 95 % interval. Coloured dashes: with a",
                f"shuffled control of the other vector, mean of {draws} draws.",
            ],
        )
    return figure


def _controls(names: list[str]) -> list[str]:
    """Name the conditions in which a, and b, is added with a control of the other."""
    first, second, _ = names
    return [f"{first} + shuffled {second}", f"shuffled {first} + {second}"]
