"""Autoencoders: formulas against plain loops, files, and where they may be used."""

from dataclasses import replace

import naive
import pytest
import torch
from families import WIDTH, random_prompts, tiny

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.methods.interventions import Add
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import KINDS, SparseAutoencoder, load_sae, save_sae
from pipeline.methods.sae.interventions import Reconstruct, ablate, clamp
from pipeline.model.sites import Site

FEATURES = 48
SITE = Site(2, "resid_post")
PROMPTS = random_prompts(5)


def autoencoder(kind="l1", seed=0, width=WIDTH, site=SITE, features=FEATURES) -> SparseAutoencoder:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    decoder = torch.nn.functional.normalize(normal(features, width), dim=-1)
    return SparseAutoencoder(
        kind=kind,
        encoder=normal(width, features) / width**0.5,
        encoder_bias=0.1 * normal(features),
        decoder=decoder,
        decoder_bias=0.1 * normal(width),
        threshold=(normal(features).abs() if kind == "jumprelu" else torch.zeros(features)),
        provenance=Provenance("", dataset="d", sites=(str(site),)),
        k=5 if kind == "topk" else 0,
    )


def by_hand(sae: SparseAutoencoder, x: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """Features and reconstruction of one vector, feature by feature."""
    pre = [
        float(sum(x[d] * sae.encoder[d, i] for d in range(sae.width)) + sae.encoder_bias[i])
        for i in range(sae.n_features)
    ]
    if sae.kind == "topk":
        kept = sorted(range(sae.n_features), key=lambda i: -pre[i])[: sae.k]
    elif sae.kind == "jumprelu":
        kept = [i for i in range(sae.n_features) if pre[i] > float(sae.threshold[i])]
    else:
        kept = list(range(sae.n_features))
    features = [max(pre[i], 0.0) if i in kept else 0.0 for i in range(sae.n_features)]
    total = sae.decoder_bias.clone()
    for i in kept:
        total += features[i] * sae.decoder[i]
    return features, total


@pytest.mark.parametrize("kind", KINDS)
def test_encode_and_decode_are_the_formula(kind):
    sae = autoencoder(kind)
    x = 2 * torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    for row in range(3):
        for place in range(4):
            features, total = by_hand(sae, x[row, place])
            assert 0 < sum(f > 0 for f in features) < FEATURES
            torch.testing.assert_close(sae.encode(x)[row, place], torch.tensor(features))
            torch.testing.assert_close(sae.reconstruct(x)[row, place], total)


@pytest.mark.parametrize("kind", KINDS)
def test_the_three_kinds_differ_where_they_should(kind):
    sae = autoencoder(kind)
    x = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(2))
    active = (sae.encode(x) > 0).sum(-1)
    relu = (autoencoder("l1").encode(x) > 0).sum(-1)
    if kind == "l1":
        assert torch.equal(active, relu)
    else:
        assert bool((active < relu).all())
    if kind == "topk":
        assert bool((active <= sae.k).all())


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back_bit_for_bit_and_are_written_alike(tmp_path, kind):
    sae = autoencoder(kind)
    save_sae(tmp_path / "a", sae)
    back = load_sae(tmp_path / "a")
    save_sae(tmp_path / "b", back)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    x = torch.randn(9, WIDTH)
    assert torch.equal(back.reconstruct(x), sae.reconstruct(x))
    assert (back.kind, back.k, back.provenance) == (sae.kind, sae.k, sae.provenance)


@pytest.mark.parametrize(
    ("made", "used", "message"),
    [
        ({"site": Site(1, "resid_post")}, SITE, "site 'blocks.1.resid_post', this is 'blocks.2.re"),
        ({}, Site(2, "resid_pre"), "site 'blocks.2.resid_post', this is 'blocks.2.resid_pre'"),
        ({"width": 40}, SITE, "width 40, this is 32"),
        ({"model": "abc"}, SITE, "model 'abc', this is ''"),
    ],
)
def test_the_wrong_place_is_refused_with_both_sides(made, used, message):
    model = made.pop("model", "")
    sae = autoencoder(**made)
    sae = replace(sae, provenance=replace(sae.provenance, model=model))
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        sae.check(tiny("llama"), used)
    conditions = [Condition(edits=(Edit(used, Reconstruct(sae)),))]
    with pytest.raises(ValueError, match="autoencoder was trained at"):
        generate(tiny("llama"), PROMPTS, conditions, Decoding(1))


def test_attention_sites_have_a_width_of_their_own():
    """z of the Gemma shapes is 64 wide, the stream 32."""
    site = Site(1, "z")
    autoencoder(width=64, site=site).check(tiny("gemma2"), site)
    with pytest.raises(ValueError, match="width 32, this is 64"):
        autoencoder(site=site).check(tiny("gemma2"), site)


def test_wrong_arguments_are_named():
    sae = autoencoder()
    with pytest.raises(ValueError, match="'gated' is unknown; valid: l1, topk, jumprelu"):
        replace(sae, kind="gated")
    with pytest.raises(ValueError, match="k 3 of a l1 autoencoder"):
        replace(sae, k=3)
    with pytest.raises(ValueError, match="k 0 of a topk autoencoder; valid: 1 to 48"):
        replace(sae, kind="topk")
    with pytest.raises(ValueError, match=r"decoder_bias has shape \[48\].*\[32\]"):
        replace(sae, decoder_bias=sae.encoder_bias)
    with pytest.raises(ValueError, match=r"feature 48 of .*blocks.2.resid_post; valid: 0 to 47"):
        ablate(sae, [0, 48])


@pytest.mark.parametrize("kind", KINDS)
def test_ablation_and_clamping_are_the_direct_computation(kind):
    sae = autoencoder(kind)
    x = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(3))
    features = sae.encode(x)
    # Every third feature: some of them fire.
    chosen = list(range(0, FEATURES, 3))
    assert bool(features[..., chosen].any())
    for value in (0.0, 2.5):
        changed = features.clone()
        changed[..., chosen] = value
        expected = sae.decode(changed) + x - sae.reconstruct(x)
        torch.testing.assert_close(clamp(sae, chosen, value).edit(x), expected)
    torch.testing.assert_close(ablate(sae, chosen).edit(x), clamp(sae, chosen, 0.0).edit(x))


@pytest.mark.parametrize("kind", KINDS)
def test_ablating_all_features_zeroes_their_reconstruction(kind):
    """The error and the decoder's bias are left; without the error, the bias alone."""
    sae = autoencoder(kind)
    x = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(4))
    left = ablate(sae, range(FEATURES)).edit(x)
    error = x - sae.reconstruct(x)
    torch.testing.assert_close(left, error + sae.decoder_bias)
    bias = sae.decode(torch.zeros_like(sae.encode(x)))
    torch.testing.assert_close(left - error, bias)


def test_ablation_does_nothing_where_no_chosen_feature_fires():
    sae = autoencoder("topk")
    x = torch.randn(1, 40, WIDTH, generator=torch.Generator().manual_seed(5))
    silent = ~(sae.encode(x)[0, :, :3] > 0).any(-1)
    assert 0 < int(silent.sum()) < 40
    changed = ablate(sae, [0, 1, 2]).edit(x)
    assert torch.equal(changed[0, silent], x[0, silent])
    assert not torch.isclose(changed[0, ~silent], x[0, ~silent]).all(-1).any()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_packed_with_other_conditions_they_are_the_naive_loop(family):
    """Two autoencoders at one site, features and values that differ by row, other edits beside."""
    model = tiny(family)
    one, other = autoencoder("l1"), autoencoder("topk", seed=7)
    edits = [
        (Edit(SITE, Reconstruct(one)),),
        (Edit(SITE, Reconstruct(other), "generated"),),
        (Edit(SITE, ablate(one, [1, 2, 3, 4, 5, 6])),),
        (Edit(SITE, ablate(one, range(20, 30)), (2,)),),
        (Edit(SITE, clamp(one, [9], 6.0)),),
        (Edit(SITE, clamp(other, [9, 11], 9.0)), Edit(SITE, Add(torch.ones(WIDTH)), "last")),
    ]
    conditions = [Condition(), *(Condition(edits=e) for e in edits)]
    done = generate(model, PROMPTS, conditions, Decoding(5), batch_tokens=700)
    plain = {c.prompt: c.tokens for c in done if c.condition == 0}
    changed, rows = set(), []
    for completion in done:
        condition, prompt = conditions[completion.condition], PROMPTS[completion.prompt]
        rows.append((completion, completion.tokens, *naive.generate(model, prompt, condition, 5)))
        if completion.tokens != plain[completion.prompt]:
            changed.add(completion.condition)
    naive.assert_same(rows)
    assert changed >= {1, 2, 5, 6}
