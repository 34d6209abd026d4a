"""Directions and their selection, on data whose answer is planted."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_prompts, tiny

from pipeline.measures.logits import divergence, summed_log_odds
from pipeline.methods.selection import (
    evaluate_candidates,
    keep_clear,
    select_direction,
)
from pipeline.methods.vectors import (
    control_direction,
    difference_of_means,
    logistic_direction,
    principal_direction,
)

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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("fit", [difference_of_means, principal_direction, logistic_direction])
def test_activations_that_are_not_finite_are_refused(fit, value):
    rows = torch.ones(4, 3)
    rows[2, 1] = value
    with pytest.raises(ValueError, match="activations of the negative class of 1 of 4 rows are"):
        fit(torch.zeros(4, 3), rows)


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


def test_a_position_may_be_a_name():
    named = candidates([("subject", 2, -1.0, 1, 0), ("subject", 3, -2.0, 1, 0)])
    chosen = select_direction(named, n_layers=10)
    assert (chosen.position, chosen.layer) == ("subject", 3)


@pytest.mark.parametrize("score", [-math.inf, math.inf, math.nan])
def test_a_score_that_is_not_finite_is_no_score(score):
    table = candidates([(-1, 2, -1.0, 1, 0), (-1, 3, score, 1, 0)])
    assert select_direction(table, n_layers=10).layer == 2


def test_nothing_left_fails_and_counts_why():
    with pytest.raises(ValueError, match=r"none of 6 .* 2 have a score that is not f"):
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
