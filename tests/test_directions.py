"""Directions on disk and in use, and their fits to stores whose answer is planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, random_prompts, tiny, tokenizer
from stores import write_store

from pipeline.engine.collection import collect
from pipeline.methods.directions import Directions, Key
from pipeline.methods.fitting import Classes, with_controls
from pipeline.methods.provenance import Provenance
from pipeline.methods.steering_vectors import selected_direction, steering_vectors
from pipeline.methods.vectors import difference_of_means
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter

PLANTED = torch.randn(24, generator=torch.Generator().manual_seed(0))
CANDIDATES = pd.DataFrame(
    [(-2, 3, -18.0, 5.0, 0.11), (-1, 4, float("nan"), -0.1, 0.01)],
    columns=["position", "layer", "refusal_score", "steering_score", "kl_div_score"],
)
MADE = Provenance("modelA", "templateA", "data", ("blocks.3.resid_pre",), "by hand")


def test_directions_come_back_with_their_provenance_and_selection(tmp_path):
    keys = {Key("fitted", 0, 3): PLANTED, Key("shuffled", 2, 3): -PLANTED}
    selected = {"position": -2, "layer": 3, "refusal_score": -1.5}
    made = Directions(keys, "resid_pre", -2, MADE, selected, CANDIDATES)
    made.save(tmp_path / "fit")
    read = Directions.load(tmp_path / "fit")
    assert (read.provenance, read.component, read.position) == (MADE, "resid_pre", -2)
    assert read.selected == selected and read.layers == [3]
    pd.testing.assert_frame_equal(read.candidates, CANDIDATES, check_dtype=False)
    assert read.vectors.keys() == keys.keys()
    assert all(torch.equal(read.vectors[key], value) for key, value in keys.items())
    first = (tmp_path / "fit" / "directions.safetensors").read_bytes()
    Directions(dict(reversed(keys.items())), "resid_pre", -2, MADE).save(tmp_path / "again")
    assert (tmp_path / "again" / "directions.safetensors").read_bytes() == first
    alone = Directions.load(tmp_path / "again")
    assert alone.selected is None and alone.candidates is None


@pytest.mark.parametrize("position", [-1, "subject", "answer"])
def test_positions_come_back_by_number_or_name(tmp_path, position):
    Directions({Key("fitted", 0, 0): PLANTED}, "z", position, MADE).save(tmp_path)
    assert Directions.load(tmp_path).position == position


def test_controls_are_in_the_order_of_their_kinds_whatever_the_files():
    keys = [Key("isotropic", 0, 1), Key("shuffled", 1, 1), Key("covariance", 0, 1)]
    keys += [Key("fitted", 0, 1), Key("shuffled", 0, 1), Key("fitted", 0, 0)]
    directions = Directions(dict.fromkeys(keys, PLANTED), "resid_pre", -1, MADE)
    assert directions.controls == [
        ("shuffled", 0),
        ("shuffled", 1),
        ("covariance", 0),
        ("isotropic", 0),
    ]
    assert directions.layers == [0, 1]


def model_of(weights: str, template: str | None = None) -> LanguageModel:
    made = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer)
    made.chat_template = template
    return LanguageModel(tiny("llama").hf, made, name="llama", weights=weights)


def test_directions_are_used_on_the_model_and_template_they_were_made_on():
    directions = Directions({Key("fitted", 0, 3): PLANTED}, "resid_pre", -1, MADE)
    site = Site(1, "resid_post")
    with pytest.raises(ValueError, match="made on model modelA, this is modelB"):
        directions.check(model_of("modelB"), site)
    with pytest.raises(ValueError, match="directions were made on template templateA, this is no"):
        directions.check(model_of("modelA"), site)
    plain = Directions(directions.vectors, "resid_pre", -1, Provenance("modelA", "none"))
    plain.check(model_of("modelA"), site)
    # What has no model in it, such as what is set by hand, is not compared.
    Directions(directions.vectors, "resid_pre", -1, Provenance("")).check(model_of("modelB"), site)


def test_a_stand_in_has_the_shape_of_what_will_be_fitted():
    model, prompts = tiny("llama"), DATASET.assign(split="train")
    options = {"component": "resid_pre", "positive": "a", "negative": "b"}
    stand_in = Directions.stand_in(
        model, prompts, **options, controls={"shuffled": 2, "isotropic": 1, "covariance": 0}
    )
    assert stand_in.layers == list(range(LAYERS))
    assert stand_in.controls == [("shuffled", 0), ("shuffled", 1), ("isotropic", 0)]
    assert {value.shape for value in stand_in.vectors.values()} == {(WIDTH,)}
    stand_in.check(model_of("any", "any template"), Site(0, "resid_post"))
    neurons = Directions.stand_in(model, prompts, **options | {"component": "mlp_act"}, controls={})
    assert {value.shape for value in neurons.vectors.values()} == {(48,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative": "a"}, "negative: 'a' is positive too"),
        ({"positive": "c"}, "no prompt has label 'c'; valid: a, b"),
        ({"controls": {"random": 1}}, "controls: 'random' is unknown; valid: shuffled"),
        ({"controls": {"shuffled": -1}}, r"controls\.shuffled: -1 is less than 0"),
        ({"layer_share": 0.0}, r"layer_share: 0\.0 is not above 0 and at most 1"),
        ({"refusal_tokens": ["w9 w10"]}, "'w9 w10' is 2 tokens to the model, not one"),
        ({"refusal_tokens": ["w9"]}, "positive: no prompt of 'a' is in val"),
    ],
)
def test_what_cannot_be_fitted_is_named_before_it_is(options, message):
    valid = {"component": "resid_pre", "positive": "a", "negative": "b", "controls": {}}
    with pytest.raises(ValueError, match=message):
        Directions.stand_in(tiny("llama"), DATASET.assign(split="train"), **valid | options)
    with pytest.raises(ValueError, match="positive: no prompt of 'a' is in train"):
        Directions.stand_in(tiny("llama"), DATASET.assign(split="test"), **valid)


@pytest.fixture
def store(tmp_path):
    """Sample s at position p before the end holds (100 s + p, 1), so that means are known."""
    rows = pd.DataFrame(
        [(s, n + p, 0) for s, n in TOKENS.items() for p in (-2, -1)],
        columns=["sample", "position", "token"],
    )
    values = torch.tensor([[100.0 * s + p, 1.0] for s in TOKENS for p in (-2, -1)])
    fingerprint = Fingerprint("m", "", "t", "c", "d", ("blocks.3.resid_pre",), "(-2, -1)")
    plan = [[0, 1], [2, 3]]
    with StoreWriter(tmp_path, fingerprint, plan, required_bytes=0) as writer:
        for shard, samples in enumerate(plan):
            here = np.flatnonzero(rows["sample"].isin(samples))
            writer.write(shard, {"blocks.3.resid_pre": values[here]}, rows.iloc[here])
    return ActivationStore(tmp_path)


TOKENS = {0: 5, 1: 7, 2: 5, 3: 6}
DATASET = pd.DataFrame(
    {
        "sample": list(TOKENS),
        "label": ["a", "b", "a", "b"],
        "tokens": [list(range(n)) for n in TOKENS.values()],
    }
)


def test_fitting_reads_each_class_at_each_position(store):
    classes = Classes(store, DATASET, positive="a", negative="b", component="resid_pre")
    assert (classes.positions, classes.layers) == ([-2, -1], [3])
    for position in (-2, -1):
        positive, negative = classes.at(position, 3)
        assert positive[:, 0].tolist() == [position, 200 + position]
        assert negative[:, 0].tolist() == [100 + position, 300 + position]
    kept = Classes(store, DATASET[1:], positive="a", negative="b", component="resid_pre")
    assert kept.at(-1, 3)[0][:, 0].tolist() == [199.0]
    with pytest.raises(ValueError, match=r"position -3 was not collected of every prompt; .*-2, "):
        classes.at(-3, 3)
    with pytest.raises(ValueError, match="no prompt labelled 'c' is left"):
        Classes(store, DATASET, positive="c", negative="b", component="resid_pre")


def test_a_position_that_some_prompts_lack_is_none(store):
    longer = DATASET.assign(tokens=[list(range(n + (s == 1))) for s, n in TOKENS.items()])
    classes = Classes(store, longer, positive="a", negative="b", component="resid_pre")
    assert classes.positions == [-2]
    with pytest.raises(ValueError, match=r"-1 was not collected of every prompt; valid: \[-2\]"):
        classes.at(-1, 3)


@pytest.mark.parametrize(
    ("rule", "places"),
    # One token of the subject wherever it stands; an answer of one or two tokens after the prompt.
    [("subject", [(1,), (3,)]), ("answer", [(4,), (6, 7)])],
)
def test_subjects_and_answers_are_positions_by_name(tmp_path, rule, places):
    dataset = pd.DataFrame({"sample": [0, 1], "label": ["a", "b"], "tokens": [[9] * 4, [9] * 6]})
    fingerprint = Fingerprint("m", "", "t", "c", "d", ("blocks.3.resid_pre",), rule)
    rows = [(sample, place) for sample, own in enumerate(places) for place in own]
    table = pd.DataFrame(rows, columns=["sample", "position"]).assign(token=9)
    values = torch.tensor([[10.0 * sample + place] * 2 for sample, place in rows])
    with StoreWriter(tmp_path / "s", fingerprint, [[0, 1]], required_bytes=100) as writer:
        writer.write(0, {"blocks.3.resid_pre": values}, table)
    store = ActivationStore(tmp_path / "s")
    classes = Classes(store, dataset, positive="a", negative="b", component="resid_pre")
    assert classes.positions == [rule]
    positive, negative = classes.at(rule, 3)
    assert positive[:, 0].tolist() == [places[0][0]]
    assert negative[:, 0].tolist() == [10.0 + places[1][0]]
    with pytest.raises(
        ValueError, match=rf"position 0 was not collected of .*; valid: \['{rule}'\]"
    ):
        classes.at(0, 3)
    options = {"component": "resid_pre", "positive": "a", "negative": "b"}
    prompts = dataset.assign(split="train")
    fit = steering_vectors(store, prompts, **options, position=rule, controls={"isotropic": 1})
    assert fit.position == rule
    assert fit.vectors[Key("fitted", 0, 3)].tolist() == [places[0][0] - 10.0 - places[1][0]] * 2


def test_every_fitted_direction_gets_its_controls(store):
    classes = Classes(store, DATASET, positive="a", negative="b", component="resid_pre")
    fitted = {3: difference_of_means(*classes.at(-1, 3))}
    draws = {"shuffled": 2, "isotropic": 1}
    found = with_controls(classes, fitted, position=-1, draws=draws, seed=0)
    assert set(map(str, found)) == {"fitted/0/3", "shuffled/0/3", "shuffled/1/3", "isotropic/0/3"}
    assert all(float(v.norm()) == pytest.approx(100.0) for v in found.values())
    with pytest.raises(ValueError, match="direction fitted/0/3 is zero"):
        with_controls(classes, {3: torch.zeros(2)}, position=-1, draws={}, seed=0)


def test_steering_vectors_are_the_differences_of_the_planted_means(store):
    options = {"component": "resid_pre", "positive": "b", "negative": "a"}
    prompts = DATASET.assign(split="train")
    fit = steering_vectors(
        store, prompts, **options, position=-2, controls={"shuffled": 1, "isotropic": 2}, seed=0
    )
    # b: samples 1 and 3, mean 200; a: samples 0 and 2, mean 100.
    assert fit.vectors[Key("fitted", 0, 3)].tolist() == [100.0, 0.0]
    assert (fit.component, fit.position, fit.layers) == ("resid_pre", -2, [3])
    assert fit.controls == [("shuffled", 0), ("isotropic", 0), ("isotropic", 1)]
    assert all(float(v.norm()) == pytest.approx(100.0) for v in fit.vectors.values())
    assert fit.selected is None
    assert fit.provenance == Provenance(
        "m", "c", "d", ("blocks.3.resid_pre",), "difference of means, b - a"
    )
    again, other = (
        steering_vectors(
            store, prompts, **options, position=-2, controls={"isotropic": 1}, seed=seed
        )
        for seed in (0, 2)
    )
    key = Key("isotropic", 0, 3)
    assert torch.equal(again.vectors[key], fit.vectors[key])
    assert not torch.equal(other.vectors[key], fit.vectors[key])
    with pytest.raises(ValueError, match=r"position 0 was not collected of every prompt; .*-2, "):
        steering_vectors(store, prompts, **options, position=0)
    # Sample 1 is of the test split: b is sample 3 alone.
    held_out = prompts.assign(split=["train", "test", "train", "train"])
    fit = steering_vectors(store, held_out, **options, position=-2, controls={})
    assert fit.vectors[Key("fitted", 0, 3)].tolist() == [200.0, 0.0]


def test_a_layer_at_which_all_prompts_are_alike_has_no_direction(tmp_path, caplog):
    dataset = pd.DataFrame({"sample": [0, 1], "label": ["a", "b"], "tokens": [[9], [9]]})
    dataset["split"] = "train"
    sites = ("blocks.0.resid_pre", "blocks.1.resid_pre")
    rows = pd.DataFrame({"sample": [0, 1], "position": 0, "token": 9})
    values = {sites[0]: torch.ones(2, 2), sites[1]: torch.tensor([[1.0, 0.0], [0.0, 0.0]])}
    fingerprint = Fingerprint("m", "", "t", "c", "d", sites, "last")
    with StoreWriter(tmp_path / "s", fingerprint, [[0, 1]], required_bytes=100) as writer:
        writer.write(0, values, rows)
    options = {"component": "resid_pre", "positive": "a", "negative": "b", "controls": {}}
    fit = steering_vectors(ActivationStore(tmp_path / "s"), dataset, **options)
    assert fit.layers == [1]
    (record,) = caplog.records
    assert record.getMessage() == (
        "a - b: no direction where all prompts have the same activation, left out: position -1, "
        "layer 0; this is expected where they have the same template token before the first "
        "attention"
    )


def answered_by(model: LanguageModel) -> pd.DataFrame:
    """Prompts labelled as the model begins its answer: by a word of the vocabulary's upper half."""
    prompts = pd.DataFrame({"sample": range(24), "tokens": random_prompts(24, seed=2)})
    with torch.no_grad():
        last = [model.hf(torch.tensor([tokens])).logits[0, -1] for tokens in prompts["tokens"]]
    shares = torch.stack(last).double().softmax(-1)[:, 100:].sum(-1)
    labels = np.where(shares > 0.5, "refused", "answered")
    return prompts.assign(label=labels, split=["train", "train", "val"] * 8)


def test_one_direction_is_selected_among_those_of_all_positions_and_layers(tmp_path):
    model = tiny("llama")
    prompts = answered_by(model)
    # One is labelled otherwise than it is answered: it has no say.
    odd = prompts.index[prompts["split"] == "train"][0]
    prompts.loc[odd, "label"] = {"refused": "answered", "answered": "refused"}[
        prompts.at[odd, "label"]
    ]
    sites = [Site(layer, "resid_pre") for layer in range(LAYERS)]
    values, rows = collect(model, prompts["tokens"].tolist(), sites, (-2, -1))
    stored = rows.rename(columns={"prompt": "sample"}).assign(token=0)
    named = {str(site): tensor for site, tensor in values.items()}
    store = write_store(tmp_path, named, stored, shards=2)
    options = {"component": "resid_pre", "positive": "refused", "negative": "answered"}
    options |= {"max_kl": 100.0, "min_steering": -100.0, "controls": {"isotropic": 1}}
    words = [f"w{number}" for number in range(100, 200)]
    fit = selected_direction(model, store, prompts, **options, refusal_tokens=words)
    table = fit.candidates
    assert len(table) == 2 * LAYERS
    early = table[table["layer"] < int(0.8 * LAYERS)]
    best = early.loc[early["refusal_score"].idxmin()]
    assert (fit.selected["layer"], fit.selected["position"]) == (best["layer"], best["position"])
    assert fit.position == best["position"] and fit.layers == list(range(LAYERS))
    assert fit.controls == [("isotropic", 0)]
    used = prompts[(prompts["split"] == "train") & (prompts.index != odd)]
    for layer in fit.layers:
        # Two rows a prompt, of its positions -2 and -1.
        at_position = values[sites[layer]].unflatten(0, (-1, 2))[:, fit.position]
        means = [
            at_position[used.index[used["label"] == label]].mean(0)
            for label in ("refused", "answered")
        ]
        torch.testing.assert_close(
            fit.vectors[Key("fitted", 0, layer)].float(), means[0] - means[1], atol=1e-5, rtol=1e-5
        )
    assert fit.provenance.how == "selected difference of means, refused - answered"
    counts = (
        r"it refuses 0 of \d+ refused prompts of train; .* it answers \d+ of \d+ answered prompts"
    )
    with pytest.raises(ValueError, match=counts):
        selected_direction(model, store, prompts, **options, refusal_tokens=["w9"])
