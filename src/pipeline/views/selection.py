"""Select the rows that a figure shows, and translate pipeline terms to figure text."""

import pandas as pd

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL, CURVE

INTERVENTIONS = {
    "add": "added to",
    "subtract": "subtracted from",
    "project_out": "projected out of",
    "clamp": "clamped on",
}
CONTROLS = {
    "shuffled": "shuffled labels",
    "covariance": "covariance-drawn",
    "isotropic": "isotropic",
    "other_task": "vector of another task",
    "other_heads": "sum of other heads",
    "other_features": "other features",
}
"""Control sources of a direction, in legend order."""

POSITIONS = {
    "all": "at all positions",
    "after_first": "at all positions but the first",
    "last": "at the last position",
    "generated": "at generated positions",
    "template": "at the chat template's positions",
    "subject": "at the subject's last token",
    "answer": "at the answer's positions",
}


def select(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Select the rows whose columns equal the given value, or one of a list of values.

    Columns are filtered in the given order.

    Raises:
        ValueError: a value does not occur; names it and the valid ones.
    """
    for column, values in wanted.items():
        choices = values if isinstance(values, list) else [values]
        present = table[column].dropna().unique().tolist()
        for choice in choices:
            if choice not in present:
                shown = ", ".join(map(str, sorted(present)[:20])) or "none"
                more = f" and {len(present) - 20} more" if len(present) > 20 else ""
                raise ValueError(f"no rows with {column} = {choice}; present: {shown}{more}")
        table = table[table[column].isin(choices)]
    return table


def rows_told_apart(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Sort the table by `columns`, after checking that they identify each row.

    Raises:
        ValueError: duplicate rows; names their conditions.
    """
    table = table.sort_values(columns, kind="stable")
    again = table.duplicated(columns).to_numpy()
    if again.any():
        second = int(again.argmax())
        pair = " and ".join(table["condition"].iloc[second - 1 : second + 1])
        raise ValueError(f"conditions {pair} agree in {', '.join(columns)}; valid: one each")
    return table


def steered_of(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of all conditions but the baseline."""
    return table[table["role"] != BASELINE]


def fitted_of(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows that are neither baseline nor control."""
    return table[table["role"].isin([CANDIDATE, CURVE])]


def controls_of(table: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of controls."""
    return table[table["role"] == CONTROL]


def label_of(means: pd.DataFrame) -> str:
    """Return the axis label of the metric of a summary's rows."""
    return str(means["metric_label"].iloc[0])


def baseline_of(summary: pd.DataFrame) -> pd.Series:
    """Return the row of the only baseline.

    Raises:
        ValueError: no baseline, or more than one.
    """
    rows = summary[summary["role"] == BASELINE]
    if len(rows) != 1:
        arms = ", ".join(summary["arm"].unique())
        raise ValueError(f"{len(rows)} baselines in arm {arms}; valid: 1")
    return rows.iloc[0]


def chosen_rule(means: pd.DataFrame) -> str:
    """Return the position rule of an arm's chosen setting.

    Raises:
        ValueError: no fitted direction at the chosen setting, or several position rules.
    """
    fitted = fitted_of(means[means["at_setting"]])
    rules = fitted["positions"].unique()
    if len(rules) != 1:
        raise ValueError(f"chosen position rules: {', '.join(rules) or 'none'}; valid: one an arm")
    return str(rules[0])


def rule_in_words(means: pd.DataFrame) -> str:
    """Describe the positions of the rows' position rule in words."""
    rule = means["positions"].iloc[0]
    return POSITIONS.get(rule, f"at {rule}")


def question(arm: pd.DataFrame) -> str:
    """Describe an arm in words: "Added to harmless requests"."""
    verbs = " / ".join(INTERVENTIONS[name] for name in steered_of(arm)["intervention"].unique())
    labels = " and ".join(sorted(arm["label"].unique()))
    text = f"{verbs} {labels} requests"
    return text[0].upper() + text[1:]


def counts_in_words(means: pd.DataFrame) -> str:
    """State the numbers of scored and unscored rows behind each mean of a summary."""
    low, high = means["n"].min(), means["n"].max()
    unscored = means["n_unscored"].max()
    scored = f"n = {low}" if low == high else f"n = {low} to {high}"
    return f"{scored} per mean, " + (f"up to {unscored} unscored" if unscored else "none unscored")


def shown_times(means: pd.DataFrame) -> int:
    """Return the display factor of a metric's values: 100 if shown in per cent, else 1."""
    return 100 if means["percent"].iloc[0] else 1


def baseline_in_words(means: pd.DataFrame) -> str:
    """State the baseline mean and its interval.

    Raises:
        ValueError: as `baseline_of`.
    """
    low, mean, high = baseline_of(means)[["low", "mean", "high"]] * shown_times(means)
    return f"Without intervention: {mean:.3g}, 95 % interval {low:.3g} to {high:.3g}."


def controls_in_words(means: pd.DataFrame) -> str:
    """State which controls a summary contains, and with how many draws."""
    present = controls_of(means)
    draws = present.groupby("source")["draw"].nunique()
    if draws.empty:
        return "No controls."
    named = ", ".join(f"{name} {draws[key]}" for key, name in CONTROLS.items() if key in draws)
    return f"Controls: mean and range over draws ({named})."
