"""Fine-tune a model's blocks on answered prompts, with or without replayed text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from pipeline.data.datasets import dataset_digest
from pipeline.data.prompts import select_prompts
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.methods.fine_tuning.rows import (
    REPLAY,
    TARGET,
    TrainingRow,
    batches,
    own_samples,
    replayed_texts,
    target_rows,
)
from pipeline.methods.fine_tuning.weights import TunedWeights, merged, trainable
from pipeline.methods.provenance import Provenance
from pipeline.model.hooks import token_positions
from pipeline.model.loading import LanguageModel
from pipeline.model.replaced_weights import block_weights
from pipeline.runs.progress import progress


def fine_tuned(
    model: LanguageModel,
    prompts: pd.DataFrame,
    texts: pd.DataFrame,
    *,
    rows: Any = None,
    rank: int | None = None,
    replay: float = 0.0,
    replay_from: str = "texts",
    shuffled: bool = False,
    checkpoints: list[int],
    batch: int = 20,
    rate: float,
    samples: int = 64,
    longest: int = 64,
    seed: int = 0,
) -> TunedWeights:
    """Fine-tune the blocks on the answers of training prompts.

    loss = mean over the rows of a batch of the mean over tokens of -log p(token | those before), in
    nats. Of a prompt with its answer only the answer's tokens count, of a replayed text all but the
    first: so each row weighs the same, and `replay` is the weight of replayed rows. Adam with a
    constant rate, without dropout or weight decay. The embedding and the unembedding stay.

    Args:
        model: the model, which is not changed.
        prompts: a dataset; its train split is trained on.
        texts: the study's `text`, of whose train part `replay_from: texts` replays.
        rows: the prompts to train on: a label, or column -> value or values.
        rank: rank r of W + (16 / r) B A for every matrix W of the blocks (LoRA); null for all
            weights of the blocks.
        replay: share of replayed rows.
        replay_from: `texts`, or `model`: samples of the unchanged model.
        shuffled: whether each prompt is trained on another one's answer, a control.
        checkpoints: the steps whose weights are kept; the last one ends the training.
        batch: rows of a step.
        rate: learning rate.
        samples: texts that the model samples for `replay_from: model`.
        longest: most tokens of a replayed text.
        seed: of A, of the order of rows and of the samples.

    Raises:
        ValueError: as `TunedWeights.stand_in`, too few texts, or a loss that is not finite.
    """
    options = {"rows": rows, "rank": rank, "replay": replay, "replay_from": replay_from}
    options |= {"checkpoints": checkpoints, "batch": batch, "rate": rate, "samples": samples}
    TunedWeights.stand_in(model, prompts, longest=longest, **options)
    chosen = select_prompts(prompts, rows, ["train"])
    trained = target_rows(model, chosen, shuffled=shuffled, seed=seed)
    if replay and replay_from == "texts":
        trained += replayed_texts(texts, longest)
    elif replay:
        trained += own_samples(model, samples, longest, seed=seed)
    check_context(model, [row.tokens for row in trained])
    tensors, curve, times = train(
        model,
        trained,
        rank=rank,
        replay=replay,
        checkpoints=checkpoints,
        batch=batch,
        rate=rate,
        seed=seed,
    )
    table = pd.DataFrame([vars(row) for row in trained]).assign(times=times)
    table["tokens"] = table["tokens"].map(list)
    how = f"{checkpoints[-1]} steps of Adam at {rate} on {rows or 'all'}"
    how += f", rank {rank}" if rank else ", all weights of the blocks"
    how += f", {replay:.0%} replayed from {replay_from}" if replay else ""
    digest = dataset_digest(table.assign(sample=range(len(table))))
    provenance = Provenance(model.weights, dataset=digest, how=how)
    return TunedWeights(rank, tensors, table, curve, provenance)


def train(
    model: LanguageModel,
    rows: Sequence[TrainingRow],
    *,
    rank: int | None,
    replay: float,
    checkpoints: Sequence[int],
    batch: int,
    rate: float,
    seed: int,
) -> tuple[dict[int, dict[str, Tensor]], pd.DataFrame, list[int]]:
    """Train as `fine_tuned` says.

    Returns:
        The trained tensors at each checkpoint, on the CPU; the curve; and how often each row was in
        a batch.

    Raises:
        ValueError: a loss that is not finite.
    """
    tensors = trainable(model, rank, torch.Generator().manual_seed(seed))
    parameters = [tensor.requires_grad_() for tensor in tensors.values()]
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    weights = block_weights(model)
    kept: dict[int, dict[str, Tensor]] = {}
    curve: list[dict[str, float]] = []
    times = [0] * len(rows)
    drawn = batches(rows, batch=batch, replay=replay, seed=seed)
    for step in progress(range(1, checkpoints[-1] + 1), "fine-tuning", "step"):
        members = next(drawn)
        losses = np.empty(batch)
        optimizer.zero_grad()
        for part in passes(model, [len(rows[n].tokens) for n in members], model.batch_tokens):
            tuned = merged(weights, tensors, rank)
            cast = {name: value.to(weights[name].dtype) for name, value in tuned.items()}
            of_rows = row_losses(model, cast, [rows[members[n]] for n in part])
            (of_rows.sum() / batch).backward()
            losses[part] = of_rows.detach().cpu().numpy()
        if not np.isfinite(losses).all():
            raise ValueError(f"the loss of step {step} is not finite; rate = {rate} is too high")
        optimizer.step()
        for number in members:
            times[number] += 1
        kinds = np.array([rows[number].kind for number in members])
        curve.append(
            {
                "step": step,
                **{
                    f"{kind}_loss": float(losses[kinds == kind].mean())
                    if (kinds == kind).any()
                    else np.nan
                    for kind in (TARGET, REPLAY)
                },
            }
        )
        if step in checkpoints:
            kept[step] = {name: t.detach().cpu().clone() for name, t in tensors.items()}
    return kept, pd.DataFrame(curve), times


def row_losses(
    model: LanguageModel, weights: Mapping[str, Tensor], rows: Sequence[TrainingRow]
) -> Float[Tensor, " rows"]:
    """Compute each row's mean loss over the tokens that count, in nats, differentiably.

    Args:
        model: the model.
        weights: of the blocks, in place of the model's own.
        rows: the rows of one forward pass.
    """
    ids, mask = model.pad([row.tokens for row in rows])
    positions = token_positions(mask)
    starts = torch.tensor([row.start for row in rows], device=ids.device)
    counted = (positions >= starts[:, None]) & mask.bool()
    columns = counted.any(0).nonzero()[:, 0]
    # Logits of the other columns are not computed: a vocabulary may have 256 000 tokens.
    logits = functional_call(
        model.hf,
        dict(weights),
        (ids,),
        {
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": False,
            "logits_to_keep": columns - 1,
        },
    ).logits.float()
    targets = ids[:, columns].masked_fill(~counted[:, columns], -100)
    losses = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return losses.sum(1) / counted.sum(1)
