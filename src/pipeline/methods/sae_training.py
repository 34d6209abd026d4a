"""Train sparse autoencoders on the rows of an activation store, many in one pass over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from pipeline.methods.sae import KINDS, Provenance, SparseAutoencoder
from pipeline.methods.sae_topk import decode, largest
from pipeline.store.shuffling import shuffled_batches
from pipeline.store.store import ActivationStore

_WARM, _DECAY = 0.05, 0.2
"""Shares of all steps in which the sparsity weight rises, and the learning rate falls to 0."""

_ENCODER = {"topk": 0.1, "l1": 0.1, "jumprelu": 0.5}
"""Length of the encoder's columns at the start, along the decoder's rows. Short ones soon turn to
where they are needed; a threshold, however, must be passed from the start.
"""

_DECODER_RATE = 3
"""The decoder's learning rate, over that of the rest: its rows keep the length 1, so that the same
step turns them less. Of 1024 planted features in 512 dimensions, a `topk` autoencoder of 4096
explains 0.85 after 112 steps; with neither of these 0.46.
"""

THRESHOLD, BANDWIDTH = 0.6, 0.5
"""Of `jumprelu`, of activations scaled to a mean square of 1 per dimension: where thresholds begin,
and the width of the window about them in which activations move them.

Rajamanoharan et al. have 0.001 for both at a mean ||x||² of 1, 0.001 sqrt(width) here. Ours are
larger: with theirs, a thousand steps leave many times as many features active.
"""


@dataclass(frozen=True)
class Recipe:
    """What autoencoder to train at a site, and how.

    Args:
        site: where.
        kind: `l1`, `topk` or `jumprelu`.
        n_features: size of the dictionary.
        k: active features of `topk`.
        sparsity: where activations are scaled to a mean square of 1 per dimension, the weight of
            the sum of feature activations, for `l1`, or of their number, for `jumprelu`.
        learning_rate: of Adam; of the decoder three times this.
        revive_every: steps between two looks for features that did not fire since the last; by
            default a quarter of all steps, at most 500: what begins anew must have time to settle.

    Raises:
        ValueError: another kind, or a value out of its range.
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
    recipes: Sequence[Recipe],
    kept: Bool[np.ndarray, " rows"],
    *,
    passes: int = 1,
    batch_rows: int = 1024,
    buffer_rows: int = 65536,
    seed: int = 0,
    device: str = "cpu",
) -> list[SparseAutoencoder]:
    """Train all autoencoders side by side: each batch of the store is read once for all sites.

    loss = mean ||x - x̂||² / width + sparsity * warm-up * mean sum_i s_i / width, s = f for `l1`,
    0 for `topk`, and for `jumprelu` 1 where a feature is active, else 0 (the L0 norm; see `jump`),
    on activations scaled to a mean square of 1, with x - decoder_bias encoded and the decoder's
    rows of length 1 after every step; scale and bias are folded into the weights at the end. Adam;
    the learning rate falls to 0 over the last fifth of the steps. Of thresholds,
    the logarithm is learned. A feature alone with f = ||x|| saves f² and costs the sparsity weight,
    so that thresholds of `jumprelu` tend to its square root.

    Features that fired for no row since the last look begin anew: decoder and encoder along the
    error of rows drawn in proportion to their squared loss, encoder bias 0, Adam's moments 0, the
    threshold where it began
    (Bricken et al. 2023, who take the row itself and a fifth of the encoders' mean length; we take
    the error, which is what is missing, and all of it). None in the last fifth.

    Args:
        store: activations.
        recipes: one for each autoencoder; several may share a site.
        kept: the rows to train on; leave out special tokens and what is held out.
        passes: over the rows, each in an order of its own.
        batch_rows: rows of a step.
        buffer_rows: see `shuffled_batches`.
        seed: of weights, order and what begins anew.
        device: to train on.

    Raises:
        ValueError: no rows, a site that is not in the store, or weights that are not finite.
    """
    n_rows = int(kept.sum())
    if n_rows == 0 or not recipes:
        raise ValueError(f"{n_rows} rows and {len(recipes)} recipes: nothing to train")
    sites = list(dict.fromkeys(recipe.site for recipe in recipes))
    steps = passes * math.ceil(n_rows / batch_rows)
    learners: list[_Learner] = []
    with tqdm(total=steps, desc="autoencoders", unit="step", disable=None) as bar:
        for number in range(passes):
            batches = shuffled_batches(
                store,
                sites,
                kept,
                batch_rows=batch_rows,
                buffer_rows=buffer_rows,
                seed=seed + number,
            )
            for batch in batches:
                here = {site: rows.to(device) for site, rows in batch.items()}
                if not learners:
                    learners = [
                        _Learner(recipe, here[recipe.site], steps, seed + place)
                        for place, recipe in enumerate(recipes)
                    ]
                for learner in learners:
                    learner.step(here[learner.recipe.site])
                bar.update()
    made = store.fingerprint
    return [
        learner.finish(Provenance(made.model, learner.recipe.site, made.dataset))
        for learner in learners
    ]


def jump(
    pre: Float[Tensor, "rows feature"], threshold: Float[Tensor, " feature"]
) -> tuple[Float[Tensor, "rows feature"], Float[Tensor, "rows feature"]]:
    """Activations f and whether they are active, g, such that thresholds can be learned.

    g = 1 where pre > threshold, else 0;  f = pre g. Neither has a useful slope in the threshold, so
    that one is put in its place, ε = `BANDWIDTH`, K(u) = 1 where |u| < 1/2, else 0:

    ∂g/∂threshold = -K((pre - threshold) / ε) / ε;  ∂f/∂threshold = -threshold K(..) / ε.

    In pre the slopes are the usual ones: ∂f/∂pre = g, ∂g/∂pre = 0. Rajamanoharan et al. 2024, who
    take max(pre, 0) for pre, which is the same while threshold > ε / 2.
    """
    near = ((pre.detach() - threshold) / BANDWIDTH + 0.5).clamp(0, 1)
    # Its value is 0, its slope that of the ramp from 0 to 1 over the bandwidth: -K / ε.
    slope = near - near.detach()
    active = (pre > threshold).to(pre)
    return pre * active + threshold.detach() * slope, active + slope


class _Learner:
    """Weights of one autoencoder and the state of their training."""

    def __init__(self, recipe: Recipe, first: Tensor, steps: int, seed: int) -> None:
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
        """One step of Adam on a batch."""
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
            # Along a row of the decoder nothing is to change but its length, which stays 1.
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
        """Features of `l1` and `jumprelu`, and what of them costs the sparsity weight."""
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
        drawn = torch.multinomial(losses, len(dead), replacement=True, generator=self._draw)
        directions = normalize(error[drawn], dim=-1)
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
        # What is not finite anywhere reaches all of the bias at the next step.
        if not bool(self._decoder_bias.isfinite().all()):
            raise ValueError(
                f"the autoencoder at {self.recipe.site} diverged: activations that are not finite, "
                f"or a learning rate of {self.recipe.learning_rate} that is too high"
            )

    def finish(self, provenance: Provenance) -> SparseAutoencoder:
        """The autoencoder of unscaled, uncentred activations: f = scale f', x̂ = scale x̂'."""
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
