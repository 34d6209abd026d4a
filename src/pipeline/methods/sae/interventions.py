"""Interventions with an autoencoder: reconstruct the activation, ablate or clamp features.

Features are encoded once, from the incoming activation: in a `topk` autoencoder no other feature
replaces an ablated one. Ablating "whenever it fires" needs no rule of its own: with position rule
`all`, tokens without an active chosen feature are unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.methods.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, eq=False)
class Reconstruct:
    """Replace the activation by its reconstruction x̂, dropping the error."""

    sae: SparseAutoencoder

    def edit(self, hidden: Tensor) -> Tensor:
        """Return the reconstruction of hidden [rows, pos, width]."""
        return self.sae.reconstruct(hidden)


@dataclass(frozen=True, eq=False)
class ClampFeatures:
    """Clamp chosen features to a value: x + sum_i chosen_i (value - f_i) decoder_i.

    The rest of the activation, including the SAE error, is unchanged. Value 0 is ablation; ablating
    all features leaves error + decoder bias. `chosen` [feature] is 1 or 0.
    """

    sae: SparseAutoencoder
    chosen: Tensor
    value: float | Tensor = 0.0

    def edit(self, hidden: Tensor) -> Tensor:
        """Return hidden [rows, pos, width] with the chosen features clamped."""
        return hidden + (self.chosen * (self.value - self.sae.encode(hidden))) @ self.sae.decoder


def ablate(sae: SparseAutoencoder, features: Sequence[int]) -> ClampFeatures:
    """Ablate features: set them to 0, keeping the error.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    return clamp(sae, features, 0.0)


def clamp(sae: SparseAutoencoder, features: Sequence[int], value: float) -> ClampFeatures:
    """Clamp features to a value in the units of `encode`, keeping the error.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    return ClampFeatures(sae, choose(sae, features), value)


def choose(sae: SparseAutoencoder, features: Sequence[int]) -> Float[Tensor, " feature"]:
    """Build the indicator vector of features: 1 if chosen, else 0.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    sae.check_features(features)
    chosen = torch.zeros(sae.n_features)
    chosen[list(features)] = 1
    return chosen
