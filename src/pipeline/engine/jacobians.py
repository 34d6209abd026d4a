"""Jacobians of the last token's final state with respect to earlier states of the prompt."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from pipeline.engine.limits import check_context, check_listed_run
from pipeline.engine.memory import in_batches
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.runs.progress import progress

Affine = tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]
"""W and b of a map z = W h + b."""


def mean_affine(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[int],
    layers: Sequence[int],
    *,
    batch_tokens: int,
) -> dict[int, Affine]:
    """Average the first-order expansion of z around each prompt's h, at several layers h.

    z is the last block's output at the last token and h the output of a layer at the prompt's
    position. W = mean dz/dh and b = mean(z - (dz/dh) h) over prompts, in float64. dz/dh is the
    total derivative through all later positions. One forward pass serves all prompts and layers;
    a backward pass, through the tokens from the first of the positions on, serves several
    dimensions of z at once, at most `batch_tokens` tokens.

    Returns:
        W [d_model (z), d_model (h)] and b [d_model] by layer.

    Raises:
        ValueError: no prompts or layers, a layer that is not before the last one, or a position
            outside of its prompt.

    Source: Hernandez et al. 2024 (W and b).
    """
    check_listed_run(model, prompts, ())
    check_context(model, prompts)
    if not layers:
        raise ValueError("there is no layer to expand at")
    for layer in layers:
        if not 0 <= layer < model.n_layers - 1:
            raise ValueError(f"no state of layer {layer}; valid: 0 to {model.n_layers - 2}")
    for number, (prompt, position) in enumerate(zip(prompts, positions, strict=True)):
        if not 0 <= position < len(prompt):
            raise ValueError(f"prompt {number} has no position {position} of {len(prompt)} tokens")
    run = partial(_mean_affine, model, prompts, positions, layers)
    return in_batches(model, batch_tokens, run)


def _mean_affine(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[int],
    layers: Sequence[int],
    batch_tokens: int,
) -> dict[int, Affine]:
    ids, mask = model.pad(prompts)
    columns = [ids.shape[1] - len(row) + at for row, at in zip(prompts, positions, strict=True)]
    states, final = _forward(model, ids, mask, torch.tensor(columns), layers)
    width, n = final.shape[1], len(prompts)
    weights = {layer: torch.empty(width, width, dtype=torch.float64) for layer in layers}
    read = {layer: torch.empty(n, width, dtype=torch.float64) for layer in layers}
    eye = torch.eye(width, dtype=final.dtype, device=final.device)
    split = torch.arange(width).split(max(1, batch_tokens // ids[:, min(columns) :].numel()))
    for rows in progress(split, "Jacobians", "batch", brief=True):
        # Rows are independent: the gradient of a sum over prompts is that of each prompt.
        directions = eye[rows.to(eye.device), None, :].expand(-1, n, -1)
        gradients = torch.autograd.grad(
            final, list(states.values()), directions, retain_graph=True, is_grads_batched=True
        )
        for layer, gradient in zip(layers, gradients, strict=True):
            jacobian = gradient.double().cpu()
            weights[layer][rows] = jacobian.mean(1)
            state = states[layer].detach().double().cpu()
            read[layer][:, rows] = torch.einsum("rnd,nd->nr", jacobian, state)
    output = final.detach().double().cpu()
    return {layer: (weights[layer], (output - read[layer]).mean(0)) for layer in layers}


def _forward(
    model: LanguageModel, ids: Tensor, mask: Tensor, columns: Tensor, layers: Sequence[int]
) -> tuple[dict[int, Float[Tensor, "rows d_model"]], Float[Tensor, "rows d_model"]]:
    """Run the model with the graph from the states at the columns to the last token's output.

    The tokens before the first column depend on no state: they are run before, without a graph. The
    last token is run by itself after the others, of which the last block's output is not used: a
    backward pass then skips all of that block but their keys and values.
    """
    first, last = int(columns.min()), ids.shape[1] - 1
    cache = DynamicCache()
    if first > 0:
        with torch.no_grad():
            hooks.run_blocks(model, ids[:, :first], mask[:, :first], cache)
    states: dict[int, Tensor] = {}
    outputs: list[Tensor] = []

    def expand(layer: int, hidden: Tensor) -> Tensor:
        rows = torch.arange(len(hidden), device=hidden.device)
        at = columns.to(hidden.device) - first
        state = hidden[rows, at]
        # The forward pass must continue with the tensor that the gradient is taken for.
        states[layer] = state.clone() if state.requires_grad else state.detach().requires_grad_()
        return hidden.index_put((rows, at), states[layer])

    def keep(hidden: Tensor) -> None:
        outputs.append(hidden[:, -1])

    at_sites: dict[Site, hooks.Hook] = {
        Site(layer, "resid_post"): partial(expand, layer) for layer in sorted(layers)
    }
    end = {Site(model.n_layers - 1, "resid_post"): keep}
    # Fused attention has no gradient for several directions at once.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        if int(columns.max()) < last:
            with hooks.with_hooks(model, at_sites):
                hooks.run_blocks(model, ids[:, first:last], mask[:, :last], cache)
            first, at_sites = last, {}
        with hooks.with_hooks(model, {**at_sites, **end}):
            hooks.run_blocks(model, ids[:, first:], mask, cache)
    return {layer: states[layer] for layer in layers}, outputs[0]
