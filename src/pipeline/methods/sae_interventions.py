"""What an autoencoder lets one do to an activation: reconstruct it, ablate or clamp features.

Features are read from the activation as it comes, once: in a `topk` autoencoder no other feature
moves up in place of an ablated one. "Whenever it fires" needs no rule of its own: at position rule
`all`, ablation leaves tokens alone at which no chosen feature is active.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.methods.sae import SparseAutoencoder


@dataclass(frozen=True, eq=False)
class Reconstruct:
    """The reconstruction in the activation's place: x̂, its error dropped."""

    sae: SparseAutoencoder

    def edit(self, hidden: Tensor) -> Tensor:
        """Reconstruction of hidden [rows, pos, width]."""
        return self.sae.reconstruct(hidden)


@dataclass(frozen=True, eq=False)
class ClampFeatures:
    """Chosen features at a value: x + sum_i chosen_i (value - f_i) decoder_i.

    The rest of the activation, the reconstruction's error included, stays as it is. Value 0 is
    ablation; of all features it leaves error + decoder bias. `chosen` [feature] is 1 or 0.
    """

    sae: SparseAutoencoder
    chosen: Tensor
    value: float | Tensor = 0.0

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, width] with the chosen features at the value."""
        return hidden + (self.chosen * (self.value - self.sae.encode(hidden))) @ self.sae.decoder


def ablate(sae: SparseAutoencoder, features: Sequence[int]) -> ClampFeatures:
    """Features set to 0, the error kept.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    return clamp(sae, features, 0.0)


def clamp(sae: SparseAutoencoder, features: Sequence[int], value: float) -> ClampFeatures:
    """Features set to a value in the units of `encode`, the error kept.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    return ClampFeatures(sae, choose(sae, features), value)


def choose(sae: SparseAutoencoder, features: Sequence[int]) -> Float[Tensor, " feature"]:
    """1 for the features, 0 for the others.

    Raises:
        ValueError: a feature that the autoencoder does not have.
    """
    sae.check_features(features)
    chosen = torch.zeros(sae.n_features)
    chosen[list(features)] = 1
    return chosen
