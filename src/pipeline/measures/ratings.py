"""Ratings of players from pairwise comparisons: Bradley-Terry with style control."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from pipeline.measures.statistics import percentile_interval, resampling_counts

SCALE = np.log(10) / 400
"""Log-odds per rating point: 400 points are odds of 10 to 1."""
ANCHOR = 1000.0
"""Mean of all ratings."""
_RIDGE = 1e-2
"""Ridge on log-odds: keeps ratings finite where a player wins or loses every comparison."""
_STEPS = 50


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of two players' answers to a prompt.

    Attributes:
        a: one player of each comparison.
        b: the other player.
        outcome: 1 where a wins, 0 where b wins, 0.5 for a tie.
        style: style differences of a and b, as of `style_difference`.
        prompt: the prompt of each comparison, by which it is resampled.
        players: number of players.
    """

    a: Int[np.ndarray, " comparison"]
    b: Int[np.ndarray, " comparison"]
    outcome: Float[np.ndarray, " comparison"]
    style: Float[np.ndarray, "comparison style"]
    prompt: Int[np.ndarray, " comparison"]
    players: int


@dataclass(frozen=True)
class Ratings:
    """Ratings with 95 % intervals: `rating` per player, `style` per style count, in log-odds."""

    rating: Float[np.ndarray, " player"]
    rating_low: Float[np.ndarray, " player"]
    rating_high: Float[np.ndarray, " player"]
    style: Float[np.ndarray, " style"]
    style_low: Float[np.ndarray, " style"]
    style_high: Float[np.ndarray, " style"]


def style_difference(
    a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Compute (a - b) / (a + b) of counts, 0 where both are 0."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)


def rate(comparisons: Comparisons, *, seed: int) -> Ratings:
    """Fit ratings r and style weights β by maximum likelihood, with a bootstrap over prompts.

    logit P(a wins) = ln(10) (r_a - r_b) / 400 + β·x, x the style differences divided by their root
    mean square; they are not centred, so that exchanging a and b negates the log-odds. Ties count
    as half a win. The ratings' mean is 1000. A style weight is the change of the log-odds for one
    root mean square. A ridge of 0.01 / 2 on the squared log-odds keeps estimates finite.

    Without style columns this is plain Bradley-Terry.

    Raises:
        ValueError: no comparisons, a player without any, or a single prompt.

    Source: Bradley and Terry 1952; Chiang et al. 2024 (Chatbot Arena; style control).
    """
    seen = np.union1d(comparisons.a, comparisons.b)
    if len(seen) < comparisons.players:
        raise ValueError(f"{len(seen)} of {comparisons.players} players have comparisons")
    _, prompt = np.unique(comparisons.prompt, return_inverse=True)
    n_prompts = int(prompt.max()) + 1
    if n_prompts < 2:
        raise ValueError(
            "comparisons of a single prompt have no interval; valid: 2 prompts or more"
        )
    features = _features(comparisons)
    weights = resampling_counts(n_prompts, seed)[:, prompt].astype(float)
    fitted = _fit(features, comparisons.outcome, np.ones(len(prompt)))
    resampled = np.stack([_fit(features, comparisons.outcome, row, fitted) for row in weights])
    edges = percentile_interval(_in_points(resampled, comparisons.players), n_prompts)
    point = _in_points(fitted[None], comparisons.players)[0]
    split = comparisons.players
    return Ratings(
        *(row[:split] for row in (point, *edges)), *(row[split:] for row in (point, *edges))
    )


def _features(comparisons: Comparisons) -> Float[np.ndarray, "comparison parameter"]:
    rows = np.arange(len(comparisons.a))
    signs = np.zeros((len(rows), comparisons.players))
    np.add.at(signs, (rows, comparisons.a), 1.0)
    np.add.at(signs, (rows, comparisons.b), -1.0)
    size = np.sqrt((comparisons.style**2).mean(axis=0))
    return np.hstack([signs, comparisons.style / np.where(size > 0, size, 1.0)])


def _fit(
    features: Float[np.ndarray, "comparison parameter"],
    outcome: Float[np.ndarray, " comparison"],
    weight: Float[np.ndarray, " comparison"],
    start: Float[np.ndarray, " parameter"] | None = None,
) -> Float[np.ndarray, " parameter"]:
    """Maximise the penalised likelihood by Newton's method; a step that lowers it is halved."""
    theta = np.zeros(features.shape[1]) if start is None else start.copy()

    def loss(values: Float[np.ndarray, " parameter"]) -> float:
        odds = features @ values
        losses = np.logaddexp(0, odds) - outcome * odds
        return float(weight @ losses + _RIDGE / 2 * values @ values)

    now = loss(theta)
    for _ in range(_STEPS):
        p = expit(features @ theta)
        gradient = features.T @ (weight * (p - outcome)) + _RIDGE * theta
        hessian = (features.T * (weight * p * (1 - p))) @ features + _RIDGE * np.eye(len(theta))
        step = np.linalg.solve(hessian, gradient)
        while loss(theta - step) > now + 1e-12 and np.abs(step).max() > 1e-10:
            step = step / 2
        theta = theta - step
        now = loss(theta)
        if np.abs(step).max() < 1e-8:
            break
    return theta


def _in_points(
    parameters: Float[np.ndarray, "fit parameter"], players: int
) -> Float[np.ndarray, "fit parameter"]:
    odds = parameters[:, :players]
    points = ANCHOR + (odds - odds.mean(axis=1, keepdims=True)) / SCALE
    return np.hstack([points, parameters[:, players:]])
