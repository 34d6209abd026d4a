"""Training finds planted features, and what is said of an autoencoder is so."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import WIDTH, random_prompts, tiny
from torch.nn.functional import normalize

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae import training
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.quality import held_out, losses_recovered, quality
from pipeline.methods.sae.training import SaeRecipe, train
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore, Fingerprint, SiteRows
from pipeline.store.writer import StoreWriter

SITES = ("blocks.0.resid_post", "blocks.3.z")
WIDTHS, FEATURES, ACTIVE = {SITES[0]: 32, SITES[1]: 24}, 40, 3
SHARDS, SHARD = 4, 5000
TOPK = SaeRecipe(SITES[0], "topk", 56, k=ACTIVE, learning_rate=3e-3, revive_every=100)
L1 = SaeRecipe(SITES[0], "l1", 56, sparsity=1.0, learning_rate=3e-3, revive_every=100)
JUMP = replace(L1, kind="jumprelu")
OTHER = replace(TOPK, site=SITES[1])
RECIPES = [TOPK, L1, OTHER, JUMP]
BY_KIND = {recipe.kind: recipe for recipe in RECIPES}


def planted(site: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A dictionary of unit rows, coefficients of about three of them, and sums about an offset."""
    # Not a seed of training: features would begin as the planted ones.
    draw = torch.Generator().manual_seed(100 + SITES.index(site))
    shape = (SHARDS * SHARD, FEATURES)
    dictionary = normalize(torch.randn(FEATURES, WIDTHS[site], generator=draw), dim=-1)
    on = torch.rand(shape, generator=draw) < ACTIVE / FEATURES
    coefficients = 10 * on * (1 + torch.rand(shape, generator=draw))
    return dictionary, coefficients, coefficients @ dictionary + 5


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("store")
    plan = [list(range(s * 100, (s + 1) * 100)) for s in range(SHARDS)]
    fingerprint = Fingerprint("m", "", "t", "c", "d", SITES, "all")
    values = {site: planted(site)[2] for site in SITES}
    with StoreWriter(folder, fingerprint, plan, required_bytes=1) as writer:
        for shard, samples in enumerate(plan):
            length = SHARD // 100
            rows = pd.DataFrame(
                {
                    "sample": np.repeat(samples, length),
                    "position": np.tile(np.arange(length), 100),
                    "token": 0,
                }
            )
            part = slice(shard * SHARD, (shard + 1) * SHARD)
            writer.write(shard, {site: values[site][part] for site in SITES}, rows)
    return ActivationStore(folder)


@pytest.fixture(scope="module")
def kept(store) -> np.ndarray:
    return ~held_out(store.rows["sample"].to_numpy(), 0.1, 0)


def fit(store, recipes, kept, **settings) -> list[SparseAutoencoder]:
    return train(
        store, recipes, kept, **{"passes": 7, "batch_rows": 256, "buffer_rows": 4096} | settings
    )


@pytest.fixture(scope="module")
def trained(store, kept) -> list[SparseAutoencoder]:
    return fit(store, RECIPES, kept)


def found(sae: SparseAutoencoder) -> float:
    """Mean over the planted features of the largest cosine with a feature."""
    dictionary, _, _ = planted(sae.site)
    return float((dictionary @ normalize(sae.decoder, dim=-1).T).amax(1).mean())


def test_planted_features_are_found_at_all_sites_in_one_pass(trained):
    assert [found(sae) > 0.95 for sae in trained] == [True] * 4, [found(sae) for sae in trained]
    for sae in trained:
        draw = torch.Generator().manual_seed(9)
        random = torch.randn(sae.decoder.shape, generator=draw)
        assert found(replace(sae, decoder=random)) < 0.6


def test_features_have_unit_length_and_say_where_they_are_from(trained):
    for sae, recipe in zip(trained, RECIPES, strict=True):
        torch.testing.assert_close(sae.decoder.norm(dim=-1), torch.ones(56))
        assert sae.provenance == Provenance("m", "c", "d", (recipe.site,))


@pytest.mark.parametrize(("kind", "within"), [("topk", 0.1), ("jumprelu", 0.15)])
def test_activations_are_the_planted_coefficients(trained, kind, within):
    """Scale and offset of the data are in the weights: f is in the units of x."""
    sae = next(sae for sae in trained if sae.kind == kind)
    dictionary, coefficients, x = planted(SITES[0])
    sparse = (coefficients > 0).sum(1) <= ACTIVE
    features = sae.encode(x[sparse])[:, (dictionary @ sae.decoder.T).argmax(1)]
    on = coefficients[sparse] > 0
    assert float((features[on] / coefficients[sparse][on]).median()) == pytest.approx(1, abs=within)
    assert float((features[on] > 0).float().mean()) > 0.9


def test_quality_is_the_formula_on_held_out_rows(store, kept, trained):
    for sae in trained:
        rows = planted(sae.site)[2][torch.from_numpy(~kept)].double()
        features = sae.encode(rows.float())
        left = (rows - sae.decode(features).double()).square().sum()
        expected = 1 - left / (rows - rows.mean(0)).square().sum()
        measured = quality(sae, store, ~kept, batch_rows=300)
        assert measured.rows == 2000
        assert measured.explained_variance == pytest.approx(float(expected), abs=1e-6)
        assert measured.explained_variance > 0.8
        assert measured.l0 == pytest.approx(int((features > 0).sum()) / 2000)
        assert measured.dead == int((features.amax(0) == 0).sum())


def test_held_out_rows_are_whole_samples(store):
    samples = store.rows["sample"].to_numpy()
    out = held_out(samples, 0.1, 0)
    assert out.sum() == 2000
    assert not set(samples[out]) & set(samples[~out])
    assert not np.array_equal(out, held_out(samples, 0.1, 1))
    with pytest.raises(ValueError, match="holds out 0 of 400 samples"):
        held_out(samples, 0.001, 0)


def test_the_same_seed_gives_the_same_weights_alone_or_among_others(store, kept):
    short = {"passes": 1, "batch_rows": 512}
    alone = fit(store, [TOPK], kept, **short)[0]
    among = fit(store, [TOPK, L1], kept, **short)[0]
    other = fit(store, [TOPK], kept, seed=5, **short)[0]
    assert torch.equal(alone.encoder, among.encoder)
    assert not torch.equal(alone.encoder, other.encoder)


def test_a_site_is_read_once_for_all_its_autoencoders(store, kept, monkeypatch):
    read = []
    original = SiteRows.__getitem__

    def counted(self, rows):
        read.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(SiteRows, "__getitem__", counted)
    fit(store, [TOPK, L1, TOPK], kept, passes=1, batch_rows=2048)
    assert sum(read) == kept.sum()


def test_thresholds_lie_between_noise_and_the_planted_coefficients(trained):
    """Planted coefficients are 10 to 20; with a threshold about three features are active."""
    sae = trained[RECIPES.index(JUMP)]
    assert bool(((sae.threshold > 1) & (sae.threshold < 10)).all())
    x = planted(SITES[0])[2]
    assert float((sae.encode(x) > 0).sum(-1).float().mean()) == pytest.approx(ACTIVE, abs=0.5)
    for other in (TOPK, L1):
        assert not trained[RECIPES.index(other)].threshold.any()


def test_slopes_of_thresholds_are_the_closed_form(monkeypatch):
    """Of each column, the first two rows are within half of the bandwidth of the threshold."""
    monkeypatch.setattr(training, "BANDWIDTH", 0.2)
    threshold = torch.tensor([1.0, 0.5], requires_grad=True)
    pre = torch.tensor(
        [[1.05, 0.42], [0.93, 0.58], [1.2, 0.7], [0.8, 0.3], [-1.0, 3.0]], requires_grad=True
    )
    of_f = torch.tensor([[2.0, 1.0], [3.0, -1.0], [5.0, 5.0], [7.0, 7.0], [9.0, 9.0]])
    of_g = torch.tensor([[1.0, 4.0], [1.0, 6.0], [8.0, 8.0], [8.0, 8.0], [8.0, 8.0]])
    features, active = training.jump(pre, threshold)
    on = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    assert torch.equal(active, on)
    assert torch.equal(features, pre * on)
    (of_f * features + of_g * active).sum().backward()
    # -(threshold Σ of_f + Σ of_g) / ε, over the two rows.
    expected = torch.tensor([-(1.0 * 5 + 2) / 0.2, -(0.5 * 0 + 10) / 0.2])
    torch.testing.assert_close(threshold.grad, expected)
    assert torch.equal(pre.grad, of_f * on)


def test_a_step_moves_thresholds_along_the_slope_of_its_loss():
    """dL/dlog θ = θ Σ K(..)/ε (2 θ error·decoder - sparsity) / (rows width)."""
    x = planted(SITES[0])[2][:256]
    learner = training._Learner(JUMP, x, steps=10, seed=0)
    learner._done = 5
    with torch.no_grad():
        scaled = x / learner._scale
        pre = (scaled - learner._decoder_bias) @ learner._encoder.T + learner._encoder_bias
        theta = learner._log_threshold.exp()
        error = scaled - (pre * (pre > theta)) @ learner._decoder - learner._decoder_bias
        near = ((pre - theta).abs() < training.BANDWIDTH / 2) / training.BANDWIDTH
        slope = near * (2 * theta * (error @ learner._decoder.T) - JUMP.sparsity)
        expected = theta * slope.sum(0) / x.numel()
    learner.step(x)
    assert bool(near.any(0).all())
    torch.testing.assert_close(learner._log_threshold.grad, expected)
    moved = learner._log_threshold.detach() - theta.log()
    assert torch.equal(moved.sign(), -expected.sign())


@pytest.mark.parametrize(("kind", "steps"), [("topk", 400), ("l1", 400), ("jumprelu", 1200)])
def test_dead_features_begin_anew(kind, steps):
    """Half of the features cannot fire; revived, they do. Thresholds are learned more slowly."""
    _, _, x = planted(SITES[0])
    recipe = replace(BY_KIND[kind], n_features=FEATURES)
    scores = {}
    for every in (50, 10**9):
        learner = training._Learner(
            replace(recipe, revive_every=every), x[:256], steps=steps, seed=0
        )
        with torch.no_grad():
            if kind == "jumprelu":
                learner._log_threshold[: FEATURES // 2] = math.log(100.0)
            else:
                learner._encoder_bias[: FEATURES // 2] = -100.0
        for step in range(steps):
            start = 256 * step % len(x)
            learner.step(x[start : start + 256])
        sae = learner.finish(Provenance("", sites=(SITES[0],)))
        alive = (sae.encode(x[:5000]) > 0).any(0)
        scores[every] = int(alive[: FEATURES // 2].sum())
    assert scores[10**9] == 0
    assert scores[50] >= 0.9 * FEATURES / 2


@pytest.mark.parametrize(
    ("steps", "every", "looks"),
    [
        (40, None, [10, 20, 30]),
        (3, None, [1, 2]),
        (2200, None, [500, 1000, 1500]),
        (40, 15, [15, 30]),
    ],
)
def test_dead_features_are_looked_for_in_short_trainings_too(monkeypatch, steps, every, looks):
    """Every quarter, at most 500 steps apart, but for the last fifth; or as the recipe says."""
    seen = []
    monkeypatch.setattr(
        training._Learner, "_revive", lambda learner, error: seen.append(learner._done)
    )
    x = planted(SITES[0])[2][:8]
    learner = training._Learner(replace(TOPK, revive_every=every), x, steps=steps, seed=0)
    for _ in range(steps):
        learner.step(x)
    assert seen == looks


@pytest.mark.parametrize(("kind", "passes"), [("l1", 2), ("jumprelu", 5)])
def test_a_larger_sparsity_weight_leaves_fewer_active(store, kept, kind, passes):
    """More than are planted, that is. Thresholds need more steps: each moves their logarithm."""
    recipe = BY_KIND[kind]
    few = replace(recipe, sparsity=3.0)
    sparse, dense = fit(store, [few, replace(recipe, sparsity=0.01)], kept, passes=passes)
    more = [quality(sae, store, ~kept).l0 - ACTIVE for sae in (sparse, dense)]
    assert more[0] < 0.5 * more[1]
    assert more[1] > 1


def test_wrong_recipes_are_named(store, kept):
    with pytest.raises(ValueError, match="'gated' are not trained; valid: l1, topk, jumprelu"):
        SaeRecipe(SITES[0], "gated", 8)
    with pytest.raises(ValueError, match=r"sparsity 0\.0 of jumprelu"):
        SaeRecipe(SITES[0], "jumprelu", 8)
    with pytest.raises(ValueError, match="k 9 of topk; valid: 1 to 8"):
        SaeRecipe(SITES[0], "topk", 8, k=9)
    with pytest.raises(ValueError, match=r"sparsity 0\.0 of l1"):
        SaeRecipe(SITES[0], "l1", 8)
    with pytest.raises(ValueError, match="revive_every 0 is less than 1"):
        replace(TOPK, revive_every=0)
    with pytest.raises(ValueError, match=r"'blocks\.9\.z' is not in"):
        train(store, [replace(TOPK, site="blocks.9.z")], kept)
    with pytest.raises(ValueError, match="nothing to train"):
        train(store, [TOPK], np.zeros_like(kept))


def test_a_store_of_another_model_is_refused(store, kept, trained):
    sae = replace(trained[0], provenance=replace(trained[0].provenance, model="n"))
    with pytest.raises(ValueError, match="at model 'n', the store is of 'm'"):
        quality(sae, store, kept)


@pytest.mark.parametrize("kind", BY_KIND)
def test_activations_that_are_not_finite_are_named(kind):
    x = planted(SITES[0])[2][:256].clone()
    learner = training._Learner(replace(BY_KIND[kind], revive_every=2), x, steps=10, seed=0)
    x[3, 5] = math.nan
    with pytest.raises(ValueError, match=r"^the autoencoder at blocks.*diverged: activations that"):
        for _ in range(2):
            learner.step(x)


def mirror(scale: float) -> SparseAutoencoder:
    """x = max(x, 0) - max(-x, 0), hence exact at scale 1 and 0 at scale 0."""
    eye = torch.eye(WIDTH)
    return SparseAutoencoder(
        kind="l1",
        encoder=torch.cat([eye, -eye], 1),
        encoder_bias=torch.zeros(2 * WIDTH),
        decoder=scale * torch.cat([eye, -eye]),
        decoder_bias=torch.zeros(WIDTH),
        threshold=torch.zeros(2 * WIDTH),
        provenance=Provenance("", sites=("blocks.2.resid_post",)),
    )


def with_logits(factor: float) -> LanguageModel:
    """A tiny model whose logits are multiplied."""
    model = tiny("llama")
    hf = copy.deepcopy(model.hf)
    hf.lm_head.register_forward_hook(lambda module, args, out: factor * out)
    return LanguageModel(hf, model.tokenizer, name=model.name)


def test_loss_recovered_is_1_for_an_exact_and_0_for_an_empty_autoencoder():
    model, texts = with_logits(20.0), random_prompts(6)
    exact, empty = losses_recovered(model, [mirror(1.0), mirror(0.0)], texts, batch_tokens=100)
    assert exact.recovered == pytest.approx(1, abs=1e-4)
    assert empty.recovered == pytest.approx(0, abs=1e-4)
    assert abs(exact.clean - exact.zeroed) > 0.05


def test_where_zeroing_changes_little_there_is_no_share_recovered():
    model, texts = with_logits(0.1), random_prompts(6)
    (found,) = losses_recovered(model, [mirror(0.5)], texts, batch_tokens=100)
    assert 0 < abs(found.zeroed - found.clean) < 0.05
    assert math.isnan(found.recovered)
    assert math.isfinite(found.reconstructed)


def test_losses_are_those_of_one_text_at_a_time():
    model, texts, sae = with_logits(20.0), random_prompts(6), mirror(0.6)
    losses, site = {}, Site.parse(sae.site)
    for name, factor in (("clean", 1.0), ("reconstructed", 0.6), ("zeroed", 0.0)):

        def scale(module, args, out, factor=factor):
            out = out.clone()
            out[:, 1:] *= factor
            return out

        handle = model.blocks[site.layer].register_forward_hook(scale)
        total = 0.0
        for text in texts:
            with torch.no_grad():
                logs = model.hf(torch.tensor([text])).logits[0].log_softmax(-1)
            total -= sum(float(logs[i, token]) for i, token in enumerate(text[1:]))
        handle.remove()
        losses[name] = total / sum(len(text) - 1 for text in texts)
    (result,) = losses_recovered(model, [sae], texts, batch_tokens=60)
    for name, expected in losses.items():
        assert getattr(result, name) == pytest.approx(expected, rel=1e-5)
    assert math.isclose(
        result.recovered,
        (losses["zeroed"] - losses["reconstructed"]) / (losses["zeroed"] - losses["clean"]),
        rel_tol=1e-3,
    )
