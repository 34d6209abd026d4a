"""Jacobian and tuned lenses: the identity, closed forms, autograd's Jacobian, planted maps."""

import copy

import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, random_prompts, tiny, tokenizer
from test_lenses import dataset, words

from pipeline.engine.collection import collect
from pipeline.methods.lenses import stored
from pipeline.methods.lenses import tuned as training
from pipeline.methods.lenses.jacobian import jacobian_lens, mean_jacobians
from pipeline.methods.lenses.logit_lens import logit_lens, text_lens
from pipeline.methods.lenses.maps import LensMaps, text_parts, unembedding_digest
from pipeline.methods.lenses.tuned import Streams, train_translators, tuned_lens
from pipeline.methods.provenance import Provenance
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.collecting import write_store


def texts(count: int, longest: int = 14) -> pd.DataFrame:
    return pd.DataFrame(
        {"sample": range(count), "tokens": random_prompts(count, seed=3, longest=longest)}
    )


def maps(model: LanguageModel, matrix: torch.Tensor, bias: torch.Tensor | None = None) -> LensMaps:
    layers = range(model.n_layers)
    bias = torch.zeros(model.d_model) if bias is None else bias
    provenance = Provenance("", unembedding=unembedding_digest(model))
    return LensMaps(
        dict.fromkeys(layers, matrix), dict.fromkeys(layers, bias), provenance, pd.DataFrame()
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_the_identity_is_the_logit_lens_to_the_bit(family):
    model = tiny(family)
    prompts = dataset(model, words(5), answer=[f" w{20 + n}" for n in range(5)])
    options = {"positions": "all", "columns": ["answer"]}
    plain = logit_lens(model, prompts, **options)
    fits = {"identity": maps(model, torch.eye(WIDTH)), "twice": maps(model, 2 * torch.eye(WIDTH))}
    mapped = logit_lens(model, prompts, fits, fit="identity", **options)
    pd.testing.assert_frame_equal(mapped, plain, check_exact=True)
    # The norm undoes the factor, up to its epsilon.
    twice = logit_lens(model, prompts, fits, fit="twice", **options)
    assert (twice["top_token"] == plain["top_token"]).mean() > 0.99


def test_a_lens_applies_its_matrix_and_bias_and_the_last_layer_stays_the_models():
    model = tiny("llama")
    prompts = dataset(model, words(4))
    matrix, bias = (0.3 * torch.randn(*shape) for shape in ((WIDTH, WIDTH), (WIDTH,)))
    fits = {"lens": maps(model, matrix, bias)}
    table = logit_lens(model, prompts, fits, fit="lens").set_index(["sample", "layer"])
    plain = logit_lens(model, prompts).set_index(["sample", "layer"])
    for sample, tokens in enumerate(prompts["tokens"]):
        with torch.no_grad():
            states = model.hf(torch.tensor([tokens]), output_hidden_states=True).hidden_states
            for layer in range(LAYERS):
                hidden = model.decoder.norm(matrix @ states[layer][0, -1] + bias)
                p = model.hf.lm_head(hidden).softmax(-1)
                assert table.loc[(sample, layer), "top_token"] == p.argmax()
                assert table.loc[(sample, layer), "probability"] == pytest.approx(
                    float(p.max()), rel=1e-4
                )
        last = (sample, LAYERS)
        pd.testing.assert_series_equal(table.loc[last], plain.loc[last], check_exact=True)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_jacobians_are_those_of_autograd(family):
    """Texts of unlike lengths in one padded batch, against torch's Jacobian of each by itself."""
    model, skipped = tiny(family), 1
    sequences = random_prompts(3, seed=5, longest=9)
    layers = [0, 2, LAYERS - 1]
    result = mean_jacobians(model, sequences, layers, skipped, 1000)
    expected = torch.zeros(len(layers), WIDTH, WIDTH, dtype=torch.float64)
    for tokens in sequences:
        ids, mask = model.pad([tokens])
        valid = range(skipped, len(tokens) - 1)
        for place, layer in enumerate(layers):
            site, final = Site(layer, "resid_pre"), Site(LAYERS - 1, "resid_post")
            clean = hooks.read(model, [site], ids, mask)[site].clone()

            def last(stream, site=site, final=final, ids=ids, mask=mask):
                outputs = []
                keepers = {site: lambda _: stream, final: outputs.append}
                with hooks.with_hooks(model, keepers):
                    model.decoder(ids, attention_mask=mask, use_cache=False)
                return outputs[0][0]

            jacobian = torch.autograd.functional.jacobian(last, clean)[:, :, 0]
            summed = sum(jacobian[u, :, t] for t in valid for u in valid if u >= t)
            expected[place] += summed.double() / len(valid)
    torch.testing.assert_close(result, expected / 3, atol=1e-4, rtol=1e-4)


def linear_model() -> tuple[LanguageModel, torch.Tensor]:
    """A model in which no block writes to the residual stream, and the identity matrix."""
    hf = copy.deepcopy(tiny("gpt2").hf)
    for block in hf.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.data.zero_()
            projection.bias.data.zero_()
    return LanguageModel(hf, tokenizer(), name="linear"), torch.eye(WIDTH)


def test_where_no_block_writes_the_jacobian_is_the_identity(tmp_path):
    model, identity = linear_model()
    jacobian_lens(model, texts(20), count=4, skipped=1).save(tmp_path)
    lens = LensMaps.load(tmp_path)
    for layer in range(LAYERS):
        torch.testing.assert_close(lens.matrices[layer], identity, atol=1e-6, rtol=0)
        assert not lens.biases[layer].any()


def test_a_linear_block_is_read_off_exactly():
    """Block 2 adds C h to every position, by a module that is replaced: J = I + C up to there."""
    model, identity = linear_model()
    change = 0.3 * torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))

    class Linear(torch.nn.Module):
        def forward(self, hidden, *args, **kwargs):
            return hidden + hidden @ change.T

    model.blocks[2] = Linear()
    lens = jacobian_lens(model, texts(20), count=4, skipped=1)
    for layer in range(LAYERS):
        expected = identity + change if layer <= 2 else identity
        torch.testing.assert_close(lens.matrices[layer], expected, atol=1e-5, rtol=0)
    assert lens.layers == list(range(LAYERS))


def test_training_recovers_a_planted_affine_map():
    """Final states are M h + c: the lens of the trained translator gives the same logits."""
    model = tiny("llama")
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH, generator=generator)
    bias = 0.5 * torch.randn(WIDTH, generator=generator)
    hidden = torch.randn(3000, WIDTH, generator=generator)
    final = hidden @ matrix.T + bias
    train, val = (
        Streams({1: hidden[rows]}, final[rows]) for rows in (slice(2400), slice(2400, 3000))
    )
    matrices, biases, curves = train_translators(model, train, val, epochs=60, rate=2e-2, seed=0)
    kl = curves.set_index("epoch")["kl"]
    assert kl[0] > 0.2
    assert kl.min() < 1e-3
    translated = hidden + hidden @ matrices[1].T + biases[1]
    assert torch.cosine_similarity(translated, final).min() > 0.99


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_layer_of_a_tuned_lens_is_worse_on_its_val_texts(family):
    """With a rate that makes some worse: those stay the logit lens."""
    model = tiny(family)
    lens = tuned_lens(model, texts(30), epochs=2, rate=3.0)
    start = lens.curves[lens.curves["epoch"] == 0].set_index("layer")["kl"]
    worse = lens.curves.groupby("layer")["kl"].min() == start
    assert worse.any()
    for layer in worse[worse].index:
        assert torch.equal(lens.matrices[layer], torch.eye(WIDTH))
        assert not lens.biases[layer].any()
    # The first row of the curve is the logit lens of the reading, on the same positions.
    val = text_parts(texts(30))["val"]
    prompts = val.assign(label="l", split="test", topic="t", raw=True)
    plain = logit_lens(model, prompts, positions="all")
    means = plain[plain["position"] > 0].groupby("layer")["kl"].mean()
    for layer in range(LAYERS):
        assert start[layer] == pytest.approx(means[layer], rel=1e-3, abs=1e-6)


def test_a_lens_is_read_back_and_belongs_to_its_unembedding(tmp_path):
    model = tiny("llama")
    lens = tuned_lens(model, texts(10), layers=[1, 3], epochs=1)
    lens.save(tmp_path)
    back = LensMaps.load(tmp_path)
    assert back.layers == [1, 3]
    assert back.provenance == lens.provenance
    pd.testing.assert_frame_equal(back.curves, lens.curves)
    for layer in (1, 3):
        assert torch.equal(back.matrices[layer], lens.matrices[layer])
        assert torch.equal(back.biases[layer], lens.biases[layer])
    prompts = dataset(model, words(2))
    table = logit_lens(model, prompts, {"tuned": back}, fit="tuned")
    assert sorted(table["layer"].unique()) == [1, 3, LAYERS]
    with pytest.raises(ValueError, match=r"no lens at blocks\.0\.resid_pre; valid: resid_pre of"):
        back.check(model, Site(0, "resid_pre"))
    other = copy.deepcopy(model.hf)
    other.lm_head.weight.data[7, 3] += 0.5
    changed = LanguageModel(other, tokenizer(), name="changed")
    with pytest.raises(ValueError, match=r"lenses were made on unembedding \w+, this is \w+"):
        logit_lens(changed, prompts, {"tuned": back}, fit="tuned")


def test_texts_for_reporting_are_those_that_no_lens_was_fitted_to(monkeypatch):
    model, every = tiny("llama"), texts(20)
    used: list[tuple[int, ...]] = []

    def recording(model, tokens, *args, **kwargs):
        used.extend(map(tuple, tokens))
        return collect(model, tokens, *args, **kwargs)

    monkeypatch.setattr(training, "collect", recording)
    fits = {"tuned": tuned_lens(model, every, epochs=1)}
    table = text_lens(model, every, fits, fit="tuned")
    reported = {tuple(every["tokens"][sample]) for sample in table["sample"].unique()}
    assert len(reported) == 4
    assert len(used) == 16
    assert not reported & set(used)
    assert (table.loc[table["layer"] == LAYERS, "kl"] == 0).all()
    assert (table.loc[table["layer"] == LAYERS, "agreement"] == 1).all()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_store_is_read_as_a_forward_pass_is(family, tmp_path, monkeypatch):
    """In chunks of three rows, with and without a fit; a store of some layers at those."""
    monkeypatch.setattr(stored, "_ROWS", 3)
    model = tiny(family)
    prompts = dataset(model, words(5), answer=[f" w{20 + n}" for n in range(5)])
    prompts["sample"] = [4, 8, 6, 2, 9]
    tokens = {
        s: list(map(int, t)) for s, t in zip(prompts["sample"], prompts["tokens"], strict=True)
    }
    positions = {sample: (0, len(row) - 1) for sample, row in tokens.items()}
    sites = [Site(layer, "resid_pre") for layer in (0, 1, 3)]
    last = Site(LAYERS - 1, "resid_post")
    options = {"revision": "", "rule": "ends", "rows_per_shard": 4}
    store = write_store(tmp_path / "s", model, tokens, positions, [*sites, last], **options)
    fits = {"lens": maps(model, torch.eye(WIDTH) + 0.1 * torch.randn(WIDTH, WIDTH))}
    for fit in (None, "lens"):
        options = {"fit": fit, "columns": ["answer"]}
        table = stored.stored_lens(model, prompts, store, fits, **options)
        passed = logit_lens(model, prompts, fits, positions=[0, -1], **options)
        passed = passed[passed["layer"] != 2]
        keys = ["sample", "position", "layer"]
        both = [x.sort_values(keys).reset_index(drop=True) for x in (table, passed)]
        assert sorted(table["layer"].unique()) == [0, 1, 3, LAYERS]
        pd.testing.assert_frame_equal(*both, rtol=1e-3, atol=1e-5, check_dtype=False)
    without = write_store(
        tmp_path / "t", model, tokens, positions, sites, revision="", rule="ends", rows_per_shard=4
    )
    with pytest.raises(ValueError, match=r"valid: blocks\.3\.resid_post and resid_pre of a layer"):
        stored.stored_lens(model, prompts, without)


def test_wrong_options_are_named():
    model = tiny("llama")
    with pytest.raises(ValueError, match="layers: llama has no layer 9; valid: 0 to 3"):
        jacobian_lens(model, texts(10), layers=[9])
    with pytest.raises(ValueError, match="4 texts; valid: five or more"):
        tuned_lens(model, texts(4))
    with pytest.raises(ValueError, match="6 texts for fitting have more than 2 tokens; count = 7"):
        jacobian_lens(model, texts(10), count=7, skipped=1)
    with pytest.raises(ValueError, match=r"rate = 0.0; valid: above 0"):
        tuned_lens(model, texts(10), rate=0.0)
    with pytest.raises(ValueError, match="layers: llama has no layer 9"):
        LensMaps.stand_in(model, pd.DataFrame(), layers=[9])
