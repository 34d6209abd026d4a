"""Components of a model, heads and MLPs, and what their outputs are replaced by."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.data.prompts import tokenised_alike
from pipeline.data.roles import Axis
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerToken
from pipeline.engine.limits import check_context
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Replace
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, undivided
from pipeline.model.tokenization import first_token

ABLATIONS = ("zero", "mean", "mean_by_position", "patched")
"""What a component's output is replaced by.

- `zero`: 0.
- `mean`: its mean over the edited tokens of all corrupted prompts.
- `mean_by_position`: its mean over the corrupted prompts of the same group, at each position.
- `patched`: its output in the corrupted counterpart of the prompt, at the same position.
"""
POSITIONS = ("all", "after_first")
CORRUPTED, GROUP = "corrupted", "template"
"""Columns of a dataset: the corrupted counterpart of each prompt, and the prompts' groups."""
MLP = "mlp"


def components(model: LanguageModel) -> list[Site]:
    """List all heads (`z`, by head) and MLPs (`mlp_out`) of a model, in the order they run."""
    return [
        site
        for layer in range(model.n_layers)
        for site in (
            *(Site(layer, "z", head) for head in range(model.n_heads)),
            Site(layer, "mlp_out"),
        )
    ]


def axes_of(site: Site) -> dict[str, Axis]:
    """Return the axes of a condition that name a component: `layer` and `component`."""
    return {"layer": site.layer, "component": MLP if site.unit is None else f"head {site.unit}"}


def name_of(site: Site) -> str:
    """Return the short name of a component: `3.5` is head 5 of layer 3, `mlp 3` its MLP."""
    return f"mlp {site.layer}" if site.unit is None else f"{site.layer}.{site.unit}"


def check_options(prompts: pd.DataFrame, ablation: str, positions: Any) -> None:
    """Check an ablation, its position rule, and that the dataset has the columns it needs.

    Raises:
        ValueError: names the value and the valid ones.
    """
    for key, value, valid in (
        ("ablation", ablation, ABLATIONS),
        ("positions", positions, POSITIONS),
    ):
        if value not in valid:
            raise ValueError(f"{key}: {value!r} is unknown; valid: {', '.join(valid)}")
    needed = {"zero": [], "mean_by_position": [CORRUPTED, GROUP]}.get(ablation, [CORRUPTED])
    for column in ["answer", "foil", *needed]:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")
        if (prompts[column] == "").any():
            raise ValueError(f"column {column!r} of the dataset has a row without text")


def corrupted_tokens(model: LanguageModel, prompts: pd.DataFrame) -> list[list[int]]:
    """Tokenize the corrupted counterparts of prompts.

    Raises:
        ValueError: a counterpart with another number of tokens than its prompt, or as
            `tokenised_alike`.
    """
    frame = tokenised_alike(prompts.assign(instruction=prompts[CORRUPTED]), prompts, model)
    tokens = tokens_of(frame)
    for row, prompt, text in zip(tokens, tokens_of(prompts), prompts[CORRUPTED], strict=True):
        if len(row) != len(prompt):
            raise ValueError(
                f"{CORRUPTED} {text!r} has {len(row)} tokens, its prompt {len(prompt)}; valid: as "
                "many, so that each token has a counterpart"
            )
    return tokens


def tokens_of(prompts: pd.DataFrame) -> list[list[int]]:
    """Return the tokens of prompts as lists."""
    return [list(map(int, row)) for row in prompts["tokens"]]


def ablations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    sites: Sequence[Site],
    *,
    ablation: str,
    positions: str = "all",
) -> dict[Site, Edit]:
    """Make the edit that ablates each component at all positions of the prompts; see `ABLATIONS`.

    Args:
        model: the model.
        prompts: the prompts of the run, in order.
        sites: heads and MLPs, of `components`.
        ablation: one of `ABLATIONS`.
        positions: one of `POSITIONS`. Without the first token, whose activations are outliers in
            many models.

    Raises:
        ValueError: an unknown ablation or positions, a missing column, a counterpart of another
            length, or prompts of unlike lengths in a group.
        NeedsRun: the model has no weights.
    """
    check_options(prompts, ablation, positions)
    if ablation == "zero":
        return {site: Edit(site, Replace(0.0), positions) for site in sites}
    tokens = corrupted_tokens(model, prompts)
    groups = pd.factorize(prompts[GROUP])[0] if ablation == "mean_by_position" else None
    if groups is not None:
        _check_groups(prompts)
    values = activations(model, tokens, sites)
    first = int(positions == "after_first")
    mask = token_mask(tokens)[:, first:]
    edits = {}
    for site, value in values.items():
        field: Any = PerToken(value)
        if ablation == "mean":
            field = value[:, first:][mask].double().mean(0).float()
        elif groups is not None:
            field = PerToken(_group_means(value, groups))
        edits[site] = Edit(site, Replace(field), positions)
    return edits


def activations(
    model: LanguageModel, tokens: list[list[int]], sites: Iterable[Site]
) -> dict[Site, Float[Tensor, "prompts tokens width"]]:
    """Collect the outputs of components at every token, padded at the end.

    Heads of a layer are views of one tensor.
    """
    check_context(model, tokens)
    sites = list(sites)
    read_at = undivided(sites)
    flat, _ = collect(model, tokens, read_at, "all", batch_tokens=model.batch_tokens)
    lengths = list(map(len, tokens))
    padded = {site: pad_sequence(values.split(lengths), True) for site, values in flat.items()}
    outputs = {}
    for site in sites:
        values = padded[Site(site.layer, site.component)]
        if site.unit is not None:
            width = model.width(site)
            values = values[..., site.unit * width : (site.unit + 1) * width]
        outputs[site] = values
    return outputs


def token_mask(tokens: Sequence[Sequence[int]]) -> Bool[Tensor, "prompts tokens"]:
    """Return the mask of the tokens of prompts that are padded at the end."""
    lengths = torch.tensor(list(map(len, tokens)))
    return torch.arange(int(lengths.max())) < lengths[:, None]


def answer_ids(model: LanguageModel, prompts: pd.DataFrame) -> dict[str, Int[Tensor, " prompts"]]:
    """Return the first tokens of each prompt's `answer` and `foil`.

    Raises:
        ValueError: prompt and text do not tokenise as prompt + text, or both are the same token.
    """
    ids = {}
    for column in ("answer", "foil"):
        rows = zip(prompts["prompt"], prompts[column], prompts["raw"], strict=True)
        ids[column] = torch.tensor(
            [first_token(model.tokenizer, p, text, raw=bool(raw)) for p, text, raw in rows]
        )
    same = (ids["answer"] == ids["foil"]).nonzero()
    if len(same):
        row = prompts.iloc[int(same[0, 0])]
        raise ValueError(
            f"answer {row['answer']!r} and foil {row['foil']!r} begin with the same token"
        )
    return ids


def logit_differences(
    model: LanguageModel, prompts: pd.DataFrame, conditions: Sequence[Condition]
) -> Float64[Tensor, "conditions prompts"]:
    """Compute logit(answer) - logit(foil) after each prompt under every condition, in nats.

    Raises:
        ValueError: as `answer_ids`.
    """
    ids = answer_ids(model, prompts)
    # Rows do not say which prompt is theirs: keep the logits of all answers and foils.
    tokens, columns = torch.unique(torch.stack([*ids.values()]), return_inverse=True)
    logits = score_last(
        model,
        tokens_of(prompts),
        conditions,
        lambda rows: rows[:, tokens.to(rows.device)],
        batch_tokens=model.batch_tokens,
    ).double()
    answer, foil = (
        logits.gather(2, column[None, :, None].expand(len(conditions), -1, 1))[..., 0]
        for column in columns
    )
    return answer - foil


def _check_groups(prompts: pd.DataFrame) -> None:
    for group, rows in prompts.groupby(GROUP, sort=False):
        lengths = sorted({len(row) for row in rows["tokens"]})
        if len(lengths) > 1:
            raise ValueError(
                f"prompts with {GROUP} {group!r} have {lengths[0]} to {lengths[-1]} tokens; valid: "
                "equally many"
            )


def _group_means(
    values: Float[Tensor, "prompts tokens width"], groups: np.ndarray
) -> Float[Tensor, "prompts tokens width"]:
    """Replace each prompt's values by the mean of its group at each position."""
    means = torch.empty_like(values, dtype=torch.float32)
    for group in np.unique(groups):
        rows = torch.from_numpy(groups == group)
        means[rows] = values[rows].double().mean(0).float()
    return means
