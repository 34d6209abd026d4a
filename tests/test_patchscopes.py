"""Patchscopes against a hook by hand, a substituted token, and a bridge planted in a layer."""

import copy

import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, random_prompts, tiny, tokenizer
from plain_hooks import hooked, output, state

from pipeline.data.datasets import tokenise
from pipeline.data.prompts import doubts
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.data.target_prompts import target_prompts
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_last
from pipeline.methods.patchscopes import patchscope, patchscope_texts
from pipeline.model.loading import LanguageModel


def dataset(model, count=5) -> pd.DataFrame:
    """Target prompts with w6 as the placeholder, source prompts of unlike lengths."""
    rows = [[f"w{max(7, token)}" for token in row] for row in random_prompts(count)]
    targets = [f"w{30 + n} w{40 + n} w6 w50" if n % 2 else f"w{60 + n} w6" for n in range(count)]
    frame = pd.DataFrame({"instruction": targets, "raw": True, "label": "t", "split": "test"})
    frame = frame.assign(
        subject="w6",
        topic="",
        answer=[f" w{100 + n}" for n in range(count)],
        source=[" ".join(row) for row in rows],
        source_subject=[row[1 + n % 2] for n, row in enumerate(rows)],
        source_subject_start=-1,
    )
    return tokenise(frame, model.tokenizer)


def source_state(model, row, layer):
    words = row["source"].split()
    at = max(n for n, word in enumerate(words) if word == row["source_subject"])
    tokens = model.tokenizer(row["source"])["input_ids"]
    return state(model, tokens, layer)[at]


def patched(model, row, layer, value):
    at = row["instruction"].split().index("w6")

    def put(_, __, out):
        hidden = output(out).clone()
        hidden[0, at] = value
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    with hooked(model.blocks[layer], put):
        return model.hf(torch.tensor([row["tokens"]]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_every_pair_and_prompt_is_what_a_hook_by_hand_gives(family):
    model = tiny(family)
    prompts = dataset(model)
    conditions = list(patchscope(model, prompts, 0))
    pairs = [(s, t) for s in range(LAYERS) for t in range(LAYERS)]
    assert [dict(condition.axes) for condition in conditions] == [
        {"source_layer": s, "target_layer": t, "source_positions": "subject", "donor": "same"}
        for s, t in pairs
    ]
    assert {condition.role for condition in conditions} == {CANDIDATE}
    logits = score_last(
        model, prompts["tokens"].tolist(), conditions, lambda rows: rows, batch_tokens=200
    )
    with torch.no_grad():
        for p, row in enumerate(prompts.to_dict("records")):
            clean = model.hf(torch.tensor([row["tokens"]]), use_cache=False).logits[0, -1]
            # After the last layer, the placeholder only matters where it is the last token.
            ends = row["instruction"].endswith("w6")
            for c, (source, target) in enumerate(pairs):
                expected = patched(model, row, target, source_state(model, row, source))
                tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
                assert (logits[c, p] - expected).abs().max() <= tolerance
                changed = (expected - clean).abs().max() > 10 * tolerance
                assert bool(changed) == (ends or target < LAYERS - 1)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_embedding_at_layer_0_is_the_source_token_in_the_target_prompt(family):
    """These families add positions inside of attention, not to the embedding."""
    model = tiny(family)
    prompts = dataset(model)
    (condition,) = patchscope(
        model, prompts, 0, component="resid_pre", source_layers=[0], target_layers=[0]
    )
    tokens = prompts["tokens"].tolist()
    (logits,) = score_last(model, tokens, [condition], lambda rows: rows, batch_tokens=200)
    texts = [
        text.replace("w6 ", f"{word} ") if "w6 " in text else text.replace(" w6", f" {word}")
        for text, word in zip(prompts["instruction"], prompts["source_subject"], strict=True)
    ]
    written = [model.tokenizer(text)["input_ids"] for text in texts]
    assert written != tokens
    (expected,) = score_last(model, written, [Condition()], lambda rows: rows, batch_tokens=200)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def planted() -> LanguageModel:
    """Block 2's MLP reads person w(10 + i) and writes bridge w(20 + i); nothing else writes."""
    hf = copy.deepcopy(tiny("gpt2").hf)
    for block in hf.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj, block.mlp.c_fc):
            projection.weight.data.zero_()
            projection.bias.data.zero_()
    hf.transformer.wpe.weight.data.zero_()
    hf.transformer.wte.weight.data.zero_()
    head = torch.nn.Linear(WIDTH, 200, bias=False)
    head.weight.data.zero_()
    mlp = hf.transformer.h[2].mlp
    for i in range(4):
        hf.transformer.wte.weight.data[10 + i, i] = 1.0
        mlp.c_fc.weight.data[i, i] = 10.0
        mlp.c_proj.weight.data[i, 8 + i] = 10.0
        head.weight.data[20 + i, 8 + i] = 1.0
        hf.transformer.wte.weight.data[20 + i, 31] = 1.0
    # The placeholder is continued by w7, a bridge by w9.
    hf.transformer.wte.weight.data[6, 30] = 1.0
    head.weight.data[7, 30] = 1.0
    head.weight.data[9, 31] = 1.0
    hf.lm_head = head
    return LanguageModel(hf, tokenizer(), name="planted")


def people(model) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "instruction": "w8 w6",
            "label": "bridge",
            "split": "test",
            "topic": [f"w{10 + i}" for i in range(4)],
            "subject": "w6",
            "answer": [f" w{20 + i}" for i in range(4)],
            "raw": True,
            "source": [f"w9 w{10 + i} w9" for i in range(4)],
            "source_subject": [f"w{10 + i}" for i in range(4)],
            "source_subject_start": -1,
        }
    )
    return tokenise(frame, model.tokenizer)


@pytest.mark.parametrize(("donor", "shifted"), [("same", False), ("other", True)])
def test_a_bridge_planted_in_block_2_decodes_from_its_output_on(donor, shifted):
    """From an earlier state it decodes only where block 2 of the target prompt is still to come."""
    model = planted()
    prompts = people(model)
    conditions = list(patchscope(model, prompts, 0, donor=donor))
    top = score_last(
        model,
        prompts["tokens"].tolist(),
        [Condition(), *conditions],
        lambda rows: rows.argmax(-1).double(),
        batch_tokens=200,
    ).long()
    assert top[0].tolist() == [7] * 4
    bridges = torch.arange(20, 24)
    for condition, tokens in zip(conditions, top[1:], strict=True):
        source, target = condition.axes["source_layer"], condition.axes["target_layer"]
        decodes = source >= 2 or target < 2
        assert set(tokens.tolist()) <= set(bridges.tolist()) if decodes else True
        assert bool((tokens == bridges).all()) == (decodes and not shifted)
        assert not (tokens == bridges).any() or not shifted
    assert {c.role for c in conditions} == {CONTROL if shifted else CANDIDATE}


def test_completions_are_those_of_the_engine_and_only_the_prompt_is_patched():
    model = planted()
    prompts = people(model)
    table = patchscope_texts(model, prompts, label="bridge", target_layer=3, max_new_tokens=2)
    first = table["completion"].str.split().str[0]
    rows = table.assign(hit=first == table["answer"].str.strip())
    decoded = rows.groupby("source_layer")["hit"].mean()
    assert decoded.to_dict() == {-1: 0.0, 0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0}
    assert set(rows[rows["hit"]]["completion"].str.split().str[1]) == {"w9"}


def test_another_rows_state_has_another_answer():
    model = tiny("llama")
    prompts = dataset(model, 6).assign(answer=[" w1", " w1", " w1", " w2", " w2", " w2"])
    (same,), (other,) = (
        patchscope(model, prompts, 3, source_layers=[2], target_layers=[1], donor=donor)
        for donor in ("same", "other")
    )
    own, others = (c.edits[0].intervention.value.of for c in (same, other))
    donors = torch.cdist(others, own).argmin(1).tolist()
    assert [donor >= 3 for donor in donors] == [True] * 3 + [False] * 3
    with pytest.raises(ValueError, match="all prompts have the same answer"):
        list(patchscope(model, prompts.assign(answer=" w1"), 0, donor="other"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"component": "mlp_out"}, "'mlp_out' is unknown; valid: resid_pre, resid_mid, resid_post"),
        ({"donor": "none"}, "donor 'none' is unknown; valid: same, other"),
        ({"target_layers": [7]}, "has no layer 7; valid: 0 to 3"),
        ({"positions": [0, 1]}, r"positions \[0, 1\] name 2 tokens of sample 0; valid: one"),
        ({"source_positions": "all"}, "positions 'all' name .* tokens of sample 0; valid: one"),
    ],
)
def test_what_cannot_be_patched_is_named(options, message):
    model = tiny("llama")
    with pytest.raises(ValueError, match=message):
        list(patchscope(model, dataset(model), 0, **options))
    with pytest.raises(ValueError, match="no column 'source' in the dataset"):
        list(patchscope(model, dataset(model).drop(columns="source"), 0))
    with pytest.raises(ValueError, match="no prompts labelled 'x' in split 'test'; labels: t"):
        patchscope_texts(model, dataset(model), label="x", target_layer=1)


def test_every_prompt_is_the_source_of_every_target(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": f"Say x, {name}.", "label": "a", "topic": name, "subject": name, "b": "!"}
        for name in ("Ida", "Leo", "Max", "Eva")
    ]
    pd.DataFrame(rows).assign(split="test").to_json(path, orient="records", lines=True)
    targets = {"one": "x {placeholder} is", "two": "max, {placeholder}"}
    options = {"targets": targets, "answers": {"one": "b", "two": "topic"}, "placeholder": "max"}
    frame = target_prompts(path=str(path), shares=[0.0, 0.5, 0.5], **options)
    assert frame["instruction"].tolist() == ["x max is"] * 4 + ["max, max"] * 4
    assert frame["subject_start"].tolist() == [2] * 4 + [5] * 4
    assert frame["answer"].tolist() == ["!"] * 4 + ["Ida", "Leo", "Max", "Eva"]
    assert frame["source"].tolist() == [row["instruction"] for row in rows] * 2
    assert sorted(frame["split"][:4]) == ["test", "test", "val", "val"]
    assert frame["split"][:4].tolist() == frame["split"][4:].tolist()
    leaks = [text for text in doubts(frame) if "several splits" in text]
    assert leaks == []
    assert frame["raw"].all() and (frame["source_subject"] == frame["topic"]).all()
    for wrong, message in (
        ({"targets": {"one": "x"}}, "target one has no single {placeholder}: 'x'"),
        ({"answers": {"one": "b"}}, "answers and targets differ in two"),
        ({"answers": {"one": "b", "two": "c"}}, "answers.two: no column 'c'"),
    ):
        with pytest.raises(ValueError, match=message):
            target_prompts(path=str(path), **{**options, **wrong})
