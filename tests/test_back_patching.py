"""Back-patching against states that a hook overwrites by hand, one prompt and pair at a time."""

import pandas as pd
import pytest
import torch
from families import LAYERS, random_prompts, tiny
from plain_hooks import hooked, output, state

from pipeline.data.datasets import tokenise
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.scoring import score_last
from pipeline.methods.back_patching import back_patch


def dataset(model, count=5) -> pd.DataFrame:
    """Prompts of unlike lengths; the subject is their second or third word."""
    rows = [[f"w{max(6, token)}" for token in row] for row in random_prompts(count)]
    frame = pd.DataFrame({"instruction": [" ".join(row) for row in rows], "raw": True})
    subjects = [row[1 + n % 2] for n, row in enumerate(rows)]
    return tokenise(frame.assign(subject=subjects), model.tokenizer)


def positions_of(prompt, subject) -> dict[str, list[int]]:
    words = prompt.split()
    subject_at = max(n for n, word in enumerate(words) if word == subject)
    return {"last": [len(words) - 1], "subject": [subject_at], "[-2, -1]": [-2, -1]}


def overwritten(model, tokens, layer, positions, values):
    def put(_, __, out):
        hidden = output(out).clone()
        hidden[0, positions] = values
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    with hooked(model.blocks[layer], put):
        return model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("rule", ["subject", "last", [-2, -1]])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_every_pair_and_prompt_is_what_a_hook_by_hand_gives(family, rule):
    model = tiny(family)
    prompts = dataset(model)
    conditions = list(back_patch(model, prompts, 0, positions=rule))
    pairs = [(s, t) for s in range(LAYERS) for t in range(s)]
    assert [dict(condition.axes) for condition in conditions] == [
        {"source_layer": s, "target_layer": t, "positions": str(rule), "donor": "same"}
        for s, t in pairs
    ]
    assert {condition.role for condition in conditions} == {CANDIDATE}
    tokens = prompts["tokens"].tolist()
    logits = score_last(model, tokens, conditions, lambda rows: rows, batch_tokens=200)
    changed = 0
    with torch.no_grad():
        for p, row in enumerate(prompts.to_dict("records")):
            clean = model.hf(torch.tensor([row["tokens"]]), use_cache=False).logits[0, -1]
            at = positions_of(row["prompt"], row["subject"])[str(rule)]
            for c, (source, target) in enumerate(pairs):
                values = state(model, row["tokens"], source)[at]
                expected = overwritten(model, row["tokens"], target, at, values)
                tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
                assert (logits[c, p] - expected).abs().max() <= tolerance
                changed += bool((expected - clean).abs().max() > 10 * tolerance)
    assert changed > 0.9 * len(pairs) * len(prompts)


def test_another_prompts_state_is_put_in_as_a_control():
    """Every prompt's state is used once, never in itself, and the draw is that of the seed."""
    model = tiny("llama")
    prompts = dataset(model)
    (condition,) = back_patch(
        model, prompts, 3, positions="last", source_layers=[2], target_layers=[1], donor="other"
    )
    again, unlike = (
        next(back_patch(model, prompts, seed, positions="last", source_layers=[1], donor="other"))
        for seed in (3, 4)
    )
    rows = condition.edits[0].intervention.value.of
    with torch.no_grad():
        states = torch.stack([state(model, tokens, 2)[-1] for tokens in prompts["tokens"]])
    distances = torch.cdist(rows, states)
    donors = distances.argmin(1)
    assert distances.min(1).values.max() < 1e-4
    assert sorted(donors.tolist()) == list(range(5)) and (donors != torch.arange(5)).all()
    assert (condition.axes["donor"], condition.role) == ("other", CONTROL)
    values = [c.edits[0].intervention.value.of for c in (again, unlike)]
    assert not torch.equal(*values)


def test_layers_and_component_may_be_named():
    model = tiny("gemma2")
    options = {"source_layers": [3, 1], "target_layers": [0, 2], "component": "resid_pre"}
    conditions = list(back_patch(model, dataset(model), 0, positions="last", **options))
    pairs = [(c.axes["source_layer"], c.axes["target_layer"]) for c in conditions]
    assert pairs == [(3, 0), (3, 2), (1, 0)]
    assert {str(c.edits[0].site) for c in conditions} == {
        "blocks.0.resid_pre",
        "blocks.2.resid_pre",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"component": "mlp_out"}, "'mlp_out' is unknown; valid: resid_pre, resid_mid, resid_post"),
        ({"donor": "none"}, "donor 'none' is unknown; valid: same, other"),
        ({"source_layers": "late"}, "layers: 'late' is not `all`, `every N` or a list"),
        ({"target_layers": [7]}, "has no layer 7; valid: 0 to 3"),
        ({"source_layers": [0]}, r"no target of layers .* is below a source of layers \[0\]"),
        ({"positions": "all"}, "positions 'all' name 4 to 13 tokens a prompt; valid: equally many"),
    ],
)
def test_what_cannot_be_patched_is_named(options, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        list(back_patch(model, dataset(model), 0, **{"positions": "last", **options}))


def test_a_single_prompt_has_no_other_donor():
    model = tiny("llama")
    with pytest.raises(ValueError, match="1 prompts have no donor other than themselves"):
        list(back_patch(model, dataset(model, 1), 0, positions="last", donor="other"))
