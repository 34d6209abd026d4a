"""Directions and their selection, on data whose answer is planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_prompts, tiny

from pipeline.measures.logits import divergence, summed_log_odds
from pipeline.methods.directions import Key, Provenance, load_directions, save_directions
from pipeline.methods.fitting import Classes, with_controls
from pipeline.methods.selection import (
    evaluate_candidates,
    keep_clear,
    select_direction,
)
from pipeline.methods.vectors import control_direction, difference_of_means
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter

GENERATOR = torch.Generator().manual_seed(0)
PLANTED = torch.randn(24, generator=GENERATOR)
POSITIVE = torch.randn(500, 24, generator=GENERATOR) + PLANTED
NEGATIVE = torch.randn(400, 24, generator=GENERATOR)


def cosine(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def test_a_planted_direction_is_recovered():
    found = difference_of_means(POSITIVE, NEGATIVE)
    assert cosine(found, PLANTED) > 0.99
    assert float(found.norm() / PLANTED.norm()) == pytest.approx(1, abs=0.05)


def test_means_are_accumulated_in_float64():
    """In float32 the sum of a million such numbers is off by more than the difference."""
    offset = torch.full((200_000, 1), 1000.0)
    found = difference_of_means(offset + 2**-12, offset)
    assert float(found[0]) == 2**-12


def test_a_class_without_rows_is_refused():
    with pytest.raises(ValueError, match="negative class has no rows"):
        difference_of_means(POSITIVE, NEGATIVE[:0])


@pytest.mark.parametrize("source", ["shuffled", "covariance", "isotropic"])
def test_controls_have_the_length_and_not_the_direction(source):
    draws = [
        control_direction(source, POSITIVE, NEGATIVE, norm=3.0, seed=0, draw=d) for d in range(200)
    ]
    assert all(float(v.norm()) == pytest.approx(3.0) for v in draws)
    # Classes ten times further apart than they are wide: still no draw is along their difference.
    far = [
        control_direction(source, POSITIVE + 10 * PLANTED, NEGATIVE, norm=3.0, seed=0, draw=d)
        for d in range(200)
    ]
    expected = np.sqrt(2 / np.pi / 24)  # mean |cos| of random directions in 24 dimensions
    for found in (draws, far):
        signed = np.array([cosine(v, PLANTED) for v in found])
        assert abs(signed).mean() == pytest.approx(expected, rel=0.25)
        assert abs(signed.mean()) < 4 * signed.std() / np.sqrt(len(found))  # no side is favoured
    again = control_direction(source, POSITIVE, NEGATIVE, norm=3.0, seed=0, draw=0)
    assert torch.equal(again, draws[0]) and not torch.equal(draws[0], draws[1])


def test_the_covariance_control_has_the_activations_covariance():
    scales = torch.tensor([5.0, 1.0, 0.2])
    rows = torch.randn(300, 3, generator=GENERATOR) * scales
    draws = torch.stack(
        [
            control_direction("covariance", rows[:150], rows[150:], norm=1.0, seed=1, draw=d)
            for d in range(400)
        ]
    )
    # Before being set to length 1 they are N(0, C): the largest axis takes nearly all of each.
    assert float(draws[:, 0].abs().mean()) > 0.9
    assert float(draws[:, 2].abs().mean()) < 0.1


def test_unknown_controls_are_refused():
    with pytest.raises(ValueError, match="'random' is unknown; valid: shuffled"):
        control_direction("random", POSITIVE, NEGATIVE, norm=1.0, seed=0, draw=0)


@pytest.mark.parametrize("source", ["shuffled", "covariance"])
def test_controls_of_labels_whose_activations_are_alike_are_refused(source):
    alike = torch.ones(12, 24) / 3
    # As batches of different shapes round the same prompt.
    alike[0] *= 1 + 1e-6
    with pytest.raises(ValueError, match="all alike; valid there: isotropic"):
        control_direction(source, alike, -alike, norm=1.0, seed=0, draw=0)
    control_direction("isotropic", alike, -alike, norm=1.0, seed=0, draw=0)


def candidates(rows) -> pd.DataFrame:
    columns = ["position", "layer", "refusal_score", "steering_score", "kl_div_score"]
    return pd.DataFrame(rows, columns=columns)


TABLE = candidates(
    [
        (-1, 9, -20.0, 5.0, 0.01),  # too late a layer: int(0.8 * 10) = 8
        (-1, 8, -19.0, 5.0, 0.01),  # the first layer that is too late
        (-2, 3, -18.0, 5.0, 0.11),  # changes harmless answers too much
        (-2, 4, -17.0, -0.1, 0.01),  # does not induce refusal
        (-3, 5, float("nan"), 5.0, 0.01),
        (-3, 6, -16.5, float("nan"), 0.01),
        (-4, 7, -16.0, 0.0, 0.1),  # exactly on the limits of induce, kl and layer: kept
        (-5, 2, -15.0, 9.0, 0.0),
    ]
)


def test_every_filter_discards_and_the_lowest_bypass_is_taken():
    chosen = select_direction(TABLE, n_layers=10)
    assert (chosen.position, chosen.layer, chosen.refusal_score) == (-4, 7, -16.0)
    for drop, kept in (("layer_share", (-1, 9)), ("max_kl", (-2, 3)), ("min_steering", (-2, 4))):
        loose = {"layer_share": 1.0, "max_kl": 1.0, "min_steering": -1.0}[drop]
        chosen = select_direction(TABLE, n_layers=10, **{drop: loose})
        assert (chosen.position, chosen.layer) == kept


def test_nothing_left_fails_and_counts_why():
    with pytest.raises(ValueError, match=r"none of 6 .* 2 have a NaN score, 2 have layer >= 8"):
        select_direction(TABLE.head(6), n_layers=10)
    with pytest.raises(ValueError, match="no column 'kl_div_score'"):
        select_direction(TABLE.drop(columns="kl_div_score"), n_layers=10)


def test_ties_go_to_the_lower_layer_then_the_later_position():
    tied = candidates([(-3, 2, -1.0, 1, 0), (-1, 2, -1.0, 1, 0), (-1, 4, -1.0, 1, 0)])
    chosen = select_direction(tied, n_layers=10)
    assert (chosen.position, chosen.layer) == (-1, 2)


@pytest.mark.parametrize("component", ["resid_pre", "resid_post"])
def test_candidates_are_scored_as_by_hand(component):
    """One candidate against hooks written out for a Llama, one prompt at a time."""
    model = tiny("llama")
    prompts = random_prompts(5, seed=9)
    direction = torch.randn(model.d_model, generator=GENERATOR).double()
    tokens = torch.tensor([5, 6])
    table = evaluate_candidates(
        model,
        {(-1, 2): direction},
        component=component,
        harmful=prompts[:2],
        harmless=prompts[2:],
        refusal_tokens=tokens,
        batch_tokens=50,
    )
    unit = (direction / direction.norm()).float()

    def project(x):
        return x - (x @ unit)[..., None] * unit

    def last(prompt, ablate, add):
        handles = []
        for n, block in enumerate(model.blocks):
            if ablate:
                handles += [
                    block.register_forward_pre_hook(lambda m, a: (project(a[0]), *a[1:])),
                    block.self_attn.register_forward_hook(lambda m, a, o: (project(o[0]), *o[1:])),
                    block.mlp.register_forward_hook(lambda m, a, o: project(o)),
                ]
            # The output of block 2 is the input of block 3.
            if add and n == {"resid_pre": 2, "resid_post": 3}[component]:
                handles.append(
                    block.register_forward_pre_hook(lambda m, a: (a[0] + direction.float(), *a[1:]))
                )
        out = model.hf(torch.tensor([prompt])).logits[:, -1]
        for handle in handles:
            handle.remove()
        return out

    bypass = np.mean([summed_log_odds(last(p, True, False), tokens).item() for p in prompts[:2]])
    induce = np.mean([summed_log_odds(last(p, False, True), tokens).item() for p in prompts[2:]])
    kl = np.mean(
        [divergence(last(p, False, False), last(p, True, False)).item() for p in prompts[2:]]
    )
    row = table.iloc[0]
    assert row["refusal_score"] == pytest.approx(bypass, abs=1e-4)
    assert row["steering_score"] == pytest.approx(induce, abs=1e-4)
    assert row["kl_div_score"] == pytest.approx(kl, abs=1e-5)


def test_only_prompts_that_the_model_takes_as_labelled_are_kept():
    frame = pd.DataFrame({"label": ["harmful", "harmful", "harmless", "harmless"]})
    scores = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    assert keep_clear(frame, scores, harmful="harmful").index.tolist() == [0, 3]


def test_directions_come_back_with_their_provenance_or_not_at_all(tmp_path):
    path = tmp_path / "directions.safetensors"
    made = Provenance("modelA", "templateA", "data", "resid_pre", -1)
    keys = {Key("fitted", 0, 3): PLANTED, Key("shuffled", 2, 3): -PLANTED}
    save_directions(path, keys, made)
    first = path.read_bytes()
    found, provenance = load_directions(path, model="modelA", template="templateA")
    assert provenance == made
    assert all(torch.equal(found[key], value) for key, value in keys.items())
    with pytest.raises(ValueError, match="made on model modelA, this is modelB"):
        load_directions(path, model="modelB")
    save_directions(path, dict(reversed(keys.items())), made)
    assert path.read_bytes() == first


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
    with pytest.raises(ValueError, match=r"position -3 was not collected; valid: \[-2, -1\]"):
        classes.at(-3, 3)
    with pytest.raises(ValueError, match="no prompt labelled 'c' is left"):
        Classes(store, DATASET, positive="c", negative="b", component="resid_pre")


@pytest.mark.parametrize(
    ("rule", "places", "expected"),
    # One token of the subject wherever it stands; an answer of one or two tokens after the prompt.
    [("subject", [(1,), (3,)], [0]), ("answer", [(4,), (6, 7)], [0, 1])],
)
def test_subjects_and_answers_have_places_of_their_own(tmp_path, rule, places, expected):
    dataset = pd.DataFrame({"sample": [0, 1], "label": ["a", "b"], "tokens": [[9] * 4, [9] * 6]})
    fingerprint = Fingerprint("m", "", "t", "c", "d", ("blocks.3.resid_pre",), rule)
    rows = [(sample, place) for sample, own in enumerate(places) for place in own]
    table = pd.DataFrame(rows, columns=["sample", "position"]).assign(token=9)
    values = torch.tensor([[10.0 * sample + place] * 2 for sample, place in rows])
    with StoreWriter(tmp_path / "s", fingerprint, [[0, 1]], required_bytes=100) as writer:
        writer.write(0, {"blocks.3.resid_pre": values}, table)
    store = ActivationStore(tmp_path / "s")
    classes = Classes(store, dataset, positive="a", negative="b", component="resid_pre")
    assert classes.positions == expected
    positive, negative = classes.at(0, 3)
    assert positive[:, 0].tolist() == [places[0][0]]
    assert negative[:, 0].tolist() == [10.0 + places[1][0]]


def test_every_fitted_direction_gets_its_controls(store):
    classes = Classes(store, DATASET, positive="a", negative="b", component="resid_pre")
    fitted = {3: difference_of_means(*classes.at(-1, 3))}
    draws = {"shuffled": 2, "isotropic": 1}
    found = with_controls(classes, fitted, position=-1, draws=draws, seed=0)
    assert set(map(str, found)) == {"fitted/0/3", "shuffled/0/3", "shuffled/1/3", "isotropic/0/3"}
    assert all(float(v.norm()) == pytest.approx(100.0) for v in found.values())
    with pytest.raises(ValueError, match="direction fitted/0/3 is zero"):
        with_controls(classes, {3: torch.zeros(2)}, position=-1, draws={}, seed=0)
