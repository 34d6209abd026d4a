"""Distance probes find planted trees in sentences that they were not fitted on; controls do not."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from stores import write_store

from pipeline.data.datasets import tokenise
from pipeline.measures.trees import attachment_score, chain_edges, edges_of, parse_heads
from pipeline.methods.directions import FITTED, Key
from pipeline.methods.probes.probes import SHUFFLED
from pipeline.methods.probes.trees import (
    RANDOM,
    DistanceProbes,
    distance_loss,
    distance_probe,
    squared_distances,
    trees_by_layer,
)

WORDS, EDGES, D = 8, 8, 14


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    """Random trees of four to eight words; half of the words are followed by a mark."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(340):
        n = rng.integers(4, WORDS + 1)
        order = rng.permutation(n)
        heads = np.zeros(n, dtype=int)
        for place in range(1, n):
            heads[order[place]] = 1 + order[rng.integers(place)]
        words = [f"w{w}" for w in rng.integers(6, 200, n)]
        text = " ".join(word + " -" * int(rng.random() < 0.5) for word in words)
        rows.append({"instruction": text, "heads": " ".join(map(str, heads)), "label": "l"})
        rows[-1]["split"] = "train" if number < 250 else "val" if number < 280 else "test"
        rows[-1]["topic"] = f"t{number}"
    return tokenise(pd.DataFrame(rows).assign(raw=True), tiny("llama").tokenizer)


@pytest.fixture(scope="module")
def store(prompts, tmp_path_factory):
    """In layers 1 and 2 every edge is a direction of its own, so that distances are exact.

    A word's state is the sum of the edges from the root to it: |h_i - h_j|² is the number of edges
    between i and j. Tokens that are no words, and layer 0, are noise.
    """
    generator = torch.Generator().manual_seed(0)
    states, rows = [], []
    for row in prompts.to_dict("records"):
        parents = parse_heads(row["heads"])
        is_word = [token.startswith("w") for token in row["instruction"].split()]
        planted = torch.randn(len(row["tokens"]), D, generator=generator)
        place = 0
        for position, word in enumerate(is_word):
            if word:
                planted[position, :EDGES] = 0
                ancestor = place
                while parents[ancestor] >= 0:
                    planted[position, ancestor] = 1
                    ancestor = parents[ancestor]
                place += 1
        planted[:, EDGES:] *= 2
        states.append(planted)
        rows += [(row["sample"], position) for position in range(len(is_word))]
    planted = torch.cat(states)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator))[0]
    trees = 7 * planted @ rotation
    # A dimension far larger than the others, as many models have it.
    outlier = trees * torch.tensor([1000.0] + [1.0] * (D - 1))
    values = {
        "blocks.0.resid_pre": torch.randn(planted.shape, generator=generator),
        "blocks.1.resid_pre": trees,
        "blocks.2.resid_pre": outlier,
    }
    table = pd.DataFrame(rows, columns=["sample", "position"]).assign(token=5)
    folder = tmp_path_factory.mktemp("trees") / "activations"
    return write_store(folder, values, table, 3), rotation


@pytest.fixture(scope="module")
def probes(prompts, store) -> DistanceProbes:
    return distance_probe(
        tiny("llama"),
        store[0],
        prompts,
        component="resid_pre",
        rank=EDGES,
        epochs=80,
        learning_rate=0.01,
    )


def test_a_planted_tree_is_read_and_beats_its_controls(prompts, store, probes):
    table = trees_by_layer(tiny("llama"), store[0], prompts, {"trees": probes}, fit="trees")
    assert set(table["sample"]) == set(range(280, 340)) and set(table["chosen_on"]) == {"val"}
    means = table.groupby(["source", "layer"])["score"].mean()
    planted = [(FITTED, 1), (FITTED, 2)]
    assert means[planted].min() > 0.95
    # Even with permuted trees a probe may learn to leave the noise out.
    assert means[planted].min() - means.drop(planted).max() > 0.3
    assert means.loc[[FITTED, RANDOM]].drop(planted).max() < 0.4
    assert table.groupby("source")["draw"].nunique().to_dict() == {
        FITTED: 1,
        SHUFFLED: 2,
        RANDOM: 2,
    }
    heads = prompts.set_index("sample")["heads"]
    for row in table[table["layer"] == 1].to_dict("records"):
        true = edges_of(parse_heads(heads[row["sample"]]))
        read = {tuple(map(int, edge.split("-"))) for edge in row["edges"].split()}
        assert row["score"] == attachment_score(read, true) and len(read) == len(true)
        assert row["reference"] == attachment_score(chain_edges(len(true) + 1), true)


def test_the_planted_directions_are_what_the_probe_measures_by(store, probes):
    """B'B is the identity on the edges' directions and 0 on the noise."""
    rotation = store[1]
    weight = 7 * rotation @ probes.weights[Key(FITTED, 0, 1)].T
    metric = weight @ weight.T
    edges = metric[:WORDS, :WORDS]
    assert (edges.diagonal() - 1).abs().mean() < 0.15
    assert metric[EDGES:, EDGES:].diagonal().max() < 0.02
    chosen = probes.chosen.set_index(["source", "layer"])
    assert chosen.loc[(FITTED, 1), "score"].item() > -0.3
    assert chosen.loc[(FITTED, 0), "score"].item() < -0.6
    assert (chosen.loc[RANDOM, "epoch"] == 0).all()


def test_loss_and_distances_are_those_of_plain_loops():
    rng = torch.Generator().manual_seed(1)
    weight, states = torch.randn(3, 5, generator=rng), torch.randn(2, 4, 5, generator=rng)
    distances = torch.randint(1, 5, (2, 4, 4), generator=rng).float()
    real = torch.tensor([[True] * 4, [True, True, True, False]])
    expected = 0.0
    for sentence, n in enumerate((4, 3)):
        total = 0.0
        for i in range(n):
            for j in range(n):
                mapped = weight @ (states[sentence, i] - states[sentence, j])
                squared = squared_distances(states, weight)[sentence, i, j]
                assert squared == pytest.approx(float(mapped @ mapped), abs=1e-5)
                total += float((mapped @ mapped - distances[sentence, i, j]).abs())
        expected += total / n**2 / 2
    assert float(distance_loss(weight, states, real, distances)) == pytest.approx(expected)


def test_probes_come_back_from_disk(prompts, store, probes, tmp_path):
    probes.save(tmp_path)
    loaded = DistanceProbes.load(tmp_path)
    assert isinstance(loaded, DistanceProbes)
    tables = [
        trees_by_layer(tiny("llama"), store[0], prompts, {"t": each}, fit="t", split="val")
        for each in (probes, loaded)
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "parents"}, "no column 'parents' in the dataset; it has: instruction, heads"),
        ({"rank": 0}, "rank: 0; valid: 1 to 32"),
        ({"rank": 33}, "rank: 33; valid: 1 to 32"),
        ({"epochs": 0}, "epochs: 0; valid: 1 or more"),
        ({"draws": -1}, "draws: -1; valid: 0 or more"),
    ],
)
def test_what_cannot_be_fitted_is_named_before(options, message, prompts, store):
    with pytest.raises(ValueError, match=message):
        distance_probe(
            tiny("llama"), store[0], prompts, **({"component": "resid_pre", "rank": 8} | options)
        )
    with pytest.raises(ValueError, match=message):
        DistanceProbes.stand_in(
            tiny("llama"), prompts, **({"component": "resid_pre", "rank": 8} | options)
        )


def test_words_without_a_parent_or_a_state_are_named(prompts, store, probes, tmp_path):
    broken = prompts.assign(heads=["0", *prompts["heads"][1:]])
    message = r"sample 0 has \d words and 1 heads; valid: equally many, and two or more"
    with pytest.raises(ValueError, match=message):
        DistanceProbes.stand_in(tiny("llama"), broken, component="resid_pre", rank=8)
    with pytest.raises(ValueError, match="no fit 'tree'; valid: trees"):
        trees_by_layer(tiny("llama"), store[0], prompts, {"trees": probes}, fit="tree")
    first = prompts[["sample"]].assign(position=0, token=5)
    values = {"blocks.0.resid_pre": torch.zeros(len(first), D)}
    last = write_store(tmp_path / "last", values, first, 1)
    with pytest.raises(ValueError, match="is not in the store; collect"):
        distance_probe(tiny("llama"), last, prompts, component="resid_pre", rank=8)
