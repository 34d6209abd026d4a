"""Ablate every neuron by itself, and test the change of words' probability over contexts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.data.positions import resolve
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, Positions
from pipeline.engine.scoring import score_last
from pipeline.measures.logits import group_levels, token_groups
from pipeline.measures.significance import benjamini_hochberg, p_not_zero
from pipeline.measures.statistics import topics_or_samples
from pipeline.methods.interventions import Add, SetUnits
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

TOLERANCE = 1e-5
"""Changes up to this, relative to a log-probability above 1, count as none: they may be rounding,
which is alike in all contexts and would pass any test."""
ABLATIONS = ("zero", "mean")
"""`zero`: the neuron is set to 0. `mean`: to its mean over the contexts, at the same positions."""


def layer_effects(
    model: LanguageModel,
    prompts: pd.DataFrame,
    layer: int,
    *,
    groups: Mapping[str, Sequence[str]],
    ablation: str,
    positions: Any,
) -> pd.DataFrame:
    """Ablate every neuron of a layer by itself: one forward sweep, all in one edit table.

    Of each context, before and after: log p of its label's words, log p of all other words in
    groups, and the top token. "Before" is an edit that changes nothing, run in the same way. Memory
    of the sweep grows by a few numbers per neuron: edits are stored as an index and a value, and
    logits are reduced pass by pass.

    Args:
        model: the model.
        prompts: contexts, with `sample`, `label`, `topic` and `tokens`.
        layer: the layer.
        groups: label -> words of a single token each.
        ablation: one of `ABLATIONS`.
        positions: an edit's position rule: where neurons are ablated and their means are taken.

    Returns:
        One row per neuron and context: `layer`, `neuron`, `sample`, `label`, `topic`, `activation`
        (mean over the positions), and the changes `own`, `others` (nats) and `top_changed`.
    """
    tokens = [list(map(int, row)) for row in prompts["tokens"]]
    rule = resolve(prompts, model.tokenizer, positions, variables=model.template)
    activations = mean_activations(model, tokens, layer, rule)
    width = activations.shape[1]
    values = activations.mean(0) if ablation == "mean" else torch.zeros(width)
    site = Site(layer, "mlp_act")
    ablated = [
        Condition(
            {"neuron": n}, (Edit(site, SetUnits(torch.tensor([n]), values[n : n + 1]), rule),)
        )
        for n in range(width)
    ]
    words = token_groups(model.tokenizer, groups)
    unchanged = Condition({"neuron": -1}, (Edit(site, Add(torch.zeros(width)), rule),))
    scores = score_last(
        model,
        tokens,
        [unchanged, *ablated],
        partial(_levels_and_top, words),
        batch_tokens=model.batch_tokens,
    ).numpy()
    columns = np.array([list(groups).index(label) for label in prompts["label"]])
    own, others = _own_and_others(scores[..., :-1], columns)
    return pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.repeat(np.arange(width), len(prompts)),
            **{name: np.tile(prompts[name], width) for name in ("sample", "label", "topic")},
            "activation": activations.T.numpy().ravel().astype(float),
            "own": changes_beyond_rounding(own),
            "others": changes_beyond_rounding(others),
            "top_changed": (scores[1:, :, -1] != scores[0, :, -1]).ravel(),
        }
    )


def mean_activations(
    model: LanguageModel, tokens: Sequence[Sequence[int]], layer: int, rule: Positions
) -> Float[Tensor, "prompts neuron"]:
    """Average each neuron's activation over the positions that a rule selects in each prompt."""
    site = Site(layer, "mlp_act")
    collected, table = collect(model, tokens, [site], rule, batch_tokens=model.batch_tokens)
    owner = torch.tensor(table["prompt"].tolist())
    sums = torch.zeros(len(tokens), collected[site].shape[1])
    sums.index_add_(0, owner, collected[site].float())
    return sums / owner.bincount(minlength=len(tokens))[:, None]


def neuron_table(
    changes: Sequence[pd.DataFrame], *, top: int, alpha: float, draws: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every neuron's effect on own - others over topics, and choose the strongest.

    effect: mean over topics of the mean change in a topic's contexts, in nats. p: two-sided
    Student's t test over topics, which share a noun and are not independent otherwise;
    `p_corrected`: Benjamini-Hochberg over all neurons of all layers. The same count with the sign
    of whole topics flipped at random is chance: as if own and other words had been swapped.

    Args:
        changes: of `layer_effects`, one table per layer.
        top: neurons to choose: those whose ablation lowers own - others most.
        alpha: threshold of `p_corrected`.
        draws: random flips.
        seed: of the flips.

    Returns:
        A row per neuron: `layer`, `neuron`, `effect`, `stderr`, `topics`, `p`, `p_corrected`,
        `passes`, `own`, `others`, `top_changed` (share of contexts), `activation` (mean), `size`
        (mean absolute activation), for each label `effect_LABEL` and `activation_LABEL`, `label`
        (where the effect is largest), and `rank` (0: not chosen). And a row per draw: `passing`,
        `alpha`.
    """
    tables, means = zip(*(_of_layer(table) for table in changes), strict=True)
    by_topic = np.concatenate(means)
    effect, stderr, p = _tested(by_topic)
    corrected = benjamini_hochberg(p)
    table = pd.concat(tables, ignore_index=True).assign(
        effect=effect,
        stderr=stderr,
        topics=by_topic.shape[1],
        p=p,
        p_corrected=corrected,
        passes=corrected < alpha,
    )
    order = table.sort_values(["effect", "layer", "neuron"], kind="stable").index[:top]
    table["rank"] = pd.Series(np.arange(1, len(order) + 1), order).reindex(
        table.index, fill_value=0
    )
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (draws, by_topic.shape[1]))
    passing = [
        int((benjamini_hochberg(_tested(by_topic * flips)[2]) < alpha).sum()) for flips in signs
    ]
    return table, pd.DataFrame({"draw": range(draws), "passing": passing, "alpha": alpha})


def _of_layer(changes: pd.DataFrame) -> tuple[pd.DataFrame, Float64[np.ndarray, "neuron topic"]]:
    """Average a layer's changes per neuron, and the change of own - others per topic."""
    changes = changes.assign(
        effect=changes["own"] - changes["others"], size=changes["activation"].abs()
    )
    groups = changes.groupby(["layer", "neuron"])
    table = groups[["own", "others", "top_changed", "activation", "size"]].mean()
    by_label = changes.pivot_table(
        index=["layer", "neuron"], columns="label", values=["effect", "activation"]
    )
    table["label"] = by_label["effect"].abs().idxmax(axis=1)
    by_label.columns = [f"{value}_{label}" for value, label in by_label.columns]
    topics = topics_or_samples(changes)
    by_topic = changes.assign(topic=topics).pivot_table(
        index=["layer", "neuron"], columns="topic", values="effect"
    )
    return table.join(by_label).reset_index(), by_topic.to_numpy()


def _tested(
    by_topic: Float64[np.ndarray, "neuron topic"],
) -> tuple[Float64[np.ndarray, " neuron"], ...]:
    """Return mean, standard error and two-sided p over topics."""
    topics = by_topic.shape[1]
    mean, stderr = by_topic.mean(1), by_topic.std(1, ddof=1) / np.sqrt(topics)
    return mean, stderr, p_not_zero(mean, stderr, topics)


def _levels_and_top(
    words: Sequence[Tensor], logits: Float[Tensor, "rows vocab"]
) -> Float64[Tensor, "rows values"]:
    """Return log p of each group, and the top token."""
    return torch.cat([group_levels(logits, words), logits.argmax(-1)[:, None].double()], -1)


def changes_beyond_rounding(
    levels: Float64[np.ndarray, "condition prompt"],
) -> Float64[np.ndarray, " change"]:
    """Subtract the first condition's levels; changes within the tolerance are 0."""
    changes = levels[1:] - levels[0]
    rounding = TOLERANCE * np.maximum(1, np.abs(levels[0]))
    return np.where(np.abs(changes) <= rounding, 0.0, changes).ravel()


def _own_and_others(
    levels: Float64[np.ndarray, "condition prompt group"], columns: np.ndarray
) -> tuple[Float64[np.ndarray, "condition prompt"], Float64[np.ndarray, "condition prompt"]]:
    prompts = np.arange(len(columns))
    others = levels.copy()
    others[:, prompts, columns] = -np.inf
    return levels[:, prompts, columns], np.logaddexp.reduce(others, axis=-1)
