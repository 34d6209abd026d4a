"""The same weights give the same numbers in sae-lens, where that package is installed."""

import warnings

import pytest
import torch
from families import WIDTH
from test_sae import FEATURES, autoencoder

from pipeline.methods.sae.saelens import load_saelens, save_saelens
from pipeline.model.sites import Site

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sae_lens = pytest.importorskip("sae_lens", reason="the package sae-lens is not installed")

THEIRS = {"l1": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE"}
ABOUT = {"model_name": "gemma2", "hook_name": "blocks.2.hook_resid_post"}
X = 2 * torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(0))


def their_own(ours, bias, **config):
    """An autoencoder of theirs with our weights and this bias of the encoder."""
    more = {"k": ours.k} if ours.kind == "topk" else {}
    kind = THEIRS[ours.kind]
    config = getattr(sae_lens, f"{kind}Config")(d_in=ours.width, d_sae=FEATURES, **more, **config)
    theirs = getattr(sae_lens, kind)(config)
    for name, value in ABOUT.items():
        theirs.cfg.metadata[name] = value
    weights = {
        "W_enc": ours.encoder,
        "b_enc": bias,
        "W_dec": ours.decoder,
        "b_dec": ours.decoder_bias,
    }
    if ours.kind == "jumprelu":
        weights["threshold"] = ours.threshold
    theirs.load_state_dict(weights)
    return theirs


def assert_same(ours, theirs, x=X):
    with torch.no_grad():
        features = theirs.encode(x)
        assert 0 < float((features > 0).float().mean()) < 0.9
        torch.testing.assert_close(ours.encode(x.flatten(1)), features)
        decoded = theirs.decode(features).flatten(1)
        torch.testing.assert_close(ours.reconstruct(x.flatten(1)), decoded)


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("centred", [False, True])
def test_encode_and_decode_are_theirs(kind, centred):
    """Centred: they subtract the decoder's bias from x, we have it in the encoder's bias."""
    ours = autoencoder(kind)
    bias = ours.encoder_bias + centred * (ours.decoder_bias @ ours.encoder)
    assert_same(ours, their_own(ours, bias, apply_b_dec_to_input=centred))


@pytest.mark.parametrize("kind", THEIRS)
def test_they_load_what_we_write(tmp_path, kind):
    ours = autoencoder(kind)
    save_saelens(tmp_path, ours, model="gemma2")
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert type(theirs) is getattr(sae_lens, THEIRS[kind])
    assert {name: theirs.cfg.metadata[name] for name in ABOUT} == ABOUT
    assert_same(ours, theirs)


def test_they_load_heads_as_they_have_them(tmp_path):
    """Their `z` is [head, d_head], ours the heads in a row."""
    ours = autoencoder("jumprelu", site=Site(1, "z"))
    save_saelens(tmp_path, ours, model="gemma2")
    assert_same(ours, sae_lens.SAE.load_from_disk(tmp_path), X.unflatten(1, (4, WIDTH // 4)))


@pytest.mark.parametrize("scale", [None, 0.6])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("l1", {}),
        ("jumprelu", {}),
        ("topk", {"rescale_acts_by_decoder_norm": False}),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
    ],
)
@pytest.mark.parametrize("normed", ["none", "expected_average_only_in", "layer_norm"])
def test_we_load_what_they_save(tmp_path, kind, more, centred, scale, normed):
    """The whole grid of forms: each has their features, or is refused by name."""
    made = autoencoder(kind)
    made.decoder.mul_(torch.linspace(0.5, 2, FEATURES)[:, None])
    theirs = their_own(
        made, made.encoder_bias, apply_b_dec_to_input=centred, normalize_activations=normed, **more
    )
    theirs.save_model(tmp_path)
    if normed == "layer_norm" or (normed == "none") == (scale is not None):
        with pytest.raises(ValueError, match=r"normalize_activations|scale 0\.6"):
            load_saelens(tmp_path, scale=scale)
        return
    if scale is not None:
        theirs.fold_activation_norm_scaling_factor(scale)
    ours = load_saelens(tmp_path, scale=scale)
    assert (ours.provenance.model, ours.site) == ("gemma2", "blocks.2.resid_post")
    assert_same(ours, theirs)


@pytest.mark.parametrize("kind", ["Transcoder", "JumpReLUTranscoder", "GatedSAE"])
def test_what_is_of_another_kind_is_refused(tmp_path, kind):
    config = {"d_in": WIDTH, "d_sae": FEATURES}
    if "Transcoder" in kind:
        config |= {"d_out": WIDTH, "apply_b_dec_to_input": False}
    theirs = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**config))
    for name, value in ABOUT.items():
        theirs.cfg.metadata[name] = value
    theirs.save_model(tmp_path)
    with pytest.raises(ValueError, match=r"architecture '.*'; valid: standard, topk, jumprelu"):
        load_saelens(tmp_path)
