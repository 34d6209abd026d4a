"""Fit linear probes to states: logistic for classes, ridge for values, penalty by grouped folds."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped


@dataclass(frozen=True, eq=False)
class LinearFit:
    """The map state -> weight @ state + bias, with the penalty that cross-validation chose.

    Attributes:
        weight: of states as they are, not standardised.
        bias: one value for each output.
        penalty: λ in ||error||² + λ ||w||² for values, in log loss + λ/2 ||w||² for classes, with
            errors and losses summed over rows, and w of standardised states.
        score: accuracy, or R² averaged over outputs, on the held-out folds together.
    """

    weight: Float64[np.ndarray, "outputs d_model"]
    bias: Float64[np.ndarray, " outputs"]
    penalty: float
    score: float


def fit_classes(
    states: Float64[np.ndarray, "rows d_model"],
    labels: Sequence[Shaped[np.ndarray, " rows"]],
    groups: Shaped[np.ndarray, " rows"],
    penalties: Sequence[float],
    folds: int,
) -> list[LinearFit]:
    """Fit a multinomial logistic regression to each labelling, with an output for each class.

    Outputs are in the sorted order of the labelling's classes; the predicted class is the largest.
    """
    correct = np.zeros((len(labels), len(penalties)))
    for train, test in grouped_folds(groups, folds):
        design = _Design.of(states[train])
        for (which, each), (number, penalty) in itertools.product(
            enumerate(labels), enumerate(penalties)
        ):
            classes, weight, bias = design.logistic(each[train], penalty)
            predicted = classes[(states[test] @ weight.T + bias).argmax(1)]
            correct[which, number] += (predicted == each[test]).sum()
    design = _Design.of(states)
    fits = []
    for each, scores in zip(labels, (correct / len(groups)).tolist(), strict=True):
        best = _best(scores, penalties)
        _, weight, bias = design.logistic(each, penalties[best])
        fits.append(LinearFit(weight, bias, penalties[best], scores[best]))
    return fits


def logistic_weight(
    states: Float64[np.ndarray, "rows d_model"],
    positive: Shaped[np.ndarray, " rows"],
    penalty: float,
) -> Float64[np.ndarray, " d_model"]:
    """Fit a logistic regression of two classes, and return the weight of states as they are.

    Minimises log loss + penalty/2 ||w||² over w of standardised states, summed over rows.
    """
    _, weight, _ = _Design.of(states).logistic(positive, penalty)
    return weight[1] - weight[0]


def fit_values(
    states: Float64[np.ndarray, "rows d_model"],
    values: Sequence[Float64[np.ndarray, "rows outputs"]],
    groups: Shaped[np.ndarray, " rows"],
    penalties: Sequence[float],
    folds: int,
) -> list[LinearFit]:
    """Fit a ridge regression with intercept to each set of values.

    w = (X'X + λ I)^-1 X'y on standardised states and centred values, from one decomposition of X
    for all values and penalties.
    """
    stacked = np.concatenate(list(values), axis=1)
    width = values[0].shape[1]
    held_out = np.empty((len(penalties), *stacked.shape))
    for train, test in grouped_folds(groups, folds):
        weights, biases = _ridges(states[train], stacked[train], penalties)
        held_out[:, test] = states[test] @ weights + biases[:, None]
    weights, biases = _ridges(states, stacked, penalties)
    fits = []
    for start in range(0, stacked.shape[1], width):
        part = slice(start, start + width)
        scores = [
            float(r_squared(stacked[:, part], predicted[:, part]).mean()) for predicted in held_out
        ]
        best = _best(scores, penalties)
        weight, bias = weights[best][:, part].T, biases[best][part]
        fits.append(LinearFit(weight, bias, penalties[best], scores[best]))
    return fits


def r_squared(
    values: Float64[np.ndarray, "rows outputs"], predicted: Float64[np.ndarray, "rows outputs"]
) -> Float64[np.ndarray, " outputs"]:
    """Compute 1 - Σ (y - ŷ)² / Σ (y - ȳ)² of each output."""
    residual = ((values - predicted) ** 2).sum(0)
    return np.asarray(1 - residual / ((values - values.mean(0)) ** 2).sum(0))


def shuffled(
    targets: Shaped[np.ndarray, "rows ..."], groups: Shaped[np.ndarray, " rows"], seed: list[int]
) -> Shaped[np.ndarray, "rows ..."]:
    """Permute targets: between groups if each has a single target, else between rows.

    So a group's rows keep a common target, which a probe can learn as easily as the true one.
    """
    rng = np.random.default_rng(seed)
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    if bool(np.all(targets == targets[first][codes])):
        return targets[first][rng.permutation(len(first))][codes]
    return targets[rng.permutation(len(targets))]


def grouped_folds(
    groups: Shaped[np.ndarray, " rows"], folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows into folds that share no group; return the rows of each fit and its test."""
    # Imported where used: a study without probes does without sklearn.
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(folds).split(groups, groups=groups))


@dataclass(frozen=True, eq=False)
class _Design:
    """Standardised states, rotated to the directions in which they vary.

    A penalised fit has no weight in the others, so that it is the same, and faster with fewer rows
    than dimensions.
    """

    rotated: Float64[np.ndarray, "rows rank"]
    basis: Float64[np.ndarray, "rank d_model"]
    mean: Float64[np.ndarray, " d_model"]
    scale: Float64[np.ndarray, " d_model"]

    @classmethod
    def of(cls, states: Float64[np.ndarray, "rows d_model"]) -> "_Design":
        mean, scale = _standards(states)
        left, singular, basis = np.linalg.svd((states - mean) / scale, full_matrices=False)
        return cls(left * singular, basis, mean, scale)

    def logistic(
        self, labels: Shaped[np.ndarray, " rows"], penalty: float
    ) -> tuple[
        Shaped[np.ndarray, " classes"],
        Float64[np.ndarray, "classes d_model"],
        Float64[np.ndarray, " classes"],
    ]:
        """Return the classes, and weight and bias for states as they are."""
        from sklearn.linear_model import LogisticRegression

        classes = np.unique(labels)
        if len(classes) == 1:  # A fold may hold a single class.
            return classes, np.zeros((1, len(self.mean))), np.zeros(1)
        fit = LogisticRegression(C=1 / penalty, max_iter=5000).fit(self.rotated, labels)
        weight, bias = fit.coef_, fit.intercept_
        if len(classes) == 2:
            weight, bias = (np.concatenate([-half, half]) for half in (weight / 2, bias / 2))
        weight = weight @ self.basis / self.scale
        return classes, weight, bias - weight @ self.mean


def _ridges(
    states: Float64[np.ndarray, "rows d_model"],
    values: Float64[np.ndarray, "rows outputs"],
    penalties: Sequence[float],
) -> tuple[
    Float64[np.ndarray, "penalties d_model outputs"], Float64[np.ndarray, "penalties outputs"]
]:
    mean, scale = _standards(states)
    centre = values.mean(0)
    left, singular, right = np.linalg.svd((states - mean) / scale, full_matrices=False)
    rotated = left.T @ (values - centre)
    shrunk = np.stack([singular / (singular**2 + penalty) for penalty in penalties])
    weights = right.T @ (shrunk[:, :, None] * rotated) / scale[:, None]
    return weights, centre - mean @ weights


def _standards(states: Float64[np.ndarray, "rows d_model"]) -> tuple[np.ndarray, np.ndarray]:
    scale = states.std(0)
    return states.mean(0), np.where(scale > 1e-8 * scale.max(initial=1e-300), scale, 1.0)


def _best(scores: Sequence[float], penalties: Sequence[float]) -> int:
    """Return the index of the best score; of equal ones, the strongest penalty's."""
    return max(range(len(scores)), key=lambda n: (scores[n], penalties[n]))
