"""Activations of prompts at sites: token-budget batches over length-sorted prompts."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.engine.chunks import passes
from pipeline.engine.conditions import Positions, check_rule, position_mask
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def collect(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    rule: Positions,
    *,
    batch_tokens: int = 16384,
) -> tuple[dict[Site, Tensor], pd.DataFrame]:
    """Activations [rows, width] at each site, and the rows' `prompt`, `position` and `token`.

    Rows stand in the order of the prompts and, within one, of positions. Each pass stops at the
    deepest site and computes no logits; only the positions that the rule names are kept.

    Raises:
        ValueError: an unknown rule, a site the model does not have, or a prompt in which the rule
            names nothing.
    """
    check_rule(rule)
    check_context(model, prompts)
    for site in sites:
        if model.check(site).component == "pattern":
            raise ValueError(f"{site} has no rows to collect; it can be read by itself")
    return in_batches(model, batch_tokens, partial(_collect, model, prompts, list(sites), rule))


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
            short = block[int((~chosen.any(1)).nonzero()[0, 0])]
            raise ValueError(f"positions {rule!r} name no token of prompt {short}")
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
    places = torch.from_numpy(np.argsort(order)).split([len(frame) for frame in frames])
    gathered: dict[Site, Tensor] = {}
    for block, own in zip(packed, places, strict=True):
        # Packed anew: kept, all batches together would fill the device.
        ids, mask = model.pad([prompts[p] for p in block])
        _, chosen = _chosen(prompts, block, rule, mask)
        for site, value in hooks.read(model, sites, ids, mask, partial(_take, chosen)).items():
            if site not in gathered:
                # Kept apart, what each pass leaves would lie between the passes' own memory.
                gathered[site] = torch.empty(len(table), value.shape[1], dtype=value.dtype)
            gathered[site][own] = value.cpu()
    return {site: gathered[site] for site in sites}, table.iloc[order].reset_index(drop=True)


def _chosen(
    prompts: Sequence[Sequence[int]],
    block: Sequence[int],
    rule: Positions,
    mask: Int[Tensor, "rows pos"],
) -> tuple[Int[Tensor, "rows pos"], Bool[Tensor, "rows pos"]]:
    """Positions of a block's tokens, -1 for pads, and which of them the rule names."""
    absolute = hooks.positions(mask).masked_fill(mask == 0, -1)
    lengths = torch.tensor([len(prompts[p]) for p in block], device=mask.device)
    numbers = torch.tensor(block, device=mask.device)
    return absolute, position_mask(rule, absolute, lengths, numbers)


def _take(chosen: Bool[Tensor, "rows pos"], hidden: Tensor) -> Tensor:
    return hidden[chosen.to(hidden.device)]
