"""Recovered shares, rank agreement and tested effects against closed forms, scipy and t tests."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, spearmanr, ttest_1samp

from pipeline.measures.effects import effects_over_clusters
from pipeline.measures.recovered import rank_agreement, recovered

SAMPLES = pd.RangeIndex(40)
CLUSTERS = pd.Series(np.repeat(np.arange(20), 2), SAMPLES)


def series(values):
    return pd.Series(values, SAMPLES, dtype=float)


def test_the_references_recover_everything_and_nothing():
    rng = np.random.default_rng(0)
    intact, ablated = series(rng.normal(3, 1, 40)), series(rng.normal(0, 1, 40))
    for scores, expected in ((intact, 1.0), (ablated, 0.0)):
        share = recovered(scores, intact, ablated, CLUSTERS, seed=0)
        assert (share.value, share.low, share.high, share.n) == (expected, expected, expected, 40)
    half = recovered(0.5 * intact + 0.5 * ablated, intact, ablated, CLUSTERS, seed=0)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_share_is_of_means_and_its_interval_covers_it():
    """With noise of known size: in about 95 of 100 repetitions the interval has the true share."""
    covered, widths = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        intact = series(rng.normal(4, 0.5, 40))
        ablated = series(np.zeros(40))
        common = np.repeat(rng.normal(0, 1, 20), 2)
        scores = series(2.4 + common + rng.normal(0, 0.2, 40))
        share = recovered(scores, intact, ablated, CLUSTERS, seed=seed)
        assert share.value == pytest.approx(scores.mean() / intact.mean())
        covered += share.low <= 0.6 <= share.high
        widths.append(share.high - share.low)
    assert 183 <= covered <= 198
    # 20 clusters whose means vary by about 1.01, over 4: ± 2.09 x 0.226 / 4.
    assert np.mean(widths) == pytest.approx(2 * 2.09 * 1.01 / np.sqrt(20) / 4, rel=0.12)


def test_unpaired_and_equal_references_are_named():
    one = series(np.ones(40))
    with pytest.raises(ValueError, match="have the same mean: there is nothing to recover"):
        recovered(one, one, one, CLUSTERS, seed=0)
    with pytest.raises(ValueError, match="not of the same scored samples"):
        recovered(one[:39], one, 0 * one, CLUSTERS, seed=0)
    with pytest.raises(ValueError, match="not of the same scored samples"):
        recovered(one.where(one.index > 0), one, 0 * one, CLUSTERS, seed=0)


def test_one_cluster_has_no_interval():
    share = recovered(series(1.0), series(2.0), series(0.0), 0 * CLUSTERS, seed=0)
    assert share.value == 0.5 and np.isnan([share.low, share.high]).all()


def test_agreement_is_spearmans_with_ties():
    rng = np.random.default_rng(0)
    first = np.round(rng.normal(size=50), 1)
    second = first + rng.normal(size=50)
    agreement = rank_agreement(first, second, seed=0)
    assert agreement.value == pytest.approx(float(spearmanr(first, second).statistic))
    # Fisher's interval of 0.65 with n = 50 is 0.45 to 0.79.
    assert agreement.low == pytest.approx(np.tanh(np.arctanh(agreement.value) - 0.29), abs=0.07)
    assert agreement.high == pytest.approx(np.tanh(np.arctanh(agreement.value) + 0.29), abs=0.05)
    assert rank_agreement(first, first**3, seed=0).low == 1
    with pytest.raises(ValueError, match="2 items have no rank correlation"):
        rank_agreement(first[:2], first[:2], seed=0)


def test_effects_are_those_of_a_t_test_over_clusters():
    rng = np.random.default_rng(1)
    before = rng.normal(size=40)
    baseline = pd.DataFrame({"sample": SAMPLES, "repeat": 0, "score": before, "topic": CLUSTERS})
    changes = {("a", 1): 0.4, ("a", 2): 0.0, ("b", 1): -0.1}
    edited = [
        baseline.assign(arm=arm, layer=layer, score=before + rng.normal(size=40) * 0.5 + change)
        for (arm, layer), change in changes.items()
    ]
    shuffled = pd.concat(edited).sample(frac=1, random_state=0)
    table = effects_over_clusters(shuffled, baseline, ["arm", "layer"], cluster="topic")
    table = table.set_index(["arm", "layer"])
    p = []
    for key, rows in zip(changes, edited, strict=True):
        means = (rows["score"] - before).groupby(CLUSTERS).mean()
        test = ttest_1samp(means, 0)
        p.append(test.pvalue)
        row = table.loc[key]
        assert row["effect"] == pytest.approx(means.mean())
        assert (row["p"], row["n"]) == (pytest.approx(test.pvalue), 40)
    assert table.loc[list(changes), "p_adjusted"].tolist() == pytest.approx(
        false_discovery_control(p).tolist()
    )
    with pytest.raises(ValueError, match="a sample has no score without intervention"):
        effects_over_clusters(shuffled, baseline[:39], ["arm", "layer"], cluster="topic")
    with pytest.raises(ValueError, match="1 topic has no test over topics; valid: 2 or more"):
        one = [rows.assign(topic=0) for rows in (shuffled, baseline)]
        effects_over_clusters(*one, ["arm", "layer"], cluster="topic")


def test_unscored_clusters_are_no_evidence():
    """Of one condition 3 of 6 topics are unscored, of one 5, and one condition has no score."""
    rng = np.random.default_rng(2)
    topics = pd.Series(np.repeat(np.arange(6), 2), pd.RangeIndex(12))
    baseline = pd.DataFrame({"sample": topics.index, "repeat": 0, "topic": topics})
    baseline = baseline.assign(score=rng.normal(size=12))
    scored = {"none": [], "half": [3, 4, 5], "all": range(6), "one": [0]}
    edited = pd.concat(
        [
            baseline.assign(
                arm=arm,
                score=(baseline["score"] + rng.normal(1, 0.3, 12)).where(topics.isin(of_arm)),
            )
            for arm, of_arm in scored.items()
        ]
    )
    table = effects_over_clusters(edited, baseline, ["arm"], cluster="topic").set_index("arm")
    assert table["n"].to_dict() == {"none": 0, "half": 6, "all": 12, "one": 2}
    for arm in ("half", "all"):
        rows = edited[edited["arm"] == arm].set_index("sample")
        means = (rows["score"] - baseline["score"]).groupby(topics).mean().dropna()
        row = table.loc[arm]
        assert row["effect"] == pytest.approx(means.mean())
        assert row["stderr"] == pytest.approx(means.sem())
        assert row["p"] == pytest.approx(ttest_1samp(means, 0).pvalue)
    assert table.loc[["none", "one"], ["p", "p_adjusted"]].isna().all(axis=None)
    expected = false_discovery_control(table.loc[["half", "all"], "p"])
    assert table.loc[["half", "all"], "p_adjusted"].tolist() == pytest.approx(expected.tolist())
