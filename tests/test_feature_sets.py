"""Which pairs are ablated, and where, on tables written by hand and against the naive loop."""

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from test_sae import SITE, autoencoder

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.methods.sae.feature_sets import (
    FeatureSet,
    ablations,
    chosen_sets,
    random_sets,
    reconstructions,
    strongest,
)
from pipeline.methods.sae.interventions import ablate

NAME = str(SITE)


def attributed(rows) -> pd.DataFrame:
    columns = ["prompt", "site", "from_end", "feature", "attribution"]
    return pd.DataFrame(rows, columns=columns)


FEATURES = attributed(
    [
        (0, NAME, 0, 7, -1.0),
        (1, NAME, 0, 7, -3.0),
        (0, NAME, -2, 7, -2.0),
        (0, NAME, 0, 5, -0.5),
        (1, NAME, 0, 5, -0.5),
        (0, NAME, 0, 9, 8.0),
        (1, "blocks.1.z", 0, 1, -0.1),
        (1, "blocks.1.z", -1, 4, 0.2),
    ]
)


def active(counts: dict[tuple[str, int, int], int]) -> dict[str, np.ndarray]:
    """Counts of prompts by site, position from the end and feature; 0 elsewhere."""
    tables = {site: np.zeros((5, 12), dtype=np.int32) for site in (NAME, "blocks.1.z")}
    for (site, from_end, feature), count in counts.items():
        tables[site][from_end - 1, feature] = count
    return tables


# Feature 7 is active in one prompt more than `FEATURES`, the largest of each prompt, shows.
ACTIVE = active({(NAME, 0, 7): 3, (NAME, -2, 7): 1, ("blocks.1.z", 0, 1): 1})


def test_the_strongest_raise_the_metric_most_over_all_samples():
    """Feature 7 at the end: (-1 - 3) / 4; two places before it: -2 / 4; feature 9 lowers it."""
    found = strongest(FEATURES, ACTIVE, samples=4, top=2)
    own = found[found["site"] == NAME]
    assert own[["from_end", "feature", "attribution", "share", "rank"]].values.tolist() == [
        [0, 7, -1.0, 0.75, 1],
        [-2, 7, -0.5, 0.25, 2],
    ]
    assert found[found["site"] == "blocks.1.z"]["feature"].tolist() == [1]


def test_sets_are_the_chosen_each_alone_and_random_others():
    chosen = strongest(FEATURES, ACTIVE, samples=4, top=2)
    sets = [*chosen_sets(chosen), *random_sets(FEATURES, chosen, draws=2, seed=0)]
    own = {(s.source, s.draw): s.pairs for s in sets if s.site == NAME}
    assert own[("attributed", 0)] == ((0, 7), (-2, 7))
    assert own[("single", 1)] == ((0, 7),)
    assert own[("single", 2)] == ((-2, 7),)
    for draw in (0, 1):
        assert set(own[("random", draw)]) == {(0, 5), (0, 9)}
    others = [s for s in sets if s.site == "blocks.1.z" and s.source == "random"]
    assert [(s.draw, s.pairs) for s in others] == [(0, ((-1, 4),)), (1, ((-1, 4),))]
    assert sets[-4:] == random_sets(FEATURES, chosen, draws=2, seed=0)
    assert random_sets(FEATURES, chosen, draws=0, seed=0) == []


def test_random_features_are_others_active_at_the_same_places():
    """Beside the chosen (0, 7), (-1, 8) and (-5, 4); nothing else is active at -5, 2 is at -4."""
    active = {(0, 7): 9, (0, 5): 8, (0, 6): 2, (-1, 8): 9, (-1, 7): 9, (-1, 5): 5, (-1, 3): 1}
    active |= {(-5, 4): 9, (-4, 2): 1, (-9, 1): 9}
    features = attributed(
        [(n, NAME, place, f, 1.0) for (place, f), count in active.items() for n in range(count)]
    )
    chosen = pd.DataFrame({"site": NAME, "from_end": [0, -1, -5], "feature": [7, 8, 4]})
    drawn_sets = [s.pairs for s in random_sets(features, chosen, draws=300, seed=0)]
    assert len(drawn_sets) == 300
    for (at_end, first), (before, second), third in drawn_sets:
        assert (at_end, before, third) == (0, -1, (-4, 2))
        assert first in (5, 6) and second in (5, 3) and first != second
    # In proportion to samples, 8 of 10 and 5 of 6.
    assert 0.72 < sum(pairs[0][1] == 5 for pairs in drawn_sets) / 300 < 0.88
    second = [pairs[1][1] for pairs in drawn_sets if pairs[0][1] == 6]
    assert 0.6 < second.count(5) / len(second) < 1


def test_there_are_fewer_random_features_only_if_no_others_are_active():
    features = attributed([(0, NAME, 0, 7, -1.0), (0, NAME, -1, 8, -1.0), (0, NAME, -4, 7, -1.0)])
    chosen = pd.DataFrame({"site": NAME, "from_end": [0, -1], "feature": [7, 8]})
    assert random_sets(features, chosen, draws=2, seed=0) == []
    assert {s.source for s in chosen_sets(chosen)} == {"attributed", "single"}
    one = pd.concat([features, attributed([(0, NAME, -9, 3, 1.0)])])
    sets = random_sets(one, chosen, draws=2, seed=0)
    assert [s.pairs for s in sets] == [((-9, 3),)] * 2


def test_recorded_positions_are_each_samples_own_and_firing_ones_are_all():
    """Beside edits at absolute positions, one sample at a time, in the naive loop."""
    model, sae = tiny("llama"), autoencoder("l1")
    prompts = [[1, 20, 30, 40], [1, 50, 60, 70, 80, 90, 20]]
    ends = [5, 7]
    early, late = range(12), range(12, sae.n_features)
    pairs = (*((0, f) for f in early), *((-1, f) for f in late), *((-5, f) for f in early))
    recorded, firing = ablations([FeatureSet(NAME, "attributed", 0, pairs)], {NAME: sae}, ends)
    (reconstruct,) = reconstructions({NAME: sae})
    assert reconstruct.axes["intervention"] == "reconstruct"
    assert (recorded.axes["positions"], firing.axes["positions"]) == ("recorded", "firing")
    assert {c.axes["site"] for c in (reconstruct, recorded, firing)} == {NAME}
    assert len({c.id for c in (reconstruct, recorded, firing)}) == 3

    def by_hand(end: int) -> Condition:
        places = {end: early, end - 1: late, end - 5: early}
        # Five places before the first sample's end is its first token.
        edits = [Edit(SITE, ablate(sae, f), (p,)) for p, f in places.items() if p > 0]
        return Condition(edits=tuple(edits))

    assert [c.edits[0].positions for c in (reconstruct, firing)] == ["after_first"] * 2
    ablated = ablate(sae, range(sae.n_features))
    everywhere = Condition(edits=(Edit(SITE, ablated, "after_first"),))
    rows, changed = [], set()
    done = generate(model, prompts, [Condition(), recorded, firing], Decoding(6))
    plain = {c.prompt: c.tokens for c in done if c.condition == 0}
    for completion in done:
        prompt = prompts[completion.prompt]
        wanted = [Condition(), by_hand(ends[completion.prompt]), everywhere][completion.condition]
        rows.append((completion, completion.tokens, *naive.generate(model, prompt, wanted, 6)))
        if completion.tokens != plain[completion.prompt]:
            changed.add(completion.condition)
    naive.assert_same(rows)
    assert changed == {1, 2}


@pytest.mark.parametrize("kind", ["l1", "topk"])
def test_all_features_ablated_leave_error_and_bias(kind):
    sae = autoencoder(kind)
    x = torch.randn(3, 4, sae.width, generator=torch.Generator().manual_seed(1))
    left = ablate(sae, range(sae.n_features)).edit(x)
    torch.testing.assert_close(left, x - sae.reconstruct(x) + sae.decoder_bias)
