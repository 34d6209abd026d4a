"""Similarity of senses against states whose cosines are known, a naive loop, and families."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, tiny
from scipy.spatial.distance import cosine
from stores import write_store

from pipeline.data.datasets import load_table, tokenise
from pipeline.data.positions import locate
from pipeline.methods.representations.similarity import similarity_by_layer
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store import collecting


def contexts(words: int, each: int, senses=("a", "b")) -> pd.DataFrame:
    """`each` contexts of every sense of every word, senses taking turns."""
    rows = [
        {"topic": f"word{w}", "label": sense, "split": "test"}
        for w in range(words)
        for _ in range(each)
        for sense in senses
    ]
    return pd.DataFrame(rows).assign(sample=np.arange(len(rows)))


def stored(folder, prompts, layers, component="resid_pre"):
    rows = prompts[["sample"]].assign(position=0, token=9)
    sites = {f"blocks.{layer}.{component}": states for layer, states in layers.items()}
    return write_store(folder, sites, rows, 2)


def planted(prompts, share: float, common: float) -> torch.Tensor:
    """Orthogonal parts: one of all words, one of each word, one of each sense, one of each row.

    Their squared lengths are common, 1, share and 1 - share.
    """
    words, senses = (
        pd.factorize(prompts[columns].apply("/".join, axis=1))[0]
        for columns in (["topic"], ["topic", "label"])
    )
    parts = [np.zeros(len(prompts), int), words, senses, np.arange(len(prompts))]
    weights = np.sqrt([common, 1.0, share, 1 - share])
    blocks = [w * np.eye(part.max() + 1)[part] for w, part in zip(weights, parts, strict=True)]
    return torch.from_numpy(np.concatenate(blocks, 1)).float()


def test_planted_senses_have_the_cosines_of_their_closed_form(tmp_path):
    """Layer 0 has no sense, layer 1 has; both are shifted by what all words share."""
    prompts = contexts(words=4, each=3)
    layers = {0: (0.0, 2.0), 1: (0.6, 6.0)}
    states = {layer: planted(prompts, *parts) for layer, parts in layers.items()}
    store = stored(tmp_path, prompts, states)
    table = similarity_by_layer(store, prompts, 0, shuffles=3)
    means = table[table["shuffle"] == 0].groupby(["layer", "measure"]).mean(numeric_only=True)
    for layer, (share, common) in layers.items():
        length = common + 2
        raw = means.loc[layer, "raw"]
        assert raw["same"] == pytest.approx((common + 1 + share) / length, abs=1e-6)
        assert raw["different"] == pytest.approx((common + 1) / length, abs=1e-6)
        assert raw["difference"] == pytest.approx(share / length, abs=1e-6)
        assert raw["unrelated"] == pytest.approx(common / length, abs=1e-6)
        relative = means.loc[layer, "relative"]
        assert relative["same"] == pytest.approx((common + 1 + share) / common, abs=1e-6)
        assert relative["different"] == pytest.approx((common + 1) / common, abs=1e-6)
        assert relative["unrelated"] == 1
    centred = means.loc[1, "centred"]
    centres = states[1].double().numpy() - states[1].double().numpy().mean(0)
    for same, column in ((True, "same"), (False, "different")):
        pairs = [
            1 - cosine(centres[i], centres[j])
            for i, j in itertools.combinations(range(len(prompts)), 2)
            if prompts["topic"][i] == prompts["topic"][j]
            and (prompts["label"][i] == prompts["label"][j]) == same
        ]
        assert centred[column] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_centring_does_not_depend_on_what_all_words_share(tmp_path):
    prompts = contexts(words=3, each=2)
    layers = {layer: planted(prompts, 0.5, common) for layer, common in enumerate((1.0, 50.0))}
    store = stored(tmp_path, prompts, layers, "resid_post")
    table = similarity_by_layer(store, prompts, 0, component="resid_post", shuffles=0)
    wide = table.pivot(index=["measure", "topic"], columns="layer", values="difference")
    assert wide.loc["centred", 0].tolist() == pytest.approx(wide.loc["centred", 1].tolist())
    assert (wide.loc["raw", 0] > 10 * wide.loc["raw", 1]).all()


def test_shuffled_labels_have_no_difference_on_average(tmp_path):
    """Over all labellings the means of same and different pairs are equal: here within 4 SE."""
    prompts = contexts(words=2, each=4)
    store = stored(tmp_path, prompts, {0: planted(prompts, 0.6, 1.0)})
    table = similarity_by_layer(store, prompts, 0, shuffles=800)
    raw = table[table["measure"] == "raw"].set_index("shuffle")["difference"]
    shuffled = raw[raw.index > 0]
    error = shuffled.std() / np.sqrt(len(shuffled))
    assert error < 0.01 and abs(shuffled.mean()) < 4 * error
    assert (raw.loc[0] >= shuffled.max() - 1e-9).all()
    again = similarity_by_layer(store, prompts, 0, shuffles=800)
    pd.testing.assert_frame_equal(table, again)
    assert not table.equals(similarity_by_layer(store, prompts, 1, shuffles=800))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_collected_store_has_the_cosines_of_transformers_hidden_states(family, tmp_path):
    """With words of unlike many contexts, and labels in no order."""
    model = tiny(family)
    texts = [
        "w9 w30 w7",
        "w12 w7",
        "w40 w41 w42 w7",
        "w50 w8",
        "w9 w8",
        "w51 w60 w8 w8",
        "w9 w9 w8",
    ]
    frame = pd.DataFrame({"instruction": texts, "raw": True, "split": "test"}).assign(
        topic=[text.split()[-1] for text in texts], label=list("aabbaab")
    )
    frame["subject"] = frame["topic"]
    prompts = tokenise(frame, model.tokenizer)
    tokens, positions = locate(prompts, model.tokenizer, "subject", variables=None)
    sites = [Site(layer, "resid_post") for layer in range(LAYERS)]
    named = {"revision": "", "rule": "subject", "rows_per_shard": 3}
    store = collecting.write_store(tmp_path, model, tokens, positions, sites, **named)
    table = similarity_by_layer(store, prompts, 0, component="resid_post", shuffles=0)
    table = table[table["measure"] == "raw"].set_index(["layer", "topic"])
    states = []
    for row in prompts["tokens"]:
        with torch.no_grad():
            out = model.hf(torch.tensor([row]), output_hidden_states=True, use_cache=False)
        states.append([hidden[0, -1].double().numpy() for hidden in out.hidden_states[1:]])
    for layer, word in itertools.product(range(LAYERS - 1), ("w7", "w8")):
        means = {}
        for kind in ("same", "different", "unrelated"):
            pairs = [
                1 - cosine(states[i][layer], states[j][layer])
                for i, j in itertools.combinations(range(len(texts)), 2)
                if kind_of(prompts, i, j, word) == kind
            ]
            means[kind] = np.mean(pairs)
        row = table.loc[layer, word]
        for kind, mean in means.items():
            assert row[kind] == pytest.approx(mean, abs=1e-5), (layer, word, kind)


def kind_of(prompts, i, j, word):
    if prompts["topic"][i] != prompts["topic"][j]:
        return "unrelated"
    if prompts["topic"][i] != word:
        return "another word"
    return "same" if prompts["label"][i] == prompts["label"][j] else "different"


def test_without_a_positive_mean_similarity_nothing_is_divided(tmp_path):
    prompts = contexts(words=2, each=2)
    states = planted(prompts, 0.5, 0.0)
    signs = torch.where(torch.tensor(prompts["topic"] == "word0"), 1.0, -1.0)
    store = stored(tmp_path, prompts, {0: torch.cat([states, signs[:, None]], 1)})
    table = similarity_by_layer(store, prompts, 0).set_index("measure")
    assert (table.loc["raw", "unrelated"] < 0).all()
    assert table.loc["relative", ["same", "different", "difference"]].isna().all(axis=None)
    assert table.loc["centred", "same"].notna().all()


def test_wrong_options_and_tables_are_named(tmp_path):
    prompts = contexts(words=2, each=2)
    store = stored(tmp_path / "one", prompts, {1: planted(prompts, 0.5, 1.0)})
    for options, message in (
        ({"component": "z"}, "component 'z' is not collected; valid: resid_pre"),
        ({"layers": [0]}, "layers: resid_pre of layer 0 is not collected; valid: 1"),
        ({"layers": "some"}, "layers: 'some' is not `all`, `every N` or a list"),
        ({"shuffles": -1}, "shuffles = -1; valid: 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            similarity_by_layer(store, prompts, 0, **options)
    for changed, message in (
        ({"label": "a"}, "contexts of 'word0' by label: a 4; valid: two labels, one with two"),
        ({"topic": "word0"}, r"split test has only one word \(topic\); valid: two or more"),
    ):
        with pytest.raises(ValueError, match=message):
            similarity_by_layer(store, prompts.assign(**changed), 0)
    twice = pd.DataFrame({"sample": np.arange(16) // 2, "position": np.arange(16) % 2, "token": 9})
    many = write_store(tmp_path / "two", {"blocks.0.resid_pre": torch.ones(16, 3)}, twice, 1)
    with pytest.raises(ValueError, match="2 positions of sample 0; valid: one, as of "):
        similarity_by_layer(many, prompts, 0)


def test_the_embedded_model_tells_the_senses_of_a_word_apart_in_every_block(tmp_path):
    """A word is one embedding; from layer 1 on its state is nearer to those of its sense."""
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    prompts = tokenise(load_table(path="data/senses.jsonl", raw=True), model.tokenizer)
    tokens, positions = locate(prompts, model.tokenizer, "subject", variables=None)
    sites = [Site(layer, "resid_pre") for layer in range(model.n_layers)]
    named = {"revision": "", "rule": "subject", "rows_per_shard": 999}
    store = collecting.write_store(tmp_path, model, tokens, positions, sites, **named)
    table = similarity_by_layer(store, prompts, 0)
    raw = table[table["measure"] == "raw"]
    means = raw.groupby(["layer", "shuffle"])["difference"].mean().unstack()
    embedding = raw[raw["layer"] == 0]
    assert embedding[["same", "different"]].to_numpy() == pytest.approx(1, abs=1e-6)
    assert (means.loc[1:, 0] > means.loc[1:, 1:].max(axis=1)).all()
    assert means.loc[4:, 0].min() > 0.15
