"""Optimise the output of a feed-forward layer at a subject, for all facts at once."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.chunks import passes
from pipeline.engine.memory import in_batches
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.starting import starting_at
from pipeline.model.unembedding import unembedded
from pipeline.runs.progress import progress

_GRADIENTS = 4
"""A pass with gradients holds the activations of all layers: a quarter of the usual tokens."""


@dataclass(frozen=True)
class Recipe:
    """Steps and weights of `new_values`.

    Raises:
        ValueError: a number out of range.
    """

    steps: int = 20
    rate: float = 0.5
    divergence: float = 0.0625
    decay: float = 0.5
    most: float = 4.0
    enough: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            strictly = name in ("steps", "rate", "most")
            if value < 0 or (strictly and value == 0):
                raise ValueError(
                    f"{name} = {value}; valid: {'above 0' if strictly else '0 or more'}"
                )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in vars(self).items())


@dataclass(frozen=True)
class Contexts:
    """Prompts of facts: all bare ones, all behind the first prefix, ..., and all essences.

    Attributes:
        tokens: of every prompt.
        positions: of the subject's last token in each.
        facts: number of facts.
    """

    tokens: list[list[int]]
    positions: list[int]
    facts: int


@dataclass(frozen=True, eq=False)
class NewValues:
    """The changes v* - v, and a row about each fact.

    Attributes:
        change: v* - v.
        table: the final `loss`, the `probability` of the target after the bare prompt with the
            change at the subject's last token alone, the number of `steps`, and the norm of the
            `change` in norms of v.
    """

    change: Float[Tensor, "facts d_model"]
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class _Batch:
    """Prompts of a pass, with what does not depend on the change."""

    ids: Int[Tensor, "rows pos"]
    mask: Int[Tensor, "rows pos"]
    columns: Int[Tensor, " rows"]
    numbers: Int[Tensor, " rows"]
    stream: Float[Tensor, "rows pos d_model"]


def new_values(
    model: LanguageModel,
    contexts: Contexts,
    targets: Int[Tensor, " facts"],
    layer: int,
    recipe: Recipe,
) -> NewValues:
    """Find the change d of a down projection's output that makes each fact's target likely.

    d is added at the subject's last token, and Adam, from d = 0, minimises for every fact

    mean_prompts -log p(target) + divergence KL(p_new || p_old) + decay ||d|| / ||v||^2

    with the mean over the bare prompt and those behind prefixes, the KL after the essence prompt,
    and v the output in the bare prompt. After each step d is scaled back to ||d|| <= most ||v||. A
    fact is no longer changed once its loss is below `enough`. All facts are optimised together;
    their losses do not depend on each other.

    Differences from the reference: `steps` updates, not one fewer, and the KL is after the essence
    prompt's last token, as in the paper, not after its subject.

    Args:
        model: the model.
        contexts: of the facts.
        targets: the token that each fact should be continued by.
        layer: whose output is changed.
        recipe: the steps and weights.

    Source: Meng et al. 2022.
    """
    return in_batches(
        model,
        max(1, model.batch_tokens // _GRADIENTS),
        partial(_optimised, model, contexts, targets, layer, recipe),
    )


def _optimised(
    model: LanguageModel,
    contexts: Contexts,
    targets: Int[Tensor, " facts"],
    layer: int,
    recipe: Recipe,
    batch_tokens: int,
) -> NewValues:
    site = Site(layer, "mlp_down")
    batches, norms = _prepared(model, contexts, site, batch_tokens)
    device = model.device_of(site)
    change = torch.zeros(contexts.facts, model.d_model, device=device, requires_grad=True)
    adam = torch.optim.Adam([change], lr=recipe.rate)
    old = _essence_of(model, contexts, site, batches, change)
    updates = torch.zeros(contexts.facts, dtype=torch.long)
    for step in progress(range(recipe.steps + 1), f"values of {site}", "step", brief=True):
        adam.zero_grad()
        losses, likely = _losses(model, contexts, site, batches, change, targets, old, recipe)
        penalty = recipe.decay * change.norm(dim=-1) / norms**2
        penalty.sum().backward()
        losses = losses + penalty.detach().cpu()
        going = losses >= recipe.enough
        if step == recipe.steps or not bool(going.any()):
            break
        before = change.detach().clone()
        adam.step()
        with torch.no_grad():
            norm = change.norm(dim=-1)
            change *= (recipe.most * norms / norm).clamp(max=1)[:, None]
            change.copy_(torch.where(going.to(device)[:, None], change, before))
        updates += going
    final = change.detach().cpu()
    table = pd.DataFrame(
        {
            "loss": losses.double().numpy(),
            "probability": likely.double().numpy(),
            "steps": updates.numpy(),
            "change": (final.norm(dim=-1) / norms.cpu()).double().numpy(),
        }
    )
    return NewValues(final, table)


def _prepared(
    model: LanguageModel, contexts: Contexts, site: Site, batch_tokens: int
) -> tuple[list[_Batch], Float[Tensor, " facts"]]:
    """Return the passes with the layer's input, and the norm of each fact's output v."""
    start = Site(site.layer, "resid_pre")
    batches = []
    norms = torch.empty(contexts.facts, device=model.device_of(site))
    for block in passes(model, [len(row) for row in contexts.tokens], batch_tokens):
        ids, mask = model.pad([contexts.tokens[number] for number in block])
        lengths = torch.tensor([len(contexts.tokens[number]) for number in block])
        at = torch.tensor([contexts.positions[number] for number in block])
        columns, numbers = ids.shape[1] - lengths + at, torch.tensor(block)
        states = hooks.read(model, [start, site], ids, mask)
        rows = (numbers < contexts.facts).nonzero()[:, 0]
        out = states[site][rows, columns[rows], -model.d_model :].float()
        norms[numbers[rows].to(norms.device)] = out.norm(dim=-1)
        # Tensors of inference mode cannot take part in a graph.
        batches.append(_Batch(ids, mask, columns, numbers, states[start].clone()))
    return batches, norms


def _logits(
    model: LanguageModel, site: Site, batch: _Batch, change: Float[Tensor, "facts d_model"]
) -> Float[Tensor, "rows vocab"]:
    """Compute the logits after each prompt with the change at its subject."""
    facts = (batch.numbers % len(change)).to(change.device)
    final: list[Tensor] = []

    def add(hidden: Tensor) -> Tensor:
        added = torch.zeros_like(hidden)
        rows = torch.arange(len(hidden), device=hidden.device)
        written = change[facts].to(hidden.dtype)
        width = hidden.shape[-1] - model.d_model
        added[rows, batch.columns.to(hidden.device), width:] = written
        return hidden + added

    def keep(hidden: Tensor) -> None:
        final.append(hidden[:, -1])

    last = Site(model.n_layers - 1, "resid_post")
    begun = starting_at(model, site.layer, batch.stream) if site.layer > 0 else nullcontext()
    with begun, hooks.with_hooks(model, {site: add, last: keep}):
        hooks.run_blocks(model, batch.ids, batch.mask)
    return unembedded(model, final[0]).float()


def _essence_of(
    model: LanguageModel,
    contexts: Contexts,
    site: Site,
    batches: list[_Batch],
    change: Float[Tensor, "facts d_model"],
) -> list[Float[Tensor, "_ vocab"]]:
    """Return the unedited log-probabilities after the essence prompts of each pass."""
    with torch.no_grad():
        return [
            _logits(model, site, batch, change)[_is_essence(contexts, batch)].log_softmax(-1)
            for batch in batches
        ]


def _losses(
    model: LanguageModel,
    contexts: Contexts,
    site: Site,
    batches: list[_Batch],
    change: Float[Tensor, "facts d_model"],
    targets: Int[Tensor, " facts"],
    old: list[Float[Tensor, "_ vocab"]],
    recipe: Recipe,
) -> tuple[Float[Tensor, " facts"], Float[Tensor, " facts"]]:
    """Return each fact's loss without decay, and p(target) in the bare prompt; add gradients."""
    facts = contexts.facts
    share = 1 / (len(contexts.tokens) // facts - 1)
    losses, likely = torch.zeros(facts), torch.empty(facts)
    for batch, before in zip(batches, old, strict=True):
        with torch.enable_grad():
            logs = _logits(model, site, batch, change).log_softmax(-1)
            essence = _is_essence(contexts, batch)
            asked = ~essence
            owners = batch.numbers % facts
            wanted = targets[owners[asked]].to(logs.device)
            written = logs[asked].gather(1, wanted[:, None])[:, 0]
            new = logs[essence]
            kl = (new.exp() * (new - before)).sum(-1)
            (recipe.divergence * kl.sum() - share * written.sum()).backward()
        losses.index_add_(0, owners[asked], -share * written.detach().cpu())
        losses.index_add_(0, owners[essence], recipe.divergence * kl.detach().cpu())
        bare = batch.numbers[asked] < facts
        likely[owners[asked][bare]] = written.detach().cpu()[bare].exp()
    return losses, likely


def _is_essence(contexts: Contexts, batch: _Batch) -> Tensor:
    return batch.numbers >= len(contexts.tokens) - contexts.facts
