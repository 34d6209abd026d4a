"""Probes against scikit-learn and planted directions; the controls find nothing."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from stores import write_store

from pipeline.methods.directions import FITTED, Key
from pipeline.methods.probes.fitting import fit_classes, fit_values, r_squared, shuffled
from pipeline.methods.probes.linear import linear_probe, probe_by_layer
from pipeline.methods.probes.probes import SHUFFLED, Probes
from pipeline.model.sites import Site

LAYERS, D, TOPICS, EACH = 3, 12, 40, 12
PENALTIES = [0.1, 10.0, 1000.0]


def pipelines(states, targets, groups, estimator):
    """scikit-learn's way: score of each penalty, and predictions of the chosen one's refit."""
    scores, refits = [], []
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), estimator(penalty))
        held_out = cross_val_predict(model, states, targets, groups=groups, cv=GroupKFold(5))
        is_text = targets.dtype.kind == "U"
        score = (held_out == targets).mean() if is_text else r2_score(targets, held_out)
        scores.append(score)
        refits.append(model.fit(states, targets))
    best = max(range(len(scores)), key=lambda n: (scores[n], PENALTIES[n]))
    return PENALTIES[best], scores[best], refits[best]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(90, D)) * rng.uniform(0.1, 30, D) + 5
    return states, np.repeat(np.arange(18), 5), rng


@pytest.mark.parametrize("classes", [2, 4])
def test_classes_are_those_of_scikit_learn(rows, classes):
    states, groups, rng = rows
    scored = (states - states.mean(0)) / states.std(0) @ rng.normal(size=(D, classes))
    labels = np.array(list("abcd"))[(scored + rng.normal(size=scored.shape)).argmax(1)]
    (fit,) = fit_classes(states, [labels], groups, PENALTIES, 5)
    penalty, score, model = pipelines(
        states, labels, groups, lambda p: LogisticRegression(C=1 / p, max_iter=5000)
    )
    assert (fit.penalty, fit.score) == (penalty, pytest.approx(score))
    p = torch.tensor(states @ fit.weight.T + fit.bias).softmax(1).numpy()
    np.testing.assert_allclose(p, model.predict_proba(states), atol=1e-3)
    assert 0.5 < fit.score < 1


def test_values_are_those_of_scikit_learn_for_every_set_of_them(rows):
    states, groups, rng = rows
    weight = rng.normal(size=(D, 2))
    near = (states - states.mean(0)) / states.std(0) @ weight + 3 * rng.normal(size=(90, 2)) + 7
    noise = rng.normal(size=(90, 2))
    fits = fit_values(states, [near, noise], groups, PENALTIES, 5)
    for fit, values in zip(fits, (near, noise), strict=True):
        penalty, score, model = pipelines(states, values, groups, lambda p: Ridge(alpha=p))
        assert (fit.penalty, fit.score) == (penalty, pytest.approx(score))
        np.testing.assert_allclose(states @ fit.weight.T + fit.bias, model.predict(states))
    assert fits[0].score > 0.3 and fits[1].score < 0.1 and fits[0].penalty < fits[1].penalty
    predicted = states @ fits[0].weight.T + fits[0].bias
    expected = r2_score(near, predicted, multioutput="raw_values")
    np.testing.assert_allclose(r_squared(near, predicted), expected)


def test_more_features_than_rows_are_no_obstacle(rows):
    states, groups, rng = rows
    wide = np.concatenate([states, np.ones((90, 3)), rng.normal(size=(90, 150))], 1)
    values = rng.normal(size=(90, 1))
    (fit,) = fit_values(wide, [values], groups, PENALTIES, 5)
    penalty, score, model = pipelines(wide, values, groups, lambda p: Ridge(alpha=p))
    assert (fit.penalty, fit.score) == (penalty, pytest.approx(score))
    predicted = (wide @ fit.weight.T + fit.bias)[:, 0]
    np.testing.assert_allclose(predicted, model.predict(wide).ravel(), atol=1e-8)


def test_targets_are_permuted_between_topics_that_have_one_each():
    groups = np.repeat(np.arange(30), 3)
    constant = np.array([f"c{n % 4}" for n in groups])
    permuted = shuffled(constant, groups, [0])
    assert sorted(permuted) == sorted(constant) and (permuted != constant).any()
    assert (permuted == permuted[groups * 3]).all()
    pairs = np.stack([groups, -groups], 1).astype(float)
    permuted = shuffled(pairs, groups, [0])
    assert (permuted[:, 0] == -permuted[:, 1]).all()
    assert (permuted == permuted[groups * 3]).all() and (permuted != pairs).any()
    varied = np.tile(["x", "y", "y"], 30)
    permuted = shuffled(varied, groups, [0])
    assert sorted(permuted) == sorted(varied)
    assert len({tuple(permuted[groups == n]) for n in range(30)}) > 2


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    """40 topics of 12 prompts; every topic has prompts of both labels, and a place of its own."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"sample": np.arange(TOPICS * EACH)})
    frame["topic"] = [f"t{n // EACH}" for n in frame["sample"]]
    frame["label"] = np.where(frame["sample"] % 2, "odd", "even")
    frame["split"] = np.where(frame["sample"] < 28 * EACH, "train", "test")
    places = rng.uniform(-90, 90, (TOPICS, 2))
    frame[["north", "east"]] = places[frame["sample"] // EACH]
    frame["half"] = np.where(frame["north"] > 0, "northern", "southern")
    return frame


@pytest.fixture(scope="module")
def store(prompts, tmp_path_factory):
    """The label is a direction of layer 1 only, the place a plane of layer 2 only; else noise."""
    torch.manual_seed(0)
    states = torch.randn(LAYERS, len(prompts), D, dtype=torch.float64)
    sign = torch.from_numpy(np.where(prompts["label"] == "odd", 1.0, -1.0))
    directions = torch.linalg.qr(torch.randn(D, 3, dtype=torch.float64))[0].T
    places = torch.from_numpy(prompts[["north", "east"]].to_numpy())
    states[1] += 1.5 * sign[:, None] * directions[0]
    states[2] += places @ directions[1:] / 10
    rows = prompts[["sample"]].assign(position=3, token=5)
    values = {f"blocks.{n}.resid_pre": states[n].float() for n in range(LAYERS)}
    folder = tmp_path_factory.mktemp("probes") / "activations"
    return write_store(folder, values, rows, 4), directions


def test_a_planted_direction_is_what_the_probe_reads_and_beats_its_shuffled_control(prompts, store):
    activations, directions = store
    probes = linear_probe(
        activations, prompts, component="resid_pre", targets=["label"], penalties=[1.0]
    )
    assert probes.classes == ("even", "odd")
    weight = probes.weights[Key(FITTED, 0, 1)]
    found = (weight[1] - weight[0]) / (weight[1] - weight[0]).norm()
    assert found @ directions[0] > 0.97
    table = probe_by_layer(activations, prompts, {"probe": probes}, fit="probe")
    assert set(table["split"]) == {"test"} and set(table["topic"]) == {
        f"t{n}" for n in range(28, 40)
    }
    means = table.groupby(["source", "layer"])["score"].mean()
    assert means[FITTED, 1] > 0.88
    assert means[FITTED].loc[[0, 2]].between(0.38, 0.62).all()
    assert means[SHUFFLED].between(0.38, 0.62).all()
    assert table.groupby("source")["draw"].nunique().to_dict() == {FITTED: 1, SHUFFLED: 3}
    assert table["reference"].mean() == 0.5
    chosen = probes.chosen.set_index(["source", "draw", "layer"])["score"]
    assert chosen[FITTED, 0, 1] > 0.88 and chosen[FITTED, 0, 0] < 0.65
    assert (
        table["fit_score"]
        == [
            chosen[s, d, n]
            for s, d, n in zip(table["source"], table["draw"], table["layer"], strict=True)
        ]
    ).all()


def test_nothing_is_fitted_to_the_test_split(prompts, store):
    test = prompts["split"] == "test"
    other = prompts.assign(label=prompts["label"].where(~test, "odd"))
    options = {"component": "resid_pre", "targets": ["label"], "draws": 1}
    one, two = (linear_probe(store[0], each, **options) for each in (prompts, other))
    assert all(torch.equal(weight, two.weights[key]) for key, weight in one.weights.items())
    pd.testing.assert_frame_equal(one.chosen, two.chosen)


def test_a_planted_plane_is_read_on_topics_that_no_probe_was_fitted_on(prompts, store):
    activations, directions = store
    probes = linear_probe(activations, prompts, component="resid_pre", targets=["north", "east"])
    weight = probes.weights[Key(FITTED, 0, 2)]
    cosines = torch.nn.functional.cosine_similarity(weight, directions[1:])
    assert cosines.min() > 0.97
    table = probe_by_layer(activations, prompts, {"p": probes}, fit="p", reference="half")
    train = prompts[prompts["split"] == "train"].drop_duplicates("topic")
    for (source, layer), rows in table.groupby(["source", "layer"]):
        one = rows[rows["draw"] == 0]
        for column in ("north", "east"):
            r2 = r2_score(one[f"{column}_target"], one[f"{column}_prediction"])
            assert r2 > 0.9 if (source, layer) == (FITTED, 2) else r2 < 0.2
            expected = prompts["half"][one["sample"]].map(train.groupby("half")[column].mean())
            np.testing.assert_allclose(one[f"{column}_reference"], expected)


def test_a_reference_is_the_mean_of_all_rows_over_their_topics(prompts, store):
    """Rows of a topic may have different targets, and different values of the reference."""
    activations, _ = store
    varied = prompts.assign(north=np.arange(len(prompts)) ** 1.5)
    probes = linear_probe(activations, varied, component="resid_pre", targets=["north"], draws=0)
    table = probe_by_layer(activations, varied, {"p": probes}, fit="p", reference="label")
    train = varied[varied["split"] == "train"]
    for label, rows in table.groupby("label"):
        of_label = train[train["label"] == label]
        by_topic = [rows_of["north"].mean() for _, rows_of in of_label.groupby("topic")]
        np.testing.assert_allclose(rows["north_reference"], np.mean(by_topic))


def test_probes_come_back_from_disk_and_name_another_model(prompts, store, tmp_path):
    activations, _ = store
    options = {"component": "resid_pre", "targets": ["half"], "draws": 1, "seed": 4}
    probes = linear_probe(activations, prompts, **options)
    probes.save(tmp_path / "a")
    linear_probe(activations, prompts, **options).save(tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    loaded = Probes.load(tmp_path / "a")
    tables = [
        probe_by_layer(activations, prompts, {"p": each}, fit="p") for each in (probes, loaded)
    ]
    pd.testing.assert_frame_equal(*tables)
    assert loaded.provenance == probes.provenance and loaded.classes == ("northern", "southern")
    other = Probes.load(tmp_path / "a")
    object.__setattr__(other.provenance, "template", "x")
    with pytest.raises(ValueError, match="probes were made on template x, this is c"):
        probe_by_layer(activations, prompts, {"p": other}, fit="p")


def test_a_probe_belongs_to_a_component_and_a_model(prompts, store):
    probes = linear_probe(store[0], prompts, component="resid_pre", targets=["label"], draws=0)
    with pytest.raises(ValueError, match="probes were made on template c, this is"):
        probes.check(tiny("llama"), Site(0, "resid_pre"))
    object.__setattr__(probes.provenance, "template", "")
    with pytest.raises(ValueError, match="a probe of resid_pre does not read resid_post; valid"):
        probes.check(tiny("llama"), Site(0, "resid_post"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["place"]}, "no column 'place' in the dataset; it has: sample, topic"),
        ({"targets": []}, "targets: none; valid: one column of classes, or columns of numbers"),
        ({"targets": ["label", "half"]}, "targets: label, half; valid: one column of classes"),
        ({"targets": ["same"]}, "targets: all train rows have the same same; valid: two values"),
        ({"targets": ["north", "seven"]}, "targets: all train rows have the same seven; valid"),
        ({"targets": ["label"], "penalties": [0.0]}, r"penalties: \[0.0\]; valid: numbers above 0"),
        ({"targets": ["label"], "folds": 29}, "folds: 29; valid: 2 to 28, the topics of the train"),
        ({"targets": ["label"], "draws": -1}, "draws: -1 is less than 0"),
    ],
)
def test_what_cannot_be_probed_is_named_before_anything_is_fitted(options, message, prompts, store):
    prompts = prompts.assign(same="x", seven=np.where(prompts["split"] == "train", 7, 8))
    with pytest.raises(ValueError, match=message):
        linear_probe(store[0], prompts, component="resid_pre", **options)
    with pytest.raises(ValueError, match=message):
        Probes.stand_in(tiny("llama"), prompts, component="resid_pre", **options)


def test_numbers_as_text_are_classes_and_that_is_told(prompts, caplog):
    """As all cells of a CSV file."""
    model, options = tiny("llama"), {"component": "resid_pre", "folds": 2}
    texts = prompts.assign(price=prompts["sample"].map(lambda n: f"{n % 7}.5"))
    for targets in (["label"], ["north"]):
        Probes.stand_in(model, texts, targets=targets, **options)
    assert caplog.text == ""
    Probes.stand_in(model, texts, targets=["price"], **options)
    assert "price is text, such as '0.5', as in every CSV file: 7 classes are told" in caplog.text


@pytest.mark.parametrize(("topic", "named"), [("", "no topic"), ("t0", "the same topic")])
def test_folds_need_topics(topic, named, prompts):
    train = (prompts["split"] == "train").sum()
    with pytest.raises(ValueError) as caught:
        Probes.stand_in(
            tiny("llama"), prompts.assign(topic=topic), component="resid_pre", targets=["label"]
        )
    assert str(caught.value).startswith(
        f"folds: 2 of the train split, whose {train} rows have {named}; valid: a column topic"
    )


def test_a_missing_target_is_named(prompts, store):
    holed = prompts.assign(north=prompts["north"].where(prompts["sample"] != 3))
    with pytest.raises(ValueError, match="targets: sample 3 has no north; valid: a value in each"):
        linear_probe(store[0], holed, component="resid_pre", targets=["north"])


def test_folds_are_of_the_topics_that_are_stored(prompts, tmp_path):
    few = prompts[prompts["topic"].isin(["t0", "t1", "t2"])]
    rows = few[["sample"]].assign(position=0, token=5)
    site = {"blocks.0.resid_pre": torch.randn(len(few), D)}
    part = write_store(tmp_path / "part", site, rows, 1)
    with pytest.raises(ValueError, match="folds: 5; valid: 2 to 3, the topics of the train split"):
        linear_probe(part, prompts, component="resid_pre", targets=["label"])


def test_what_cannot_be_read_is_named(prompts, store, tmp_path):
    activations, _ = store
    fits = {
        "probe": linear_probe(
            activations, prompts, component="resid_pre", targets=["north"], draws=0
        )
    }
    for options, message in (
        ({"fit": "probes"}, "no fit 'probes'; valid: probe"),
        ({"fit": "probe", "split": "val"}, "no activations of the split"),
        ({"fit": "probe", "reference": "continent"}, "no column 'continent' in the dataset"),
    ):
        with pytest.raises(ValueError, match=message):
            probe_by_layer(activations, prompts, fits, **options)
    twice = prompts[["sample"]].iloc[[0, 0, 1]].assign(position=[1, 2, 3], token=5)
    with pytest.raises(ValueError, match="the store has several positions of a prompt; valid: one"):
        site = {"blocks.0.resid_pre": torch.zeros(3, D)}
        linear_probe(
            write_store(tmp_path / "store", site, twice, 1),
            prompts,
            component="resid_pre",
            targets=["label"],
        )
