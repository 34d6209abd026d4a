"""Collect activations at sites, in batches of prompts sorted by length."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.engine.chunks import passes
from pipeline.engine.conditions import Positions, check_rule, position_mask
from pipeline.engine.limits import check_context, check_listed_run, check_rule_of
from pipeline.engine.memory import in_batches
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.runs.progress import progress


def collect(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site | str],
    rule: Positions,
    *,
    batch_tokens: int = 16384,
) -> tuple[dict[Site, Tensor], pd.DataFrame]:
    """Collect activations [rows, width] at each site, at the positions that a rule selects.

    Each forward pass stops at the deepest site and computes no logits.

    Returns:
        Activations by site, and a table of each row's `prompt`, `position` and `token`. Rows are
        sorted by prompt, then by position.

    Raises:
        ValueError: an unknown rule, no list of sites, a site that the model does not have, a prompt
            in which the rule selects no token, or activations that are not finite.
    """
    check_rule(rule)
    check_listed_run(model, prompts, ())
    check_context(model, prompts)
    check_rule_of(rule, len(prompts))
    if isinstance(sites, Site | str):
        raise ValueError(f"sites is one, {sites}; valid: a list, such as [Site(2, 'resid_pre')]")
    if not isinstance(sites, Iterable):
        what = type(sites).__name__
        raise ValueError(f"sites is a {what}; valid: a list, such as [Site(2, 'resid_pre')]")
    if not len(prompts):
        raise ValueError("there is no prompt to collect activations of")
    rule = tuple(rule) if isinstance(rule, list) else rule
    parsed = [Site.parse(site) if isinstance(site, str) else site for site in sites]
    for site in parsed:
        if not isinstance(site, Site):
            raise ValueError(f"site {site!r}; valid: Site(2, 'resid_pre'), or its text")
        if model.check(site).component == "pattern":
            raise ValueError(f"{site} has no rows to collect; it can be read by itself")
    return in_batches(model, batch_tokens, partial(_collect, model, prompts, parsed, rule))


def _collect(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sites: list[Site],
    rule: Positions,
    batch_tokens: int,
) -> tuple[dict[Site, Tensor], pd.DataFrame]:
    packed = passes(model, [len(p) for p in prompts], batch_tokens)
    frames = []
    for block in packed:
        ids, mask = model.pad([prompts[p] for p in block])
        absolute, chosen = _chosen(prompts, block, rule, mask)
        if not bool(chosen.any(1).all()):
            unmatched = block[int((~chosen.any(1)).nonzero()[0, 0])]
            raise ValueError(f"positions {rule!r} name no token of prompt {unmatched}")
        rows, columns = chosen.nonzero(as_tuple=True)
        frame = pd.DataFrame(
            {
                "prompt": np.asarray(block)[rows.cpu().numpy()],
                "position": absolute[rows, columns].cpu().numpy(),
                "token": ids[rows, columns].cpu().numpy(),
            }
        )
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    order = np.lexsort((table["position"], table["prompt"]))
    row_numbers = torch.from_numpy(np.argsort(order)).split([len(frame) for frame in frames])
    gathered: dict[Site, Tensor] = {}
    both = list(zip(packed, row_numbers, strict=True))
    for block, numbers in progress(both, "activations", "batch", brief=True):
        # Padded again, because keeping all batches would fill the device.
        ids, mask = model.pad([prompts[p] for p in block])
        _, chosen = _chosen(prompts, block, rule, mask)
        for site, value in hooks.read(model, sites, ids, mask, partial(_take, chosen)).items():
            if site not in gathered:
                # One tensor per site: many small results would fragment memory.
                gathered[site] = torch.empty(len(table), value.shape[1], dtype=value.dtype)
            gathered[site][numbers] = value.cpu()
    return {site: gathered[site] for site in sites}, table.iloc[order].reset_index(drop=True)


def _chosen(
    prompts: Sequence[Sequence[int]],
    block: Sequence[int],
    rule: Positions,
    mask: Int[Tensor, "rows pos"],
) -> tuple[Int[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Return the positions of a block's tokens, -1 for padding, and those the rule selects."""
    absolute = hooks.token_positions(mask).masked_fill(mask == 0, -1)
    lengths = torch.tensor([len(prompts[p]) for p in block], device=mask.device)
    numbers = torch.tensor(block, device=mask.device)
    return absolute, position_mask(rule, absolute, lengths, numbers)


def _take(chosen: Bool[Tensor, "rows pos"], hidden: Tensor) -> Tensor:
    return hidden[chosen.to(hidden.device)]
