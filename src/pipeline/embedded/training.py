"""Train the embedded model: a small Llama on its own language."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, get_scheduler

from pipeline.embedded.corpus import Rows, pack, training_documents
from pipeline.embedded.tokenization import train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Shape and training of the embedded model.

    Attributes:
        seed: of the corpus, the initial weights and the order of rows.
        tokens: in a step, pads included.
        lengths: of the rows; a step has rows of one length.
    """

    seed: int = 0
    steps: int = 3200
    tokens: int = 4096
    lengths: tuple[int, ...] = (128, 256)
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.3
    layers: int = 8
    d_model: int = 192
    neurons: int = 512
    heads: int = 6
    key_value_heads: int = 2


def train(recipe: Recipe) -> tuple[LlamaForCausalLM, Any, dict[str, int | float]]:
    """Train on documents seen once; the loss counts answers and plain text only.

    Returns:
        The model in bfloat16, its tokenizer, and figures of the training.
    """
    # Every word of the language is seen in these.
    sample = training_documents(20_000, recipe.seed)
    tokenizer = train_tokenizer(t for d in sample for t in (d.instruction or "", d.text))
    filled = sum(rows.tokens.size for rows in pack(sample, tokenizer, recipe.lengths))
    n = math.ceil(1.01 * len(sample) * recipe.steps * recipe.tokens / filled)
    documents = training_documents(n, recipe.seed)
    batches = _batches(pack(documents, tokenizer, recipe.lengths), recipe)
    model = build(recipe, tokenizer)
    optimizers = _optimizers(model, recipe)
    schedules = [
        get_scheduler("cosine", o, num_warmup_steps=recipe.warmup, num_training_steps=recipe.steps)
        for o in optimizers
    ]
    losses = []
    progress = tqdm(batches, disable=None, desc="train")
    for rows, chosen in progress:
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, rows, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    figures = {
        "parameters": model.num_parameters(),
        "documents": len(documents),
        "tokens": recipe.steps * recipe.tokens,
        "last loss": float(np.mean(losses[-100:])),
    }
    return model.bfloat16().eval(), tokenizer, figures


def build(recipe: Recipe, tokenizer: Any) -> LlamaForCausalLM:
    """The model with random weights."""
    torch.manual_seed(recipe.seed)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.neurons,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.04,
        attn_implementation="eager",
        **ends,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ends, max_new_tokens=128)
    return model


def save(model: LlamaForCausalLM, tokenizer: Any, folder: Path) -> None:
    """Write what transformers needs to load both."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    # Muon (Jordan et al. 2024) for what multiplies activations: it needs about half the steps.
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adamw]


def _batches(packed: list[Rows], recipe: Recipe) -> list[tuple[Rows, Int[np.ndarray, " rows"]]]:
    """Rows of each step, in random order; a last batch that is not full is left out."""
    rng = np.random.default_rng(recipe.seed)
    batches = []
    for rows in packed:
        order = rng.permutation(len(rows.tokens))
        size = recipe.tokens // rows.tokens.shape[1]
        full = len(order) // size * size
        batches += [(rows, chosen) for chosen in order[:full].reshape(-1, size)]
    return [batches[i] for i in rng.permutation(len(batches))[: recipe.steps]]


def _loss(
    model: LlamaForCausalLM, rows: Rows, batch: Int[np.ndarray, " rows"]
) -> Float[Tensor, ""]:
    tokens = torch.from_numpy(rows.tokens[batch]).long()
    answered = torch.from_numpy(rows.answered[batch])[:, 1:]
    document = torch.from_numpy(rows.document[batch])
    mask = same_document(document).to(torch.bfloat16)
    hidden = model.model(tokens, attention_mask=mask).last_hidden_state
    # Only what the loss counts is unembedded.
    logits = model.lm_head(hidden[:, :-1][answered])
    return cross_entropy(logits.float(), tokens[:, 1:][answered])


def same_document(
    document: Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch 1 pos pos"]:
    """What is added to attention scores so that a position sees the earlier ones of its document.

    0 where it may look and -1e9 elsewhere, for eager attention: on short rows it is faster than the
    fused kernel on a CPU.
    """
    causal = torch.ones(document.shape[1], document.shape[1], dtype=torch.bool).tril()
    seen = (document[:, None, :, None] == document[:, None, None, :]) & causal
    return torch.where(seen, 0.0, -1e9)
