"""Edge attribution patching: effects of patching edges, estimated by gradients."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.declared import OneOrMore, Selection
from pipeline.data.prompts import select_prompts
from pipeline.engine.memory import in_batches
from pipeline.methods.circuits.components import check_options, components
from pipeline.methods.circuits.edges import edges_of
from pipeline.methods.circuits.gradients import EMBED, Batch, batches, path_hooks
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.output_projections import head_outputs
from pipeline.model.sites import Site, undivided


def edge_attributions(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    split: str = "test",
    select: Selection = None,
    steps: OneOrMore = 5,
) -> pd.DataFrame:
    """Estimate the effect of patching every edge, without running any of them.

    attribution = (u' - u) ∂m/∂x, summed over tokens and averaged over prompts, with m = logit(
    answer) - logit(foil), u the source's output, x the target's input, and ∂m/∂x through the target
    only. Integrated: ∂m/∂x is the mean over inputs e' + k/steps (e - e'), as in
    `gradients.component_attributions`.

    Args:
        model: the model.
        prompts: the dataset, with `answer`, `foil` and `corrupted`.
        split: of the prompts.
        select: selection of prompts, as an arm's `prompts`.
        steps: of the path of integrated gradients.

    Returns:
        A row per edge: `source`, `target`, `gradient`, `integrated`, in nats.

    Raises:
        ValueError: no such prompts, fewer than 1 step, or as `components.corrupted_tokens`.

    Source: Syed et al. 2023, "Attribution patching outperforms automated circuit discovery";
    Hanna et al. 2024, "Have faith in faithfulness" (integrated gradients).
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} is less than 1")
    rows = select_prompts(prompts, select, [split]).reset_index(drop=True)
    check_options(rows, "patched", "all")
    run = partial(_edge_scores, model, rows, steps)
    # Outputs and gradients of all components are held for the tokens of a pass.
    gradient, integrated = in_batches(model, min(256, model.batch_tokens), run)
    sites = components(model)
    place = {site: n for n, site in enumerate(sites)}
    table = [
        (
            *edge.names,
            *(
                float(
                    scores[
                        0 if edge.source is None else 1 + place[edge.source],
                        len(sites) if edge.target is None else place[edge.target],
                    ]
                )
                for scores in (gradient, integrated)
            ),
        )
        for edge in edges_of(model, sites)
    ]
    return pd.DataFrame(table, columns=["source", "target", "gradient", "integrated"])


def _edge_scores(
    model: LanguageModel, prompts: pd.DataFrame, steps: int, batch_tokens: int
) -> tuple[Float[Tensor, "source target"], Float[Tensor, "source target"]]:
    """Average the attributions of all pairs over prompts, at the clean prompt and on the path."""
    sites = components(model)
    totals = [torch.zeros(len(sites) + 1, len(sites) + 1, dtype=torch.float64) for _ in "ab"]
    read_at = undivided(sites)
    for batch in batches(model, prompts, batch_tokens):
        before, after = (
            _outputs(model, hooks.read(model, [EMBED, *read_at], ids, batch.mask), batch.mask > 0)
            for ids in (batch.ids, batch.corrupted)
        )
        changes = after - before
        last, mean = torch.zeros(()), torch.zeros(())
        for at_input in path_hooks(model, batch, steps):
            with hooks.with_hooks(model, at_input):
                last = _input_gradients(model, batch)
            mean = mean + last / steps
        for total, gradients in zip(totals, (last, mean), strict=True):
            total += torch.einsum("srpd,trpd->st", changes, gradients).double().cpu()
    gradient, integrated = (total / len(prompts) for total in totals)
    return gradient, integrated


def _outputs(
    model: LanguageModel, values: Mapping[Site, Tensor], real: Bool[Tensor, "rows pos"]
) -> Float[Tensor, "source rows pos d_model"]:
    """Stack what the input and each component add to the residual stream, 0 at padding."""
    parts = [values[EMBED].float()]
    for layer in range(model.n_layers):
        parts += head_outputs(model, layer, values[Site(layer, "z")]).unbind(-2)
        parts.append(values[Site(layer, "mlp_out")].float())
    return torch.where(real[..., None], torch.stack(parts), 0.0)


def _input_gradients(
    model: LanguageModel, batch: Batch
) -> Float[Tensor, "target rows pos d_model"]:
    """Compute the gradient of the objective through each component only, and of the logits' input.

    The derivative of the objective by the component's output, through all that follows, times that
    of the output by the component's input.
    """
    stream = "resid_pre" if model.parallel else "resid_mid"
    layers, last = range(model.n_layers), Site(model.n_layers - 1, "resid_post")
    seen: dict[Site, Tensor] = {}

    def start(site: Site, hidden: Tensor) -> Tensor | None:
        # The first activation begins the graph.
        seen[site] = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
        return None if seen[site] is hidden else seen[site]

    names = dict.fromkeys(("resid_pre", "z", stream, "mlp_out"))
    sites = [Site(layer, name) for layer in layers for name in names]
    at_sites = {site: partial(start, site) for site in [*sites, last]}
    with torch.enable_grad(), hooks.with_hooks(model, at_sites):
        logits = hooks.run_to_logits(model, batch.ids, batch.mask)[:, -1]
        outputs = [Site(layer, name) for layer in layers for name in ("z", "mlp_out")]
        objective = batch.objective(logits).sum()
        reached = [*(seen[site] for site in outputs), seen[last]]
        by_output = dict(
            zip(
                [*outputs, last],
                torch.autograd.grad(objective, reached, retain_graph=True),
                strict=True,
            )
        )
        gradients = []
        for layer in layers:
            z, mlp = Site(layer, "z"), Site(layer, "mlp_out")
            width = model.width(Site(layer, "z", 0))
            for head in range(model.n_heads):
                of_head = torch.zeros_like(by_output[z])
                part = slice(head * width, (head + 1) * width)
                of_head[..., part] = by_output[z][..., part]
                gradients.append(_through(seen[z], seen[Site(layer, "resid_pre")], of_head))
            gradients.append(_through(seen[mlp], seen[Site(layer, stream)], by_output[mlp]))
    return torch.stack([*gradients, by_output[last]]).float().detach()


def _through(output: Tensor, read: Tensor, gradient: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(output, read, gradient, retain_graph=True)
    return result
