"""The same weights give the same numbers in sae-lens, where that package is installed."""

import warnings

import pytest
import torch
from families import WIDTH
from test_sae import FEATURES, autoencoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sae_lens = pytest.importorskip("sae_lens", reason="the package sae-lens is not installed")

THEIRS = {"l1": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE"}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("centred", [False, True])
def test_encode_and_decode_are_theirs(kind, centred):
    """Centred: they subtract the decoder's bias from x, we have it in the encoder's bias."""
    ours = autoencoder(kind)
    more = {"k": ours.k} if kind == "topk" else {}
    config = getattr(sae_lens, f"{THEIRS[kind]}Config")(
        d_in=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=centred, **more
    )
    theirs = getattr(sae_lens, THEIRS[kind])(config)
    bias = ours.encoder_bias + centred * (ours.decoder_bias @ ours.encoder)
    weights = {
        "W_enc": ours.encoder,
        "b_enc": bias,
        "W_dec": ours.decoder,
        "b_dec": ours.decoder_bias,
    }
    if kind == "jumprelu":
        weights["threshold"] = ours.threshold
    theirs.load_state_dict(weights)
    x = 2 * torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = theirs.encode(x)
        assert 0 < float((features > 0).float().mean()) < 0.9
        torch.testing.assert_close(ours.encode(x), features)
        torch.testing.assert_close(ours.reconstruct(x), theirs.decode(features))
