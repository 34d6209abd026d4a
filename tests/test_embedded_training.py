"""Training the embedded model: documents do not see each other, the same seed gives the same."""

from dataclasses import replace

import pytest
import torch

from pipeline.embedded.corpus import training_documents
from pipeline.embedded.tokenization import train_tokenizer
from pipeline.embedded.training import Recipe, build, same_document, train

TINY = Recipe(
    steps=12,
    tokens=512,
    warmup=2,
    learning_rate=1e-2,
    layers=2,
    d_model=32,
    neurons=48,
    heads=4,
    key_value_heads=2,
)


def test_mask_is_causal_within_each_document():
    added = same_document(torch.tensor([[1, 1, 2, 0]]))[0, 0]
    assert (added == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_packed_document_gets_the_logits_it_gets_alone():
    documents = training_documents(500, seed=0)
    tokenizer = train_tokenizer(d.text for d in documents)
    model = build(replace(TINY, d_model=64, heads=4), tokenizer).eval()
    first, second = torch.randint(5, len(tokenizer), (2, 20), generator=torch.manual_seed(0))
    packed = torch.cat([first, second])[None]
    document = torch.tensor([[1] * 20 + [2] * 20])
    with torch.inference_mode():
        together = model(packed, attention_mask=same_document(document)).logits[0, 20:]
        alone = model(second[None]).logits[0]
        leaking = model(packed).logits[0, 20:]
    # Position embeddings are relative, so that where in a row a document stands changes nothing.
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert (leaking - alone).abs().max() > 1e-2


@pytest.fixture(scope="module")
def trained():
    return train(TINY)


def test_training_learns(trained):
    model, tokenizer, figures = trained
    assert model.dtype == torch.bfloat16
    # The mean over all these steps; without learning it stays at that of equal odds.
    assert figures["last loss"] < 0.95 * torch.log(torch.tensor(len(tokenizer))).item()


@pytest.mark.slow
def test_same_seed_same_weights(trained):
    again, _, _ = train(TINY)
    other, _, _ = train(replace(TINY, seed=1))
    weights = [
        m.state_dict()["model.layers.0.mlp.up_proj.weight"] for m in (trained[0], again, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
