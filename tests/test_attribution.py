"""Attribution: exact where the model is linear, and the derivative everywhere else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import LAYERS, WIDTH, random_prompts, tiny
from scipy.stats import spearmanr
from test_sae import autoencoder
from torch import nn
from transformers import AutoModelForCausalLM

from pipeline.methods.sae.attribution import attribute, check_by_ablation
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

PROMPTS = random_prompts(6, seed=3)
SITE = Site(1, "resid_post")
GOOD, BAD = 11, 17


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, GOOD] - logits[:, BAD]


def linear() -> LanguageModel:
    """A Llama whose logits are linear in the stream: uniform attention, no norms, linear MLPs."""
    config = tiny("llama").hf.config
    torch.manual_seed(1)
    hf = AutoModelForCausalLM.from_config(config)
    for parameter in hf.parameters():
        parameter.data.normal_(0, 0.15)
    for block in hf.model.layers:
        block.self_attn.q_proj.weight.data.zero_()
        block.self_attn.k_proj.weight.data.zero_()
        block.input_layernorm = nn.Identity()
        block.post_attention_layernorm = nn.Identity()
        block.mlp = nn.Linear(WIDTH, WIDTH)
    hf.model.norm = nn.Identity()
    return LanguageModel(hf, tiny("llama").tokenizer, name="linear")


def run(model, sae, top=200, tokens=60):
    return attribute(model, PROMPTS, [sae], difference, top=top, batch_tokens=tokens)


@pytest.mark.parametrize("kind", ["l1", "topk", "jumprelu"])
def test_on_a_linear_model_attribution_is_the_effect_of_ablation(kind):
    model, sae = linear(), autoencoder(kind, site=SITE)
    found = run(model, sae)
    check = check_by_ablation(
        model, PROMPTS, sae, found.features, difference, top=60, batch_tokens=2000
    )
    assert check.rows == 60 and check.rank > 0.9999
    size = check.table["attribution"].abs()
    assert size.min() > 1e-3
    assert (check.table["effect"] - check.table["attribution"]).abs().max() < 1e-4 * size.max()
    # Earlier tokens count too, or the test would say nothing of positions.
    last = check.table["prompt"].map(lambda p: len(PROMPTS[p]) - 1)
    assert (check.table["position"] < last).sum() >= 10


def test_features_error_and_bias_add_up_to_gradient_times_activation():
    model, sae = linear(), autoencoder("topk", site=SITE)
    found = run(model, sae)
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        x, gradient, metric = hooks.differentiate(
            model, [SITE], ids, torch.ones_like(ids), difference
        )
        # All of it without the first token.
        x, gradient = x[SITE][:, 1:], gradient[SITE][:, 1:]
        bias = float(-(sae.decoder_bias * gradient).sum())
        total = found.totals.set_index("prompt").loc[number]
        errors = found.errors[found.errors["prompt"] == number]
        assert sorted(errors["position"]) == list(range(1, len(prompt)))
        expected = float(-(x * gradient).sum())
        assert total["attribution"] + errors["attribution"].sum() + bias == pytest.approx(
            expected, abs=1e-4
        )
        assert total["metric"] == pytest.approx(float(metric), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
@pytest.mark.parametrize("component", ["resid_pre", "z", "mlp_out", "resid_post"])
def test_gradients_are_finite_differences(family, component):
    """Against the engine's forward pass in which the feature is a little smaller."""
    model, site = tiny(family), Site(2, component)
    sae = autoencoder(width=model.width(site), site=site)
    table = run(model, sae, top=4).features.query("prompt < 3")
    assert len(table) == 12
    for row in table.itertuples():
        ids = torch.tensor([PROMPTS[row.prompt]])
        step = 0.02 * row.activation * sae.decoder[row.feature]
        values = []
        for sign in (1, -1):

            def nudge(hidden, sign=sign, row=row, step=step):
                hidden = hidden.clone()
                hidden[0, row.position] += sign * step
                return hidden

            with torch.no_grad(), hooks.with_hooks(model, {site: nudge}):
                values.append(float(difference(model.hf(ids).logits[:, -1])))
        slope = (values[0] - values[1]) / 0.04
        assert -slope == pytest.approx(row.attribution, rel=0.05, abs=2e-4)


def test_one_pass_for_all_autoencoders_is_each_alone():
    model = tiny("gemma2")
    sites = [Site(0, "resid_post"), Site(1, "z"), Site(1, "resid_mid"), Site(3, "resid_post")]
    saes = [autoencoder(width=model.width(site), site=site) for site in sites]
    together = attribute(model, PROMPTS, saes, difference, top=9, batch_tokens=500)
    for sae in saes:
        alone = run(model, sae, top=9).features
        among = together.features[together.features["site"] == sae.site]
        assert alone["feature"].tolist() == among["feature"].tolist()
        assert alone["position"].tolist() == among["position"].tolist()
        torch.testing.assert_close(
            torch.tensor(alone["attribution"].to_numpy()),
            torch.tensor(among["attribution"].to_numpy()),
            rtol=1e-3,
            atol=1e-5,
        )


def test_a_batch_that_memory_does_not_hold_is_run_in_parts(monkeypatch):
    model, sae, sizes = tiny("llama"), autoencoder(site=SITE), []
    whole = hooks.differentiate

    def differentiate(model, sites, ids, *rest):
        sizes.append(ids.numel())
        if ids.numel() > 60:
            raise torch.OutOfMemoryError
        return whole(model, sites, ids, *rest)

    expected = run(model, sae, tokens=10**6)
    monkeypatch.setattr(model, "parts", 1)
    monkeypatch.setattr(hooks, "differentiate", differentiate)
    found = run(model, sae, tokens=200)
    assert sizes[0] > 60 >= sizes[-1]
    key = ["prompt", "site", "position", "feature"]
    both = expected.features.merge(found.features, on=key, suffixes=("", "_parts"))
    assert len(both) == len(expected.features) == len(found.features)
    np.testing.assert_allclose(both["attribution_parts"], both["attribution"], atol=1e-5)


def test_the_largest_are_kept_and_only_active_ones():
    model, sae = tiny("llama"), autoencoder("l1", site=SITE)
    everything = run(model, sae, top=10**6).features
    # How often a feature is active does not depend on how many attributions are kept.
    active = run(model, sae, top=1).active[sae.site]
    lengths = everything["prompt"].map(lambda p: len(PROMPTS[p]))
    counted = np.zeros_like(active)
    np.add.at(counted, (everything["position"] - lengths, everything["feature"]), 1)
    np.testing.assert_array_equal(active, counted)
    few = run(model, sae, top=5).features
    assert (everything["activation"] > 0).all()
    for prompt, own in everything.groupby("prompt"):
        largest = own["attribution"].abs().nlargest(5).tolist()
        kept = few.loc[few["prompt"] == prompt, "attribution"].abs().tolist()
        assert kept == pytest.approx(largest, rel=1e-4)
        assert own["position"].between(1, len(PROMPTS[prompt]) - 1).all()
    sums = everything.groupby("prompt")["attribution"].sum()
    totals = run(model, sae).totals.set_index("prompt")["attribution"]
    assert sums.tolist() == pytest.approx(totals.tolist(), abs=1e-3)


def test_after_the_last_block_only_the_last_position_is_attributed_anything():
    """No other has a gradient there; 0 is no attribution, however many are asked for."""
    prompts, site = [p for p in PROMPTS if len(p) > 2], Site(LAYERS - 1, "resid_post")
    sae = autoencoder("l1", site=site)
    found = attribute(tiny("llama"), prompts, [sae], difference, top=10**6, batch_tokens=60)
    assert set(found.features["prompt"]) == set(range(len(prompts)))
    assert (found.features["attribution"] != 0).all()
    lengths = found.features["prompt"].map(lambda p: len(prompts[p]))
    assert (found.features["position"] == lengths - 1).all()


def test_the_check_would_catch_a_wrong_attribution():
    model, sae = linear(), autoencoder("l1", site=SITE)
    table = run(model, sae).features
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(table), generator=draw).numpy()
    wrong = table.assign(attribution=table["attribution"].to_numpy()[order])
    check = check_by_ablation(model, PROMPTS, sae, wrong, difference, top=60, batch_tokens=2000)
    assert abs(check.rank) < 0.5
    assert check.rank == spearmanr(check.table["attribution"], check.table["effect"]).statistic


def test_the_model_is_as_before():
    model = tiny("llama")
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        before = model.hf(ids).logits
        run(model, autoencoder(site=SITE))
        after = model.hf(ids).logits
    assert torch.equal(before, after)
    assert not any(parameter.requires_grad for parameter in model.hf.parameters())


def test_wrong_autoencoders_are_refused():
    sae: SparseAutoencoder = autoencoder(site=SITE)
    other = replace(sae, provenance=replace(sae.provenance, model="abc"))
    with pytest.raises(ValueError, match="model 'abc', this is ''"):
        run(tiny("llama"), other)
    with pytest.raises(ValueError, match="one at a site is valid"):
        attribute(tiny("llama"), PROMPTS, [sae, sae], difference, top=1, batch_tokens=99)
    table = run(tiny("llama"), sae).features
    elsewhere = autoencoder(site=Site(LAYERS - 1, "resid_post"))
    with pytest.raises(ValueError, match=r"no attribution at blocks\.3\.resid_post; there are"):
        check_by_ablation(
            tiny("llama"), PROMPTS, elsewhere, table, difference, top=1, batch_tokens=99
        )
