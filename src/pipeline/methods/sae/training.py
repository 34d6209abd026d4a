"""Train sparse autoencoders on the rows of an activation store, many in one pass over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import KINDS, SparseAutoencoder
from pipeline.methods.sae.topk import decode, largest
from pipeline.runs.progress import progress
from pipeline.store.shuffling import shuffled_batches
from pipeline.store.store import ActivationStore

_WARM, _DECAY = 0.05, 0.2
"""Shares of all steps for the warm-up of the sparsity weight and the decay of the learning rate."""

_ENCODER = {"topk": 0.1, "l1": 0.1, "jumprelu": 0.5}
"""Initial norm of the encoder columns, which point along the decoder rows. Short columns quickly
rotate to where they are needed; with a threshold, features must be active from the start.
"""

_DECODER_RATE = 3
"""Ratio of the decoder's learning rate to the other weights': its rows have norm 1, so the same
step rotates them less. On 1024 planted features in 512 dimensions, a `topk` autoencoder with 4096
features explains 0.85 of the variance after 112 steps; without this and `_ENCODER`, 0.46.
"""

THRESHOLD, BANDWIDTH = 0.6, 0.5
"""Initial `jumprelu` threshold, and width of the window around it in which activations contribute
to its gradient, for activations scaled to a mean square of 1 per dimension.

Rajamanoharan et al. use 0.001 for both at a mean ||x||² of 1, which is 0.001 sqrt(width) here. Ours
are larger: with theirs, many times as many features are active after a thousand steps.
"""


@dataclass(frozen=True)
class SaeRecipe:
    """Architecture and training options of the autoencoder of a site.

    Args:
        site: the site to train at.
        kind: `l1`, `topk` or `jumprelu`.
        n_features: dictionary size.
        k: active features per row, for `topk`.
        sparsity: weight of the sum of feature activations (`l1`) or of their number (`jumprelu`),
            for activations scaled to a mean square of 1 per dimension.
        learning_rate: of Adam; the decoder's is three times this.
        revive_every: steps between resampling features that did not fire since the last check;
            default: a quarter of all steps, at most 500, so that resampled features can settle.

    Raises:
        ValueError: an unknown kind, or a value out of range.
    """

    site: str
    kind: str
    n_features: int
    k: int = 0
    sparsity: float = 0.0
    learning_rate: float = 3e-3
    revive_every: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"autoencoders of kind {self.kind!r} are not trained; valid: {', '.join(KINDS)}"
            )
        if self.kind == "topk" and not 1 <= self.k <= self.n_features:
            raise ValueError(f"k {self.k} of topk; valid: 1 to {self.n_features}")
        if self.kind != "topk" and self.sparsity <= 0:
            raise ValueError(f"sparsity {self.sparsity} of {self.kind} must be above 0")
        if self.revive_every is not None and self.revive_every < 1:
            raise ValueError(f"revive_every {self.revive_every} is less than 1")


def train(
    store: ActivationStore,
    recipes: Sequence[SaeRecipe],
    mask: Bool[np.ndarray, " rows"],
    *,
    passes: int = 1,
    batch_rows: int = 1024,
    buffer_rows: int = 65536,
    seed: int = 0,
    device: str = "cpu",
) -> list[SparseAutoencoder]:
    """Train all autoencoders in parallel: each batch of the store is read once for all sites.

    loss = mean ||x - x̂||² / width + sparsity * warm-up * mean sum_i s_i / width, s = f for `l1`,
    0 for `topk`, and for `jumprelu` 1 where a feature is active, else 0 (the L0 norm; see `jump`).
    Activations are scaled to a mean square of 1, x - decoder_bias is encoded, and decoder rows are
    renormalised to 1 after every step; scale and bias are folded into the weights at the end.
    Optimiser: Adam; the learning rate decays to 0 over the last fifth of the steps. Thresholds are
    learned as logarithms. A lone feature with f = ||x|| saves f² and costs the sparsity weight, so
    `jumprelu` thresholds tend to its square root.

    Features that fired on no row since the last check are resampled: decoder and encoder along the
    error of rows drawn in proportion to their squared loss, encoder bias and Adam's moments 0, the
    threshold at its initial value. Bricken et al. 2023 use the row itself and a fifth of the mean
    encoder norm; we use the error, which is what is missing, at full norm. No resampling in the
    last fifth of the steps.

    Args:
        store: activations.
        recipes: one per autoencoder; several may share a site.
        mask: the rows to train on; exclude special tokens and held-out rows.
        passes: epochs over the rows, each in a new order.
        batch_rows: rows per step.
        buffer_rows: see `shuffled_batches`.
        seed: of initialisation, row order and resampling.
        device: to train on.

    Raises:
        ValueError: no rows, a site that is not in the store, or non-finite weights.
    """
    n_rows = int(mask.sum())
    if n_rows == 0 or not recipes:
        raise ValueError(f"{n_rows} rows and {len(recipes)} recipes: nothing to train")
    sites = list(dict.fromkeys(recipe.site for recipe in recipes))
    steps = passes * math.ceil(n_rows / batch_rows)
    learners: list[_Learner] = []
    batches = chain.from_iterable(
        shuffled_batches(
            store,
            sites,
            mask,
            batch_rows=batch_rows,
            buffer_rows=buffer_rows,
            seed=seed + number,
        )
        for number in range(passes)
    )
    for _ in progress(range(steps), "autoencoders", "step"):
        on_device = {site: rows.to(device) for site, rows in next(batches).items()}
        if not learners:
            learners = [
                _Learner(recipe, on_device[recipe.site], steps, seed + index)
                for index, recipe in enumerate(recipes)
            ]
        for learner in learners:
            learner.step(on_device[learner.recipe.site])
    origin = store.fingerprint
    return [
        learner.finish(
            Provenance(origin.model, origin.template, origin.dataset, (learner.recipe.site,))
        )
        for learner in learners
    ]


def jump(
    pre: Float[Tensor, "rows feature"], threshold: Float[Tensor, " feature"]
) -> tuple[Float[Tensor, "rows feature"], Float[Tensor, "rows feature"]]:
    """Compute JumpReLU activations f and gates g with straight-through threshold gradients.

    g = 1 where pre > threshold, else 0;  f = pre g. Neither has a useful gradient in the threshold;
    it is replaced by the following, ε = `BANDWIDTH`, K(u) = 1 where |u| < 1/2, else 0:

    ∂g/∂threshold = -K((pre - threshold) / ε) / ε;  ∂f/∂threshold = -threshold K(..) / ε.

    Gradients in pre are the usual ones: ∂f/∂pre = g, ∂g/∂pre = 0. Source: Rajamanoharan et al.
    2024, who use max(pre, 0) for pre, which is equivalent while threshold > ε / 2.
    """
    near = ((pre.detach() - threshold) / BANDWIDTH + 0.5).clamp(0, 1)
    # Value 0, gradient -K / ε: that of a ramp from 0 to 1 over the bandwidth.
    slope = near - near.detach()
    active = (pre > threshold).to(pre)
    return pre * active + threshold.detach() * slope, active + slope


class _Learner:
    """Weights and training state of one autoencoder."""

    def __init__(self, recipe: SaeRecipe, first: Tensor, steps: int, seed: int) -> None:
        self.recipe = recipe
        self._steps, self._done = steps, 0
        self._revive_every = recipe.revive_every or max(1, min(500, steps // 4))
        self._draw = torch.Generator(first.device).manual_seed(seed)
        self._scale = float(first.square().mean().sqrt())
        width, count = first.shape[1], recipe.n_features
        shape = (count, width)
        decoder = normalize(torch.randn(shape, generator=self._draw, device=first.device), dim=-1)
        self._encoder = (_ENCODER[recipe.kind] * decoder).requires_grad_()
        self._encoder_bias = torch.zeros(count, device=first.device, requires_grad=True)
        self._decoder = decoder.requires_grad_()
        self._decoder_bias = (first.mean(0) / self._scale).requires_grad_()
        parameters = [self._encoder, self._encoder_bias, self._decoder_bias]
        if recipe.kind == "jumprelu":
            start = torch.full((count,), math.log(THRESHOLD), device=first.device)
            self._log_threshold = start.requires_grad_()
            parameters.append(self._log_threshold)
        rates = recipe.learning_rate, recipe.learning_rate * _DECODER_RATE
        groups = [
            {"params": group, "lr": rate}
            for group, rate in zip((parameters, [self._decoder]), rates, strict=True)
        ]
        self._adam = torch.optim.Adam(groups, fused=True)
        self._slower = torch.optim.lr_scheduler.LambdaLR(
            self._adam, lambda done: min(1.0, (1 - done / steps) / _DECAY)
        )
        self._fired = torch.zeros(count, dtype=torch.bool, device=first.device)
        self._zeros = torch.zeros(count, device=first.device)

    def step(self, rows: Float[Tensor, "rows width"]) -> None:
        """Take one Adam step on a batch."""
        x = rows / self._scale
        share = self._done / self._steps
        if self.recipe.kind == "topk":
            values, chosen = largest(
                x, self._encoder, self._encoder_bias, self._decoder_bias, self.recipe.k
            )
            error = x - decode(values, chosen, self._decoder) - self._decoder_bias
            loss = error.square().mean()
            self._fired[chosen[values > 0]] = True
        else:
            features, counted = self._dense(x)
            error = x - features @ self._decoder - self._decoder_bias
            weight = self.recipe.sparsity * min(1.0, share / _WARM)
            loss = error.square().mean() + weight * counted.sum(-1).mean() / x.shape[1]
            self._fired |= (features > 0).any(0)
        self._adam.zero_grad()
        loss.backward()
        decoder_gradient = self._decoder.grad
        assert decoder_gradient is not None
        with torch.no_grad():
            # Decoder rows have fixed norm: drop the gradient component along them.
            along = torch.einsum("fw,fw->f", decoder_gradient, self._decoder)
            decoder_gradient.addcmul_(along[:, None], self._decoder, value=-1)
        self._adam.step()
        self._slower.step()
        with torch.no_grad():
            normalize(self._decoder, dim=-1, out=self._decoder)
            self._done += 1
            if self._done % self._revive_every == 0:
                if self._done < (1 - _DECAY) * self._steps:
                    self._revive(error)
                self._fired.zero_()

    def _dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of `l1` or `jumprelu`, and the terms of the sparsity penalty."""
        pre = (x - self._decoder_bias) @ self._encoder.T + self._encoder_bias
        if self.recipe.kind == "jumprelu":
            return jump(pre, self._log_threshold.exp())
        features = pre.relu()
        return features, features

    def _revive(self, error: Float[Tensor, "rows width"]) -> None:
        self._check()
        dead = (~self._fired).nonzero()[:, 0]
        if not len(dead):
            return
        losses = error.square().sum(-1).square()
        drawn_rows = torch.multinomial(losses, len(dead), replacement=True, generator=self._draw)
        directions = normalize(error[drawn_rows], dim=-1)
        usual = self._encoder[self._fired].norm(dim=-1).mean() if self._fired.any() else 1.0
        self._decoder[dead] = directions
        self._encoder[dead] = usual * directions
        self._encoder_bias[dead] = 0
        begun = [self._encoder, self._encoder_bias, self._decoder]
        if self.recipe.kind == "jumprelu":
            self._log_threshold[dead] = math.log(THRESHOLD)
            begun.append(self._log_threshold)
        for parameter in begun:
            for name in ("exp_avg", "exp_avg_sq"):
                self._adam.state[parameter][name][dead] = 0

    def _check(self) -> None:
        # A non-finite value anywhere spreads to the whole bias at the next step.
        if not bool(self._decoder_bias.isfinite().all()):
            raise ValueError(
                f"the autoencoder at {self.recipe.site} diverged: activations that are not finite, "
                f"or a learning rate of {self.recipe.learning_rate} that is too high"
            )

    def finish(self, provenance: Provenance) -> SparseAutoencoder:
        """Fold scale and centring into the weights: f = scale f', x̂ = scale x̂'."""
        self._check()
        with torch.no_grad():
            bias = self._encoder_bias - self._encoder @ self._decoder_bias
            jumps = self.recipe.kind == "jumprelu"
            return SparseAutoencoder(
                kind=self.recipe.kind,
                encoder=self._encoder.T.contiguous(),
                encoder_bias=self._scale * bias,
                decoder=self._decoder.detach().clone(),
                decoder_bias=self._scale * self._decoder_bias,
                threshold=self._scale * self._log_threshold.exp() if jumps else self._zeros,
                provenance=provenance,
                k=self.recipe.k,
            )
