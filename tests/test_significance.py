"""Corrections for many tests, against published examples and simulated experiments."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pipeline.measures.significance import benjamini_hochberg, holm, p_above_zero, p_not_zero


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never decreasing.
    found = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1, 1])


def test_benjamini_and_hochbergs_own_example():
    """Table 2 of Benjamini and Hochberg 1995: four of fifteen are significant."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert int((benjamini_hochberg(np.array(p)) <= 0.05).sum()) == 4
    assert int((holm(np.array(p)) <= 0.05).sum()) == 3
    assert benjamini_hochberg(np.array([])).size == 0


def test_p_is_that_of_students_t():
    values = np.random.default_rng(0).normal(0.5, 1, size=(3, 8))
    stderr = values.std(axis=1, ddof=1) / np.sqrt(8)
    found = p_above_zero(values.mean(axis=1), stderr, np.full(3, 8.0))
    expected = [ttest_1samp(row, 0, alternative="greater").pvalue for row in values]
    np.testing.assert_allclose(found, expected)
    certain = p_above_zero(np.array([1.0, 0.0, -1.0]), np.zeros(3), np.full(3, 5.0))
    assert certain.tolist() == [1 / 32, 1, 1]
    both = p_not_zero(values.mean(axis=1), stderr, 8)
    np.testing.assert_allclose(both, [ttest_1samp(row, 0).pvalue for row in values])
    assert p_not_zero(np.array([1.0, 0.0, -1.0]), np.zeros(3), 5).tolist() == [1 / 16, 1, 1 / 16]


def test_what_has_no_variance_estimate_is_not_tested():
    """A mean of one difference, or a missing one, is neither significant nor counted as a test."""
    mean, stderr = np.array([1.0, 1.0, np.nan, 1.0]), np.array([np.nan, 0, 0.1, 0.5])
    for p in (p_above_zero(mean, stderr, np.full(4, 8.0)), p_not_zero(mean, stderr, 8)):
        assert np.isnan(p).tolist() == [True, False, True, False] and 0 < p[1] < 0.01
    single = np.array([0.3])
    for stderr in (np.array([np.nan]), np.array([0.0])):
        assert np.isnan(p_above_zero(single, stderr, np.ones(1))).all()
        assert np.isnan(p_not_zero(single, stderr, 1)).all()
    p = np.array([0.03, np.nan, 0.01, np.nan, 0.02])
    tested = [0, 2, 4]
    for correct in (holm, benjamini_hochberg):
        adjusted = correct(p)
        np.testing.assert_array_equal(adjusted[tested], correct(p[tested]))
        assert np.isnan(adjusted[[1, 3]]).all()
        assert np.isnan(correct(np.full(2, np.nan))).all()


@pytest.mark.slow
def test_holm_finds_nothing_in_noise_but_5_times_in_100():
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(1000):
        values = rng.normal(size=(20, 23))
        stderr = values.std(axis=1, ddof=1) / np.sqrt(23)
        false += bool((holm(p_above_zero(values.mean(1), stderr, np.full(20, 23.0))) < 0.05).any())
    assert false / 1000 < 0.065
