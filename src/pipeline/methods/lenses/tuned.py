"""The tuned lens: an affine translator of each layer, trained towards the model's output."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config.declared import NeedsText, Range, ZeroOrMore
from pipeline.data.datasets import dataset_digest
from pipeline.engine.collection import collect
from pipeline.methods.lenses.maps import (
    COMPONENT,
    LensMaps,
    text_parts,
    tokens_of,
    unembedding_digest,
)
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers
from pipeline.model.unembedding import unembedded

_ROWS = 128
"""Positions of a training step; logits of a layer are held for so many."""


@dataclass(frozen=True, eq=False)
class Streams:
    """Residual streams of the same positions, by layer, and their final state."""

    by_layer: Mapping[int, Float[Tensor, "rows d_model"]]
    final: Float[Tensor, "rows d_model"]


def tuned_lens(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    *,
    layers: Any = "all",
    longest: Annotated[int, Range(3)] = 128,
    rows: Annotated[int, Range(4)] = 16384,
    epochs: ZeroOrMore = 10,
    rate: Annotated[float, Range(above=0)] = 1e-3,
    seed: int = 0,
) -> LensMaps:
    """Train h + A_l h + b_l at every layer so that its logits give the model's output.

    A_l and b_l minimise the mean of KL(p || q_l) over positions, p the model's output and q_l =
    softmax(W_U norm(h + A_l h + b_l)), in nats. They start at zero, the logit lens; Adam, learning
    rate falling linearly to zero. Of all epochs, the start included, the one with the smallest KL
    on the val texts is returned: a lens that training makes worse stays the logit lens.

    Args:
        model: the model.
        texts: texts with tokens: see `lens_maps.text_parts`. Their first positions are left out.
        layers: `all`, or a list.
        longest: tokens of a text that are used.
        rows: most positions to train on, of which one in four is added to measure on val texts.
        epochs: passes over the positions; 0 for the logit lens.
        rate: first learning rate.
        seed: of the order of positions.

    Returns:
        The lens; `curves` has `layer`, `epoch` and `kl`, the mean on val texts in nats.

    Raises:
        ValueError: a layer that the model does not have, a number out of range, or too few texts.

    Source: Belrose et al. 2023, "Eliciting latent predictions from transformers with the tuned
    lens", who use SGD.
    """
    chosen = chosen_layers(layers, model.n_layers, model.name)
    for name, value, least in (("rows", rows, 4), ("epochs", epochs, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} = {value}; valid: {least} or more")
    if not rate > 0:
        raise ValueError(f"rate = {rate}; valid: above 0")
    parts = text_parts(texts)
    tokens = {name: tokens_of(parts[name], longest) for name in ("train", "val")}
    train = _streams(model, tokens["train"], chosen, rows)
    val = _streams(model, tokens["val"], chosen, rows // 4)
    matrices, biases, curves = train_translators(
        model, train, val, epochs=epochs, rate=rate, seed=seed
    )
    used = [row for part in tokens.values() for row in part]
    identity = torch.eye(model.d_model)
    return LensMaps(
        {layer: identity + matrix for layer, matrix in matrices.items()},
        biases,
        Provenance(
            model.weights,
            dataset=dataset_digest(pd.DataFrame({"sample": range(len(used)), "tokens": used})),
            sites=tuple(str(Site(layer, COMPONENT)) for layer in chosen),
            how=f"affine translators, {epochs} epochs of Adam from {rate} on KL",
            unembedding=unembedding_digest(model),
        ),
        curves,
    )


def _streams(
    model: LanguageModel, tokens: list[list[int]], layers: list[int], rows: int
) -> Streams:
    """Collect residual streams at layers, after each text's first position."""
    final = Site(model.n_layers - 1, "resid_post")
    sites = [Site(layer, COMPONENT) for layer in layers]
    # As many whole texts as have the positions.
    enough = next(
        (n for n in range(1, len(tokens)) if sum(len(row) - 1 for row in tokens[:n]) >= rows),
        len(tokens),
    )
    values, _ = collect(
        model, tokens[:enough], [*sites, final], "after_first", batch_tokens=model.batch_tokens
    )
    return Streams({site.layer: values[site][:rows] for site in sites}, values[final][:rows])


def train_translators(
    model: LanguageModel,
    train: Streams,
    val: Streams,
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> tuple[dict[int, Tensor], dict[int, Tensor], pd.DataFrame]:
    """Train A_l and b_l on the streams of every layer, as `tuned_lens` says.

    Returns:
        The matrices A_l and biases b_l with the smallest KL on `val`, and the curves.
    """
    width = train.final.shape[-1]
    shapes = {"matrix": (width, width), "bias": (width,)}
    translators = {
        layer: [torch.zeros(shape, device=model.device) for shape in shapes.values()]
        for layer in train.by_layer
    }
    parameters = [part.requires_grad_() for pair in translators.values() for part in pair]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    steps = max(1, epochs * -(-len(train.final) // _ROWS))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(seed)
    start = dict(_measured(model, val, translators))
    curves = [{"epoch": 0, "layer": layer, "kl": kl} for layer, kl in start.items()]
    best = {layer: (kl, _copied(translators[layer])) for layer, kl in start.items()}
    for epoch in range(1, epochs + 1):
        for chunk in torch.randperm(len(train.final), generator=generator).split(_ROWS):
            for layer, divergence in _divergences(model, train, translators, chunk):
                pair = translators[layer]
                gradients = torch.autograd.grad(divergence.mean(), pair)
                for part, gradient in zip(pair, gradients, strict=True):
                    part.grad = gradient
            optimizer.step()
            schedule.step()
        for layer, kl in _measured(model, val, translators):
            curves.append({"epoch": epoch, "layer": layer, "kl": kl})
            if kl < best[layer][0]:
                best[layer] = kl, _copied(translators[layer])
    matrices, biases = ({layer: pair[n] for layer, (_, pair) in best.items()} for n in (0, 1))
    return matrices, biases, pd.DataFrame(curves)


def _measured(
    model: LanguageModel, streams: Streams, translators: Mapping[int, list[Tensor]]
) -> Iterator[tuple[int, float]]:
    """Yield each layer's mean KL over all positions."""
    count = len(streams.final)
    sums = dict.fromkeys(streams.by_layer, 0.0)
    with torch.no_grad():
        for chunk in torch.arange(count).split(_ROWS):
            for layer, divergence in _divergences(model, streams, translators, chunk):
                sums[layer] += float(divergence.double().sum())
    yield from ((layer, total / count) for layer, total in sums.items())


def _divergences(
    model: LanguageModel,
    streams: Streams,
    translators: Mapping[int, list[Tensor]],
    chunk: Int[Tensor, " chunk"],
) -> Iterator[tuple[int, Float[Tensor, " chunk"]]]:
    """Yield each layer's KL(p || q_l) at the positions of a chunk, in nats and float32."""
    with torch.no_grad():
        final = streams.final[chunk].to(model.device)
        logs = unembedded(model, final).float().log_softmax(-1)
    for layer, rows in streams.by_layer.items():
        matrix, bias = translators[layer]
        hidden = rows[chunk].to(model.device).float()
        translated = (hidden + hidden @ matrix.T + bias).to(model.dtype)
        lens = unembedded(model, translated).float().log_softmax(-1)
        yield layer, (logs.exp() * (logs - lens)).sum(-1)


def _copied(pair: list[Tensor]) -> list[Tensor]:
    return [part.detach().cpu().clone() for part in pair]
