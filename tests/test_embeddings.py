"""Neighbours and analogies in tables whose rows are set by hand, and against naive loops."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from families import VOCAB, WIDTH, byte_tokenizer, tiny, tokenizer
from scipy.spatial.distance import cosine

from pipeline.data.datasets import load_table
from pipeline.methods.representations import embeddings
from pipeline.methods.representations.analogies import analogies
from pipeline.methods.representations.embeddings import SPACES, nearest_tokens
from pipeline.model.loading import LanguageModel


def with_rows(rows: dict[int, np.ndarray]) -> LanguageModel:
    """A model in whose embedding all other rows are 0."""
    hf = copy.deepcopy(tiny("llama").hf)
    weight = hf.get_input_embeddings().weight.data
    weight.zero_()
    for token, row in rows.items():
        weight[token, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return LanguageModel(hf, tokenizer(), name="planted")


def table_of(model, table) -> np.ndarray:
    module = getattr(model.hf, f"get_{'in' if table == 'embedding' else 'out'}put_embeddings")()
    return module.weight.detach().double().numpy()


def similarities(rows, token, space):
    rows = rows - rows.mean(0) if "centred" in space else rows
    if space.endswith("dot"):
        return np.array([row @ rows[token] for row in rows])
    return np.array([1 - cosine(row, rows[token]) for row in rows])


@pytest.mark.parametrize("table", embeddings.TABLES)
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma2", "gpt2"])
def test_neighbours_are_those_of_a_naive_loop(family, table, monkeypatch):
    """With the table read in parts of 64 rows."""
    monkeypatch.setattr(embeddings, "_ROWS", 64)
    model = tiny(family)
    reading = nearest_tokens(model, words=["w9", "w30"], table=table, top=4)
    assert len(reading) == 2 * len(SPACES) * 4
    rows = table_of(model, table)
    for (word, space), found in reading.groupby(["word", "space"]):
        token = int(word[1:])
        expected = similarities(rows, token, space)
        expected[token] = -np.inf
        order = np.argsort(-expected)[:4]
        assert found["neighbour"].tolist() == order.tolist()
        assert found["piece"].tolist() == [model.piece(int(n)) for n in order]
        assert found["similarity"].to_numpy() == pytest.approx(expected[order], abs=1e-4)
        assert found["rank"].tolist() == [1, 2, 3, 4]


def test_dot_prefers_the_long_and_centring_removes_what_is_shared():
    """Token 10 is nearly parallel to 9, 11 is long, 12 is like 9 only in what all share."""
    rows = {token: [0, 0, 0, 5.0] for token in range(VOCAB)}
    rows |= {9: [1, 0, 0, 5.0], 10: [0.9, 0.1, 0, 5.0], 11: [8, 8, 0, 5.0], 12: [-0.1, 0, 0, 5.2]}
    rows |= {13: [2, 0.4, 0, -5.0]}
    reading = nearest_tokens(with_rows(rows), words=["w9"], top=1).set_index("space")
    assert reading.loc["cosine", "neighbour"] == 10
    assert reading.loc["dot", "neighbour"] == 11
    assert reading.loc["centred cosine", "neighbour"] == 10
    assert reading.loc["centred dot", "neighbour"] == 11
    rows[10] = [0, 0, 0, 5.0]
    reading = nearest_tokens(with_rows(rows), words=["w9"], top=1).set_index("space")
    assert reading.loc["cosine", "neighbour"] not in (11, 13)
    assert reading.loc["centred cosine", "neighbour"] == 11


def pairs(relations) -> pd.DataFrame:
    rows = [
        {"topic": name, "split": "test", "instruction": f"w{x}", "answer": f"w{y}"}
        for name, listed in relations.items()
        for x, y in listed
    ]
    rows += [{"topic": "text", "split": "test", "instruction": "w7 w8 w9", "answer": ""}]
    return pd.DataFrame(rows).assign(sample=range(len(rows)))


FIRST = [(20 + n, 40 + n) for n in range(4)]
SECOND = [(60 + n, 80 + n) for n in range(3)]


def planted() -> LanguageModel:
    """Second word = first word + 1.1 r + 1.2 own, in orthogonal directions; decoys 1.5 first word.

    Then q = b - a + c = c + 1.1 r + 1.2 own_b has the products 1 + 1.21 with d, 1.21 + 1.44 with b,
    1 with c, 1.5 with c's decoy, 1.21 with other second words, 0 with the rest.
    """
    axes = iter(np.eye(WIDTH))
    rows = {}
    for relation in (FIRST, SECOND):
        offset = next(axes)
        for first, second in relation:
            rows[first] = next(axes)
            rows[second] = rows[first] + 1.1 * offset + 1.2 * next(axes)
            rows[first + 100] = 1.5 * rows[first]
    return with_rows(rows)


def test_planted_analogies_have_the_ranks_of_their_closed_form():
    table = analogies(planted(), pairs({"one": FIRST, "two": SECOND}), 0)
    dot = table[table["space"] == "dot"]
    assert len(dot) == 4 * 3 + 3 * 2
    assert (dot["rank"] == 1).all()
    # b is before d.
    assert (dot["rank_with_inputs"] == 2).all()
    # c's decoy is before d.
    assert (dot["rank_without_offset"] == 2).all()
    # So are the decoy and the other relation's second words, of which one is an input.
    others = dot["rank_of_other_offset"].groupby(dot["topic"]).unique()
    assert others["one"].tolist() == [1 + 1 + 2]
    assert others["two"].tolist() == [1 + 1 + 3]
    assert dot["vocabulary"].eq(VOCAB).all()


@pytest.mark.parametrize("table", embeddings.TABLES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_ranks_are_those_of_a_naive_loop_in_every_space(family, table):
    model = tiny(family)
    reading = analogies(model, pairs({"one": FIRST, "two": SECOND}), 0, table=table)
    assert len(reading) == len(SPACES) * (4 * 3 + 3 * 2)
    for row in reading.to_dict("records"):
        rows = table_of(model, table)
        rows = rows - rows.mean(0) if "centred" in row["space"] else rows
        if row["space"].endswith("cosine"):
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        a, b, c, d = (int(row[name].strip()[1:]) for name in "abcd")
        assert (c, d) in FIRST + SECOND and (a, b) in FIRST + SECOND and a != c
        for vector, column in (
            (rows[b] - rows[a] + rows[c], "rank"),
            (rows[c], "rank_without_offset"),
        ):
            order = [n for n in np.argsort(-rows @ vector) if n not in (a, b, c)]
            assert row[column] == 1 + order.index(d)
        order = np.argsort(-rows @ (rows[b] - rows[a] + rows[c])).tolist()
        assert row["rank_with_inputs"] == 1 + order.index(d)


def test_random_rows_rank_the_answer_by_chance():
    """In a random table with the answer's table shuffled, the mean rank is half the vocabulary."""
    draw = np.random.default_rng(0)
    rows = dict(enumerate(draw.normal(size=(VOCAB, WIDTH))))
    listed = [(int(x), int(y)) for x, y in draw.permutation(np.arange(6, 126)).reshape(-1, 2)]
    table = analogies(with_rows(rows), pairs({"one": listed[:30], "two": listed[30:]}), 0)
    for column in ("rank_without_offset", "rank_of_other_offset"):
        by_query = table.groupby("sample")[column].mean()
        error = by_query.std() / np.sqrt(len(by_query))
        assert abs(by_query.mean() - VOCAB / 2) < 4 * error


def test_pairs_of_several_tokens_are_left_out_and_counted():
    """So is the analogy whose answer, " Paris", is an input; padded rows are no tokens."""
    hf, tokens = copy.deepcopy(tiny("llama").hf), byte_tokenizer(None, adds_bos=False)
    hf.resize_token_embeddings(len(tokens) + 8, mean_resizing=False)
    model = LanguageModel(hf, tokens, name="bytes")
    frame = pd.DataFrame(
        [(" France", " Paris"), (" Paris", " is"), (" in", " the"), (" is", " is"), (" x9", " in")],
        columns=["word", "partner"],
    ).assign(topic="r", split="test", sample=range(5))
    table = analogies(model, frame, 0, columns=["word", "partner"])
    assert table["pairs"].unique().tolist() == [2] and table["left_out"].unique().tolist() == [3]
    assert set(table["sample"]) == {1}
    assert table["rank_of_other_offset"].isna().all()
    assert table["vocabulary"].unique().tolist() == [len(model.tokenizer)]


def test_wrong_options_are_named():
    model = tiny("llama")
    frame = pairs({"one": FIRST, "two": SECOND})
    for options, message in (
        ({"table": "head"}, "table: 'head' is unknown; valid: embedding, unembedding"),
        ({"words": ["w9 w8"]}, "'w9 w8' is 2 tokens to the model, not one"),
        ({"words": []}, "words is empty; valid: one or more"),
        ({"top": 200}, "top = 200 tokens; valid: 1 to 199"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_tokens(model, **{"words": ["w9"], **options})
    for changed, options, message in (
        (frame, {"columns": ["answer"]}, "columns: 1 given; valid: two"),
        (frame, {"columns": ["answer", "x"]}, "no column 'x' in the dataset; it has: topic"),
        (frame.iloc[[0, 4, 5]], {}, "1 pairs of 'one' are single tokens; valid: two or more"),
        (frame.assign(answer=""), {}, "no row has a text in column 'answer'; valid: pairs of wor"),
    ):
        with pytest.raises(ValueError, match=message):
            analogies(model, changed, 0, **options)


def test_capitals_are_offsets_in_the_embedded_models_table():
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    table = analogies(
        model, load_table(path="data/vocabulary.jsonl", raw=True).assign(sample=range(206)), 0
    )
    capitals = table[(table["topic"] == "capital") & (table["space"] == "cosine")]
    assert len(capitals) == 40 * 39
    assert (capitals["rank"] == 1).mean() > 0.95
    assert (capitals["rank_without_offset"] == 1).mean() < 0.05
    assert (capitals["rank_of_other_offset"] == 1).mean() < 0.1
