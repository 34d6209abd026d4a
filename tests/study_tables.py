"""Tables of a small steering study, as its stages write them."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.measures.scores import with_conditions
from pipeline.measures.statistics import summarise

SHARES = ["refusal", "compliance"]
LABELS = {"refusal": "refuses", "compliance": "complies", "n_items": "items per list"}
CLUSTER: dict[str, Any] = {"cluster": "sample", "seed": 0}
LAYERS, STRENGTHS = [0, 1, 2, 5], [0.5, 1.0]


def condition(rng: np.random.Generator, **columns: Any) -> pd.DataFrame:
    """Scores of one condition: shares of refusals that depend on the layer, or item counts."""
    layer = columns["layer"]
    samples = np.arange(12)
    first = {"harmless": 0, "harmful": 100}[columns["label"]]
    level = 0.05 if layer is pd.NA else 0.2 + 0.1 * layer * columns["strength"]
    scores = {
        "refusal": (rng.random(12) < level).astype(float),
        "compliance": (rng.random(12) < 1 - level).astype(float),
        "n_items": 5 + np.round(4 * level + rng.normal(size=12)),
    }
    rows = pd.DataFrame(
        {"sample": samples + first, "repeat": 0, "split": "test", "topic": samples % 4}
    )
    identity = "-".join(str(columns[key]) for key in ("arm", "source", "draw", "layer", "strength"))
    rows = rows.assign(**columns, condition=identity).astype({"layer": "Int64"})
    return pd.concat([rows.assign(metric=name, score=score) for name, score in scores.items()])


def swept_scores() -> pd.DataFrame:
    """Two arms at every layer and strength, each with controls."""
    rng = np.random.default_rng(0)
    conditions = []
    for arm, intervention, label in (
        ("add", "add", "harmless"),
        ("ablate", "project_out", "harmful"),
    ):
        none = dict.fromkeys(("intervention", "source", "draw", "strength", "positions"))
        baseline = {**none, "role": BASELINE, "layer": pd.NA}
        conditions.append(condition(rng, arm=arm, label=label, **baseline))
        for source, draw in (("fitted", 0), ("shuffled", 0), ("shuffled", 1), ("isotropic", 0)):
            for layer in LAYERS:
                for strength in STRENGTHS:
                    conditions.append(
                        condition(
                            rng,
                            arm=arm,
                            role=CANDIDATE if source == "fitted" else CONTROL,
                            label=label,
                            intervention=intervention,
                            source=source,
                            draw=draw,
                            layer=layer,
                            strength=strength,
                            positions="all",
                        )
                    )
    table = pd.concat(conditions, ignore_index=True)
    full = table["strength"] == 1.0
    return table.assign(
        at_setting=(table["role"] == BASELINE) | full,
        is_setting=full & (table["role"] == CANDIDATE) & (table["layer"] == 2),
    )


def summary_of(scores: pd.DataFrame) -> pd.DataFrame:
    """As a study's stage of scores makes it."""
    by = ["condition", "label", "split", "metric"]
    means = summarise(scores, by, shares=SHARES, **CLUSTER)
    is_share = means["metric"].isin(SHARES)
    means = means.assign(metric_label=means["metric"].map(LABELS), percent=is_share, share=is_share)
    axes = ["role", "arm", "intervention", "source", "draw", "layer", "strength", "positions"]
    conditions = scores[["condition", *axes, "at_setting", "is_setting"]].drop_duplicates(
        "condition"
    )
    return with_conditions(means, conditions)
