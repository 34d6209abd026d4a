"""Report the endings study: a table of results, shares of error nodes, and the finding."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.measures.lists import LIST_MEASURES
from pipeline.measures.significance import benjamini_hochberg, holm, p_above_zero

RULE_WORDS = {"firing": "wherever active", "recorded": "where recorded"}
"""Position rule of an ablation -> display name."""

NOTES = """
Cells: ablated minus base [95 % interval, topics resampled], mean over topics. In brackets: the mean
of the random controls (draws of as many other active features, by the same rule), and the
reconstruction alone.

- `diversity_mean` of a topic: distinct items / all items over its lists, after case folding.
- `diversity_variance` of a topic: the variance, over its lists, of the share of a list's items that
  no other list of the topic has.
- `n_items_mean`, `n_items_variance` of a topic: mean and variance, over its lists, of items a list.
- `self_bleu`, the second reading of diversity: BLEU of a list against the topic's others, orders 1
  to 4, averaged; higher is less diverse, and it rises with the number of lists.
- Where recorded: a feature is ablated at the position that it has in the recorded list of the same
  prompt and draw, whatever is written there now. Wherever active: at every position where it is
  active, in the prompt too, but for the first token.
- An ablation keeps what the reconstruction leaves out, the error; the reconstruction alone drops
  it, at all positions but the first. They are not each other's baseline.
- The features were chosen on the same lists that they are ablated in.
"""


def results_table(changes: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Tabulate one row per autoencoder and position rule, then one per reference.

    Args:
        changes: `site`, `source`, `draw`, `positions`, `column`, `mean`, `low`, `high`.
        references: `name`, `column`, `mean`, `low`, `high`.

    Returns:
        `name`, `positions`, and for each of `measures.lists.LIST_MEASURES` c: c, c_low, c_high;
        c_random, the mean change of the random draws; c_reconstruction. NaN if missing.
    """
    rows = []
    for site, site_rows in changes.groupby("site", sort=False):
        reconstruction = site_rows[site_rows["source"] == "none"].set_index("column")["mean"]
        for rule in RULE_WORDS:
            rule_rows = site_rows[site_rows["positions"] == rule]
            strong = rule_rows[rule_rows["source"] == "attributed"].set_index("column")
            if strong.empty:
                continue
            random = rule_rows[rule_rows["source"] == "random"].groupby("column")["mean"].mean()
            row = {"name": site, "positions": rule}
            for column in LIST_MEASURES:
                row |= _numbers(strong, column)
                row[f"{column}_random"] = random.get(column)
                row[f"{column}_reconstruction"] = reconstruction.get(column)
            rows.append(row)
    for name, site_rows in references.groupby("name", sort=False):
        row, indexed = {"name": name, "positions": ""}, site_rows.set_index("column")
        for column in LIST_MEASURES:
            row |= _numbers(indexed, column)
        rows.append(row)
    return pd.DataFrame(rows)


def results_text(results: pd.DataFrame) -> str:
    """Format the table in Markdown, followed by its formulas and rules."""
    head = ["autoencoder or reference", "ablated", *LIST_MEASURES]
    lines = [head, ["---"] * len(head)]
    for row in results.to_dict("records"):
        cells = [_cell(row, column) for column in LIST_MEASURES]
        lines.append([row["name"], RULE_WORDS.get(row["positions"], ""), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + NOTES


def error_words(shares: pd.DataFrame) -> str:
    """Write one sentence on the table of `sae.attributed.error_shares`."""
    ordered = shares.sort_values("error_share")
    least, most = ordered.iloc[0], ordered.iloc[-1]
    return (
        "The reconstruction's error carries "
        f"{100 * least['error_share']:.0f} % ({least['site']}) to "
        f"{100 * most['error_share']:.0f} % ({most['site']}) of the attribution of the metric, "
        "features and error summed over positions."
    )


def community_words(found: pd.DataFrame) -> str:
    """Write what the communities show beyond chance, corrected for their number.

    There is a community for nearly every cluster of features of any matrix, also of a random one:
    their number says nothing.
    """
    if found.empty:
        return "No community of lists that express features together was found."
    beyond, topical = (
        benjamini_hochberg(found[p].to_numpy(float)) < 0.05 for p in ("p", "topic_p")
    )
    n = len(found)
    of_topics = found[topical & (found["topic"] != "mixed")]
    named = ", ".join(sorted(set(of_topics["topic"])))
    one_topic = f" ({named} alone in {len(of_topics)} of them)" if named else ""
    lists, sites = found["samples"].map(tuple).nunique(), found["site"].nunique()
    return (
        f"Every cluster of features has a cluster of lists that expresses it most, in random "
        f"matrices too: {n} such communities at {sites} sites, of {lists} different sets of lists. "
        f"Lists of a topic keep together in {int(topical.sum())} of them{one_topic}, and in "
        f"{int(beyond.sum())} features are expressed together beyond topics, against features "
        f"shuffled over whole topics (both at a false discovery rate of 5 % over the {n}; "
        f"{int((found['p'] < 0.05).sum())} have an uncorrected p < 0.05, where chance gives "
        f"{0.05 * n:.0f})."
    )


def absent_words(sites: Sequence[str]) -> list[str]:
    """Write a sentence that names the sites without an expression matrix, if there are any."""
    if not sites:
        return []
    return [
        f"No expression matrix of {', '.join(sites)}: fewer than two features or unlike lists are "
        "left there."
    ]


def finding(table: pd.DataFrame, references: pd.DataFrame, lists: int) -> str:
    """Write one paragraph: ablating which autoencoders' features lengthens lists, and by how much.

    An autoencoder counts if its change in items is above 0 with p < 0.05, after Holm's correction
    for all autoencoders and position rules, and above that of each of its random draws under the
    same rule. The text gives the change against the base and against the mean of the random draws,
    and mentions if reconstruction alone has as large an effect.
    """
    rows = table[table["column"] == "n_items_mean"]
    topics, base = int(rows["n"].max()), float(rows["base"].iloc[0])
    said = " ".join(_longer(rows, rule, _corrected(rows)) for rule in RULE_WORDS)
    items_references = references[references["column"] == "n_items_mean"]
    others = ", ".join(
        f"{name} {mean:+.1f}"
        for name, mean in zip(items_references["name"], items_references["mean"], strict=True)
    )
    return (
        f"Asked for a short list the model gives {base:.1f} items ({lists} lists, {topics} topics; "
        f"intervals are 95 %, topics resampled). Features were chosen on the same lists that they "
        f"are ablated in. {said} Beside them: {others} items.{_reconstructed(table)}\n"
    )


def _reconstructed(table: pd.DataFrame) -> str:
    """Name the sites where reconstruction alone already changes diversity."""
    rows = table[(table["column"] == "diversity_mean") & (table["source"] == "none")]
    moved = rows[(rows["low"] > 0) | (rows["high"] < 0)]
    if moved.empty:
        return ""
    least, most = moved["mean"].min(), moved["mean"].max()
    return (
        f" With nothing ablated, reconstruction alone changes the distinct among all items of a "
        f"topic ({rows['base'].iloc[0]:.2f}) at {len(moved)} of {len(rows)} sites, by "
        f"{least:+.2f} to {most:+.2f}: there, changes of diversity are not the features' own."
    )


def _corrected(rows: pd.DataFrame) -> pd.Series:
    """Return Holm's p-value of each attributed ablation, by site and position rule."""
    strong = rows[rows["source"] == "attributed"].set_index(["site", "positions"])
    p = p_above_zero(*(strong[name].to_numpy(float) for name in ("mean", "stderr", "n")))
    return pd.Series(holm(p), index=strong.index)


def _longer(rows: pd.DataFrame, rule: str, p: pd.Series) -> str:
    rule_rows = rows[rows["positions"] == rule].set_index("site")
    strong = rule_rows[rule_rows["source"] == "attributed"]
    draws = rule_rows[rule_rows["source"] == "random"].groupby("site")["mean"]
    random, highest = draws.mean().reindex(strong.index), draws.max().reindex(strong.index)
    reconstruction = rows[rows["source"] == "none"].set_index("site")["mean"]
    certain = strong.index.map(lambda site: p[site, rule] < 0.05).to_numpy(dtype=bool)
    longer = strong[certain & ~(strong["mean"] <= highest)].sort_values("mean", ascending=False)
    listed = []
    for site, row in longer.iterrows():
        words = f"{site} by {row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        if pd.notna(random[site]):
            words += f", {row['mean'] - random[site]:.1f} more than random features"
        if round(reconstruction.get(site, float("-inf")), 1) >= round(row["mean"], 1):
            words += f" (its reconstruction alone does as much, {reconstruction[site]:+.1f})"
        listed.append(words)
    most = int(draws.size().max()) if len(draws) else 0
    control = (
        "; no random features were ablated beside them"
        if random.isna().any()
        # A further random draw would be the largest as often.
        else f", and more than each of {most} draws of random active features (by chance at 1 of "
        f"{most + 1} autoencoders)"
    )
    untested = "; a single topic has no test" if p.isna().any() else ""
    return (
        f"Ablated {RULE_WORDS[rule]}, the features of {len(longer)} of {len(strong)} autoencoders "
        f"make lists longer (p < 0.05, Holm's correction for {p.count()} tests{untested})"
        + control
        + (f": {'; '.join(listed)}." if listed else ".")
    )


def _numbers(own: pd.DataFrame, column: str) -> dict[str, float]:
    return {
        f"{column}{end}": own.at[column, name]
        for end, name in (("", "mean"), ("_low", "low"), ("_high", "high"))
    }


def _cell(row: Mapping[Any, Any], column: str) -> str:
    mean, low, high = (f"{row[f'{column}{end}']:+z.3f}" for end in ("", "_low", "_high"))
    beside = [
        f"{name} {row[f'{column}_{name}']:+z.3f}"
        for name in ("random", "reconstruction")
        if pd.notna(row.get(f"{column}_{name}"))
    ]
    return f"{mean} [{low}, {high}]" + (f" ({', '.join(beside)})" if beside else "")
