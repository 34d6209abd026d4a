"""Figures of fine-tuning: what is gained on the trained skill, and what is lost elsewhere."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.config.declared import ReadingName
from pipeline.measures.forgetting import gains_and_losses, losses_compared, skill_changes
from pipeline.measures.pareto import pareto_front
from pipeline.measures.statistics import Estimate, estimate
from pipeline.views.marks import GREY, RING, legend_key
from pipeline.views.panels import caption, legend, panels, styles_of
from pipeline.views.readings import table_of

_ALPHA = 0.05
_LINEAR = 1e-3
"""Divergence up to here is drawn on a linear scale, more on a logarithmic one."""
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "*", "h")
"""Of the steps of all variants, in order; those of later steps are their numbers."""


def gain_and_loss(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    answers: ReadingName,
    texts: ReadingName,
    control: str | None = None,
    names: dict[str, str] = {},  # noqa: B006 - never changed
) -> Figure:
    """Draw the accuracy on the trained skill against what each variant loses, over its steps.

    Left: against the mean change of accuracy on the other skills. Right: against the divergence of
    the predictions of unrelated text.

    Args:
        readings: tables by name.
        seed: of the bootstrap.
        answers: of `tuned_answers`.
        texts: of `tuned_texts`.
        control: the variant that cannot learn the skill.
        names: variant -> its name in the figure, if another.

    Raises:
        ValueError: no such reading or variant, or no other skill.
    """
    table, losses = table_of(readings, answers), table_of(readings, texts)
    points = gains_and_losses(table, seed=seed).merge(_divergences(losses, seed))
    start, tuned = points[points["step"] == 0].iloc[0], points[points["step"] > 0]
    variants = list(dict.fromkeys(tuned["variant"]))
    if control is not None and control not in variants:
        raise ValueError(f"no variant {control!r}; valid: {', '.join(variants)}")
    shown = [name for name in variants if name != control]
    styles = styles_of(shown, mixed=True)
    if control is not None:
        styles[control] = {"color": GREY, "ls": "-"}
    markers = _markers_of(tuned["step"])
    with panels(2, 6.4, 4.8, shared=False) as (figure, (left, right)):
        for axis, x in ((left, "others"), (right, "kl")):
            for name in variants:
                rows = tuned[tuned["variant"] == name]
                _draw_variant(axis, start, rows, x, styles[name], markers)
            axis.plot(start[x], start["target"], "o", ms=9, color="black", zorder=5)
            axis.set_ylim(-0.04, 1.04)
            axis.set_ylabel("right answers, trained skill (%)")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
            axis.grid(True, axis="both")
        able = tuned[tuned["variant"].isin(shown)]
        for axis, x, sign in ((left, "others", -1), (right, "kl", 1)):
            damage = sign * able[x].to_numpy()
            front = able[pareto_front(able["target"].to_numpy(), damage)]
            axis.plot(front[x], front["target"], marker="o", ms=14, zorder=6, **RING)
        left.set_xlabel("change of right answers, other skills (points)")
        left.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}"))
        left.set_title("Gain against other skills")
        right.set_xscale("symlog", linthresh=_LINEAR, linscale=0.4)
        right.set_xlim(left=-0.3 * _LINEAR)
        right.set_xlabel("divergence on unrelated text (nats a token)")
        right.set_title("Gain against unrelated text")
        keys = {names.get(name, name): legend_key(lw=2.4, **styles[name]) for name in variants}
        keys["before the training"] = legend_key(color="black", lw=0, marker="o", ms=9)
        keys |= {
            f"after {step} steps": legend_key(color=GREY, lw=0, marker=marker, ms=7)
            for step, marker in markers.items()
        }
        keys["no other beats it"] = legend_key(marker="o", ms=12, **RING)
        legend(figure, keys)
        others = table[~table["trained"]]
        n_others = others["sample"].nunique()
        caption(
            figure,
            [
                f"{_splits(table)}: n = {table['sample'].nunique() - n_others} prompts of the",
                f"trained skill, n = {n_others} of {others['label'].nunique()} other skills, which",
                f"weigh the same; KL over n = {losses['text'].nunique()} texts that no variant was",
                "trained on.",
                f"Lines at points: 95 % intervals, over {_clusters(table)}, over skills and over",
                "texts.",
                "Control: trained on the answers of other prompts." if control else "No control.",
                _compared_in_words(table, shown, names, seed),
            ],
        )
    return figure


def _compared_in_words(
    answers: pd.DataFrame, shown: list[str], names: Mapping[str, str], seed: int
) -> str:
    """State by how many points the others differ from the first variant on other skills."""
    first, *rest = shown
    if not rest:
        return ""
    compared = losses_compared(answers, first, seed=seed)
    words = [f"{names.get(name, name)} {_in_points(compared[name])}" for name in rest]
    return f"On other skills after the last step, points above {names.get(first, first)}: " + (
        ", ".join(words) + "."
    )


def _in_points(difference: Estimate) -> str:
    mean, low, high = (
        f"{100 * value:+.0f}" for value in (difference.mean, difference.low, difference.high)
    )
    return mean if np.isnan(difference.low) else f"{mean} ({low} to {high})"


def _markers_of(steps: pd.Series) -> dict[int, str]:
    """Give each step, of whichever variant, a marker of its own."""
    listed = sorted(int(step) for step in steps.unique())
    numbers = [f"${step}$" for step in listed[len(_MARKERS) :]]
    return dict(zip(listed, (*_MARKERS, *numbers), strict=False))


def _draw_variant(
    axis: Axes,
    start: pd.Series,
    rows: pd.DataFrame,
    x: str,
    style: Mapping[str, Any],
    markers: Mapping[int, str],
) -> None:
    """Draw a variant's path from the unchanged model over its steps, with intervals."""
    rows = rows.sort_values("step")
    path = pd.concat([start.to_frame().T, rows])
    axis.plot(path[x].astype(float), path["target"].astype(float), lw=1.8, alpha=0.8, **style)
    thin: dict[str, Any] = {"color": style["color"], "lw": 0.9, "alpha": 0.6}
    axis.vlines(rows[x], rows["target_low"], rows["target_high"], **thin)
    axis.hlines(rows["target"], rows[f"{x}_low"], rows[f"{x}_high"], **thin)
    for _, row in rows.iterrows():
        point: dict[str, Any] = {"marker": markers[row["step"]], "ms": 7, "color": style["color"]}
        axis.plot(row[x], row["target"], zorder=4, **point)


def _wrapped(name: str) -> str:
    """Break a name into lines of at most 13 letters, but not inside "5 %"."""
    return textwrap.fill(name.replace(" %", "\N{NO-BREAK SPACE}%"), 13)


def _splits(table: pd.DataFrame) -> str:
    return f"{', '.join(table['split'].unique()).capitalize()} split"


def _clusters(table: pd.DataFrame) -> str:
    """Name what intervals and tests of answers are over."""
    without = table["topic"] == ""
    if without.all():
        return "prompts"
    return "topics (each prompt without one)" if without.any() else "topics"


def _divergences(texts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Estimate the mean divergence of each variant and step over texts."""
    rows = []
    for (variant, step), part in texts.groupby(["variant", "step"], sort=False):
        kl = estimate(part["kl"], part["text"], proportion=False, seed=seed, within=(0.0, np.inf))
        rows.append((variant, step, kl.mean, kl.low, kl.high))
    return pd.DataFrame(rows, columns=["variant", "step", "kl", "kl_low", "kl_high"])


def _skills(changes: pd.DataFrame) -> pd.Series:
    """Name each skill by its label, of one that is trained in part its other prompts too."""
    in_part = changes.groupby("label")["trained"].transform("nunique") > 1
    return changes["label"].where(~in_part | changes["trained"], changes["label"] + ", not trained")


def skill_map(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    answers: ReadingName,
    step: int | None = None,
    names: dict[str, str] = {},  # noqa: B006 - never changed
) -> Figure:
    """Draw the change of each skill's accuracy under each variant as a map.

    Args:
        readings: tables by name.
        seed: of the bootstrap.
        answers: of `tuned_answers`.
        step: the checkpoint; None for each variant's last.
        names: variant -> its name in the figure, if another.

    Raises:
        ValueError: no such reading or checkpoint.
    """
    table = table_of(readings, answers)
    changes = skill_changes(table, seed=seed)
    if step is not None and step not in set(changes["step"]):
        valid = ", ".join(map(str, sorted(changes["step"].unique())))
        raise ValueError(f"step {step} has no weights; valid: {valid}")
    changes = changes.assign(skill=_skills(changes))
    last = changes.groupby("variant")["step"].transform("max") if step is None else step
    shown = changes[changes["step"] == last]
    variants, skills = (list(dict.fromkeys(shown[name])) for name in ("variant", "skill"))
    without = [name for name in dict.fromkeys(changes["variant"]) if name not in variants]
    grid = shown.pivot(index="skill", columns="variant", values="change")
    passing = shown.pivot(index="skill", columns="variant", values="p_adjusted") < _ALPHA
    grid, passing = (part.loc[skills, variants] for part in (100 * grid, passing))
    once = shown.drop_duplicates("skill").set_index("skill")
    height = 0.42 * len(skills) + 1.2
    with panels(1, 1.15 * len(variants) + 4.6, height) as (figure, (axis,)):
        axis.imshow(grid, cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
        for (row, column), change in np.ndenumerate(grid.to_numpy()):
            passes = passing.to_numpy()[row, column]
            style: dict[str, Any] = {
                "weight": "bold" if passes else "normal",
                "ha": "center",
                "va": "center",
            }
            colour = "white" if abs(change) > 55 else "#222222" if passes else "#777777"
            text = f"{change:+.0f}".replace("-", "\N{MINUS SIGN}")
            axis.text(column, row, text, color=colour, **style)
        wrapped = [_wrapped(names.get(name, name)) for name in variants]
        axis.set_xticks(range(len(variants)), wrapped, fontsize=10)
        named = [f"{skill} ({100 * once['before'][skill]:.0f} %)" for skill in skills]
        axis.set_yticks(range(len(skills)), named)
        for tick, skill in zip(axis.get_yticklabels(), skills, strict=True):
            if bool(once["trained"][skill]):
                tick.set_fontweight("bold")
        axis.grid(False)
        axis.tick_params(length=0)
        axis.set_title("Change of right answers by skill (points)")
        bar = figure.colorbar(ScalarMappable(Normalize(-100, 100), "RdBu"), ax=axis, pad=0.01)
        bar.set_label("change (points)", fontsize=11)
        steps = sorted(shown["step"].unique())
        n = once["n"]
        tested = int(changes["p_adjusted"].notna().sum())
        untested = (
            f"{len(changes) - tested} changes of skills with a single topic are not tested."
            if tested < len(changes)
            else ""
        )
        caption(
            figure,
            [
                f"After {', '.join(map(str, steps))} steps. Beside the skills: right before the",
                "training; the trained skill in bold letters.",
                f"{_splits(table)}, n = {n.min()} to {n.max()} prompts a skill, the same before",
                f"and after. Bold: p < 0.05, t test over {_clusters(table)}, Benjamini-Hochberg",
                f"over {tested} changes at all checkpoints; grey: not told from noise.",
                untested,
                f"Without weights of this step: {', '.join(names.get(v, v) for v in without)}."
                if without
                else "",
            ],
        )
    return figure
