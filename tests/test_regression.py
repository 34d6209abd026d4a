"""R² against scikit-learn, and its interval against resampled tables."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from pipeline.measures.regression import r_squared_estimate
from pipeline.measures.statistics import resampling_counts


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"topic": np.repeat(list("abcdefghijkl"), [3, 1, 2, 2, 4, 1] * 2)})
    frame["y"] = 1000 + rng.normal(size=len(frame))
    return frame.assign(predicted=frame["y"] + 0.5 * rng.normal(size=len(frame)))


def test_it_is_scikit_learns_in_the_table_and_in_every_resample(table):
    found = r_squared_estimate(table["y"], table["predicted"], table["topic"], seed=3)
    assert found.mean == pytest.approx(r2_score(table["y"], table["predicted"]))
    groups = dict(list(table.groupby("topic")))
    resampled = []
    for counts in resampling_counts(12, 3):
        rows = pd.concat(
            [groups[name] for name, n in zip(groups, counts, strict=True) for _ in range(n)]
        )
        resampled.append(r2_score(rows["y"], rows["predicted"]))
    assert found.stderr == pytest.approx(np.std(resampled, ddof=1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found.low < low < found.mean < high < found.high
    assert (found.n, found.interval) == (len(table), "bootstrap")


def test_the_mean_scores_zero_and_what_is_worse_less(table):
    y = table["y"]
    for predicted, expected in ((y, 1), (y * 0 + y.mean(), 0), (2 * y.mean() - y, -3)):
        found = r_squared_estimate(y, predicted, table["topic"], seed=0)
        assert found.mean == pytest.approx(expected)


def test_a_single_cluster_has_no_interval(table):
    found = r_squared_estimate(table["y"], table["predicted"], table["topic"] * 0, seed=0)
    assert found.interval == "none" and np.isnan([found.low, found.high]).all()
