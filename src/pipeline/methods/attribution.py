"""Which features, at which positions, a metric depends on: gradient times activation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from pipeline.engine.chunks import blocks
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.generation import check_context
from pipeline.engine.memory import in_batches
from pipeline.engine.scoring import score_last
from pipeline.methods.sae import SparseAutoencoder
from pipeline.methods.sae_interventions import ablate
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

Measure = Callable[[Tensor], Tensor]
"""From logits [rows, vocab] after each row's last token to its metric."""


@dataclass(frozen=True)
class Attribution:
    """What a metric of each prompt would change by if a feature were 0 there, to first order.

    features: the largest in size of each prompt and site, none of them 0: `prompt`, `site`,
    `position`, `feature`, `activation`, `attribution`. errors: the same for the reconstruction's
    error as a node of its own, a row for every `prompt`, `site` and `position`. totals: a row for
    every `prompt` and `site`: the `metric`, and the sum of `attribution` over all features and
    positions. The first token is in none of them: autoencoders are not trained there.
    """

    features: pd.DataFrame
    errors: pd.DataFrame
    totals: pd.DataFrame


@dataclass(frozen=True)
class Check:
    """Attributions beside true ablations: `effect` is the metric's change when ablated.

    rank: Spearman's correlation of attribution and effect, over `rows`.
    """

    table: pd.DataFrame
    rank: float
    rows: int


def attribute(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    autoencoders: Sequence[SparseAutoencoder],
    measure: Measure,
    *,
    top: int,
    batch_tokens: int,
) -> Attribution:
    """Attribute a metric at each prompt's last token to (position, feature) and the error.

    attribution = -f ∂m/∂f with x = x̂(f) + error.detach(), so ∂m/∂f = decoder · ∂m/∂x: x itself is
    unchanged, and one backward pass serves all autoencoders, each as if it were alone. The error's
    is -error · ∂m/∂x, and the decoder bias has what is left.

    Args:
        model: the model.
        prompts: tokens, each up to where the metric is read.
        autoencoders: at most one at a site.
        measure: see `Measure`.
        top: how many features of each prompt and site are kept, by size.
        batch_tokens: tokens of a batch, pads included.

    Raises:
        ValueError: an autoencoder of another model, or two at one site.

    Source: Nanda 2023 (attribution patching); Marks et al. 2024 (sparse feature circuits).
    """
    check_context(model, prompts)
    by_site = {Site.parse(sae.provenance.site): sae.to(model.device) for sae in autoencoders}
    if len(by_site) != len(autoencoders):
        names = [sae.provenance.site for sae in autoencoders]
        raise ValueError(f"autoencoders at {', '.join(names)}: one at a site is valid")
    for site, sae in by_site.items():
        sae.check(model, site)

    run = partial(_attribute, model, prompts, by_site, measure, top)
    return in_batches(model, batch_tokens, run)


def _attribute(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    by_site: dict[Site, SparseAutoencoder],
    measure: Measure,
    top: int,
    batch_tokens: int,
) -> Attribution:
    features, errors, totals = [], [], []
    for block in blocks([len(prompt) for prompt in prompts], batch_tokens):
        ids, mask = model.pad([prompts[p] for p in block])
        numbers = torch.tensor(block, device=model.device)
        activations, gradients, metric = hooks.differentiate(
            model, list(by_site), ids, mask, measure
        )
        absolute = hooks.positions(mask)
        # Pads stand at 0 too.
        kept = absolute > 0
        for site, sae in by_site.items():
            x, gradient = activations[site].float(), gradients[site].float()
            active = sae.encode(x) * kept[..., None]
            found = -active * (gradient @ sae.decoder.T)
            features.append(_largest(found, active, absolute, numbers, str(site), top))
            left = -((x - sae.decode(active)) * gradient).sum(-1)
            rows, columns = kept.nonzero(as_tuple=True)
            errors.append(
                pd.DataFrame(
                    {
                        "prompt": numbers[rows].cpu().numpy(),
                        "site": str(site),
                        "position": absolute[rows, columns].cpu().numpy(),
                        "attribution": left[rows, columns].cpu().numpy(),
                    }
                )
            )
            totals.append(
                pd.DataFrame(
                    {
                        "prompt": block,
                        "site": str(site),
                        "metric": metric.float().cpu().numpy(),
                        "attribution": found.sum((1, 2)).cpu().numpy(),
                    }
                )
            )
    return Attribution(_joined(features), _joined(errors), _joined(totals))


def check_by_ablation(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    autoencoder: SparseAutoencoder,
    attribution: pd.DataFrame,
    measure: Measure,
    *,
    top: int,
    batch_tokens: int,
) -> Check:
    """Ablate the `top` features of a table of attributions, one at a time, and compare.

    Each is set to 0 at its position of its prompt, the error kept; `effect` is the metric then
    minus the metric before. The table's order by size is that of the result.

    Raises:
        ValueError: the table has nothing at the autoencoder's site.
    """
    place = autoencoder.provenance.site
    rows = attribution[attribution["site"] == place]
    if rows.empty:
        raise ValueError(
            f"no attribution at {place}; there are: {sorted(set(attribution['site']))}"
        )
    order = rows["attribution"].abs().sort_values(ascending=False, kind="stable").index
    rows = rows.loc[order[:top]].reset_index(drop=True)
    site, effects = Site.parse(place), np.empty(len(rows))
    for prompt, own in rows.groupby("prompt"):
        edits = [
            Edit(site, ablate(autoencoder, [feature]), (position,))
            for feature, position in zip(own["feature"], own["position"], strict=True)
        ]
        conditions = [Condition(), *(Condition(edits=(edit,)) for edit in edits)]
        scores = score_last(
            model,
            [prompts[int(prompt)]],
            conditions,
            measure,
            batch_tokens=batch_tokens,
        )[:, 0]
        effects[own.index] = (scores[1:] - scores[0]).numpy()
    table = rows.assign(effect=effects)
    return Check(table, rank_correlation(table), len(table))


def rank_correlation(checked: pd.DataFrame) -> float:
    """Spearman's correlation of `attribution` and `effect`."""
    return float(spearmanr(checked["attribution"], checked["effect"]).statistic)


def _largest(
    found: Float[Tensor, "rows pos feature"],
    active: Float[Tensor, "rows pos feature"],
    absolute: Tensor,
    numbers: Tensor,
    site: str,
    top: int,
) -> pd.DataFrame:
    flat = found.flatten(1)
    places = flat.abs().topk(min(top, flat.shape[1]), -1).indices
    columns, features = places // found.shape[2], places % found.shape[2]
    table = pd.DataFrame(
        {
            "prompt": numbers[:, None].expand_as(places).flatten().cpu().numpy(),
            "site": site,
            "position": absolute.gather(1, columns).flatten().cpu().numpy(),
            "feature": features.flatten().cpu().numpy(),
            "activation": active.flatten(1).gather(1, places).flatten().cpu().numpy(),
            "attribution": flat.gather(1, places).flatten().cpu().numpy(),
        }
    )
    return table[table["attribution"] != 0]


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    order = table.assign(size=-table["attribution"].abs()).sort_values(
        ["prompt", "site", "size"], kind="stable"
    )
    return order.drop(columns="size").reset_index(drop=True)
