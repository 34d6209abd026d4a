"""Means and intervals against published values, closed forms and simulated experiments."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.scale import Scale, check_bounded
from pipeline.measures.statistics import (
    cluster_means,
    estimate,
    paired_difference,
    summarise,
    wilson,
)

RESAMPLED: dict[str, Any] = {"cluster": "sample", "seed": 0}


def long_scores(values: list[float], clusters: list[int] | None = None) -> pd.DataFrame:
    samples = list(range(len(values)))
    return pd.DataFrame(
        {
            "condition": "c",
            "metric": "m",
            "sample": samples,
            "repeat": 0,
            "topic": clusters or samples,
            "score": values,
        }
    )


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: n / (n + z^2).
        (100, 100, 0.9630, 1.0),
    ],
)
def test_wilson_published(successes: int, n: int, low: float, high: float) -> None:
    bounds = wilson(successes / n, n)
    np.testing.assert_allclose(bounds, (low, high), atol=5e-5)


def test_a_row_per_cluster_gives_the_closed_forms() -> None:
    row = summarise(
        long_scores([1.0] * 30 + [0.0] * 70), ["condition", "metric"], shares=["m"], **RESAMPLED
    ).iloc[0]
    assert (row["mean"], row["n"], row["n_unscored"], row["interval"]) == (0.3, 100, 0, "wilson")
    assert row["stderr"] == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert (row["low"], row["high"]) == tuple(float(bound) for bound in wilson(0.3, 100))


def test_bootstrap_of_many_rows_is_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=400)
    found = estimate(pd.Series(values), pd.Series(range(400)), proportion=False, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / 20)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )
    assert found.interval == "bootstrap"


def test_nan_is_counted_not_averaged() -> None:
    scores = long_scores([1.0, math.nan, 1.0, 0.0, math.nan])
    row = summarise(scores, ["metric"], shares=["m"], **RESAMPLED).iloc[0]
    assert (row["mean"], row["n"], row["n_unscored"]) == (pytest.approx(2 / 3), 3, 2)
    assert row["interval"] == "wilson"
    unscored = long_scores([math.nan] * 3)
    nothing = summarise(unscored, ["metric"], shares=["m"], **RESAMPLED).iloc[0]
    assert (nothing["n"], nothing["n_unscored"], nothing["interval"]) == (0, 3, "none")
    assert nothing[["mean", "stderr", "low", "high"]].isna().all()


@pytest.mark.parametrize("proportion", [True, False])
def test_repeats_that_copy_each_other_add_nothing(proportion: bool) -> None:
    values = pd.Series((np.arange(40) % 4 == 0).astype(float))
    single = estimate(values, pd.Series(range(40)), proportion=proportion, seed=0)
    copied = estimate(
        pd.concat([values] * 5, ignore_index=True),
        pd.Series(list(range(40)) * 5),
        proportion=proportion,
        seed=0,
    )
    naive = estimate(
        pd.concat([values] * 5, ignore_index=True),
        pd.Series(range(200)),
        proportion=proportion,
        seed=0,
    )
    assert copied.mean == single.mean
    assert copied.stderr == pytest.approx(single.stderr)
    width = copied.high - copied.low
    assert width == pytest.approx(single.high - single.low, rel=0.1)
    assert width > 1.9 * (naive.high - naive.low)


def test_all_refused_with_repeats_counts_prompts_not_rows() -> None:
    found = estimate(
        pd.Series([1.0] * 100), pd.Series(list(range(20)) * 5), proportion=True, seed=0
    )
    assert (found.low, found.high) == (pytest.approx(float(wilson(1.0, 20)[0])), 1.0)
    assert found.interval == "wilson_clustered"


def test_clusters_of_unequal_size_weigh_by_their_rows() -> None:
    found = estimate(
        pd.Series([0.0, 0.0, 0.0, 6.0]), pd.Series([0, 0, 0, 1]), proportion=False, seed=0
    )
    # sums 0, 6; sizes 3, 1; mean 1.5; residuals -4.5, 4.5: sqrt(2/1 * 2 * 4.5^2) / 4.
    assert found.mean == 1.5
    assert found.stderr == pytest.approx(9 / 4)


@pytest.mark.parametrize("clusters", [6, 23])
def test_bootstrap_covers(clusters: int) -> None:
    rng = np.random.default_rng(1)
    labels = pd.Series(np.arange(clusters).repeat(4))
    hits = 0
    for _ in range(500):
        effect = rng.normal(size=clusters).repeat(4)
        values = pd.Series(effect + rng.normal(size=4 * clusters))
        found = estimate(values, labels, proportion=False, seed=0)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 500 <= 0.98


def test_clustered_proportion_covers() -> None:
    rng = np.random.default_rng(2)
    labels = pd.Series(np.arange(30).repeat(4))
    hits = 0
    for _ in range(500):
        # Beta-binomial with correlation 1/3 within a cluster.
        shares = rng.beta(1.6, 0.4, size=30).repeat(4)
        values = pd.Series((rng.random(120) < shares).astype(float))
        found = estimate(values, labels, proportion=True, seed=0)
        hits += found.low <= 0.8 <= found.high
    assert 0.92 <= hits / 500 <= 0.985


def test_groups_keep_order_types_and_missing_layers() -> None:
    conditions = pd.DataFrame(
        {"condition": ["z", "a"], "layer": pd.array([pd.NA, 3], dtype="Int64")}
    )
    scores = conditions.merge(long_scores([1.0, 0.0, 0.5]).drop(columns="condition"), how="cross")
    table = summarise(scores, ["condition", "layer", "metric"], shares=[], **RESAMPLED)
    assert table["condition"].tolist() == ["z", "a"]
    assert str(table["layer"].dtype) == "Int64"
    assert table["layer"].isna().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"no column 'arm'; there are: condition"):
        summarise(scores, ["arm"], shares=[], **RESAMPLED)


def test_a_group_does_not_depend_on_the_others() -> None:
    values = np.random.default_rng(3).normal(size=20).tolist()
    first, second = long_scores(values), long_scores(values[::-1]).assign(condition="d")
    options = {"shares": [], "cluster": "sample"}
    together = summarise(pd.concat([first, second]), ["condition"], seed=4, **options)
    alone = summarise(second.sample(frac=1, random_state=0), ["condition"], seed=4, **options)
    pd.testing.assert_frame_equal(together.iloc[[1]].reset_index(drop=True), alone)
    other = summarise(second, ["condition"], seed=5, **options)
    assert other["low"].item() != alone["low"].item()


def test_a_count_of_ones_is_no_share() -> None:
    """A metric says itself whether it is a share; its values do not."""
    counts = pd.concat([long_scores([1.0, 1.0, 1.0]), long_scores([4.0, 5.0, 6.0])])
    counts["condition"] = ["a"] * 3 + ["b"] * 3
    table = summarise(counts, ["condition", "metric"], shares=[], **RESAMPLED)
    assert table["interval"].tolist() == ["none", "bootstrap"]
    assert summarise(counts.iloc[:0], ["metric"], shares=[], **RESAMPLED).empty


def test_each_metric_has_the_interval_of_its_scale() -> None:
    ones = pd.concat([long_scores([1.0, 1.0]), long_scores([1.0, 1.0]).assign(metric="count")])
    table = summarise(ones, ["metric"], shares=["m"], **RESAMPLED).set_index("metric")
    assert table["interval"].to_dict() == {"m": "wilson", "count": "none"}
    assert table.loc["m", "low"] == pytest.approx(float(wilson(1.0, 2)[0]))


@pytest.mark.parametrize("score", [0.5, 2.0, -1.0])
def test_a_share_scores_0_or_1_or_nothing(score: float) -> None:
    scores = pd.concat([long_scores([1.0, 0.0, math.nan]), long_scores([score])])
    with pytest.raises(ValueError, match=f"m is a share, but scores {score}; valid: 0, 1, NaN"):
        summarise(scores, ["metric"], shares=["m"], **RESAMPLED)
    assert len(summarise(scores, ["metric"], shares=["other"], **RESAMPLED)) == 1


@pytest.mark.parametrize("score", [1.5, -0.25])
def test_a_bounded_score_is_from_0_to_1_or_nothing(score: float) -> None:
    scores = pd.concat([long_scores([1.0, 0.25, math.nan]), long_scores([score])])
    scales = {"m": Scale("quality", bounded=True), "other": Scale("length")}
    with pytest.raises(ValueError, match=f"m is bounded, but scores {score}; valid: from 0 to 1"):
        check_bounded(scores, scales)
    check_bounded(scores.iloc[:3], scales)
    check_bounded(scores.assign(metric="other"), scales)


def test_paired_difference_removes_what_the_samples_share() -> None:
    rng = np.random.default_rng(5)
    prompts = rng.normal(0, 10, size=50)
    baseline = long_scores(prompts.tolist())
    steered = long_scores((prompts + 1 + rng.normal(0, 0.1, size=50)).tolist())
    found = paired_difference(
        steered.sample(frac=1, random_state=0), baseline, cluster="sample", share=False, seed=0
    )
    differences = steered["score"] - baseline["score"]
    assert found.mean == pytest.approx(differences.mean())
    assert found.stderr == pytest.approx(differences.std() / math.sqrt(50))
    assert 0.9 < found.low < 1 < found.high < 1.1


def test_paired_difference_of_unscored_and_unmatched() -> None:
    baseline = long_scores([1.0, 2.0, math.nan, 4.0])
    steered = long_scores([2.0, math.nan, 3.0, 6.0])
    found = paired_difference(steered, baseline, cluster="sample", share=False, seed=0)
    assert (found.mean, found.n, found.n_unscored) == (1.5, 2, 2)
    with pytest.raises(ValueError, match="sample 3, repeat 0 is on one side only"):
        paired_difference(steered.iloc[:3], baseline, cluster="sample", share=False, seed=0)
    with pytest.raises(ValueError, match="several scores"):
        paired_difference(pd.concat([steered] * 2), baseline, cluster="sample", share=False, seed=0)


@pytest.mark.parametrize(
    ("both", "steered", "baseline", "neither", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 2635, method 10: 36, 12, 2, 0 of 50.
        (36, 12, 2, 0, 0.0569, 0.3404),
        # By hand, without a common part: Wilson's intervals combined by squares.
        (0, 0, 0, 20, -0.1611, 0.1611),
    ],
)
def test_paired_shares_have_newcombes_interval(
    both: int, steered: int, baseline: int, neither: int, low: float, high: float
) -> None:
    counts = [both, steered, baseline, neither]
    after, before = (np.repeat(values, counts) for values in ([1, 1, 0, 0], [1, 0, 1, 0]))
    found = paired_difference(
        long_scores(after.tolist()), long_scores(before.tolist()), share=True, **RESAMPLED
    )
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
    assert found.interval == "newcombe_paired"


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 4])
def test_paired_shares_with_a_rare_change_are_covered(repeats: int) -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(400):
        prompts = np.arange(60).repeat(repeats)
        before = (rng.random(60) < 0.1).repeat(repeats)
        after = before | (rng.random(60) < 0.03).repeat(repeats)
        pair = [
            long_scores(side.astype(float).tolist()).assign(
                sample=prompts, repeat=np.tile(range(repeats), 60)
            )
            for side in (after, before)
        ]
        found = paired_difference(pair[0], pair[1], cluster="sample", share=True, seed=0)
        hits += found.low <= 0.9 * 0.03 <= found.high
    # The bootstrap covers 0.8 of these, as many have no change at all.
    assert hits / 400 >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "width"),
    [
        # Prompts react in opposite ways: by the phi of rows, 0.92 are covered.
        (lambda level: 0.2 + 0.6 * level, lambda level: 0.8 - 0.6 * level, 0.31),
        # A prompt keeps its level: by the phi of rows, all are covered, by intervals of 0.28.
        (lambda level: level, lambda level: level, 0.12),
        (lambda level: 0.8 * level, lambda level: 0.8 * level + 0.2, 0.12),
    ],
)
def test_paired_shares_are_covered_whatever_repeats_have_in_common(first, second, width):
    rng = np.random.default_rng(3)
    prompts, repeats = np.arange(25).repeat(20), np.tile(range(20), 25)
    hits, widths = 0, []
    for _ in range(400):
        level = rng.random(25)
        after, before = (
            long_scores((rng.random(500) < share(level)[prompts]).astype(float).tolist()).assign(
                sample=prompts, repeat=repeats
            )
            for share in (first, second)
        )
        found = paired_difference(after, before, cluster="sample", share=True, seed=0)
        truth = first(0.5) - second(0.5)
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert hits / 400 >= 0.93
    assert np.mean(widths) < 1.1 * width


def test_cluster_means() -> None:
    scores = long_scores([1.0, 3.0, math.nan, 5.0], clusters=[0, 0, 1, 1]).assign(layer=2)
    means = cluster_means(scores, columns="layer", cluster="topic")
    assert means[2].tolist() == [2, 5]


@pytest.mark.parametrize(("clusters", "interval"), [(3, "none"), (9, "none"), (10, "bootstrap")])
def test_a_few_equal_scores_have_no_interval(clusters, interval):
    """Their resamples have no spread, which says nothing of other prompts."""
    equal = pd.Series([19.0] * clusters)
    of_equal = estimate(equal, pd.Series(range(clusters)), proportion=False, seed=0)
    assert of_equal.interval == interval and of_equal.mean == 19.0
    assert np.isnan(of_equal.low) == (interval == "none")
    other = estimate(
        equal + np.arange(clusters), pd.Series(range(clusters)), proportion=False, seed=0
    )
    assert other.low < other.high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "clusters", "least"),
    [
        *(("normal", clusters, 0.915) for clusters in (3, 4, 5, 6, 10)),
        *(("reciprocal rank", clusters, 0.90) for clusters in (3, 4, 5, 6)),
        # Less than 95 %, as `percentile_interval` says; without Student's width, 0.63 at 3.
        *(("lognormal", clusters, 0.80) for clusters in (3, 4, 5, 6)),
    ],
)
def test_the_mean_of_a_few_prompts_is_covered(kind, clusters, least):
    rng = np.random.default_rng(clusters)
    noise = rng.normal(size=(1000, clusters))
    values, truth = {
        "normal": (noise, 0.0),
        "lognormal": (np.exp(noise), math.exp(0.5)),
        # P(ceil(exp(2 |z|)) = k) / k, summed.
        "reciprocal rank": (1 / np.ceil(np.exp(2 * np.abs(noise))), 0.25628),
    }[kind]
    names = pd.Series(range(clusters))
    found = [estimate(pd.Series(row), names, proportion=False, seed=0) for row in values]
    covered = [one.interval == "none" or one.low <= truth <= one.high for one in found]
    assert np.mean(covered) >= least


def test_the_interval_of_a_few_scores_keeps_their_limits():
    scores, names = pd.Series([0.9, 0.1, 1.0, 0.6]), pd.Series(range(4))
    free = estimate(scores, names, proportion=False, seed=0)
    half = 3.182446 * scores.std() / 2
    assert (free.low, free.high) == pytest.approx((0.65 - half, 0.65 + half), abs=1e-6)
    kept = estimate(scores, names, proportion=False, seed=0, within=(0.0, 1.0))
    assert (kept.low, kept.high) == (free.low, 1.0) and free.high > 1
    table = pd.DataFrame({"metric": "m", "score": scores, "sample": names})
    options = {"shares": [], "cluster": "sample", "seed": 0}
    assert summarise(table, ["metric"], **options)["high"].item() == free.high
    assert summarise(table, ["metric"], **options, bounded=["m"])["high"].item() == 1


def test_infinite_scores_are_refused():
    scores = pd.DataFrame({"metric": "m", "score": [1.0, np.inf], "sample": [0, 1]})
    with pytest.raises(ValueError, match="m scores inf; valid: finite numbers, NaN"):
        summarise(scores, ["metric"], shares=[], cluster="sample", seed=0)
