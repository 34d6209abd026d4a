"""The logit lens: final norm and unembedding applied to the residual stream at every layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from pipeline.data.positions import locate
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.model import chat, hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits

_UNEMBEDDED = 128
"""Positions unembedded at a time: 0.3 GB in float64 for a vocabulary of 256 thousand.
"""


def logit_lens(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    positions: Any = "last",
    columns: list[str] | None = None,
    batch_tokens: int = 4096,
) -> pd.DataFrame:
    """Tabulate the logit lens at every layer and position, with the ranks of given tokens.

    Layer l < n_layers is softmax(W_U norm(h)), h the `resid_pre` of block l, with the model's final
    norm, unembedding and soft-capping; layer n_layers is the model's output. Entropy =
    -Σ q log q and KL = Σ p (log p - log q), p the model's output and q the lens, in nats and
    float64.

    Args:
        model: the model.
        prompts: a dataset.
        positions: a rule of `positions.COLLECTED`, or a list of positions.
        columns: dataset columns with possible continuations of the prompt, including the leading
            blank; the first token of each is looked up at every layer and position.
        batch_tokens: maximum tokens per forward pass; logits of a whole pass are held in memory.

    Returns:
        One row per sample, position and layer: `sample`, `label`, `split`, `topic`, `position`,
        `piece` (the token at that position), `layer`, `top_token`, `top_piece`, `probability` (of
        the top token), `entropy`, `kl`, and for each column C `C_rank` (1: most likely),
        `C_reciprocal_rank`, `C_probability`.

    Raises:
        ValueError: an unknown column or position, a text that merges with the prompt's last token,
            or a prompt longer than the context.

    Source: nostalgebraist 2020; Belrose et al. 2023 for the KL.
    """
    columns = columns or []
    for column in columns:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")
    # Tables read from a file hold arrays.
    prompts = prompts.assign(tokens=[[int(token) for token in row] for row in prompts["tokens"]])
    tokens, positions_by_sample = locate(prompts, model.tokenizer, positions)
    check_context(model, list(tokens.values()))
    rows = prompts.to_dict("records")
    named = torch.tensor([[_first_token(model, row, c) for c in columns] for row in rows]).long()
    measured = in_batches(
        model,
        batch_tokens,
        partial(_measured, model, list(tokens.values()), list(positions_by_sample.values()), named),
    ).numpy()
    layers = model.n_layers + 1
    counts = [len(listed) * layers for listed in positions_by_sample.values()]
    token_positions = [
        (tokens[s][p], p) for s, listed in positions_by_sample.items() for p in listed
    ]
    values = measured.reshape(-1, measured.shape[-1]).T
    pieces = {int(token): model.piece(int(token)) for token in np.unique(values[0])}
    samples = prompts[["sample", "label", "split", "topic"]]
    table = samples.iloc[np.repeat(np.arange(len(prompts)), counts)].assign(
        position=np.repeat([position for _, position in token_positions], layers),
        piece=np.repeat([model.piece(token) for token, _ in token_positions], layers),
        layer=np.tile(np.arange(layers), len(token_positions)),
        top_token=values[0].astype(int),
        top_piece=[pieces[int(token)] for token in values[0]],
        probability=values[1],
        entropy=values[2],
        kl=values[3],
    )
    for number, column in enumerate(columns):
        rank, probability = values[4 + 2 * number : 6 + 2 * number]
        table[f"{column}_rank"] = rank.astype(int)
        table[f"{column}_reciprocal_rank"] = 1 / rank
        table[f"{column}_probability"] = probability
    return table.reset_index(drop=True)


def _first_token(model: LanguageModel, row: dict[str, Any], column: str) -> int:
    """Return the first token of a column's text as it continues the prompt."""
    text, before = row[column], len(row["tokens"])
    tokens, span = chat.with_answer(model.tokenizer, row["prompt"], text, raw=row["raw"])
    if span[0] != before or tokens[:before] != row["tokens"]:
        raise ValueError(
            f"{column} {text!r} of sample {row['sample']} begins inside of the prompt's last token;"
            " valid: a text that begins with a token of its own, mostly with a blank"
        )
    return tokens[before]


def _measured(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    named: Int[Tensor, "prompts columns"],
    batch_tokens: int,
) -> Float64[Tensor, "positions layer values"]:
    """Compute `_values` at each prompt's positions, layer by layer, the model's output last."""
    starts = np.cumsum([0, *map(len, places)])
    result = torch.empty(
        int(starts[-1]), model.n_layers + 1, 4 + 2 * named.shape[1], dtype=torch.float64
    )
    for block in passes(model, [len(prompt) for prompt in prompts], batch_tokens):
        ids, mask = model.pad([prompts[number] for number in block])
        owners = [r for r, number in enumerate(block) for _ in places[number]]
        at = [
            ids.shape[1] - len(prompts[number]) + position
            for number in block
            for position in places[number]
        ]
        streams, logits = _streams(model, ids, mask, torch.tensor(owners), torch.tensor(at))
        result_rows = torch.cat(
            [torch.arange(starts[number], starts[number + 1]) for number in block]
        )
        named_tokens = named[block][owners].to(logits.device)
        for chunk in torch.arange(len(at)).split(_UNEMBEDDED):
            # Unembed one layer at a time: logits of all layers at once would not fit on the device.
            final = logits[chunk].double().log_softmax(-1)
            for layer, stream in enumerate(streams):
                lens = lens_logits(model, stream[chunk])
                result[result_rows[chunk], layer] = _values(lens, final, named_tokens[chunk]).cpu()
            result[result_rows[chunk], -1] = _values(
                logits[chunk], final, named_tokens[chunk]
            ).cpu()
    return result


def _streams(
    model: LanguageModel, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor
) -> tuple[list[Float[Tensor, "positions d_model"]], Float[Tensor, "positions vocab"]]:
    """Return every block's `resid_pre` and the model's logits at some positions, from one pass."""
    streams: list[Tensor] = []

    def keep(hidden: Tensor) -> None:
        streams.append(hidden[rows.to(hidden.device), columns.to(hidden.device)])

    keepers = {Site(layer, "resid_pre"): keep for layer in range(model.n_layers)}
    width, first = ids.shape[1], int(columns.min())
    with torch.inference_mode(), hooks.with_hooks(model, keepers):
        logits = model.hf(
            ids,
            attention_mask=mask,
            position_ids=hooks.token_positions(mask),
            use_cache=False,
            logits_to_keep=width - first,
        ).logits
    return streams, logits[rows, columns - first]


def _values(
    logits: Float[Tensor, "rows vocab"],
    final: Float64[Tensor, "rows vocab"],
    named: Int[Tensor, "rows columns"],
) -> Float64[Tensor, "rows values"]:
    """Return top token, its probability, entropy, KL(final || logits), named ranks and probs."""
    logs = logits.double().log_softmax(-1)
    p = logs.exp()
    top = p.max(-1)
    entropy = torch.special.entr(p).sum(-1)
    divergence = (final.exp() * (final - logs)).sum(-1)
    parts = [top.indices.double(), top.values, entropy, divergence]
    for token in named.T[..., None]:
        parts.append((logits > logits.gather(1, token)).sum(-1).double() + 1)
        parts.append(p.gather(1, token)[:, 0])
    return torch.stack(parts, -1)
