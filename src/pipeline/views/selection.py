"""The rows of a table that a view shows, and how the pipeline's terms read in a figure."""

import pandas as pd

METRICS = {
    "refusal": "refuses",
    "refusal_odds": "log-odds of refusing (nats)",
    "kl": "KL divergence (nats)",
    "compliance": "complies",
    "n_items": "items per list",
    "filler_blanks": "filler blanks per list",
    "unique_items": "distinct items in a list",
    "diversity": "distinct items over a topic",
    "self_bleu": "self-BLEU",
    "at_length_limit": "cut at the length limit",
    "cross_entropy": "cross-entropy (nats per token)",
}
"""How our metrics read on an axis; any other is shown by its own name."""

INTERVENTIONS = {
    "add": "added to",
    "subtract": "subtracted from",
    "project_out": "projected out of",
}
CONTROLS = {
    "shuffled": "shuffled labels",
    "covariance": "covariance-drawn",
    "isotropic": "isotropic",
}
"""Sources of a direction that carry no meaning, in the order of a legend."""

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
    """The rows whose columns have the wanted value, or one of a list of them.

    Columns are narrowed in the order given.

    Raises:
        ValueError: a wanted value is not there; names it and those that are.
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
    """The table sorted by `columns`, once sure that no two rows agree in all of them.

    Raises:
        ValueError: two rows do; names their conditions.
    """
    table = table.sort_values(columns, kind="stable")
    again = table.duplicated(columns).to_numpy()
    if again.any():
        second = int(again.argmax())
        pair = " and ".join(table["condition"].iloc[second - 1 : second + 1])
        raise ValueError(f"conditions {pair} agree in {', '.join(columns)}; valid: one each")
    return table


def steered_of(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of conditions with an intervention."""
    return table[table["intervention"] != "none"]


def baseline_of(summary: pd.DataFrame) -> pd.Series:
    """The row of the one condition without an intervention.

    Raises:
        ValueError: there is none, or more than one.
    """
    rows = summary[summary["intervention"] == "none"]
    if len(rows) != 1:
        arms = ", ".join(summary["arm"].unique())
        raise ValueError(f"{len(rows)} baselines in arm {arms}; valid: 1")
    return rows.iloc[0]


def chosen_rule(means: pd.DataFrame) -> str:
    """The position rule that an arm was chosen to be reported by.

    Raises:
        ValueError: no fitted direction is marked as chosen, or of more than one rule.
    """
    fitted = means[means["chosen"] & (means["source"] == "fitted")]
    rules = fitted["positions"].unique()
    if len(rules) != 1:
        raise ValueError(f"chosen position rules: {', '.join(rules) or 'none'}; valid: one an arm")
    return str(rules[0])


def rule_in_words(means: pd.DataFrame) -> str:
    """At which positions the rows of one rule act."""
    rule = means["positions"].iloc[0]
    return POSITIONS.get(rule, f"at {rule}")


def question(arm: pd.DataFrame) -> str:
    """What an arm asks, in words: "Added to harmless requests"."""
    verbs = " / ".join(INTERVENTIONS[name] for name in steered_of(arm)["intervention"].unique())
    labels = " and ".join(sorted(arm["label"].unique()))
    return f"{verbs} {labels} requests".capitalize()


def counts_in_words(means: pd.DataFrame) -> str:
    """How many scored and unscored rows stand behind each mean of a summary."""
    low, high = means["n"].min(), means["n"].max()
    unscored = means["n_unscored"].max()
    scored = f"n = {low}" if low == high else f"n = {low} to {high}"
    return f"{scored} per mean, " + (f"up to {unscored} unscored" if unscored else "none unscored")


def controls_in_words(means: pd.DataFrame) -> str:
    """Which controls a summary holds, and of how many draws."""
    present = means[means["source"].isin(list(CONTROLS))]
    draws = present.groupby("source")["draw"].nunique()
    if draws.empty:
        return "No controls."
    named = ", ".join(f"{name} {draws[key]}" for key, name in CONTROLS.items() if key in draws)
    return f"Controls: mean and range over draws ({named})."
