"""Figures of neurons: the effect of ablating every one, and the chosen ones."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.config.declared import ArmName, Range, ReadingName, ShareName, ZeroOrMore
from pipeline.data.roles import BASELINE
from pipeline.measures.significance import benjamini_hochberg, p_not_zero
from pipeline.measures.statistics import Estimate, paired_difference
from pipeline.model.sites import Site
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import fitted_of, select

Readings = Mapping[str, pd.DataFrame]
LINEAR = 0.01
"""Effects up to this are on a linear scale, larger ones on a logarithmic one."""
_TICKS = [-1.0, -0.1, -0.01, 0.0, 0.01, 0.1, 1.0]
_CLIPPED = 1e-30
"""p-values below are drawn here."""


def neuron_effects(
    readings: Readings, *, effects: ReadingName, chance: ReadingName, named: ZeroOrMore = 3
) -> Figure:
    """Draw the effect of ablating every neuron: by layer, and against its corrected p-value.

    Args:
        readings: tables by name.
        effects: of `neurons.readings.neuron_effects`.
        chance: of `neurons.readings.neuron_chance`.
        named: how many of the chosen neurons are named.
    """
    table, draws = table_of(readings, effects), table_of(readings, chance)
    alpha = float(draws["alpha"].iloc[0])
    labels = sorted(table["label"].unique())
    styles = styles_of(labels, "marker")
    rng = np.random.default_rng(0)
    layers = sorted(int(layer) for layer in table["layer"].unique())
    across = table["layer"].map(layers.index) + rng.uniform(-0.36, 0.36, len(table))
    height = -np.log10(table["p_corrected"].clip(lower=_CLIPPED))
    with panels(2, 6.2, 5.0, shared=False) as (figure, (by_layer, volcano)):
        for axis, x, y in (
            (by_layer, across, table["effect"]),
            (volcano, table["effect"], height),
        ):
            _scatter(axis, x, y, table, styles)
        by_layer.set_yscale("symlog", linthresh=LINEAR)
        by_layer.set_yticks(_TICKS, list(map(_signed, _TICKS)))
        by_layer.axhline(0, color="#444444", lw=0.8)
        by_layer.set_xlabel("layer")
        by_layer.set_ylabel("change of log p(own) − log p(others), nats")
        by_layer.set_title("Effect of ablating each neuron")
        step = -(-len(layers) // 10)
        by_layer.set_xticks(range(0, len(layers), step), list(map(str, layers[::step])))
        volcano.set_xscale("symlog", linthresh=LINEAR)
        volcano.set_xticks(_TICKS, list(map(_signed, _TICKS)))
        volcano.axhline(-np.log10(alpha), color=GREY, ls="--", lw=1.2)
        volcano.set_xlabel("change of log p(own) − log p(others), nats")
        volcano.set_ylabel("−log₁₀ p, corrected over all neurons")
        volcano.set_title("Significance over topics")
        for index, row in table[table["rank"].between(1, named)].iterrows():
            by_layer.annotate(
                f"{row['layer']}.{row['neuron']}",
                (across[index], row["effect"]),
                # On both sides in turn: neurons of similar effect stand close together.
                (-7 if row["rank"] % 2 else 7, 0),
                textcoords="offset points",
                ha="right" if row["rank"] % 2 else "left",
                va="center",
                fontsize=10,
                color=styles[row["label"]]["color"],
            )
        keys = {f"{label} neuron": legend_key(lw=0, **style) for label, style in styles.items()}
        keys["not significant"] = legend_key(color="#c9c9c9", lw=0, marker="o")
        keys["chosen"] = legend_key(color="black", lw=0, marker="o", mfc="none", ms=7)
        legend(figure, keys)
        caption(figure, _effects_in_words(table, draws, alpha))
    return figure


def _scatter(
    axis: Axes,
    x: pd.Series,
    y: pd.Series,
    table: pd.DataFrame,
    styles: Mapping[str, dict[str, Any]],
) -> None:
    flat: dict[str, Any] = {"lw": 0, "rasterized": True}
    silent = ~table["passes"]
    axis.scatter(x[silent], y[silent], s=5, color="#c9c9c9", **flat)
    for label, style in styles.items():
        passing = table["passes"] & (table["label"] == label)
        axis.scatter(x[passing], y[passing], s=7, alpha=0.6, **style, **flat)
    chosen = table["rank"] > 0
    axis.scatter(x[chosen], y[chosen], s=42, fc="none", ec="black", lw=1.1, zorder=5)


def _signed(number: float) -> str:
    return f"{number:g}".replace("-", "−")


def _effects_in_words(table: pd.DataFrame, draws: pd.DataFrame, alpha: float) -> list[str]:
    passing = int(table["passes"].sum())
    large = int((table["passes"] & (table["effect"].abs() >= 0.1)).sum())
    chance = draws["passing"]
    return [
        f"{len(table):,} neurons of {table['layer'].nunique()} layers, each ablated by itself, on",
        f"contexts that they are chosen by (n = {table['topics'].iloc[0]} topics). Own: words of",
        "the prompt's label; others: those of the other labels. Below 0: the label's words depend",
        f"on the neuron. Named: layer.neuron. {passing:,} neurons pass at corrected p < {alpha:g}",
        "(dashed; t test over topics, Benjamini-Hochberg over all neurons)"
        + (f", {large} of them with an effect of 0.1 nats or more." if passing else "."),
        "Control: with the signs of topics",
        f"flipped at random {chance.median():.0f} pass (median of {len(draws)} draws; none in",
        f"{100 * (chance == 0).mean():.0f} % of them). Colour: the label with the larger effect.",
        "Scale linear within ±0.01 nats.",
    ]


def neuron_ablations(
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arm: str,
    control: ArmName,
    metric: str,
    share: ShareName,
    split: str = "test",
    alpha: Annotated[float, Range(above=0, below=1)] = 0.01,
) -> Figure:
    """Draw the paired change under ablation of the chosen neurons, together and each alone.

    Points: mean change from the unedited model on the same prompts, with its 95 % interval. Grey:
    random neurons in their place, mean and range over draws. Second panel: the same of a share,
    such as prompts whose top token changes.

    Args:
        scores: of samples under conditions.
        cluster: the column whose values are resampled together, and tested over.
        seed: of the bootstrap.
        arm: of `neurons.arms.ablated_neurons`.
        control: of `neurons.arms.random_neurons`.
        metric: a logit metric, in nats.
        share: a logit metric of scores 0 and 1.
        split: of the dataset.
        alpha: of the corrected p-values that the caption counts.

    Raises:
        ValueError: no such arm, metric or split, or a `share` with other scores than 0 and 1.
    """
    with_both = select(scores, split=split, arm=[arm, control], metric=[metric, share])
    if not select(with_both, metric=share)["score"].dropna().isin([0, 1]).all():
        raise ValueError(f"metric {share} is no share; valid: scores of 0 and 1")
    names = list(dict.fromkeys(fitted_of(select(with_both, arm=arm))["neuron"]))
    groups = fitted_of(with_both).drop_duplicates("neuron").set_index("neuron")["group"]
    heights = {name: -n - 0.5 * (n > 0) for n, name in enumerate(names)}
    with panels(2, 6.2, 0.34 * len(names) + 1.6, shared=False) as (figure, axes):
        for axis, name in zip(axes, (metric, share), strict=True):
            rows = select(with_both, metric=name)
            changes = _paired_changes(rows, cluster, seed)
            _draw_changes(axis, changes, heights, times=100 if name == share else 1)
            axis.set_yticks(list(heights.values()), [called(n, groups.get(n)) for n in names])
            axis.grid(axis="x")
            axis.grid(False, axis="y")
            axis.set_ylim(min(heights.values()) - 0.6, 0.6)
        effects = _paired_changes(select(with_both, metric=metric), cluster, seed)
        alone = effects[(effects["source"] == "chosen") & (effects["neuron"] != names[0])]
        axes[0].plot(alone["mean"].sum(), 0, marker="D", mfc="white", color=COLOURS[0], ms=7, lw=0)
        axes[0].axvline(0, color="#444444", lw=0.8)
        axes[0].xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_xlabel("change of the log-odds of the label's words, nats")
        axes[0].set_title("Ablated: how much less likely")
        axes[1].set_yticklabels([])
        axes[1].set_xlim(-3, 103)
        axes[1].set_xlabel("prompts whose top token changes (%)")
        axes[1].set_title("Ablated: another top token")
        keys = {
            "chosen neuron": legend_key(color=COLOURS[0], lw=1.5, marker="o"),
            "sum of those alone": legend_key(color=COLOURS[0], lw=0, marker="D", mfc="white"),
            "control: random neurons": legend_key(lw=1, marker="s", mfc="white", ms=5),
        }
        legend(figure, keys)
        caption(figure, _changes_in_words(effects, names[0], split, cluster, alpha))
    return figure


def called(name: str, group: object) -> str:
    """Return a neuron's name in figures: `5.452 (singular)`."""
    if not name.startswith("blocks."):
        return name
    site = Site.parse(name)
    return f"{site.layer}.{site.unit} ({str(group).removesuffix(' neurons')})"


def _paired_changes(scores: pd.DataFrame, cluster: str, seed: int) -> pd.DataFrame:
    """Estimate each condition's change from its arm's baseline, with a p-value over clusters."""
    rows = []
    for _, of_arm in scores.groupby("arm", sort=False):
        baseline = of_arm[of_arm["role"] == BASELINE]
        edited = of_arm[of_arm["role"] != BASELINE]
        for _, condition in edited.groupby("condition", sort=False):
            # Of metrics of 0 and 1, too: the baseline of a change is 0, where no share is paired.
            change: Estimate = paired_difference(
                condition, baseline, cluster=cluster, share=False, seed=seed
            )
            first = condition.iloc[0]
            axes = {name: first[name] for name in ("source", "draw", "neuron")}
            n = _scored_clusters(condition, baseline, cluster)
            p = float(p_not_zero(np.array([change.mean]), np.array([change.stderr]), n)[0])
            rows.append({**axes, **vars(change), "p": p, "clusters": n})
    return pd.DataFrame(rows)


def _scored_clusters(condition: pd.DataFrame, baseline: pd.DataFrame, cluster: str) -> int:
    """Count the clusters with a pair of (sample, repeat) that is scored on both sides."""
    keys = ["sample", "repeat"]
    pairs = condition.dropna(subset="score").merge(baseline.dropna(subset="score")[keys], on=keys)
    return int(pairs[cluster].nunique())


def _draw_changes(
    axis: Axes, changes: pd.DataFrame, heights: Mapping[str, float], *, times: int
) -> None:
    for name, height in heights.items():
        rows = changes[changes["neuron"] == name]
        drawn = times * rows.loc[rows["source"] == "random", "mean"]
        axis.hlines(height - 0.22, drawn.min(), drawn.max(), color=GREY, lw=1.2)
        axis.plot(drawn.mean(), height - 0.22, marker="s", mfc="white", color=GREY, ms=5)
        (chosen,) = rows[rows["source"] == "chosen"].to_dict("records")
        axis.hlines(height, times * chosen["low"], times * chosen["high"], color=COLOURS[0], lw=2)
        axis.plot(times * chosen["mean"], height, marker="o", color=COLOURS[0], ms=6, zorder=4)


def _changes_in_words(
    changes: pd.DataFrame, together: str, split: str, cluster: str, alpha: float
) -> list[str]:
    alone = changes[changes["neuron"] != together]
    counts = {}
    for source, rows in alone.groupby("source"):
        passing = (benjamini_hochberg(rows["p"].to_numpy()) < alpha).sum()
        counts[source] = f"{passing} of {rows['p'].count()}", rows["mean"].abs().median()
    (chosen, size), (random, other) = counts["chosen"], counts["random"]
    draws = alone.loc[alone["source"] == "random", "draw"].nunique()
    return [
        f"{split.capitalize()} split, n = {changes['n'].iloc[0]} prompts, bars: 95 % interval over",
        f"{changes['clusters'].iloc[0]} {cluster}s. Layer.neuron (label that it matters to),",
        "chosen on other prompts. Grey: random neurons of the same layer and mean activation, mean",
        f"and range of {draws} draws. Alone, at corrected p < {alpha:g}: {chosen} chosen neurons,",
        f"median change {size:.2g} nats; {random} random ones, median {other:.2g} nats.",
    ]
