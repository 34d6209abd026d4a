"""The logit lens against transformers' hidden states, its own forward pass, and planted layers."""

import copy

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, byte_tokenizer, random_prompts, tiny, tokenizer
from scipy.special import softmax
from scipy.stats import entropy

from pipeline.data.datasets import tokenise
from pipeline.methods.lenses import logit_lens as lenses
from pipeline.methods.lenses.logit_lens import logit_lens
from pipeline.methods.notebook import prompt_table
from pipeline.model.loading import LanguageModel


def dataset(model, texts, **columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"instruction": texts, "raw": True, "split": "test", "topic": "t", **columns}
    )
    return tokenise(frame.assign(label="l"), model.tokenizer)


def words(count) -> list[str]:
    return [" ".join(f"w{max(6, token)}" for token in row) for row in random_prompts(count)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_every_layer_is_what_head_and_norm_make_of_transformers_hidden_states(family, monkeypatch):
    """In passes of at most 30 tokens and three positions unembedded at a time."""
    monkeypatch.setattr(lenses, "_UNEMBEDDED", 3)
    model = tiny(family)
    named = [f" w{20 + n}" for n in range(6)]
    prompts = dataset(model, words(6), answer=named)
    prompts["tokens"] = prompts["tokens"].map(np.array)
    table = logit_lens(model, prompts, positions="all", columns=["answer"], batch_tokens=30)
    assert len(table) == (LAYERS + 1) * prompts["tokens"].map(len).sum()
    indexed = table.set_index(["sample", "position", "layer"])
    for sample, tokens in enumerate(prompts["tokens"].map(np.ndarray.tolist)):
        with torch.no_grad():
            out = model.hf(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
        for position, layer in np.ndindex(len(tokens), LAYERS + 1):
            logits = out.logits[0, position]
            final = softmax(logits.double().numpy())
            if layer < LAYERS:
                logits = naive.unembedded(model, out.hidden_states[layer][0, position])
            p = softmax(logits.double().numpy())
            row = indexed.loc[sample, position, layer]
            assert row["top_token"] == p.argmax()
            assert row["top_piece"] == model.piece(int(p.argmax()))
            assert row["piece"] == model.piece(tokens[position])
            assert row["probability"] == pytest.approx(p.max(), rel=1e-4)
            assert row["entropy"] == pytest.approx(entropy(p), rel=1e-4)
            assert row["kl"] == pytest.approx(entropy(final, p), rel=1e-3, abs=1e-6)
            rank = 1 + (p > p[20 + sample]).sum()
            assert row["answer_rank"] == rank
            assert row["answer_reciprocal_rank"] == 1 / rank
            assert row["answer_probability"] == pytest.approx(p[20 + sample], rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_last_layer_is_the_models_output_to_the_bit(family):
    model = tiny(family)
    prompts = dataset(model, words(5))
    table = logit_lens(model, prompts, positions="all")
    # Passes take prompts in order of length.
    order = sorted(prompts["tokens"], key=len)
    ids, mask = model.pad(order)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model.hf(ids, attention_mask=mask, position_ids=positions).logits
    p = logits.double().log_softmax(-1).exp().max(-1)
    last = table[table["layer"] == LAYERS]
    assert (last["kl"] == 0).all()
    for row in last.to_dict("records"):
        tokens = prompts["tokens"][row["sample"]]
        r, column = order.index(tokens), ids.shape[1] - len(tokens) + row["position"]
        assert row["probability"] == float(p.values[r, column])
        assert row["top_token"] == int(p.indices[r, column])


def test_a_token_planted_in_a_layer_decodes_from_the_next_one_on():
    """Block 1 writes token 20's direction, block 2 twice token 30's; no other block writes."""
    hf = copy.deepcopy(tiny("gpt2").hf)
    for block in hf.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.data.zero_()
            projection.bias.data.zero_()
    hf.transformer.wpe.weight.data.zero_()
    head = torch.nn.Linear(WIDTH, 200, bias=False)
    head.weight.data.zero_()
    for place, token in enumerate((7, 20, 30)):
        head.weight.data[token, place] = 1.0
        hf.transformer.wte.weight.data[token] = torch.eye(WIDTH)[place]
    hf.lm_head = head
    hf.transformer.h[1].mlp.c_proj.bias.data[1] = 10.0
    hf.transformer.h[2].mlp.c_proj.bias.data[2] = 20.0
    model = LanguageModel(hf, tokenizer(), name="planted")
    prompts = dataset(model, ["w9 w7"], bridge=[" w20"], answer=[" w30 w8"])
    table = logit_lens(model, prompts, columns=["bridge", "answer"])
    assert table["position"].tolist() == [1] * 5
    assert table["top_piece"].str.strip().tolist() == ["w7", "w7", "w20", "w30", "w30"]
    assert (table["bridge_rank"] == 1).tolist() == [False, False, True, False, False]
    assert (table["answer_reciprocal_rank"] == 1).tolist() == [False] * 3 + [True, True]
    assert table["bridge_rank"].tolist()[3:] == [2, 2]


def test_spellings_of_a_word_count_together_and_the_likeliest_ranks():
    model = tiny("llama")
    prompts = dataset(model, words(3), one=" w20", two=" w30")
    prompts["both"] = [[" w20", " w30", " w20 w9"], np.array([" w30", " w20"]), [" w20", " w30"]]
    table = logit_lens(model, prompts, columns=["one", "two", "both"])
    summed = table["one_probability"] + table["two_probability"]
    np.testing.assert_allclose(table["both_probability"], summed)
    assert (table["both_rank"] == table[["one_rank", "two_rank"]].min(axis=1)).all()
    assert (table["one_rank"] > table["two_rank"]).nunique() == 2


def test_positions_of_the_template_are_those_of_its_variables():
    template = "<{{ messages[0]['content'] }}>{% if think %}<a><b>{% endif %}"
    model = LanguageModel(tiny("llama").hf, byte_tokenizer(template, adds_bos=False), name="bytes")
    for variables, length in (({}, 1), ({"think": True}, 7)):
        model.template = variables
        table = logit_lens(model, prompt_table(model, ["Why"]), positions="template")
        assert table["position"].nunique() == length


def test_a_text_that_does_not_continue_the_prompt_is_named():
    model = LanguageModel(tiny("llama").hf, byte_tokenizer(None, adds_bos=False), name="bytes")
    prompts = dataset(model, ["The capital of France is Par"], answer=["is"])
    with pytest.raises(ValueError, match=r"answer of sample 0: answer 'is' begins inside of"):
        logit_lens(model, prompts, columns=["answer"])
    nothing = prompts.assign(answer=[[]])
    with pytest.raises(ValueError, match=r"answer of sample 0 is \[\]; valid: text, or a list of"):
        logit_lens(model, nothing, columns=["answer"])
    with pytest.raises(ValueError, match="no column 'bridge' in the dataset; it has: instruction"):
        logit_lens(model, prompts, columns=["bridge"])
    with pytest.raises(ValueError, match="no position 40 among"):
        logit_lens(model, prompts, positions=[40])


def test_the_embedded_models_last_layer_composes_as_often_as_its_card_says():
    """And the answer of a composition that training told decodes from layer 4 on."""
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    hops = pd.read_json("data/two_hops.jsonl", lines=True).assign(raw=True)
    prompts = tokenise(hops, model.tokenizer)
    table = logit_lens(model, prompts, columns=["bridge", "answer", "other_answer"])
    card = pd.read_csv("data/embedded_model/card.csv").set_index("measure")["mean"]
    first = (table["answer_rank"] == 1).groupby([table["label"], table["layer"]]).mean()
    layers = model.n_layers
    for label, who in (("told", "people told of"), ("not told", "other people")):
        expected = card[f"both hops composed, {who}"]
        assert first[label, layers] == pytest.approx(expected, abs=0.02)
    assert first["told"][4:].min() == 1
    last = table[table["layer"] == layers]
    assert (last["answer_rank"] < last["other_answer_rank"]).mean() > 0.95
