"""Lenses: the residual stream of every layer, read as a next-token distribution."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.config.declared import NeedsText, OneOrMore, Range
from pipeline.data.positions import check_table, locate
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.methods.lenses.maps import COMPONENT, LensMaps, text_parts, tokens_of
from pipeline.methods.lenses.tables import checked_maps, lens_values, named_tokens, tabulated
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits
from pipeline.runs.progress import progress

_UNEMBEDDED = 128
"""Positions unembedded at a time: 0.3 GB in float64 for a vocabulary of 256 thousand.
"""


def logit_lens(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any] | None = None,
    *,
    fit: str | None = None,
    positions: Any = "last",
    columns: list[str] | None = None,
    batch_tokens: OneOrMore = 4096,
) -> pd.DataFrame:
    """Tabulate a lens at every layer and position, with the ranks of chosen tokens.

    Layer l < n_layers is softmax(W_U norm(M_l h + b_l)), h the `resid_pre` of block l, with the
    model's final norm, unembedding and soft-capping. Without a fit, M_l = I and b_l = 0: the logit
    lens. Layer n_layers is the model's output. Entropy = -Σ q log q and KL = Σ p (log p - log q),
    p the model's output and q the lens, in nats and float64.

    Args:
        model: the model.
        prompts: a dataset.
        fits: contains the lens of `fit`.
        fit: the name of a Jacobian or tuned lens, which has the layers; None: the logit lens.
        positions: a rule of `positions.COLLECTED`, or a list of positions.
        columns: dataset columns with possible continuations of the prompt, including the leading
            blank; the first token of each is looked up at every layer and position. A cell may list
            several texts, such as spellings: the rank is then that of the likeliest first token,
            the probability the sum over distinct first tokens.
        batch_tokens: maximum tokens per forward pass; logits of a whole pass are held in memory.

    Returns:
        One row per sample, position and layer: `sample`, `label`, `split`, `topic`, `position`,
        `piece` (the token at that position), `layer`, `top_token`, `top_piece`, `probability` (of
        the top token), `entropy`, `kl`, and for each column C `C_rank` (1: most likely),
        `C_reciprocal_rank`, `C_probability`.

    Raises:
        ValueError: an unknown column or position, a text that merges with the prompt's last token,
            a prompt longer than the context, or a lens of another model.

    Source: nostalgebraist 2020; Belrose et al. 2023 for the KL and the tuned lens; Gurnee et al.
    2026 for the Jacobian lens.
    """
    check_table(prompts, ("sample", "label", "split", "topic", "tokens"))
    columns = columns or []
    # Tables read from a file hold arrays.
    prompts = prompts.assign(tokens=[[int(token) for token in row] for row in prompts["tokens"]])
    named = named_tokens(model, prompts, columns)
    maps = checked_maps(model, fits or {}, fit)
    layers = list(range(model.n_layers)) if maps is None else maps.layers
    tokens, positions_by_sample = locate(
        prompts, model.tokenizer, positions, variables=model.template
    )
    check_context(model, list(tokens.values()))
    places = list(positions_by_sample.values())
    measured = in_batches(
        model,
        batch_tokens,
        partial(_measured, model, maps, layers, list(tokens.values()), places, named),
    )
    samples = prompts[["sample", "label", "split", "topic"]]
    rows = samples.iloc[np.repeat(np.arange(len(prompts)), list(map(len, places)))].assign(
        position=[position for listed in places for position in listed],
        token=[tokens[s][p] for s, listed in positions_by_sample.items() for p in listed],
    )
    return tabulated(model, rows, [*layers, model.n_layers], measured, columns)


def text_lens(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    fits: Mapping[str, Any],
    *,
    fit: str | None = None,
    count: OneOrMore = 100,
    longest: Annotated[int, Range(3)] = 128,
) -> pd.DataFrame:
    """Tabulate how near a lens is to the model's output on texts that no lens was fitted to.

    Args:
        model: the model.
        texts: texts with tokens; the test part of `lens_maps.text_parts` is read, without first
            positions.
        fits: contains the lens of `fit`.
        fit: the name of a Jacobian or tuned lens; None: the logit lens.
        count: most texts to read.
        longest: tokens of a text that are used.

    Returns:
        One row per text and layer: `sample`, `label`, `split`, `topic` (of each text its own),
        `layer`, means over positions of `kl` and `entropy` in nats, and `agreement`, the share of
        positions whose top token is the model's.

    Raises:
        ValueError: as `logit_lens`, or fewer than five texts.
    """
    if count < 1:
        raise ValueError(f"count = {count} texts; valid: 1 or more")
    test = text_parts(texts)["test"][:count]
    prompts = test.assign(
        tokens=tokens_of(test, longest), label="held-out text", split="test", raw=True
    ).assign(topic=test["sample"].astype(str))
    table = logit_lens(model, prompts, fits, fit=fit, positions="all")
    table = table[table["position"] > 0]
    output = table[table["layer"] == model.n_layers]
    keys = ["sample", "position"]
    table = table.merge(output[[*keys, "top_token"]], on=keys, suffixes=("", "_of_output"))
    table["agreement"] = (table["top_token"] == table["top_token_of_output"]).astype(float)
    by = ["sample", "label", "split", "topic", "layer"]
    return table.groupby(by, sort=False)[["kl", "entropy", "agreement"]].mean().reset_index()


def _measured(
    model: LanguageModel,
    maps: LensMaps | None,
    layers: Sequence[int],
    prompts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    named: Int[Tensor, "prompts columns texts"],
    batch_tokens: int,
) -> Float64[Tensor, "positions layer values"]:
    """Compute `lens_values` at each prompt's positions, layer by layer, the model's output last."""
    starts = np.cumsum([0, *map(len, places)])
    result = torch.empty(
        int(starts[-1]), len(layers) + 1, 4 + 2 * named.shape[1], dtype=torch.float64
    )
    split = passes(model, [len(prompt) for prompt in prompts], batch_tokens)
    for block in progress(split, "lens", "batch", brief=True):
        ids, mask = model.pad([prompts[number] for number in block])
        owners = [r for r, number in enumerate(block) for _ in places[number]]
        at = [
            ids.shape[1] - len(prompts[number]) + position
            for number in block
            for position in places[number]
        ]
        streams, logits = _streams(model, layers, ids, mask, torch.tensor(owners), torch.tensor(at))
        result_rows = torch.cat(
            [torch.arange(starts[number], starts[number + 1]) for number in block]
        )
        named_tokens = named[block][owners].to(logits.device)
        for chunk in torch.arange(len(at)).split(_UNEMBEDDED):
            # Unembed one layer at a time: logits of all layers at once would not fit on the device.
            final = logits[chunk].double().log_softmax(-1)
            for place, (layer, stream) in enumerate(zip(layers, streams, strict=True)):
                mapped = stream[chunk] if maps is None else maps.map(layer, stream[chunk])
                lens = lens_logits(model, mapped)
                result[result_rows[chunk], place] = lens_values(
                    lens, final, named_tokens[chunk]
                ).cpu()
            result[result_rows[chunk], -1] = lens_values(
                logits[chunk], final, named_tokens[chunk]
            ).cpu()
    return result


def _streams(
    model: LanguageModel,
    layers: Sequence[int],
    ids: Tensor,
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
) -> tuple[list[Float[Tensor, "positions d_model"]], Float[Tensor, "positions vocab"]]:
    """Return some blocks' `resid_pre` and the model's logits at some positions, from one pass."""
    streams: list[Tensor] = []

    def keep(hidden: Tensor) -> None:
        streams.append(hidden[rows.to(hidden.device), columns.to(hidden.device)])

    keepers = {Site(layer, COMPONENT): keep for layer in layers}
    width, first = ids.shape[1], int(columns.min())
    with torch.inference_mode(), hooks.with_hooks(model, keepers):
        logits = hooks.run_to_logits(model, ids, mask, width - first)
    return streams, logits[rows, columns - first]
