"""What is said of a feature, against plain loops over every row and hand-set weights."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, VOCAB, WIDTH, random_prompts, tiny, tokenizer
from stores import whole_samples, write_store
from test_sae import SITE, autoencoder

from pipeline.measures.features import BINS, Tally
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import KINDS, SparseAutoencoder
from pipeline.methods.sae.features import activations_by_layer, summarise_features
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

BOS, LENGTHS = 1, [7, 3, 12, 5, 9, 1, 4, 11, 6, 8] * 4


def readable(width: int = WIDTH) -> SparseAutoencoder:
    """Feature i is dimension i where it is positive."""
    return SparseAutoencoder(
        kind="l1",
        encoder=torch.eye(width),
        encoder_bias=torch.zeros(width),
        decoder=torch.eye(width),
        decoder_bias=torch.zeros(width),
        threshold=torch.zeros(width),
        provenance=Provenance("", dataset="d", sites=(str(SITE),)),
    )


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return whole_samples(LENGTHS, bos=BOS)


@pytest.fixture(scope="module")
def values(rows) -> torch.Tensor:
    """Special tokens are far from all others, as they are in models."""
    x = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(0))
    x[torch.tensor((rows["token"] == BOS).to_numpy())] *= 100
    return x


@pytest.fixture(scope="module")
def store(rows, values, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), {str(SITE): values}, rows, shards=3)


def test_a_planted_feature_is_described_exactly(tmp_path):
    """Feature 4 fires on 5 of 40 ordinary rows: at 2 of one sample, at 1 of three others."""
    rows = whole_samples([11, 11, 11, 11], bos=BOS)
    fires = {(0, 3): 1.0, (0, 7): 4.0, (1, 2): 2.5, (2, 10): 7.75, (3, 1): 0.5}
    x = torch.full((44, WIDTH), -1.0)
    for (sample, position), size in fires.items():
        x[11 * sample + position, 4] = size
    x[::11, 4] = 1000.0
    store = write_store(tmp_path / "s", {str(SITE): x}, rows, shards=2)
    (found,) = summarise_features(tiny("llama"), readable(), store, [4], examples=3)
    # Samples of one instruction are shown once, by the one with the largest activation.
    groups = {example.sample: "same" for example in found.examples}
    groups |= {int(sample): f"{sample}" for sample in set(store.rows["sample"]) - set(groups)}
    (grouped,) = summarise_features(
        tiny("llama"), readable(), store, [4], groups=groups, examples=3
    )
    assert grouped.examples[0].sample == found.examples[0].sample
    assert sum(groups[example.sample] == "same" for example in grouped.examples) == 1
    assert (found.feature, found.rows, found.active, found.density) == (4, 40, 5, 1 / 8)
    assert (found.site, found.kind, found.n_features) == (str(SITE), "l1", WIDTH)
    peaks = [(e.sample, int(e.positions[e.peak]), e.activations[e.peak]) for e in found.examples]
    assert peaks == [(2, 10, 7.75), (0, 7, 4.0), (1, 2, 2.5)]
    second = found.examples[1]
    assert second.tokens.tolist() == rows["token"].tolist()[:11]
    assert np.isnan(second.activations[0])
    assert second.activations[1:].tolist() == [0, 0, 1, 0, 0, 0, 4, 0, 0, 0]
    # 8 is the smallest power of two above the largest: bins of an eighth.
    assert np.diff(found.edges).tolist() == [0.125] * len(found.counts)
    assert found.counts.nonzero()[0].tolist() == [4, 8, 20, 32, 62]
    assert found.counts.sum() == 5 and found.edges[-1] == 7.875


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_rows", [5, 4096])
def test_it_is_the_loop_over_all_rows(store, rows, values, kind, batch_rows):
    """Also features that share a batch with others, in any order."""
    sae, chosen = autoencoder(kind), [30, 2, 17]
    found = summarise_features(tiny("llama"), sae, store, chosen, examples=4, batch_rows=batch_rows)
    assert [one.feature for one in found] == chosen
    for one in found:
        activations = sae.encode(values)[:, one.feature].numpy()
        table = rows.assign(activation=activations)
        ordinary = table[table["token"] != BOS]
        active = ordinary[ordinary["activation"] > 0]
        assert 3 < len(active) < len(ordinary)
        assert (one.rows, one.active) == (len(ordinary), len(active))
        counts, _ = np.histogram(active["activation"], one.edges)
        assert counts.tolist() == one.counts.tolist()
        best = active.sort_values("activation", ascending=False).drop_duplicates("sample").head(4)
        for example, (_, row) in zip(one.examples, best.iterrows(), strict=True):
            assert (example.sample, example.positions[example.peak]) == (
                row["sample"],
                row["position"],
            )
            whole = table[table["sample"] == row["sample"]]
            assert example.tokens.tolist() == whole["token"].tolist()
            expected = whole["activation"].where(whole["token"] != BOS).to_numpy()
            np.testing.assert_allclose(example.activations, expected, rtol=1e-4, atol=1e-5)


def test_top_and_bottom_logits_are_the_decoders_row_through_the_unembedding(tmp_path):
    """Feature 4 adds 2 at token 9 and takes 3 from token 11; the norm doubles; centred."""
    hf = copy.deepcopy(tiny("llama").hf)
    hf.model.norm.weight.data.fill_(2.0)
    hf.lm_head.weight.data.zero_()
    hf.lm_head.weight.data[9, 4], hf.lm_head.weight.data[11, 4] = 2.0, -3.0
    model = LanguageModel(hf, tokenizer(), name="hand-set")
    rows, x = whole_samples([2]), torch.ones(2, WIDTH)
    store = write_store(tmp_path / "s", {str(SITE): x}, rows, shards=1)
    (found,) = summarise_features(model, readable(), store, [4], examples=1, tokens=2)
    mean = (4 - 6) / VOCAB
    assert found.top[0] == (9, pytest.approx(4 - mean))
    assert found.bottom[0] == (11, pytest.approx(-6 - mean))
    assert [len(found.top), len(found.bottom)] == [2, 2]
    assert found.top[1][1] == found.bottom[1][1] == pytest.approx(-mean)


def test_a_feature_that_never_fires_has_no_examples(tmp_path):
    x = -torch.ones(6, WIDTH)
    store = write_store(tmp_path / "s", {str(SITE): x}, whole_samples([4, 2]), shards=1)
    (found,) = summarise_features(tiny("llama"), readable(), store, [0])
    assert (found.active, found.density, found.examples) == (0, 0, ())
    assert len(found.counts) == 0 and found.edges.tolist() == [0]


def test_histograms_do_not_depend_on_batches_or_order():
    values = np.random.default_rng(0).lognormal(0, 3, 500).astype(np.float32)
    results = []
    for size, order in ((500, 1), (7, 1), (7, -1)):
        tally = Tally(0)
        for start in range(0, 500, size):
            part = values[::order][start : start + size]
            tally.add(part, np.arange(len(part)), np.arange(len(part)))
        results.append(tally.histogram())
    for counts, edges in results:
        assert counts.tolist() == results[0][0].tolist()
        assert edges.tolist() == results[0][1].tolist()
        assert BINS / 2 < len(counts) <= BINS and counts[-1] > 0
        assert edges[-2] <= values.max() < edges[-1]


def test_wrong_arguments_are_named(store):
    model, sae = tiny("llama"), autoencoder()
    with pytest.raises(ValueError, match=r"feature 48 of .*; valid: 0 to 47"):
        summarise_features(model, sae, store, [48])
    other = replace(sae, provenance=replace(sae.provenance, model="n"))
    with pytest.raises(ValueError, match=r"model 'n', this is ''"):
        summarise_features(model, other, store, [0])
    elsewhere = autoencoder(site=Site(1, "resid_post"))
    with pytest.raises(ValueError, match=r"site 'blocks\.1\.resid_post' is not in"):
        summarise_features(model, elsewhere, store, [0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("component", ["resid_pre", "resid_post"])
def test_by_layer_it_is_the_encoder_at_transformers_own_hidden_states(kind, component):
    model, tokens = tiny("llama"), random_prompts(1)[0]
    sae = autoencoder(kind, site=Site(2, component))
    found = activations_by_layer(model, sae, 17, tokens)
    assert found.shape == (LAYERS, len(tokens))
    with torch.no_grad():
        states = model.hf(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    # The last of them is after the final norm, which no block's output is.
    for layer in range(LAYERS if component == "resid_pre" else LAYERS - 1):
        hidden = states[layer + (component == "resid_post")][0]
        expected = sae.encode(hidden)[:, 17]
        torch.testing.assert_close(torch.from_numpy(found[layer]), expected)


def test_by_layer_a_feature_written_at_a_layer_begins_there():
    """Block 2's MLP alone writes dimension 4, hence feature 4, from there on."""
    hf = copy.deepcopy(tiny("llama").hf)
    for layer, block in enumerate(hf.model.layers):
        block.self_attn.o_proj.weight.data[4] = 0
        if layer != 2:
            block.mlp.down_proj.weight.data[4] = 0
    hf.model.embed_tokens.weight.data[:, 4] = 0
    model = LanguageModel(hf, tokenizer(), name="hand-set")
    found = activations_by_layer(model, readable(), 4, random_prompts(1)[0])
    assert (found[:2] == 0).all()
    assert (found[2] > 0).any() and (found[3] == found[2]).all()


def test_only_the_stream_has_the_same_features_at_all_layers():
    sae = autoencoder(site=Site(2, "mlp_out"))
    with pytest.raises(ValueError, match=r"mlp_out.*valid: resid_pre, resid_mid, resid_post"):
        activations_by_layer(tiny("llama"), sae, 0, [5, 6])
    with pytest.raises(ValueError, match="feature 99"):
        activations_by_layer(tiny("llama"), autoencoder(), 99, [5, 6])
