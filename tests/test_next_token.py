"""Next-token distributions against a planted head, transformers' forward pass and scipy."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_prompts, tiny, tokenizer
from scipy.special import softmax
from scipy.stats import entropy

from pipeline.methods.next_token import next_tokens
from pipeline.model.loading import LanguageModel


def dataset(prompts) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"sample": np.arange(len(prompts)) + 5, "tokens": list(map(np.array, prompts))}
    )
    return frame.assign(label=[f"l{n % 2}" for n in frame["sample"]], split="test", topic="t")


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_probabilities_are_those_of_transformers_forward_pass(family, monkeypatch):
    model, prompts = tiny(family), random_prompts(7)
    monkeypatch.setattr(model, "batch_tokens", 30)
    table = next_tokens(model, dataset(prompts), top=4)
    assert len(table) == 7 * 4
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = model.hf(torch.tensor([prompt]), use_cache=False).logits[0, -1]
        p = softmax(logits.double().numpy())
        rows = table[table["sample"] == number + 5]
        order = np.argsort(-p)[:4]
        assert rows["rank"].tolist() == [1, 2, 3, 4]
        assert rows["token"].tolist() == order.tolist()
        assert rows["piece"].tolist() == [model.piece(int(token)) for token in order]
        np.testing.assert_allclose(rows["probability"], p[order], rtol=1e-4)
        np.testing.assert_allclose(rows["entropy"], entropy(p), rtol=1e-5)
        assert set(rows["label"]) == {f"l{(number + 5) % 2}"}


def test_a_pass_of_one_prompt_has_the_very_same_probabilities():
    model, prompt = tiny("llama"), random_prompts(1)[0]
    table = next_tokens(model, dataset([prompt]), top=200)
    with torch.no_grad():
        logits = model.hf(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1]
    p = logits.double().softmax(-1)
    assert table["probability"].tolist() == p[table["token"].tolist()].tolist()


def test_a_planted_head_gives_closed_forms():
    """Tokens 9 and 10 have logits log 3 and 0 above all others, which share what is left."""
    hf = copy.deepcopy(tiny("gpt2").hf)
    hf.lm_head = torch.nn.Linear(32, 200)
    hf.lm_head.weight.data.zero_()
    hf.lm_head.bias.data.fill_(-1e4)
    hf.lm_head.bias.data[[9, 10]] = torch.tensor([np.log(3.0), 0.0]).float()
    model = LanguageModel(hf, tokenizer(), name="planted")
    table = next_tokens(model, dataset([[7, 8]]), top=3)
    assert table["token"].tolist()[:2] == [9, 10]
    np.testing.assert_allclose(table["probability"], [0.75, 0.25, 0.0], atol=1e-7)
    expected = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    np.testing.assert_allclose(table["entropy"], expected, rtol=1e-6)


@pytest.mark.parametrize("top", [0, 201])
def test_a_wrong_number_of_tokens_is_named(top):
    with pytest.raises(ValueError, match=f"top = {top} tokens; valid: 1 to 200"):
        next_tokens(tiny("llama"), dataset([[7]]), top=top)
