"""The table of results, the shares of error nodes and the finding say what was planted, no more."""

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.lists import LIST_MEASURES
from pipeline.methods.sae.attributed import shares_of_error
from pipeline.views.results import (
    community_words,
    error_words,
    finding,
    results_table,
    results_text,
)

A, B = "blocks.1.z", "blocks.2.resid_post"


def changes(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (site, source, draw, positions, mean, low, high), the same for every column."""
    names = ["site", "source", "draw", "positions", "mean", "low", "high"]
    table = pd.DataFrame(rows, columns=names).assign(n=23, base=5.0)
    table["stderr"] = (table["high"] - table["low"]) / 4
    return pd.concat([table.assign(column=column) for column in LIST_MEASURES], ignore_index=True)


def both_rules(site: str, source: str, draw: int, *numbers: float) -> list[tuple]:
    return [(site, source, draw, rule, *numbers) for rule in ("firing", "recorded")]


REFERENCES = pd.DataFrame(
    [("template: long", c, 9.0, 8.0, 10.0) for c in LIST_MEASURES],
    columns=["name", "column", "mean", "low", "high"],
)
TABLE = changes(
    [
        *both_rules(A, "attributed", 0, 2.0, 1.5, 2.5),
        *both_rules(A, "random", 0, 0.1, -0.1, 0.3),
        *both_rules(A, "random", 1, 0.3, 0.1, 0.5),
        (A, "none", 0, "all", 0.25, 0.0, 0.5),
        *both_rules(B, "attributed", 0, 0.3, 0.0, 0.6),
        *both_rules(B, "random", 0, 0.0, -0.1, 0.1),
        (B, "none", 0, "all", 0.0, -0.1, 0.1),
    ]
)


def test_a_row_for_each_autoencoder_and_rule_then_references():
    table = results_table(TABLE, REFERENCES)
    assert list(zip(table["name"], table["positions"], strict=True)) == [
        (A, "firing"),
        (A, "recorded"),
        (B, "firing"),
        (B, "recorded"),
        ("template: long", ""),
    ]
    for column in LIST_MEASURES:
        ends = ["", "_low", "_high", "_random", "_reconstruction"]
        row = table.loc[0, [column + end for end in ends]].astype(float)
        assert row.tolist() == pytest.approx([2.0, 1.5, 2.5, 0.2, 0.25])
        assert table.loc[4, column] == 9.0 and np.isnan(table.loc[4, f"{column}_random"])
    text = results_text(table)
    assert text.count(f"| {A} |") == 2
    assert "+2.000 [+1.500, +2.500] (random +0.200, reconstruction +0.250)" in text
    assert "+9.000 [+8.000, +10.000] |" in text


def test_a_finding_is_corrected_and_beyond_its_random_features():
    """B's 0.3 is above its random features, but not above 0 after four tests."""
    text = finding(TABLE, REFERENCES, 115)
    assert (
        "1 of 2 autoencoders make lists longer (p < 0.05, Holm's correction for 4 tests), and more "
        "than each of 2 draws of random active features (by chance at 1 of 3 autoencoders): "
        f"{A} by 2.0 [1.5, 2.5], 1.8 more than"
    ) in text
    assert B not in text and "the same lists that they are ablated in" in text
    alone = TABLE[(TABLE["site"] == B) & (TABLE["positions"] != "recorded")]
    assert f"{B} by 0.3" in finding(alone, REFERENCES, 115)


def test_one_strong_random_draw_is_enough_to_doubt():
    strong = TABLE.copy()
    drawn = (TABLE["source"] == "random") & (TABLE["draw"] == 1)
    strong.loc[drawn, "mean"] = 2.1
    assert f"{A} by" not in finding(strong, REFERENCES, 115)


def test_without_random_features_nothing_is_beyond_them():
    text = finding(TABLE[TABLE["source"] != "random"], REFERENCES, 115)
    assert "more than" not in text and "no random features were ablated" in text
    assert f"{A} by 2.0" in text


def test_a_reconstruction_that_does_as_much_is_named():
    alike = TABLE.assign(mean=TABLE["mean"].where(TABLE["source"] != "none", 2.02))
    assert "(its reconstruction alone does as much, +2.0)" in finding(alike, REFERENCES, 115)
    assert "reconstruction alone" not in finding(TABLE, REFERENCES, 115)


def test_diversity_that_reconstruction_alone_changes_is_named():
    moved = TABLE.copy()
    own = (TABLE["column"] == "diversity_mean") & (TABLE["source"] == "none")
    moved.loc[own & (TABLE["site"] == A), ["mean", "low", "high"]] = 0.25, 0.1, 0.5
    text = finding(moved, REFERENCES, 115)
    assert "alone changes the distinct among all items of a topic (5.00) at 1 of 2 sites" in text
    assert "by +0.25 to +0.25" in text


def test_the_errors_share_is_of_sums_over_positions():
    errors = pd.DataFrame(
        [(0, A, 3, 0.5), (0, A, 4, -1.5), (1, A, 3, 3.0), (0, B, 3, 0.0), (1, B, 3, 0.0)],
        columns=["sample", "site", "position", "attribution"],
    )
    totals = pd.DataFrame(
        [(0, A, 1.0, 3.0), (1, A, 2.0, -1.0), (0, B, 1.0, 2.0), (1, B, 2.0, 2.0)],
        columns=["sample", "site", "metric", "attribution"],
    )
    shares = shares_of_error(errors, totals)
    first = shares.set_index("site").loc[A]
    # |-1| of |3| + |-1|, and |3| of |-1| + |3|.
    assert first.to_dict() == {
        "features": 1.0,
        "error": 1.0,
        "both": 2.0,
        "metric": 1.5,
        "error_share": (0.25 + 0.75) / 2,
    }
    assert f"0 % ({B}) to 50 % ({A})" in error_words(shares)


def test_communities_are_told_against_chance():
    found = pd.DataFrame(
        {
            "site": [A, A, B, B],
            "samples": [(1, 2), (3, 4), (1, 2), (5, 6)],
            "p": [0.005, 0.04, 0.5, 0.6],
            "topic": ["birds", "mixed", "tools", "tools"],
            "topic_p": [0.001, 0.02, 0.04, 0.9],
        }
    )
    text = community_words(found)
    assert "in random matrices too: 4 such communities at 2 sites, of 3 different sets" in text
    # Of the three with p < 0.05 the first two remain at a false discovery rate of 5 %.
    assert "keep together in 2 of them (birds alone in 1 of them)" in text
    assert "and in 1 features" in text
    assert "2 have an uncorrected p < 0.05, where chance gives 0" in text
    assert community_words(pd.DataFrame()).startswith("No community")


def test_what_has_no_standard_error_is_not_said_to_be_tested():
    single = TABLE.assign(stderr=np.nan, low=np.nan, high=np.nan, n=1)
    text = finding(single, REFERENCES, 5)
    assert (
        "0 of 2 autoencoders make lists longer (p < 0.05, Holm's correction for 0 tests; " in text
    )
    assert "a single topic has no test" in text
    assert "for 4 tests)" in finding(TABLE, REFERENCES, 115)
