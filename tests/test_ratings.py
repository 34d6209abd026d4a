"""Bradley-Terry ratings against planted ratings with a length bias, and scipy's minimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from pipeline.measures.ratings import SCALE, Comparisons, rate, style_difference

PLANTED = np.array([1100.0, 1000.0, 950.0, 950.0])
LENGTHS = np.array([20.0, 60.0, 20.0, 120.0])
BIAS = 3.0


def simulated(n_prompts=150, bias=BIAS, seed=0) -> Comparisons:
    """Every pair of players on every prompt four times; the judge prefers longer answers."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(4) for b in range(a)] * 4
    a, b = np.array(pairs * n_prompts).T
    prompt = np.repeat(np.arange(n_prompts), len(pairs))
    long_a, long_b = (LENGTHS[x] * rng.lognormal(0, 0.6, len(x)) for x in (a, b))
    style = style_difference(long_a, long_b)
    odds = SCALE * (PLANTED[a] - PLANTED[b]) + bias * style
    outcome = (rng.random(len(a)) < expit(odds)).astype(float)
    return Comparisons(a, b, outcome, style[:, None], prompt, 4)


def without_style(games: Comparisons) -> Comparisons:
    return Comparisons(
        games.a, games.b, games.outcome, games.style[:, :0], games.prompt, games.players
    )


def test_style_control_recovers_planted_ratings_that_a_length_bias_hides():
    games = simulated()
    controlled, plain = rate(games, seed=0), rate(without_style(games), seed=0)
    np.testing.assert_allclose(controlled.rating, PLANTED, atol=25)
    assert (controlled.rating_low <= PLANTED).all() and (controlled.rating_high >= PLANTED).all()
    size = np.sqrt((games.style**2).mean())
    assert controlled.style[0] / size == pytest.approx(BIAS, abs=0.25)
    assert controlled.style_low[0] <= BIAS * size <= controlled.style_high[0]
    # The verbose last player is the worst, and seems the best; the true best seems bad.
    assert plain.rating.argmax() == 3 and plain.rating[3] - PLANTED[3] > 150
    assert plain.rating_low[3] > PLANTED[3] and plain.rating_high[0] < PLANTED[0]


def test_without_a_bias_style_control_changes_nothing_beyond_its_interval():
    games = simulated(bias=0.0)
    controlled = rate(games, seed=0)
    assert controlled.style_low[0] <= 0 <= controlled.style_high[0]
    plain = rate(without_style(games), seed=0)
    np.testing.assert_allclose(controlled.rating, plain.rating, atol=25)


def test_the_fit_is_the_minimum_that_scipy_finds_with_ties():
    games = simulated(n_prompts=12)
    outcome = np.where(np.arange(len(games.a)) % 5 == 0, 0.5, games.outcome)
    tied = Comparisons(games.a, games.b, outcome, games.style, games.prompt, 4)
    style = games.style[:, 0] / np.sqrt((games.style[:, 0] ** 2).mean())

    def loss(theta):
        odds = theta[games.a] - theta[games.b] + theta[4] * style
        p = expit(odds)
        likelihood = outcome * np.log(p) + (1 - outcome) * np.log(1 - p)
        return -likelihood.sum() + 0.005 * theta @ theta

    best = minimize(loss, np.zeros(5), options={"gtol": 1e-9}).x
    ratings = rate(tied, seed=0)
    expected = 1000 + (best[:4] - best[:4].mean()) * 400 / np.log(10)
    np.testing.assert_allclose(ratings.rating, expected, atol=0.05)
    assert ratings.style[0] == pytest.approx(best[4], abs=1e-4)


def test_exchanging_both_sides_changes_nothing():
    games = simulated(n_prompts=12)
    turned = Comparisons(games.b, games.a, 1 - games.outcome, -games.style, games.prompt, 4)
    for one, other in zip(
        vars(rate(games, seed=1)).values(), vars(rate(turned, seed=1)).values(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_player_that_wins_every_comparison_has_a_finite_rating():
    games = simulated(n_prompts=12)
    won = np.where(games.a == 0, 1.0, np.where(games.b == 0, 0.0, games.outcome))
    ratings = rate(without_style(Comparisons(**{**vars(games), "outcome": won})), seed=0)
    assert np.isfinite(ratings.rating).all() and ratings.rating.argmax() == 0
    assert ratings.rating.mean() == pytest.approx(1000)


def test_intervals_resample_whole_prompts():
    """Copies of every comparison within its prompt carry no information."""
    games = simulated(n_prompts=12)
    twice = Comparisons(
        **{
            name: np.concatenate([value, value]) if name != "players" else value
            for name, value in vars(games).items()
        }
    )
    once, again = rate(games, seed=0), rate(twice, seed=0)
    widths = [r.rating_high - r.rating_low for r in (once, again)]
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.03)


def test_style_differences_of_empty_answers_are_zero():
    np.testing.assert_array_equal(
        style_difference(np.array([3.0, 0.0, 0.0]), np.array([1.0, 0.0, 2.0])), [0.5, 0, -1]
    )


def test_players_without_comparisons_and_single_prompts_are_named():
    games = simulated(n_prompts=2)
    with pytest.raises(ValueError, match="4 of 5 players have comparisons"):
        rate(Comparisons(**{**vars(games), "players": 5}), seed=0)
    with pytest.raises(ValueError, match="a single prompt have no interval"):
        rate(Comparisons(**{**vars(games), "prompt": np.zeros_like(games.prompt)}), seed=0)
