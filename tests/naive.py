"""The slow and plain way: one row at a time, the whole sequence anew for every token, no cache.

It shares no code with the engine: it registers its own hooks and counts positions itself.
"""

import math

import torch

from pipeline.engine.conditions import Condition, PromptPositions
from pipeline.model.loading import LanguageModel


def generate(
    model: LanguageModel, prompt: list[int], condition: Condition, steps: int, number: int = 0
):
    """Greedy tokens until the end token, with the logits each was chosen from.

    `number` is the prompt's, for positions that are each prompt's own.
    """
    tokens, logits = list(prompt), []
    handles = [_hook(model, edit, len(prompt), number) for edit in condition.edits]
    try:
        with torch.no_grad():
            for _ in range(steps):
                out = model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]
                logits.append(out)
                token = int(out.argmax())
                if token in model.end_tokens:
                    break
                tokens.append(token)
    finally:
        for handle in handles:
            handle.remove()
    return tokens[len(prompt) :], torch.stack(logits)


def logits(
    model: LanguageModel, tokens: list[int], condition: Condition, prompt_length: int, number=0
):
    """Logits [pos, vocab] after each token; `number` is the prompt's, as in `generate`."""
    handles = [_hook(model, edit, prompt_length, number) for edit in condition.edits]
    try:
        with torch.no_grad():
            return model.hf(torch.tensor([tokens]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def stream(model: LanguageModel, tokens, condition: Condition, prompt_length: int, layer: int):
    """What a block reads [pos, d_model], edits of it included."""
    seen = []

    def keep(module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    handles = [_hook(model, edit, prompt_length, 0) for edit in condition.edits]
    handles.append(model.blocks[layer].register_forward_pre_hook(keep, with_kwargs=True))
    try:
        with torch.no_grad():
            model.hf(torch.tensor([tokens]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen[0]


def unembedded(model: LanguageModel, hidden):
    """Final norm, head and, where the family has it, soft-capping."""
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    with torch.no_grad():
        logits = model.hf.get_output_embeddings()(norm(hidden))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _hook(model, edit, prompt_length, number):
    block = model.blocks[edit.site.layer]

    def positions(length):
        if edit.positions == "all":
            return range(length)
        if edit.positions == "after_first":
            return range(1, length)
        if edit.positions == "last":
            return [prompt_length - 1]
        if edit.positions == "generated":
            return range(prompt_length, length)
        if isinstance(edit.positions, PromptPositions):
            return [p for p in edit.positions.of[number] if p < length]
        # Two names of one position are one edit.
        return {p if p >= 0 else prompt_length + p for p in edit.positions}

    def change(hidden):
        hidden = hidden.clone()
        for p in positions(hidden.shape[1]):
            hidden[:, p : p + 1] = edit.intervention.edit(hidden[:, p : p + 1])
        return hidden

    def after(module, args, output):
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    def before(module, args):
        return (change(args[0]), *args[1:])

    component = edit.site.component
    if component == "resid_pre":
        return block.register_forward_pre_hook(before)
    if component == "z":
        return block.self_attn.o_proj.register_forward_pre_hook(before)
    if component == "resid_post":
        return block.register_forward_hook(after)
    if component == "mlp_down":
        names = ("down_proj", "c_proj", "dense_4h_to_h")
        projection = next(getattr(block.mlp, name) for name in names if hasattr(block.mlp, name))

        def output_of(module, args, output):
            return change(torch.cat([args[0], output], -1))[..., args[0].shape[-1] :]

        return projection.register_forward_hook(output_of)
    # What a family adds to the stream: where a norm follows attention or MLP, what that returns.
    normed = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
    usual = {"attn_out": "self_attn", "mlp_out": "mlp"}
    attention = {"gpt2": "attn", "neox": "attention", "neox_serial": "attention"}
    names = normed if hasattr(block, normed["mlp_out"]) else usual
    if component == "attn_out" and model.name in attention:
        names = {"attn_out": attention[model.name]}
    return getattr(block, names[component]).register_forward_hook(after)


def assert_same(rows) -> None:
    """Rows (name, tokens, expected tokens, their logits) are equal, but for one near tie in 1,000.

    A row may part from the expected one where the two best logits are closer than twice the
    tolerance of 1e-5 max(1, max |logit|), as rows packed differently are not bit-equal.
    """
    parted = []
    for name, tokens, expected, logits in rows:
        if list(tokens) == list(expected):
            continue
        shared = zip(tokens, expected, strict=False)
        step = next(
            (i for i, (a, b) in enumerate(shared) if a != b), min(len(tokens), len(expected))
        )
        assert step < len(logits), name
        best = logits[step].topk(2).values
        assert best[0] - best[1] < 2e-5 * max(1.0, float(logits[step].abs().max())), name
        parted.append(name)
    assert len(parted) <= math.ceil(len(rows) / 1000), parted
