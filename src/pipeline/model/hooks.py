"""Read and write activations while a model runs: the one file that registers hooks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache

from pipeline.model.finite import check_finite, is_finite
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

Hook = Callable[[Tensor], Tensor | None]
"""Called with an activation [batch, pos, width]; a returned tensor replaces it."""


class _StopForward(Exception):  # noqa: N818 - it is no error
    """Raised by a hook to stop a forward pass after the deepest site."""


@contextmanager
def with_hooks(model: LanguageModel, hooks: Mapping[Site, Hook]) -> Iterator[None]:
    """Run each hook on the activation at its site, in every forward pass inside the context.

    A hook that returns None reads; one that returns a tensor of the same shape writes. Weights are
    never modified, and hooks are removed on exit. If a hook reads an attention pattern, attention
    is eager inside the context: other implementations never compute the pattern.

    Raises:
        ValueError: a site that the model does not have, or a write to an attention pattern.
    """
    handles = []
    patterns = any(site.component == "pattern" for site in hooks)
    with _eager_attention(model) if patterns else nullcontext():
        try:
            # Sorted: a write at resid_mid must reach the block's output before resid_post is read.
            for site in sorted(hooks, key=lambda site: site.depth):
                handles += _register(model, model.check(site), hooks[site])
            yield
        finally:
            for handle in handles:
                handle.remove()


def in_order(*hooks: Mapping[Site, Hook]) -> dict[Site, Hook]:
    """Merge hooks: those of one site run one after the other, each on what the last one wrote."""
    by_site: dict[Site, list[Hook]] = defaultdict(list)
    for hook_of in hooks:
        for site, hook in hook_of.items():
            by_site[site].append(hook)
    return {site: partial(_one_by_one, listed) for site, listed in by_site.items()}


def _one_by_one(hooks: Sequence[Hook], hidden: Tensor) -> Tensor | None:
    changed = hidden
    for hook in hooks:
        written = hook(changed)
        changed = changed if written is None else written
    return None if changed is hidden else changed


@contextmanager
def _eager_attention(model: LanguageModel) -> Iterator[None]:
    implementation = model.config._attn_implementation
    model.decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.decoder.set_attn_implementation(implementation)


def read(
    model: LanguageModel,
    sites: list[Site],
    ids: Tensor,
    mask: Tensor,
    gather: Callable[[Tensor], Tensor] = lambda hidden: hidden,
) -> dict[Site, Float[Tensor, "..."]]:
    """Read activations at sites in one forward pass, which stops at the deepest site.

    Attention patterns are [batch, head, query pos, key pos]. `gather` selects from each activation
    [batch, pos, width] during the pass, so that full activations need not be kept.

    Raises:
        ValueError: activations of a token that are not finite.
    """
    activations: dict[Site, Tensor] = {}
    finite: dict[Site, Tensor] = {}
    ordered = sorted(sites, key=lambda site: site.depth)

    def hook(site: Site) -> Hook:
        def store(hidden: Tensor) -> None:
            finite[site] = _finite_rows(hidden, mask)
            activations[site] = gather(hidden).clone()
            if site == ordered[-1]:
                raise _StopForward

        return store

    hooks = {site: hook(site) for site in ordered}
    with torch.inference_mode(), with_hooks(model, hooks), suppress(_StopForward):
        run_blocks(model, ids, mask)
    # After the pass: on a GPU, a look at each value would wait for it.
    for site, rows in finite.items():
        check_finite(rows, model.dtype, f"activations at {site}")
    return activations


def run_blocks(
    model: LanguageModel, ids: Tensor, mask: Tensor, cache: DynamicCache | None = None
) -> None:
    """Run left-padded rows through all blocks and the final norm, for what hooks make of them.

    Args:
        model: the model.
        ids: tokens of the rows.
        mask: of the rows; with a cache, of the cached tokens and of these.
        cache: keys and values of the tokens before; those of these tokens are added.

    Raises:
        ValueError: a final state of a token that is not finite.
    """
    n = ids.shape[1]
    hidden = model.decoder(
        ids,
        attention_mask=mask,
        position_ids=token_positions(mask)[:, -n:],
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    check_finite(_finite_rows(hidden, mask[:, -n:]), model.dtype, "final states")


def run_to_logits(
    model: LanguageModel, ids: Tensor, mask: Tensor, last: int = 1
) -> Float[Tensor, "batch last vocab"]:
    """Return the logits after the last tokens of left-padded rows.

    Raises:
        ValueError: logits after a token that are not finite.
    """
    logits: Tensor = model.hf(
        ids,
        attention_mask=mask,
        position_ids=token_positions(mask),
        use_cache=False,
        logits_to_keep=last,
    ).logits
    check_finite(_finite_rows(logits, mask[:, -last:]), model.dtype, "logits")
    return logits


def differentiate(
    model: LanguageModel,
    sites: list[Site],
    ids: Tensor,
    mask: Tensor,
    objective: Callable[[Tensor], Float[Tensor, " batch"]],
) -> tuple[dict[Site, Tensor], dict[Site, Tensor], Float[Tensor, " batch"]]:
    """Compute the gradients of an objective with respect to activations at sites.

    One forward and one backward pass for all sites. A site's gradient is the total derivative,
    through everything downstream, other sites included. The objective maps the logits
    [batch, vocab] after each row's last token to one value per row; rows are independent.

    Returns:
        Activations by site, gradients by site, and the objective [batch].

    Raises:
        ValueError: logits that are not finite.
    """
    activations: dict[Site, Tensor] = {}

    def hook(site: Site) -> Hook:
        def store(hidden: Tensor) -> Tensor:
            # The forward pass must continue with the tensor that the gradient is taken for.
            activations[site] = (
                hidden.clone() if hidden.requires_grad else hidden.detach().requires_grad_()
            )
            return activations[site]

        return store

    hooks = {site: hook(site) for site in sites}
    with torch.enable_grad(), with_hooks(model, hooks):
        values = objective(run_to_logits(model, ids, mask)[:, -1])
        ordered = list(activations)
        gradients = torch.autograd.grad(values.sum(), [activations[site] for site in ordered])
    return (
        {site: activations[site].detach() for site in ordered},
        dict(zip(ordered, gradients, strict=True)),
        values.detach(),
    )


def token_positions(mask: Tensor) -> Tensor:
    """Return absolute positions in left-padded rows: 0 at the first real token and at padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _finite_rows(values: Tensor, mask: Tensor) -> Bool[Tensor, " batch"]:
    """Whether all values of a row's tokens are finite; those at padding mean nothing."""
    finite = is_finite(values)
    if finite.ndim == 3:
        # An attention pattern: [batch, head, query].
        finite = finite.all(1)
    return (finite | (mask.to(values.device) == 0)).all(-1)


def _register(model: LanguageModel, site: Site, hook: Hook) -> list[Any]:
    module, side = model.module_of(site)
    if site.unit is not None:
        hook = _at_unit(hook, site.unit, model.width(site))
    if site.component == "resid_mid":
        return _register_middle(model, module, model.blocks[site.layer], hook)
    if site.component == "pattern":
        return [module.register_forward_hook(_reading_pattern(site, hook))]
    if side == "both":
        return [module.register_forward_hook(_across(hook))]
    if side == "input":
        return [module.register_forward_pre_hook(_before(hook), with_kwargs=True)]
    return [module.register_forward_hook(_after(hook))]


def _at_unit(hook: Hook, unit: int, width: int) -> Hook:
    part = slice(unit * width, (unit + 1) * width)

    def registered(hidden: Tensor) -> Tensor | None:
        new = hook(hidden[..., part])
        if new is None:
            return None
        return torch.cat([hidden[..., : part.start], new, hidden[..., part.stop :]], -1)

    return registered


def _before(hook: Hook) -> Callable[..., Any]:
    def registered(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = hook(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": new})

    return registered


def _after(hook: Hook) -> Callable[..., Any]:
    def registered(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        # Blocks return a tensor in some families, in others a tuple that begins with it.
        is_tuple = isinstance(output, tuple)
        new = hook(output[0] if is_tuple else output)
        return None if new is None else (new, *output[1:]) if is_tuple else new

    return registered


def _across(hook: Hook) -> Callable[..., Any]:
    def registered(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        new = hook(torch.cat([args[0], output], -1))
        return None if new is None else new[..., args[0].shape[-1] :]

    return registered


def _reading_pattern(site: Site, hook: Hook) -> Callable[..., None]:
    def registered(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if hook(output[1]) is not None:
            raise ValueError(f"{site} can be read but not written")

    return registered


def _register_middle(
    model: LanguageModel, module: nn.Module, block: nn.Module, hook: Hook
) -> list[Any]:
    # This module reads the residual stream, but the stream itself bypasses it. So a write replaces
    # the module's input, and its difference is added to the stream at the end of the block.
    pending: list[Tensor] = []

    def into_branch(hidden: Tensor) -> Tensor | None:
        new = hook(hidden)
        if new is not None:
            pending.append(new - hidden)
        return new

    def into_stream(hidden: Tensor) -> Tensor | None:
        return hidden + pending.pop() if pending else None

    return [
        module.register_forward_pre_hook(_before(into_branch), with_kwargs=True),
        block.register_forward_hook(_after(into_stream)),
    ]
