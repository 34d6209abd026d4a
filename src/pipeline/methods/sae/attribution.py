"""Attribution patching of autoencoder features: gradient times activation, per position."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from pipeline.engine.chunks import blocks
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.generation import check_context
from pipeline.engine.memory import in_batches
from pipeline.engine.scoring import score_last
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.interventions import ablate
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.runs.progress import progress

_HELD = 2**26
"""Feature activations held at a time, [rows, pos, feature]: 0.27 GB for each of a few tensors."""

Measure = Callable[[Tensor], Tensor]
"""Metric of each row from its last token's logits [rows, vocab]."""


@dataclass(frozen=True)
class Attribution:
    """First-order estimate of the change of each prompt's metric if a feature were set to 0.

    features: the largest nonzero attributions (by magnitude) of each prompt and site: `prompt`,
    `site`, `position`, `feature`, `activation`, `attribution`. errors: the same for the SAE error
    as a node of its own, one row per `prompt`, `site` and `position`. totals: one row per `prompt`
    and `site` with the `metric` and the sum of `attribution` over all features and positions.
    active: by site, [position from the end, feature], the number of prompts in which the feature is
    active there; row -1 is the end. The first token is excluded: autoencoders are not trained
    there.
    """

    features: pd.DataFrame
    errors: pd.DataFrame
    totals: pd.DataFrame
    active: Mapping[str, Int[np.ndarray, "pos feature"]]


@dataclass(frozen=True)
class Check:
    """Attributions with ablation results: `effect` is the metric's change under ablation.

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
    """Attribute a metric at each prompt's last token to (position, feature) pairs and the error.

    attribution = -f ∂m/∂f with x = x̂(f) + error.detach(), so ∂m/∂f = decoder · ∂m/∂x. x itself is
    unchanged, so one backward pass serves all autoencoders independently. The error's attribution
    is -error · ∂m/∂x; the remainder belongs to the decoder bias.

    Args:
        model: the model.
        prompts: tokens of each prompt, up to the position where the metric is measured.
        autoencoders: at most one per site.
        measure: see `Measure`.
        top: number of features to return per prompt and site, by magnitude.
        batch_tokens: maximum tokens per batch, padding included.

    Raises:
        ValueError: an autoencoder of another model, or two at one site.

    Source: Nanda 2023 (attribution patching); Marks et al. 2024 (sparse feature circuits).
    """
    check_context(model, prompts)
    by_site = {Site.parse(sae.site): sae.to(model.device) for sae in autoencoders}
    if len(by_site) != len(autoencoders):
        names = [sae.site for sae in autoencoders]
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
    longest = max(len(prompt) for prompt in prompts)
    counts = {
        str(site): np.zeros((longest, sae.n_features), dtype=np.int32)
        for site, sae in by_site.items()
    }
    split = list(blocks([len(prompt) for prompt in prompts], batch_tokens))
    for block in progress(split, "attribution", "batch", brief=True):
        ids, mask = model.pad([prompts[p] for p in block])
        numbers = torch.tensor(block, device=model.device)
        activations, gradients, metric = hooks.differentiate(
            model, list(by_site), ids, mask, measure
        )
        absolute = hooks.token_positions(mask)
        for site, sae in by_site.items():
            x, gradient = activations[site], gradients[site]
            at_once = max(1, _HELD // (x.shape[1] * sae.n_features))
            for part in torch.arange(len(block)).split(at_once):
                found = _of_rows(
                    sae, x[part], gradient[part], absolute[part], numbers[part], metric[part], top
                )
                features.append(found.features)
                errors.append(found.errors)
                totals.append(found.totals)
                counts[str(site)][-x.shape[1] :] += found.active[str(site)]
    return Attribution(_joined(features), _joined(errors), _joined(totals), counts)


def _of_rows(
    sae: SparseAutoencoder,
    x: Float[Tensor, "rows pos width"],
    gradient: Float[Tensor, "rows pos width"],
    absolute: Int[Tensor, "rows pos"],
    numbers: Int[Tensor, " rows"],
    metric: Float[Tensor, " rows"],
    top: int,
) -> Attribution:
    """Attribute to the features of one autoencoder; the first token and padding are left out."""
    # Padding has absolute position 0 too.
    counted = absolute > 0
    x, gradient = x.float(), gradient.float()
    active = sae.encode(x) * counted[..., None]
    attributed = -active * (gradient @ sae.decoder.T)
    left = -((x - sae.decode(active)) * gradient).sum(-1)
    rows, columns = counted.nonzero(as_tuple=True)
    errors = pd.DataFrame(
        {
            "prompt": numbers[rows].cpu().numpy(),
            "site": sae.site,
            "position": absolute[rows, columns].cpu().numpy(),
            "attribution": left[rows, columns].cpu().numpy(),
        }
    )
    totals = pd.DataFrame(
        {
            "prompt": numbers.cpu().numpy(),
            "site": sae.site,
            "metric": metric.float().cpu().numpy(),
            "attribution": attributed.sum((1, 2)).cpu().numpy(),
        }
    )
    features = _largest(attributed, active, absolute, numbers, sae.site, top)
    counts = (active > 0).sum(0).cpu().numpy().astype(np.int32)
    return Attribution(features, errors, totals, {sae.site: counts})


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
    """Ablate the `top` largest attributed features one at a time and compare with attribution.

    Each is set to 0 at its position in its prompt, keeping the error; `effect` is the ablated minus
    the clean metric. Rows are ordered by magnitude of attribution.

    Raises:
        ValueError: no attributions at the autoencoder's site.
    """
    sae_site = autoencoder.site
    rows = attribution[attribution["site"] == sae_site]
    if rows.empty:
        raise ValueError(
            f"no attribution at {sae_site}; there are: {sorted(set(attribution['site']))}"
        )
    order = rows["attribution"].abs().sort_values(ascending=False, kind="stable").index
    rows = rows.loc[order[:top]].reset_index(drop=True)
    site, effects = Site.parse(sae_site), np.empty(len(rows))
    for prompt, pairs in rows.groupby("prompt"):
        edits = [
            Edit(site, ablate(autoencoder, [feature]), (position,))
            for feature, position in zip(pairs["feature"], pairs["position"], strict=True)
        ]
        conditions = [Condition(), *(Condition(edits=(edit,)) for edit in edits)]
        scores = score_last(
            model,
            [prompts[int(prompt)]],
            conditions,
            measure,
            batch_tokens=batch_tokens,
        )[:, 0]
        effects[pairs.index] = (scores[1:] - scores[0]).numpy()
    table = rows.assign(effect=effects)
    return Check(table, rank_correlation(table), len(table))


def rank_correlation(checked: pd.DataFrame) -> float:
    """Compute Spearman's correlation of `attribution` and `effect`."""
    return float(spearmanr(checked["attribution"], checked["effect"]).statistic)


def _largest(
    attributed: Float[Tensor, "rows pos feature"],
    active: Float[Tensor, "rows pos feature"],
    absolute: Tensor,
    numbers: Tensor,
    site: str,
    top: int,
) -> pd.DataFrame:
    flat = attributed.flatten(1)
    flat_indices = flat.abs().topk(min(top, flat.shape[1]), -1).indices
    columns, features = flat_indices // attributed.shape[2], flat_indices % attributed.shape[2]
    table = pd.DataFrame(
        {
            "prompt": numbers[:, None].expand_as(flat_indices).flatten().cpu().numpy(),
            "site": site,
            "position": absolute.gather(1, columns).flatten().cpu().numpy(),
            "feature": features.flatten().cpu().numpy(),
            "activation": active.flatten(1).gather(1, flat_indices).flatten().cpu().numpy(),
            "attribution": flat.gather(1, flat_indices).flatten().cpu().numpy(),
        }
    )
    return table[table["attribution"] != 0]


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts, ignore_index=True)
    order = table.assign(size=-table["attribution"].abs()).sort_values(
        ["prompt", "site", "size"], kind="stable"
    )
    return order.drop(columns="size").reset_index(drop=True)
