"""The Jacobian lens: a layer's mean first-order effect on the final residual stream."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from pipeline.config.declared import NeedsText, OneOrMore, Range, ZeroOrMore
from pipeline.data.datasets import dataset_digest
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.methods.lenses.maps import (
    COMPONENT,
    LensMaps,
    text_parts,
    tokens_of,
    unembedding_digest,
)
from pipeline.methods.provenance import Provenance
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers
from pipeline.runs.progress import progress


def jacobian_lens(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    *,
    layers: Any = "all",
    count: OneOrMore = 40,
    longest: Annotated[int, Range(3)] = 128,
    skipped: ZeroOrMore = 16,
) -> LensMaps:
    """Fit J_l, the mean Jacobian of the final residual stream with respect to layer l's.

    J_l = E_texts[1/|V| Σ_{t in V} Σ_{u in V, u >= t} ∂h_final,u / ∂h_l,t], where h_l is the input
    of block l, h_final the output of the last block before the final norm, and V the positions of a
    text without its first `skipped` and its last. Effects on later positions are summed, as in the
    source: only texts and source positions are averaged. In float64 sums; biases are zero.

    Args:
        model: the model.
        texts: texts with tokens; three of every five are used: `lens_maps.text_parts`.
        layers: `all`, or a list; each text costs d_model backward passes for all of them together.
        count: number of texts.
        longest: tokens of a text that are used.
        skipped: first positions of a text to leave out: their states are outliers.

    Raises:
        ValueError: a layer that the model does not have, a number out of range, or too few or too
            short texts.

    Source: Gurnee et al. 2026, "Verbalizable representations form a global workspace in language
    models". Their layer l is the output of block l, here layer l + 1.
    """
    chosen = chosen_layers(layers, model.n_layers, model.name)
    for name, value, least in (("count", count, 1), ("skipped", skipped, 0)):
        if value < least:
            raise ValueError(f"{name} = {value}; valid: {least} or more")
    train = text_parts(texts)["train"]
    tokens = [row for row in tokens_of(train, longest) if len(row) > skipped + 1][:count]
    if len(tokens) < count:
        raise ValueError(
            f"{len(tokens)} texts for fitting have more than {skipped + 1} tokens; "
            f"count = {count} are to be used"
        )
    check_context(model, tokens)
    jacobians = in_batches(
        model, model.batch_tokens, partial(mean_jacobians, model, tokens, chosen, skipped)
    )
    return LensMaps(
        {layer: matrix.float() for layer, matrix in zip(chosen, jacobians, strict=True)},
        {layer: torch.zeros(model.d_model) for layer in chosen},
        Provenance(
            model.weights,
            dataset=dataset_digest(pd.DataFrame({"sample": range(count), "tokens": tokens})),
            sites=tuple(str(Site(layer, COMPONENT)) for layer in chosen),
            how=f"mean Jacobian over {count} texts, first {skipped} positions left out",
            unembedding=unembedding_digest(model),
        ),
        pd.DataFrame(),
    )


def mean_jacobians(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    skipped: int,
    batch_tokens: int,
) -> Float64[Tensor, "layer d_model d_model"]:
    """Average the summed Jacobians of texts: one backward pass per batch and output dimension."""
    width = model.d_model
    total = torch.zeros(len(layers), width, width, dtype=torch.float64)
    split = passes(model, [len(text) for text in texts], batch_tokens)
    for block in progress(split, "Jacobians", "batch", brief=True):
        ids, mask = model.pad([texts[number] for number in block])
        positions = hooks.token_positions(mask)
        ends = mask.sum(-1, keepdim=True) - 1
        valid = (mask == 1) & (positions >= skipped) & (positions < ends)
        total += _summed(model, ids, mask, valid, layers)
    return total / len(texts)


def _summed(
    model: LanguageModel,
    ids: Tensor,
    mask: Tensor,
    valid: Bool[Tensor, "batch pos"],
    layers: Sequence[int],
) -> Float64[Tensor, "layer d_model d_model"]:
    """Sum over a batch's texts the mean over source positions of their summed effects."""
    streams: dict[Site, Tensor] = {}

    def keeping(site: Site) -> hooks.Hook:
        def keep(hidden: Tensor) -> Tensor:
            # The forward pass must continue with the tensor that the gradient is taken for.
            streams[site] = (
                hidden.clone() if hidden.requires_grad else hidden.detach().requires_grad_()
            )
            return streams[site]

        return keep

    sources = [Site(layer, COMPONENT) for layer in layers]
    final = Site(model.n_layers - 1, "resid_post")
    keepers = {site: keeping(site) for site in (*sources, final)}
    with torch.enable_grad(), hooks.with_hooks(model, keepers):
        hooks.run_blocks(model, ids, mask)
        weights = valid / valid.sum(-1, keepdim=True)
        rows = []
        for dimension in range(model.d_model):
            cotangent: Float[Tensor, "batch pos d_model"] = torch.zeros_like(streams[final])
            # Causal attention: a source has no effect on earlier positions, so none is left out.
            cotangent[..., dimension] = valid.to(cotangent.dtype)
            gradients = torch.autograd.grad(
                streams[final],
                [streams[site] for site in sources],
                cotangent,
                retain_graph=True,
            )
            effects = [
                torch.einsum("bp,bpd->d", weights.to(g.device, torch.float64), g.double())
                for g in gradients
            ]
            rows.append(torch.stack([effect.cpu() for effect in effects]))
    return torch.stack(rows, 1)
