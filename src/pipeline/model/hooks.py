"""Read and write activations while a model runs: the one file that registers hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

Visit = Callable[[Tensor], Tensor | None]
"""Called with an activation [batch, pos, width]; a tensor returned takes its place."""


class _DeepEnough(Exception):  # noqa: N818 - it is no error
    """Raised to leave a forward pass once nothing further is wanted."""


@contextmanager
def visiting(model: LanguageModel, visits: Mapping[Site, Visit]) -> Iterator[None]:
    """Call each visit with the activation at its site in every forward pass inside the block.

    A visit that returns None reads; one that returns a tensor of the same shape writes. The
    weights are never touched, and afterwards the model is as it was. Attention is computed eagerly
    while a pattern is visited, as other implementations never hold it, and only then.

    Raises:
        ValueError: a site that the model does not have, or a pattern that is written to.
    """
    handles = []
    patterns = any(site.component == "pattern" for site in visits)
    with _eager_attention(model) if patterns else nullcontext():
        try:
            # Sorted: a write at resid_mid reaches the block's output before resid_post is visited.
            for site in sorted(visits, key=lambda site: site.depth):
                handles += _register(model, model.check(site), visits[site])
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _eager_attention(model: LanguageModel) -> Iterator[None]:
    usual = model.config._attn_implementation
    model.decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.decoder.set_attn_implementation(usual)


def read(
    model: LanguageModel,
    sites: list[Site],
    ids: Tensor,
    mask: Tensor,
    gather: Callable[[Tensor], Tensor] = lambda hidden: hidden,
) -> dict[Site, Float[Tensor, "..."]]:
    """Activations at sites in one forward pass, which stops at the deepest of them.

    Patterns are [batch, head, pos, pos]: the query's position first, then the key's.
    `gather` takes what is wanted out of [batch, pos, width] while the pass runs, so that whole
    activations need not be kept.
    """
    found: dict[Site, Tensor] = {}
    ordered = sorted(sites, key=lambda site: site.depth)

    def visit(site: Site) -> Visit:
        def keep(hidden: Tensor) -> None:
            found[site] = gather(hidden).clone()
            if site == ordered[-1]:
                raise _DeepEnough

        return keep

    visits = {site: visit(site) for site in ordered}
    with torch.inference_mode(), visiting(model, visits), suppress(_DeepEnough):
        model.decoder(ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    return found


@contextmanager
def starting_at(
    model: LanguageModel, layer: int, hidden: Float[Tensor, "batch pos d_model"]
) -> Iterator[None]:
    """Run only the blocks from `layer` on, the first of them on `hidden` as its input.

    There must be a block below; at `n_layers` only the final norm and the head run.
    """
    below = list(model.blocks[:layer])
    given = _Given(hidden)
    try:
        for index in range(layer):
            model.blocks[index] = given
        yield
    finally:
        for index, block in enumerate(below):
            model.blocks[index] = block


class _Given(nn.Module):
    """Stands in a block's place and returns a residual stream that is known already."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.hidden


def differentiate(
    model: LanguageModel,
    sites: list[Site],
    ids: Tensor,
    mask: Tensor,
    objective: Callable[[Tensor], Float[Tensor, " batch"]],
) -> tuple[dict[Site, Tensor], dict[Site, Tensor], Float[Tensor, " batch"]]:
    """Activations, gradients of an objective with respect to them, and the objective itself.

    One forward and one backward pass for all sites: a site's gradient is the total one, through
    everything downstream, other sites included. The objective takes the logits [batch, vocab]
    after each row's last token; rows do not depend on each other, so neither do their gradients.
    """
    found: dict[Site, Tensor] = {}

    def visit(site: Site) -> Visit:
        def keep(hidden: Tensor) -> Tensor:
            # What runs on must be the very tensor whose gradient is asked for.
            found[site] = (
                hidden.clone() if hidden.requires_grad else hidden.detach().requires_grad_()
            )
            return found[site]

        return keep

    visits = {site: visit(site) for site in sites}
    with torch.enable_grad(), visiting(model, visits):
        logits = model.hf(
            ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        values = objective(logits)
        ordered = list(found)
        gradients = torch.autograd.grad(values.sum(), [found[site] for site in ordered])
    return (
        {site: found[site].detach() for site in ordered},
        dict(zip(ordered, gradients, strict=True)),
        values.detach(),
    )


def positions(mask: Tensor) -> Tensor:
    """Absolute positions of left-padded rows: 0 at the first real token (and at pads)."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _register(model: LanguageModel, site: Site, visit: Visit) -> list[Any]:
    module, side = model.place(site)
    if site.unit is not None:
        visit = _at_unit(visit, site.unit, model.width(site))
    if site.component == "resid_mid":
        return _register_middle(model, module, model.blocks[site.layer], visit)
    if site.component == "pattern":
        return [module.register_forward_hook(_reading_pattern(site, visit))]
    if side == "both":
        return [module.register_forward_hook(_across(visit))]
    if side == "input":
        return [module.register_forward_pre_hook(_before(visit), with_kwargs=True)]
    return [module.register_forward_hook(_after(visit))]


def _at_unit(visit: Visit, unit: int, width: int) -> Visit:
    part = slice(unit * width, (unit + 1) * width)

    def narrowed(hidden: Tensor) -> Tensor | None:
        new = visit(hidden[..., part])
        if new is None:
            return None
        return torch.cat([hidden[..., : part.start], new, hidden[..., part.stop :]], -1)

    return narrowed


def _before(visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = visit(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": new})

    return hook


def _after(visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        # Layers of some families return a tensor, of others a tuple that begins with it.
        whole = isinstance(output, tuple)
        new = visit(output[0] if whole else output)
        return None if new is None else (new, *output[1:]) if whole else new

    return hook


def _across(visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        new = visit(torch.cat([args[0], output], -1))
        return None if new is None else new[..., args[0].shape[-1] :]

    return hook


def _reading_pattern(site: Site, visit: Visit) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if visit(output[1]) is not None:
            raise ValueError(f"{site} can be read but not written")

    return hook


def _register_middle(
    model: LanguageModel, module: nn.Module, block: nn.Module, visit: Visit
) -> list[Any]:
    # The branch reads the stream here, but the stream itself runs past the module: a write goes
    # into the branch as it is and into the stream as a difference at the block's end.
    pending: list[Tensor] = []

    def into_branch(hidden: Tensor) -> Tensor | None:
        new = visit(hidden)
        if new is not None:
            pending.append(new - hidden)
        return new

    def into_stream(hidden: Tensor) -> Tensor | None:
        return hidden + pending.pop() if pending else None

    return [
        module.register_forward_pre_hook(_before(into_branch), with_kwargs=True),
        block.register_forward_hook(_after(into_stream)),
    ]
