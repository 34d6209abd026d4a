"""Token types of lists written by hand, and tables whose numbers are known."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.lists import (
    LIST_MEASURES,
    ablation_table,
    by_topic,
    last_item_token,
    token_types,
)
from pipeline.measures.metrics import diversity, n_items, self_bleu
from pipeline.methods.list_endings import list_ends

ITEM, B, N, E = "item", "filler_blank", "line_break", "end"


@pytest.mark.parametrize(
    ("pieces", "ended", "expected"),
    [
        (["car", "rot", "\n", "pea"], True, [ITEM, ITEM, N, ITEM, E]),
        (["car", " ", "\n", "pea", " "], True, [ITEM, B, N, ITEM, B, E]),
        (["car", " ", " ", "\n"], False, [ITEM, B, B, N]),
        # A blank inside an item is none; a blank with its line break is a line break.
        (["New", " ", "York", " \n", " ", "Rome"], True, [ITEM, ITEM, ITEM, N, ITEM, ITEM, E]),
        (["a", "\n\n", " ", "\n"], True, [ITEM, N, B, N, E]),
        ([], True, [E]),
    ],
)
def test_types_are_those_of_a_reader(pieces, ended, expected):
    assert token_types(pieces, ended=ended) == expected


def test_the_metric_is_read_at_the_last_items_last_token():
    pieces = ["New", " ", "York", "\n", "Ro", "me", " ", "\n", " "]
    types = token_types(pieces, ended=True)
    assert pieces[last_item_token(types)] == "me"
    with pytest.raises(ValueError, match="no item among 2 tokens"):
        last_item_token([N, E])


class Letters:
    """A tokenizer whose tokens are characters, by their numbers."""

    @staticmethod
    def decode(tokens):
        return "".join(map(chr, tokens))


def generated(texts: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample": range(len(texts)),
            "tokens": [[1] * (3 + number) for number in range(len(texts))],
            "completion_tokens": [list(map(ord, text)) for text, _ in texts],
            "stopped": [stopped for _, stopped in texts],
        }
    )


def test_lists_that_are_cut_off_or_empty_have_no_end():
    lists = generated([("a\nbc \n", "length"), ("a\nbc \n", "end"), ("\n ", "end"), ("d", "end")])
    ends = list_ends(Letters, lists)
    # Prompts have 4 and 6 tokens; the last item's last is the fourth, and the first, behind them.
    assert ends.to_dict() == {1: 4 + 3, 3: 6 + 0}
    with pytest.raises(ValueError, match="none of 2 lists has an item and ended before the length"):
        list_ends(Letters, lists.loc[[0, 2]])


def completions(condition: str, texts: dict[str, list[str]]) -> pd.DataFrame:
    rows = [
        {"condition": condition, "topic": t, "sample": n, "repeat": r, "completion": text}
        for n, (t, own) in enumerate(texts.items())
        for r, text in enumerate(own)
    ]
    return pd.DataFrame(rows).assign(label="short")


BASE = completions("base", {"x": ["a\nb", "a\nc\nd"], "y": ["e", "e \nf\nE"]})
ABLATED = completions("sae", {"x": ["a\nb\nc\nd", "e\nf\ng\nh"], "y": ["e\nf", "E\nF"]})


def test_a_topics_numbers_are_those_by_hand():
    table = by_topic(BASE.sample(frac=1, random_state=1))
    # x: 4 of 5 items distinct, unshared 1/2 and 2/3; y: 2 of 4, unshared 0/1 and 1/3.
    assert table.loc["x", LIST_MEASURES[:4]].tolist() == pytest.approx([4 / 5, 1 / 72, 2.5, 0.5])
    assert table.loc["y", LIST_MEASURES[:4]].tolist() == pytest.approx([2 / 4, 1 / 18, 2.0, 2.0])


def test_no_number_depends_on_the_order_of_completions():
    texts = ["a\nb\nc", "a\nd", "A\ne \nb\nf", "g"]
    tables = [
        by_topic(completions("base", {"x": [texts[place] for place in order]}))
        for order in permutations(range(4))
    ]
    assert all(np.allclose(table, tables[0], rtol=1e-12) for table in tables)
    # Unshared: c of three, d of two, e and f of four, g of one.
    expected = np.var([1 / 3, 1 / 2, 2 / 4, 1], ddof=1)
    assert tables[0].loc["x", "diversity_variance"] == pytest.approx(expected)


def test_means_are_those_of_the_metrics():
    table = by_topic(BASE)
    pairs = (("diversity_mean", diversity), ("n_items_mean", n_items), ("self_bleu", self_bleu))
    for column, metric in pairs:
        assert metric(BASE).groupby(BASE["topic"]).mean().tolist() == table[column].tolist()


def test_differences_are_of_topics():
    table = ablation_table(pd.concat([BASE, ABLATED]), baseline="base", seed=0)
    assert table["column"].tolist() == list(LIST_MEASURES)
    expected = (by_topic(ABLATED) - by_topic(BASE)).mean()
    assert table["mean"].tolist() == pytest.approx(expected.tolist())
    assert (table["ablated"] - table["base"]).tolist() == pytest.approx(expected.tolist())
    assert table["n"].tolist() == [2] * 5
    items = table[table["column"] == "n_items_mean"].iloc[0]
    assert (items["base"], items["ablated"], items["mean"]) == (2.25, 3.0, 0.75)
    assert items["low"] <= 0 <= 1.5 <= items["high"]


def test_the_interval_covers_a_planted_difference():
    """Forty topics whose lists get three items longer, give or take one."""
    rng = np.random.default_rng(0)
    texts = {"base": {}, "sae": {}}
    for topic in range(40):
        for name, mean in (("base", 5), ("sae", 8)):
            counts = mean + rng.integers(-1, 2, 5)
            texts[name][f"t{topic:02d}"] = ["\n".join(f"i{i}" for i in range(n)) for n in counts]
    table = ablation_table(
        pd.concat([completions(name, own) for name, own in texts.items()]), baseline="base", seed=0
    ).set_index("column")
    items = table.loc["n_items_mean"]
    assert items["low"] < 3 < items["high"] and items["high"] - items["low"] < 0.5


def test_wrong_arguments_are_named():
    both = pd.concat([BASE, ABLATED])
    with pytest.raises(ValueError, match="no condition 'none'; there are: base, sae"):
        ablation_table(both, baseline="none", seed=0)
    with pytest.raises(ValueError, match="topic 'y' is not in both condition 'sae' and 'base'"):
        ablation_table(pd.concat([BASE, ABLATED[ABLATED["topic"] == "x"]]), baseline="base", seed=0)
