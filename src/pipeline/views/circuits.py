"""Figures of what sets of components recover: by size, and without parts of a circuit."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, ShareName
from pipeline.data.roles import BASELINE
from pipeline.measures.recovered import Interval, recovered
from pipeline.measures.statistics import estimate
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.selection import select, steered_of

_BARS = 24
"""Components shown at most, those that matter most."""


def recovered_by_size(
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    circuit: ArmName,
    ranked: ArmName,
    random: ArmName,
    metric: str,
    correct: ShareName,
    split: str = "test",
) -> Figure:
    """Plot the recovered share of the difference against the number of kept components.

    Args:
        scores: of samples under conditions.
        cluster: what is resampled together.
        seed: of the bootstrap.
        circuit: the arm of the circuit, and of all components ablated.
        ranked: the arm of components by their effect.
        random: the arm of random sets.
        metric: the metric, a difference of logits.
        correct: whether the answer is the top token, which a recovered difference does not say.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric or split.
    """
    rows = select(scores, split=split, arm=[circuit, ranked, random], metric=metric)
    shares = recovered_shares(rows, circuit, ["arm", "n_kept", "draw"], cluster, seed)
    by_arm = {name: shares[shares["arm"] == name] for name in (circuit, ranked, random)}
    recovered = by_arm[circuit].iloc[-1]
    tops = select(scores, split=split, arm=circuit, metric=correct)
    is_circuit = tops["n_kept"] == recovered["n_kept"]
    intact, alone = (
        estimate(side["score"], side[cluster], proportion=True, seed=seed)
        for side in (select(tops, role=BASELINE), tops[is_circuit.fillna(False)])
    )
    total = int(rows["n_components"].max())
    drawn = by_arm[random].groupby("n_kept")["value"].agg(["mean", "min", "max"])
    same = drawn.loc[recovered["n_kept"]]
    with panels(1, width=8.4, height=4.6) as (figure, (axis,)):
        for at in (0, 100):
            axis.axhline(at, color="#444444", lw=1)
        sizes = drawn.index.to_numpy(dtype=float)
        axis.fill_between(
            sizes, 100 * drawn["min"], 100 * drawn["max"], color=GREY, alpha=0.18, lw=0
        )
        axis.plot(sizes, 100 * drawn["mean"], color=GREY, marker="o", mfc="white", lw=1)
        line = by_arm[ranked].sort_values("n_kept")
        at = line["n_kept"].to_numpy(dtype=float)
        axis.fill_between(
            at, 100 * line["low"], 100 * line["high"], color=COLOURS[0], alpha=0.2, lw=0
        )
        axis.plot(at, 100 * line["value"], color=COLOURS[0], marker=".", lw=2)
        x = float(recovered["n_kept"])
        axis.vlines(
            x, 100 * recovered["low"], 100 * recovered["high"], color=COLOURS[1], lw=2, zorder=5
        )
        axis.plot(
            [x], [100 * recovered["value"]], marker="*", ms=17, color=COLOURS[1], zorder=6, lw=0
        )
        axis.set_xscale("symlog", linthresh=4)
        ticks = [n for n in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= total]
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.set_xlim(-0.3, total * 1.08)
        low = min(-10.0, 100 * float(min(drawn["min"].min(), line["low"].min())))
        axis.set_ylim(low, max(115.0, min(170.0, 100 * float(line["high"].max()) + 5)))
        axis.set_xlabel("components kept, all others ablated (logarithmic above 4)")
        axis.set_ylabel("recovered logit difference (%)")
        axis.set_title(
            f"{int(x)} of {total} components ({100 * x / total:.0f} %) "
            f"recover {100 * recovered['value']:.0f} %"
        )
        legend(
            figure,
            {
                "circuit": legend_key(color=COLOURS[1], marker="*", ms=12, lw=0),
                "largest effects": legend_key(color=COLOURS[0], marker="."),
                "random sets, as many heads and MLPs": legend_key(marker="o", mfc="white", lw=1),
            },
        )
        caption(
            figure,
            [
                "0 %: all components ablated; 100 %: the model. The circuit (chosen on other",
                f"prompts): {_percent(recovered)}, 95 % interval; random sets of its size:",
                f"{_whole(same['mean'])} % in the mean, {_whole(same['min'])} to",
                f"{_whole(same['max'])} %. {split.capitalize()} split,",
                f"n = {int(recovered['n'])} prompts; bands: 95 %, {cluster}s resampled; grey:",
                f"range over {int(by_arm[random]['draw'].nunique())} draws. The answer is the top",
                f"token on {100 * alone.mean:.0f} % ({100 * alone.low:.0f} to",
                f"{100 * alone.high:.0f}) of prompts, in the model on {100 * intact.mean:.0f} %.",
            ],
        )
    return figure


def circuit_parts(
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    circuit: ArmName,
    parts: ArmName,
    metric: str,
    split: str = "test",
) -> Figure:
    """Draw minimality (the circuit without each component) and completeness (against the model).

    Args:
        scores: of samples under conditions.
        cluster: what is resampled together.
        seed: of the bootstrap.
        circuit: the arm of the circuit, and of all components ablated.
        parts: the arm of `without_components`.
        metric: the metric, a difference of logits.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric or split.
    """
    rows = select(scores, split=split, arm=[circuit, parts], metric=metric)
    by = ["arm", "base", "removed", "n_kept"]
    shares = recovered_shares(rows, circuit, by, cluster, seed)
    whole = shares[shares["arm"] == circuit].iloc[-1]
    cut = shares[shares["arm"] == parts].pivot(
        index="removed", columns="base", values=["value", "low", "high"]
    )
    is_subset = cut.index.str.startswith("subset")
    alone = cut[~is_subset].sort_values(("value", "circuit"))
    shown = alone.head(_BARS)
    gap = (cut["value"]["circuit"] - cut["value"]["model"])[is_subset].abs()
    spread = 100 * cut["value"]["model"][is_subset].std(ddof=1)
    halves = "unknown" if np.isnan(spread) else f"{spread:.0f}"
    with panels(2, 5.4, max(4.2, 0.24 * len(shown) + 1), shared=False) as (figure, (left, right)):
        at = np.arange(len(shown))
        value, low, high = (100 * shown[name]["circuit"] for name in ("value", "low", "high"))
        left.barh(at, 100 * whole["value"] - value, left=value, color=COLOURS[1], alpha=0.55)
        left.hlines(at, low, high, color="#222222", lw=1.2)
        left.plot(value, at, "o", color="#222222", ms=4, lw=0)
        left.axvline(100 * whole["value"], color="#222222", lw=1)
        left.set_yticks(at, [name.replace("mlp", "MLP") for name in shown.index])
        left.tick_params(axis="y", length=0, labelsize=10)
        left.invert_yaxis()
        left.grid(False)
        left.grid(True, axis="x")
        left.set_xlabel("recovered by the circuit without it (%)")
        left.set_title("Minimality")
        for chosen, marker, colour in ((~is_subset, "o", COLOURS[1]), (is_subset, "s", COLOURS[0])):
            points = 100 * cut["value"][chosen]
            right.plot(points["model"], points["circuit"], marker, ms=6, alpha=0.75, color=colour)
        right.axline((0, 0), slope=1, color=GREY, lw=1, ls="--")
        right.grid(True, axis="x")
        right.set_xlabel("recovered by the model without K (%)")
        right.set_ylabel("recovered by the circuit without K (%)")
        right.set_title("Completeness")
        legend(
            figure,
            {
                "K: one component": legend_key(color=COLOURS[1], marker="o", lw=0),
                "K: a random half of the circuit": legend_key(color=COLOURS[0], marker="s", lw=0),
            },
        )
        more = f" The {_BARS} of {len(alone)} that matter most." if len(alone) > _BARS else ""
        caption(
            figure,
            [
                f"Line: the circuit, {_percent(whole)}; bars: what it loses, with 95 % intervals",
                f"({cluster}s resampled).{more} Dashed: equal, as in a complete circuit; its",
                f"distance is {100 * gap.mean():.0f} percentage points in the mean over",
                f"{int(is_subset.sum())} random halves, whose own spread in the model is",
                f"{halves}. {split.capitalize()} split, n = {int(whole['n'])} prompts.",
            ],
        )
    return figure


def recovered_shares(
    rows: pd.DataFrame, circuit: str, by: list[str], cluster: str, seed: int
) -> pd.DataFrame:
    """Estimate what each condition recovers between all components ablated and the model.

    Args:
        rows: scores of one metric and split, of several arms.
        circuit: the arm with the condition of all components ablated (`n_kept` is 0).
        by: the columns that name a condition.
        cluster: what is resampled together.
        seed: of the bootstrap.

    Returns:
        A row per condition: `by`, and the fields of `recovered.Interval`.
    """
    of_circuit = select(rows, arm=circuit)
    intact = select(of_circuit, role=BASELINE).set_index("sample")
    ablated = of_circuit[of_circuit["n_kept"] == 0].set_index("sample")["score"]
    table = []
    for keys, group in steered_of(rows).groupby(by, dropna=False, sort=False):
        share: Interval = recovered(
            group.set_index("sample")["score"], intact["score"], ablated, intact[cluster], seed=seed
        )
        table.append({**dict(zip(by, keys, strict=True)), **vars(share)})
    return pd.DataFrame(table)


def _whole(share: float) -> str:
    """Format a share as whole per cent, without a minus at 0."""
    return f"{round(100 * share) + 0:d}"


def _percent(share: pd.Series) -> str:
    value, low, high = (_whole(share[name]) for name in ("value", "low", "high"))
    return f"{value} % ({low} to {high})"
