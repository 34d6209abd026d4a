"""Causal tracing against noise and clean states that plain hooks write, one prompt at a time."""

from contextlib import ExitStack

import pandas as pd
import pytest
import torch
from families import LAYERS, random_prompts, tiny
from plain_hooks import hooked, output

from pipeline.data.datasets import tokenise
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.scoring import score_last
from pipeline.measures.tracing import PARTS
from pipeline.methods.editing.tracing import causal_trace, prompt_parts
from pipeline.model.sites import Site

SPANS = [(1, 4), (0, 2), (2, 3), (3, 5), (0, 1)]
"""First word of each subject, and the word after its last one."""


def dataset(model) -> pd.DataFrame:
    rows = [[f"w{max(6, token)}" for token in row] for row in random_prompts(5, longest=14)]
    rows[3] = [*rows[3][:3], "w20", "w21"]  # the subject ends the prompt
    frame = pd.DataFrame({"instruction": [" ".join(row) for row in rows], "raw": True})
    subjects = [" ".join(row[a:b]) for row, (a, b) in zip(rows, SPANS, strict=True)]
    return tokenise(frame.assign(subject=subjects), model.tokenizer)


def parts_by_hand(length, span) -> dict[str, list[int]]:
    first, end = span
    parts = {
        "first subject token": [first] if end - first > 1 else [],
        "middle subject tokens": list(range(first + 1, end - 1)),
        "last subject token": [end - 1],
        "next token": [end] if end < length - 1 else [],
        "further tokens": list(range(end + 1, length - 1)),
        "last token": [length - 1] if end - 1 < length - 1 else [],
    }
    return {part: positions for part, positions in parts.items() if positions}


def module(model, layer, component):
    return model.module_of(Site(layer, component))[0]


def outputs(model, tokens, component):
    """The clean output of a component at every layer."""
    seen = {}
    with ExitStack() as stack:
        for layer in range(LAYERS):

            def keep(_, __, out, layer=layer):
                seen[layer] = output(out)[0].clone()

            stack.enter_context(hooked(module(model, layer, component), keep))
        model.hf(torch.tensor([tokens]), use_cache=False)
    return seen


def traced(model, tokens, span, noise, component, layers, positions):
    """Logits with noise at the subject, and clean outputs at some layers and positions."""
    clean = outputs(model, tokens, component)

    def corrupt(_, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        hidden[0, span[0] : span[1]] += noise
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    def restore(layer):
        def put(_, __, out):
            hidden = output(out).clone()
            hidden[0, positions] = clean[layer][positions]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        return put

    handle = model.blocks[0].register_forward_pre_hook(corrupt, with_kwargs=True)
    try:
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(hooked(module(model, layer, component), restore(layer)))
            return model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("family", "component", "window", "layers_near"),
    [
        ("llama", "resid_post", 1, lambda n: [n]),
        ("gemma2", "mlp_out", 3, lambda n: [n - 1, n, n + 1]),
        ("gpt2", "attn_out", 2, lambda n: [n - 1, n]),
    ],
)
def test_every_layer_and_part_is_what_hooks_by_hand_give(family, component, window, layers_near):
    model = tiny(family)
    prompts = dataset(model)
    options = {"component": component, "window": window, "draws": 2}
    conditions = list(causal_trace(model, prompts, 0, **options))
    assert len(conditions) == 2 * (1 + LAYERS * len(PARTS))
    tokens = prompts["tokens"].tolist()
    logits = score_last(model, tokens, conditions, lambda rows: rows, batch_tokens=200)
    changed = 0
    with torch.no_grad():
        for c, condition in enumerate(conditions):
            axes = condition.axes
            assert condition.role == (CONTROL if axes["restored"] == "nothing" else CANDIDATE)
            noises = [edit.intervention.direction.of for edit in condition.edits[:3]]
            for p, (row, span) in enumerate(zip(tokens, SPANS, strict=True)):
                by_hand = parts_by_hand(len(row), span)
                positions = by_hand.get(axes["restored"], [])
                noise = torch.stack([drawn[p] for drawn in noises[: span[1] - span[0]]])
                near = [n for n in layers_near(axes.get("layer", 0)) if 0 <= n < LAYERS]
                expected = traced(model, row, span, noise, component, near, positions)
                tolerance = 2e-5 * max(1.0, float(expected.abs().max()))
                assert (logits[c, p] - expected).abs().max() <= tolerance
                corrupted = traced(model, row, span, noise, component, [], [])
                changed += bool((expected - corrupted).abs().max() > 10 * tolerance)
                if component == "resid_post" and axes["restored"] == "last token":
                    # Nothing of the corruption is left where the last block is restored.
                    clean = model.hf(torch.tensor([row]), use_cache=False).logits[0, -1]
                    restored = axes["layer"] == LAYERS - 1 and positions
                    assert not restored or (logits[c, p] - clean).abs().max() <= tolerance
    assert changed > 100


def test_noise_is_that_many_deviations_of_the_subjects_embeddings():
    model = tiny("llama")
    prompts = dataset(model)
    conditions = list(causal_trace(model, prompts, 0, noise=3.0, draws=40, layers=[0]))
    corrupted = [c for c in conditions if c.axes["restored"] == "nothing"]
    drawn = torch.stack([edit.intervention.direction.of for c in corrupted for edit in c.edits])
    embeddings = model.hf.get_input_embeddings().weight
    words = [row[a:b] for row, (a, b) in zip(prompts["tokens"], SPANS, strict=True)]
    spread = float(embeddings[[token for row in words for token in row]].std())
    assert abs(float(drawn.std()) / (3 * spread) - 1) < 0.02
    again, unlike = (
        next(iter(causal_trace(model, prompts, seed))).edits[0].intervention.direction.of
        for seed in (0, 1)
    )
    assert torch.equal(again, drawn[0]) and not torch.equal(unlike, drawn[0])


def test_parts_of_each_prompt_are_counted():
    model = tiny("llama")
    prompts = dataset(model)
    table = prompt_parts(model, prompts)
    for sample, row, span in zip(prompts["sample"], prompts["tokens"], SPANS, strict=True):
        counts = table[table["sample"] == sample].set_index("part")["tokens"].to_dict()
        assert counts == {k: len(v) for k, v in parts_by_hand(len(row), span).items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"component": "z"}, "component 'z' is unknown; valid: resid_post, mlp_out, attn_out"),
        ({"window": 0}, "window = 0; valid: above 0"),
        ({"noise": -1.0}, "noise = -1.0; valid: above 0"),
        ({"layers": [9]}, "has no layer 9; valid: 0 to 3"),
    ],
)
def test_what_cannot_be_traced_is_named(options, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        next(causal_trace(model, dataset(model), 0, **options))
