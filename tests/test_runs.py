import numpy as np
import pandas as pd
import pytest

from pipeline.runs.records import compare


def record(summary=None, **config):
    return {"config": config, "summary": summary or {}}


def normal(scores):
    mean, stderr = scores.mean(), scores.std(ddof=1) / np.sqrt(len(scores))
    low, high = mean - 1.96 * stderr, mean + 1.96 * stderr
    return {"mean": mean, "low": low, "high": high, "stderr": stderr, "n": len(scores)}


def wilson(hits, n):
    z, p = 1.959964, hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    stderr = np.sqrt(p * (1 - p) / n)
    return {"mean": p, "low": centre - half, "high": centre + half, "stderr": stderr, "n": n}


def test_settings_that_differ_are_named_and_no_others():
    a = record(sweep={"seed": 1, "layers": [1, 2], "strength": 2.0}, model="m", gone=None)
    b = record(sweep={"seed": 2, "layers": [1, 3], "strength": 2}, model="m", new={})
    config = compare(a, b).config.set_index("key")
    assert list(config.index) == ["sweep.seed", "sweep.layers", "gone", "new"]
    assert config.loc["sweep.seed"].tolist() == [1, 2]
    assert config.loc["sweep.layers"].tolist() == [[1, 2], [1, 3]]
    assert config.loc["gone", "a"] is None and config.loc["gone", "b"] is pd.NA
    assert config.loc["new", "a"] is pd.NA and config.loc["new", "b"] == {}
    assert compare(a, a).config.empty


def test_a_planted_difference_is_told_from_noise():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(0, 1, 200), rng.normal(shift, 1, 200)) for shift in [0] * 400 + [1] * 50]
    found = []
    for a, b in draws:
        row = compare(record({"score": normal(a)}), record({"score": normal(b)})).summary.iloc[0]
        half = 1.96 * np.sqrt(a.var(ddof=1) / 200 + b.var(ddof=1) / 200)
        assert row["difference"] == pytest.approx(b.mean() - a.mean())
        assert row["low"] == pytest.approx(row["difference"] - half)
        assert row["high"] == pytest.approx(row["difference"] + half)
        found.append(row["excludes_zero"])
    # Of 400 comparisons without a difference 20 are expected to find one, give or take 4.4.
    assert 7 <= sum(found[:400]) <= 33
    assert all(found[400:])


def test_proportions_match_the_published_interval():
    """Newcombe 1998, method 10: 56/70 against 48/80 is 0.2, from 0.0524 to 0.3339."""
    row = compare(record({"p": wilson(48, 80)}), record({"p": wilson(56, 70)})).summary.iloc[0]
    assert row[["difference", "low", "high"]].tolist() == pytest.approx(
        [0.2, 0.0524, 0.3339], abs=5e-5
    )
    assert row["excludes_zero"]


def test_one_of_one_against_none_of_one_is_no_proof():
    # Both standard errors are 0; only the intervals know how little was seen.
    row = compare(record({"p": wilson(0, 1)}), record({"p": wilson(1, 1)})).summary.iloc[0]
    assert not row["excludes_zero"]


def test_plain_numbers_are_subtracted_only_and_words_left_out():
    unscored = {"mean": None, "low": None, "high": None, "stderr": None, "n": 0}
    a = {"best": {"layer": 3, "kl": 0.5}, "name": "x", "ok": True, "r": unscored, "old": 1}
    b = {"best": {"layer": 5, "kl": 0.25}, "name": "y", "ok": False, "r": wilson(1, 2)}
    summary = compare(record(a), record(b)).summary.set_index("key")
    assert list(summary.index) == ["best.layer", "best.kl", "r", "old"]
    assert summary.loc[["best.layer", "best.kl"], "difference"].tolist() == [2, -0.25]
    assert summary.loc[["r", "old"], "difference"].isna().all()
    assert summary[["low", "high", "excludes_zero"]].isna().all(axis=None)
