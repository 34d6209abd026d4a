"""Features that tell two labels apart: planted ones are chosen, by areas of all pairs."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import WIDTH, tiny
from naive import logits
from stores import whole_samples, write_store
from test_sae import SITE
from test_sae_features import BOS, readable

from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.scoring import score_last
from pipeline.methods.directions import FITTED, OTHER_FEATURES, Key
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.label_features import (
    LabelFeatures,
    clamped_features,
    label_features,
    roc_areas,
)
from pipeline.model.loading import NeedsRun

PLANTED, SAMPLES = 5, 40


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    """Every fourth sample is of the test split, where another feature tells the labels apart."""
    frame = pd.DataFrame({"sample": range(SAMPLES)})
    frame["label"] = np.where(frame["sample"] % 2, "calm", "cross")
    frame["split"] = np.where(frame["sample"] % 4 == 3, "test", "train")
    frame.loc[frame["sample"] % 8 == 0, "split"] = "test"
    return frame.assign(tokens=[[7, 8, 9]] * SAMPLES)


@pytest.fixture(scope="module")
def store(prompts, tmp_path_factory):
    """Feature 5 is active on one token of every cross sample; on special tokens all are."""
    rows = whole_samples([5 + n % 4 for n in range(SAMPLES)], bos=BOS)
    x = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(0))
    cross = rows["sample"] % 2 == 0
    third = rows["position"] == 3
    x[:, PLANTED] = -1.0
    x[torch.tensor((cross & third).to_numpy()), PLANTED] = 4.0
    test = rows["sample"].map(prompts.set_index("sample")["split"]).eq("test")
    x[torch.tensor((test & ~cross).to_numpy()), 9] = 50.0
    x[torch.tensor((rows["token"] == BOS).to_numpy())] = 100.0
    return write_store(tmp_path_factory.mktemp("s"), {str(SITE): x}, rows, shards=2)


def fitted(prompts, store, **options) -> LabelFeatures:
    saes = {"saes": SparseAutoencoders({str(SITE): readable()})}
    options = {"positive": "cross", "negative": "calm", "seed": 0} | options
    return label_features(tiny("llama"), prompts, store, saes, autoencoders="saes", **options)


def test_the_planted_feature_is_chosen_on_train_prompts(prompts, store, tmp_path):
    features = fitted(prompts, store, controls={OTHER_FEATURES: 3, "isotropic": 2})
    (chosen,) = features.chosen.to_dict("records")
    assert (chosen["feature"], chosen["site"], chosen["layer"]) == (PLANTED, str(SITE), 2)
    crosses = prompts.loc[prompts["split"] == "train", "label"].eq("cross").mean()
    assert (chosen["area"], chosen["maximum"], chosen["active"]) == (1.0, 4.0, crosses)
    # Shuffled labels: the best of all features is above 1/2, and below the planted one.
    assert 0.55 < chosen["chance"] < 0.9
    direction = features.vectors[Key(FITTED, 0, 2)]
    torch.testing.assert_close(direction, 4.0 * torch.eye(WIDTH)[PLANTED])
    others = features.candidates[features.candidates["source"] == OTHER_FEATURES]
    assert others["feature"].nunique() == 3 and PLANTED not in set(others["feature"])
    drawn = [("isotropic", 0), ("isotropic", 1), *((OTHER_FEATURES, n) for n in range(3))]
    assert features.controls == drawn
    assert all(
        vector.norm() == pytest.approx(4.0, rel=1e-6) for vector in features.vectors.values()
    )
    features.save(tmp_path)
    again = LabelFeatures.load(tmp_path)
    pd.testing.assert_frame_equal(again.chosen, features.chosen, check_dtype=False)
    assert isinstance(again, LabelFeatures) and again.layers == [2]


def test_prompts_that_were_not_collected_are_not_inactive(prompts, store):
    """Of every label half of the prompts are in the dataset only: nothing changes."""
    planned = prompts.assign(sample=prompts["sample"] + SAMPLES)
    both = pd.concat([prompts, planned], ignore_index=True)
    options = {"controls": {OTHER_FEATURES: 3}}
    once, twice = (fitted(table, store, **options).candidates for table in (prompts, both))
    pd.testing.assert_frame_equal(twice, once)
    renamed = planned.assign(label="warm")
    message = "the store has no activations of train prompts labelled 'warm'"
    with pytest.raises(ValueError, match=message):
        fitted(pd.concat([prompts, renamed]), store, negative="warm")


def test_areas_count_all_pairs():
    rng = np.random.default_rng(0)
    activations = rng.integers(0, 4, size=(30, 6)).astype(float)
    positive = rng.random(30) < 0.4
    expected = [
        np.mean([(a > b) + (a == b) / 2 for a in column[positive] for b in column[~positive]])
        for column in activations.T
    ]
    np.testing.assert_allclose(roc_areas(activations, positive), expected)


def test_clamping_sets_the_feature_to_multiples_of_its_maximum(prompts, store):
    model = tiny("llama")
    features = fitted(prompts, store, controls={OTHER_FEATURES: 1})
    fits = {"feature": features, "saes": SparseAutoencoders({str(SITE): readable()})}
    test = prompts[prompts["split"] == "test"]
    conditions = list(
        clamped_features(
            model, test, fits, fit="feature", autoencoders="saes", strengths=[0.0, 2.0]
        )
    )
    roles = [(each.role, each.axes["source"], each.axes["strength"]) for each in conditions]
    assert roles == [
        (role, source, strength)
        for role, source in ((CANDIDATE, FITTED), (CONTROL, OTHER_FEATURES))
        for strength in (0.0, 2.0)
    ]
    x = torch.randn(2, 3, WIDTH)
    ablated, doubled = (each.edits[0].intervention.edit(x) for each in conditions[:2])
    active = x[..., PLANTED].clamp(min=0)
    rest = [n for n in range(WIDTH) if n != PLANTED]
    torch.testing.assert_close(ablated[..., rest], x[..., rest])
    torch.testing.assert_close(ablated[..., PLANTED], x[..., PLANTED] - active)
    torch.testing.assert_close(doubled[..., PLANTED], x[..., PLANTED] - active + 8.0)
    tokens = [[7, 8, 9, 10], [11, 12, 13]]
    scores = score_last(model, tokens, conditions, lambda out: out[:, 5], batch_tokens=100)
    for number, condition in enumerate(conditions):
        for prompt, row in enumerate(tokens):
            expected = logits(model, row, condition, len(row))[-1, 5]
            assert scores[number, prompt] == pytest.approx(float(expected), abs=1e-4)


def test_what_cannot_be_chosen_is_one_line(prompts, store):
    with pytest.raises(ValueError, match=r"no autoencoder at resid_pre; there are: blocks\.2"):
        fitted(prompts, store, component="resid_pre")
    with pytest.raises(ValueError, match="other_features: 99 draws of 20 active features"):
        fitted(prompts, store, controls={OTHER_FEATURES: 99})
    model = tiny("llama")
    train = prompts.assign(prompt="x")
    options = {"component": "resid_post", "positive": "cross", "negative": "calm"}
    with pytest.raises(ValueError, match="'shuffled' is unknown; valid: other_features, isotropic"):
        LabelFeatures.stand_in(
            model, train, controls={"shuffled": 1}, autoencoders="saes", **options
        )
    planned = LabelFeatures.stand_in(model, train, controls={}, autoencoders="saes", **options)
    with pytest.raises(NeedsRun):
        list(
            clamped_features(
                model,
                train,
                {"f": planned, "saes": SparseAutoencoders({str(SITE): readable()})},
                fit="f",
                autoencoders="saes",
                strengths=[1.0],
            )
        )
