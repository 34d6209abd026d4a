"""Attention patterns against transformers', summaries against a plain loop and planted heads."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, LAYERS, random_prompts, tiny

from pipeline.data.datasets import tokenise
from pipeline.methods.attention import (
    DATASET,
    RANDOM,
    SCORES,
    attention_patterns,
    attention_summary,
    summary_of,
)
from pipeline.model.loading import LanguageModel

HEADS = 4


def dataset(model, count=5) -> pd.DataFrame:
    """Prompts of unlike lengths in which tokens come again."""
    rows = [[f"w{6 + token % 9}" for token in row] for row in random_prompts(count)]
    frame = pd.DataFrame({"instruction": [" ".join(row) for row in rows], "raw": True})
    frame = frame.assign(label="l", split="test", topic=[f"t{n}" for n in range(count)])
    return tokenise(frame, model.tokenizer)


def attentions(model, tokens) -> np.ndarray:
    """transformers' own [layer, head, query, key]."""
    eager = copy.deepcopy(model.hf)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(torch.tensor([tokens]), output_attentions=True, use_cache=False)
    return torch.stack([layer[0] for layer in out.attentions]).double().numpy()


def plain_summary(tokens, weights) -> dict[str, float]:
    """The scores of one head, as they are written in words."""
    queries = range(1, len(tokens))
    scores = {
        "first": np.mean([weights[i, 0] for i in queries]),
        "previous": np.mean([weights[i, i - 1] for i in queries]),
        "entropy": np.mean([-sum(p * math.log(p) for p in weights[i] if p > 0) for i in queries]),
    }
    same, after = [], []
    for i in queries:
        earlier = [j for j in range(i) if tokens[j] == tokens[i]]
        if earlier:
            same.append(sum(weights[i, j] for j in earlier))
        if [j for j in earlier if j + 1 < i]:
            after.append(sum(weights[i, j + 1] for j in earlier if j + 1 < i))
    return scores | {
        name: np.mean(values) if values else np.nan
        for name, values in (("duplicate", same), ("induction", after))
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_those_of_transformers(family):
    model = tiny(family)
    prompts = dataset(model)
    table = attention_patterns(model, prompts, samples=[3, 1])
    assert table["sample"].unique().tolist() == [3, 1]
    for sample, rows in table.groupby("sample"):
        tokens = prompts["tokens"][sample]
        expected = attentions(model, tokens)
        assert len(rows) == LAYERS * HEADS * len(tokens) * (len(tokens) + 1) // 2
        at = tuple(rows[column].to_numpy() for column in ("layer", "head", "query", "key"))
        np.testing.assert_allclose(rows["weight"], expected[at], atol=1e-6)
        for kind in ("query", "key"):
            pieces = [model.piece(tokens[place]) for place in rows[kind]]
            assert rows[f"{kind}_piece"].tolist() == pieces


@pytest.mark.parametrize("family", FAMILIES)
def test_summaries_are_those_of_a_plain_loop(family):
    """In passes of 20 tokens, so that short prompts are padded."""
    model = tiny(family)
    prompts = dataset(model)
    table = attention_summary(model, prompts, 0, sequences=2, length=4, batch_tokens=20)
    assert (table["text"] == DATASET).sum() == len(prompts) * LAYERS * HEADS
    indexed = table[table["text"] == DATASET].set_index(["sample", "layer", "head"])
    for sample, tokens in enumerate(prompts["tokens"]):
        weights = attentions(model, tokens)
        uniform = np.tril(np.ones((len(tokens),) * 2)) / (1 + np.arange(len(tokens)))[:, None]
        chance = plain_summary(tokens, uniform)
        for layer, head in np.ndindex(LAYERS, HEADS):
            row = indexed.loc[(sample, layer, head)]
            for score, expected in plain_summary(tokens, weights[layer, head]).items():
                assert row[score] == pytest.approx(expected, abs=1e-5, nan_ok=True), score
                assert row[f"{score}_chance"] == pytest.approx(chance[score], abs=1e-6, nan_ok=True)


def test_planted_heads_score_one_where_they_attend_and_zero_elsewhere():
    """Hand-set patterns: each head puts all weight on what one of the scores counts."""
    tokens = [5, 6, 7, 8, 5, 6, 7, 8]
    ids = torch.tensor([[0, 0, *tokens], [0, 0, *tokens]])
    real = torch.ones_like(ids, dtype=torch.bool)
    real[:, :2] = False
    patterns = torch.zeros(2, 4, 10, 10)
    for query in range(8):
        keys = (0, max(query - 1, 0), query - 4 if query >= 4 else query, max(query - 3, 0))
        for head, key in enumerate(keys):
            patterns[:, head, 2 + query, 2 + key] = 1
    scores = summary_of(ids, real, patterns)[0, :, ::2]
    by_head = {name: scores[:, n].tolist() for n, name in enumerate((*SCORES, "entropy"))}
    assert by_head["first"] == pytest.approx([1, 1 / 7, 1 / 7, 3 / 7])
    assert by_head["previous"] == pytest.approx([1 / 7, 1, 0, 1 / 7])
    assert by_head["duplicate"] == pytest.approx([1 / 4, 0, 1, 0])
    assert by_head["induction"] == pytest.approx([0, 0, 0, 1])
    assert by_head["entropy"] == pytest.approx([0] * 4)
    chance = summary_of(ids, real, patterns)[0, 0, 1::2].tolist()
    uniform = [sum(1 / n for n in range(a, 9)) / (9 - a) for a in (2, 2, 5, 5)]
    assert chance == pytest.approx([*uniform, sum(map(math.log, range(2, 9))) / 7])


def test_repeated_sequences_depend_on_the_seed_only():
    model = tiny("llama")
    one, again, other = (
        attention_summary(model, dataset(model), seed, sequences=3, length=6) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, again)
    drawn = one["text"] == RANDOM
    assert drawn.sum() == 3 * LAYERS * HEADS
    # Without replacement: a second half of 6 queries, and before it only tokens seen once.
    chance = np.mean([1 / n for n in range(7, 13)])
    assert one.loc[drawn, "induction_chance"].to_numpy() == pytest.approx(chance)
    assert one.loc[drawn, "duplicate_chance"].to_numpy() == pytest.approx(chance)
    assert not np.allclose(one.loc[drawn, "first"], other.loc[drawn, "first"])
    columns = ["first", "entropy"]
    np.testing.assert_array_equal(one.loc[~drawn, columns], other.loc[~drawn, columns])


def test_the_embedded_model_has_a_head_for_the_previous_token_but_none_for_induction():
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    stories = pd.read_json("data/stories.jsonl", lines=True).head(10).assign(raw=True)
    table = attention_summary(model, tokenise(stories, model.tokenizer), 0, sequences=8)
    means = table.groupby(["text", "layer", "head"])[list(SCORES)].mean()
    for text in (DATASET, RANDOM):
        assert means.loc[text, "previous"].idxmax() == (2, 3)
        assert means.loc[text, "previous"].max() > 0.25
    assert means.loc[RANDOM, "induction"].max() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": 0}, "sequences = 0; valid: 1 or more"),
        ({"length": 0}, "length = 0; valid: 1 to 196"),
        ({"length": 197}, "length = 197; valid: 1 to 196"),
    ],
)
def test_what_cannot_be_drawn_is_named(options, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        attention_summary(model, dataset(model), 0, **options)
    with pytest.raises(ValueError, match=r"samples: \[9\]; valid: some of 0 to 4"):
        attention_patterns(model, dataset(model), samples=[1, 9])
