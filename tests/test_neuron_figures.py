"""Figures of neurons draw the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.measures.statistics import summarise
from pipeline.views.dose_response import dose_response
from pipeline.views.neurons import neuron_ablations, neuron_effects

NAMES = ["blocks.1.mlp_act[7]", "blocks.2.mlp_act[40]"]
GROUPS = dict(zip(NAMES, ["one neurons", "two neurons"], strict=True))
TOPICS = 6


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(scope="module")
def effects() -> pd.DataFrame:
    table = pd.DataFrame({"layer": np.repeat([0, 1, 2], 20), "neuron": np.tile(range(20), 3)})
    table = table.assign(effect=0.001, p_corrected=0.5, label="one", topics=TOPICS, rank=0)
    table.loc[[27, 59], ["effect", "p_corrected", "label"]] = [
        [-0.7, 1e-40, "two"],
        [0.2, 1e-5, "one"],
    ]
    table.loc[27, "rank"] = 1
    return table.assign(passes=table["p_corrected"] < 0.01)


def test_every_neuron_is_drawn_by_layer_and_by_p(effects):
    chance = pd.DataFrame({"draw": range(4), "passing": [0, 0, 3, 0], "alpha": 0.01})
    figure = neuron_effects({"e": effects, "c": chance}, effects="e", chance="c", named=1)
    by_layer, volcano = figure.axes
    drawn = [np.asarray(c.get_offsets()) for c in by_layer.collections]
    assert sum(map(len, drawn[:-1])) == 60
    (chosen,) = drawn[-1]
    assert chosen[1] == -0.7 and abs(chosen[0] - 1) < 0.5
    (marked,) = np.asarray(volcano.collections[-1].get_offsets())
    assert marked.tolist() == [-0.7, 30]
    assert [t.get_text() for t in by_layer.texts] == ["1.7"]
    text = caption(figure)
    assert "60 neurons of 3 layers" in text and "n = 6 topics" in text
    assert "2 neurons pass at corrected p < 0.01" in text
    assert "2 of them with an effect of 0.1 nats or more" in text
    assert "0 pass (median of 4 draws; none in 75 % of them)" in text


def scores() -> pd.DataFrame:
    """Ablated alone the neurons cost 1 and 3, together 5; random ones 0.1, give or take."""
    rng = np.random.default_rng(0)
    samples = pd.DataFrame({"sample": range(12), "repeat": 0, "topic": np.arange(12) % TOPICS})
    samples = samples.assign(split="test", label=np.where(samples["sample"] < 6, "one", "two"))
    clean = rng.normal(5, 1, 12)
    rows = []

    def add(condition, change, **axes):
        noise = rng.normal(0, 0.05, 12)
        for metric, score in (
            ("odds", clean - change + noise * (change > 0)),
            ("top", (np.arange(12) < 2 * change).astype(float)),
        ):
            rows.append(samples.assign(condition=condition, metric=metric, score=score, **axes))

    none = {"source": None, "draw": pd.NA, "neuron": None, "group": None}
    add("a0", 0, arm="ablated", role=BASELINE, **none)
    add("b0", 0, arm="random", role=BASELINE, **none)
    for name, change in zip(["together", *NAMES], [5, 1, 3], strict=True):
        axes = {"neuron": name, "group": GROUPS.get(name)}
        add(f"a{name}", change, arm="ablated", role=CANDIDATE, source="chosen", draw=0, **axes)
        for draw in range(3):
            change = 0.1 * draw
            axes |= {"source": "random", "draw": draw}
            add(f"b{name}{draw}", change, arm="random", role=CONTROL, **axes)
    return pd.concat(rows, ignore_index=True)


def test_changes_are_paired_and_the_sum_of_those_alone_stands_beside():
    table = scores()
    figure = neuron_ablations(
        table, "topic", 0, arm="ablated", control="random", metric="odds", share="top"
    )
    left, right = figure.axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    means = [float(line.get_xdata()[0]) for line in dots]
    assert means == pytest.approx([-5, -1, -3], abs=0.1)
    (diamond,) = (line for line in left.lines if line.get_marker() == "D")
    assert float(diamond.get_xdata()[0]) == pytest.approx(means[1] + means[2])
    assert [t.get_text() for t in left.get_yticklabels()] == ["together", "1.7 (one)", "2.40 (two)"]
    shares = [float(line.get_xdata()[0]) for line in right.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(shares, [100 * 10 / 12, 100 * 2 / 12, 100 * 6 / 12])
    text = caption(figure)
    assert "n = 12 prompts" in text and "over 6 topics" in text
    assert "2 of 2 chosen neurons, median change 2 nats" in text
    odds = table[table["metric"] == "odds"].pivot(
        index="sample", columns="condition", values="score"
    )
    topics = table.drop_duplicates("sample").set_index("sample")["topic"]
    p = [
        ttest_1samp((odds[name] - odds["b0"]).groupby(topics).mean(), 0).pvalue
        for name in odds
        if name.startswith("bblocks") and not name.endswith("0")
    ]
    # Draw 0 changes nothing: p is 1.
    assert max(p) < 0.01 / 6 and "4 of 6 random ones" in text


def test_a_share_of_other_scores_is_refused():
    options = {"arm": "ablated", "control": "random", "metric": "odds", "share": "odds"}
    with pytest.raises(ValueError, match="metric odds is no share; valid: scores of 0 and 1"):
        neuron_ablations(scores(), "topic", 0, **options)


def test_unscored_topics_are_not_counted():
    """Half of the topics are unscored: tests and the caption are of the other half."""
    table = scores()
    table["score"] = table["score"].where(table["topic"] < 3)
    figure = neuron_ablations(
        table, "topic", 0, arm="ablated", control="random", metric="odds", share="top"
    )
    assert "n = 6 prompts" in caption(figure) and "over 3 topics" in caption(figure)
    odds = table[table["metric"] == "odds"]
    wide = odds.pivot(index="sample", columns="condition", values="score").dropna()
    topics = odds.drop_duplicates("sample").set_index("sample")["topic"]
    p = [
        ttest_1samp((wide[name] - wide["b0"]).groupby(topics).mean(), 0).pvalue
        for name in wide
        if name.startswith("bblocks") and not name.endswith("0")
    ]
    # Draw 0 changes nothing: p is 1.
    passing = int((false_discovery_control([*p, 1, 1]) < 0.01).sum())
    assert f"{passing} of 6 random ones" in caption(figure)


def test_doses_are_drawn_over_the_natural_activation_of_each_label():
    rows, natural = [], []
    samples = pd.DataFrame({"sample": range(12), "repeat": 0, "topic": np.arange(12) % TOPICS})
    samples = samples.assign(split="test", label=np.where(samples["sample"] < 6, "one", "two"))
    sign = np.where(samples["label"] == "one", 1, -1)
    common = {"arm": "clamped", "metric": "odds", "at_setting": True}
    rows.append(samples.assign(condition="c0", role=BASELINE, score=sign, **common))
    for name in ("one neurons", NAMES[0]):
        for multiple in (-1.0, 0.0, 1.0):
            axes = {"condition": f"{name}{multiple}", "neuron": name, "multiple": multiple}
            score = sign + 2 * multiple
            rows.append(samples.assign(score=score, role=CANDIDATE, draw=0, **axes, **common))
    table = pd.concat(rows, ignore_index=True)
    by = ["condition", "label", "split", "metric"]
    means = summarise(table, by, shares=[], cluster="topic", seed=0)
    axes = table[["condition", "role", "arm", "neuron", "multiple", "draw"]].drop_duplicates()
    summary = means.merge(axes, on="condition").assign(metric_label="odds", percent=False)
    for label, low in (("one", 0.8), ("two", -0.1)):
        values = np.linspace(low, low + 0.4, 21)
        natural.append(
            pd.DataFrame(
                {"neuron": NAMES[0], "group": "one neurons", "label": label, "multiple": values}
            )
        )
    figure = dose_response(
        summary, {"n": pd.concat(natural)}, arm="clamped", metric="odds", activations="n"
    )
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["one neurons", "1.7 (one)"]
    for axis in figure.axes:
        curves = [line for line in axis.lines if line.get_marker() == "o"]
        drawn = [line.get_ydata().tolist() for line in curves]
        assert drawn == [[-1.0, 1.0, 3.0], [-3.0, -1.0, 1.0]]
        medians = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
        assert medians == pytest.approx([1.0, 0.1])
        bands = [p.get_extents().transformed(axis.transData.inverted()) for p in axis.patches]
        spans = sorted((round(band.x0, 3), round(band.x1, 3)) for band in bands)
        assert (-0.08, 0.28) in spans and (0.82, 1.18) in spans
    assert "n = 6 prompts of each label (one, two)" in caption(figure)


def test_more_labels_than_colours_are_all_drawn(effects):
    chance = pd.DataFrame({"draw": [0], "passing": [0], "alpha": 0.01})
    table = effects.assign(label=[f"l{n % 7}" for n in effects.index], passes=True)
    figure = neuron_effects({"e": table, "c": chance}, effects="e", chance="c")
    keys = [(key.get_color(), key.get_marker()) for key in figure.legends[0].get_lines()[:7]]
    assert len(set(keys)) == 7
    rows = [
        {"label": f"l{n}", "role": role, "neuron": "all", "multiple": multiple, "mean": n}
        for n in range(7)
        for role, multiple in ((BASELINE, np.nan), (CANDIDATE, 0.0), (CANDIDATE, 1.0))
    ]
    common = {"arm": "a", "metric": "m", "split": "test", "metric_label": "m", "percent": False}
    means = pd.DataFrame(rows).assign(**common, n=3, draw=0)
    means = means.assign(low=means["mean"], high=means["mean"])
    natural = pd.DataFrame({"label": [f"l{n}" for n in range(7)], "multiple": 0.5})
    readings = {"n": natural.assign(neuron="n", group="all")}
    figure = dose_response(means, readings, arm="a", metric="m", activations="n")
    curves = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in curves] == list(range(7))
