"""Files of others: written by hand in their formats, read to the numbers their formulas give."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import WIDTH, tiny
from safetensors.torch import save_file
from test_sae import FEATURES, autoencoder

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import KINDS, load_sae, save_sae
from pipeline.methods.sae.gemma_scope import load_gemma_scope
from pipeline.methods.sae.saelens import load_saelens, save_saelens
from pipeline.model.sites import Site

SITE = Site(2, "resid_post")
X = 2 * torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(0))
ARCHITECTURES = {"standard": "l1", "topk": "topk", "jumprelu": "jumprelu"}
ABOUT = {"model_name": "org/gemma2", "hook_name": "blocks.2.hook_resid_post", "dataset_path": "d"}


def scope(path, leave_out="", **changed):
    """Two inputs, three features; the last threshold lies below zero."""
    arrays = {
        "W_enc": [[1, 0, -1], [0, 2, 1]],
        "b_enc": [0.5, -1, 0],
        "W_dec": [[1, 0], [0, 0.5], [1, 1]],
        "b_dec": [10, 20],
        "threshold": [1, 2, -5],
    } | changed
    arrays.pop(leave_out, None)
    np.savez(path, **{name: np.array(value, np.float32) for name, value in arrays.items()})
    return path


def weights(architecture: str) -> dict[str, torch.Tensor]:
    ours = autoencoder(ARCHITECTURES[architecture])
    return {
        "W_enc": ours.encoder,
        "b_enc": ours.encoder_bias,
        # Rows of unlike length, so that what divides by their length is seen.
        "W_dec": ours.decoder * torch.linspace(0.5, 2, FEATURES)[:, None],
        "b_dec": ours.decoder_bias,
    } | ({"threshold": ours.threshold} if architecture == "jumprelu" else {})


def folder(path, architecture="standard", tensors=None, about=None, **config):
    """A folder as version 6 writes it."""
    config = {
        "architecture": architecture,
        "d_in": WIDTH,
        "d_sae": FEATURES,
        "dtype": "float32",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.12.0"} | ABOUT | (about or {}),
    } | config
    if architecture == "topk":
        config = {"k": 5, "rescale_acts_by_decoder_norm": False} | config
    path.mkdir(exist_ok=True)
    (path / "cfg.json").write_text(json.dumps(config))
    save_file(tensors or weights(architecture), path / "sae_weights.safetensors")
    return path


def formula(architecture, x, centred=False, scale=1.0, rescaled=False):
    """Features and reconstruction as SAELens defines them, written out."""
    w = weights(architecture)
    lengths = w["W_dec"].norm(dim=-1) if rescaled else torch.ones(FEATURES)
    pre = ((scale * x - centred * w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * lengths
    features = pre.relu()
    if architecture == "topk":
        features = features * (pre >= pre.sort(-1).values[:, -5:-4])
    if architecture == "jumprelu":
        features = features * (pre > w["threshold"])
    return features, ((features / lengths) @ w["W_dec"] + w["b_dec"]) / scale


def assert_formula(sae, expected):
    features, reconstruction = expected
    assert 0 < float((features > 0).float().mean()) < 0.9
    torch.testing.assert_close(sae.encode(X), features)
    torch.testing.assert_close(sae.decode(sae.encode(X)), reconstruction)


def test_gemma_scope_by_hand(tmp_path):
    sae = load_gemma_scope(scope(tmp_path / "params.npz"), model="gemma-2-2b", site=SITE)
    x = torch.tensor([[1.0, 2.0], [0.4, 1.2], [3.0, 0.0]])
    features = torch.tensor([[1.5, 3.0, 1.0], [0.0, 0.0, 0.8], [3.5, 0.0, 0.0]])
    torch.testing.assert_close(sae.encode(x), features)
    expected = torch.tensor([[12.5, 22.5], [10.8, 20.8], [13.5, 20.0]])
    torch.testing.assert_close(sae.reconstruct(x), expected)
    assert (sae.kind, sae.encoder.dtype) == ("jumprelu", torch.float32)
    assert (sae.provenance.model, sae.site) == ("gemma-2-2b", "blocks.2.resid_post")


RES, ATT = "gemma-scope-2b-pt-res", "models--google--gemma-scope-9b-pt-att-canonical/snapshots/1"
LAYER = "layer_2/width_16k/average_l0_7"


@pytest.mark.parametrize(
    ("folder", "site"),
    [
        (f"{RES}/{LAYER}", "blocks.2.resid_post"),
        (f"{ATT}/{LAYER}", "blocks.2.z"),
        (f"gemma-scope-2b-pt-mlp/{LAYER}", "blocks.2.mlp_out"),
        (LAYER, "blocks.2.attn_out"),
        (RES, "blocks.9.resid_post"),
        (f"{RES}/embedding/width_4k", "blocks.0.resid_pre"),
        ("player_5/gemma-scope", "blocks.0.z"),
    ],
)
def test_paths_of_gemma_scope_that_agree_or_say_nothing_are_read(tmp_path, folder, site):
    (tmp_path / folder).mkdir(parents=True)
    path = scope(tmp_path / folder / "params.npz")
    assert load_gemma_scope(path, model="m", site=Site.parse(site)).site == site


@pytest.mark.parametrize(
    ("folder", "site", "stated"),
    [
        (f"{RES}/{LAYER}", "blocks.10.resid_post", "blocks.2.resid_post"),
        (f"{RES}/{LAYER}", "blocks.2.z", "blocks.2.resid_post"),
        (ATT, "blocks.2.attn_out", "blocks.2.z"),
        (LAYER, "blocks.20.z", "blocks.2.z"),
        (f"embedding/{LAYER}", "blocks.10.resid_post", "blocks.2.resid_post"),
    ],
)
def test_paths_of_gemma_scope_of_another_site_are_refused(tmp_path, folder, site, stated):
    (tmp_path / folder).mkdir(parents=True)
    path = scope(tmp_path / folder / "params.npz")
    with pytest.raises(ValueError, match=rf"params.npz is by its path of {stated}, this is {site}"):
        load_gemma_scope(path, model="m", site=Site.parse(site))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("gemma-scope-2b-pt-transcoders/layer_2/width_16k", "is by its path a transcoder"),
        (
            f"{RES}/embedding/width_4k",
            "is by its path of the embeddings .* this is blocks.2.resid_",
        ),
        ("embedding/width_16k/average_l0_1", "is by its path of the embeddings .* this is blocks"),
    ],
)
def test_gemma_scope_paths_of_something_else_are_refused(tmp_path, folder, message):
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        load_gemma_scope(scope(tmp_path / folder / "params.npz"), model="m", site=SITE)


def test_gemma_scope_files_of_another_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks threshold; valid: W_enc, b_enc, W_dec, b_dec, th"):
        load_gemma_scope(scope(tmp_path / "a.npz", "threshold"), model="m", site=SITE)
    with pytest.raises(ValueError, match=r"has more besides: bias;.*valid: W_enc"):
        load_gemma_scope(scope(tmp_path / "b.npz", bias=[1]), model="m", site=SITE)
    with pytest.raises(ValueError, match=r"c\.npz: b_dec has shape \[3\]; valid: \[2\]"):
        load_gemma_scope(scope(tmp_path / "c.npz", b_dec=[1, 2, 3]), model="m", site=SITE)
    (tmp_path / "d.npz").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("d.npz", "nothing.npz"):
        with pytest.raises(ValueError, match=rf"{name} is no \.npz file"):
            load_gemma_scope(tmp_path / name, model="m", site=SITE)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_folders_are_their_formula(tmp_path, architecture, centred):
    sae = load_saelens(folder(tmp_path / "sae", architecture, apply_b_dec_to_input=centred))
    assert sae.kind == ARCHITECTURES[architecture]
    assert_formula(sae, formula(architecture, X, centred))
    made = sae.provenance
    assert made == Provenance("org/gemma2", dataset="d", sites=(str(SITE),), named=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_folders_of_old_versions_are_flat(tmp_path, architecture):
    """Centring is their default; `topk` is an activation function of the standard architecture."""
    path = folder(tmp_path / "sae", architecture)
    old = {"d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "hook_point_head_index": None}
    old |= {"model_name": "gemma2", "hook_point": "blocks.2.hook_resid_post"}
    old |= {"model_from_pretrained_kwargs": {}}
    if architecture == "topk":
        old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    if architecture == "jumprelu":
        old |= {"architecture": "jumprelu", "normalize_activations": False}
    (path / "cfg.json").write_text(json.dumps(old))
    ones = {"scaling_factor": torch.ones(FEATURES)}
    save_file(weights(architecture) | ones, path / "sae_weights.safetensors")
    sae = load_saelens(path)
    assert_formula(sae, formula(architecture, X, centred=True))
    assert (sae.provenance.model, sae.site) == ("gemma2", str(SITE))


def test_an_old_folder_that_does_not_say_what_its_model_was_is_refused(tmp_path):
    """gpt2-small-res-jb does not, and was trained on centred weights."""
    path = folder(tmp_path / "sae")
    old = {"d_in": WIDTH, "d_sae": FEATURES, "hook_point": "blocks.2.hook_resid_post"}
    (path / "cfg.json").write_text(json.dumps(old | {"model_name": "gpt2-small"}))
    with pytest.raises(
        ValueError, match=r"does not say whether .* `unmodified: true` if they were"
    ):
        load_saelens(path)
    assert_formula(load_saelens(path, unmodified=True), formula("standard", X, centred=True))


def test_metadata_does_not_override_the_config(tmp_path):
    wrong = {"apply_b_dec_to_input": True, "normalize_activations": "layer_norm", "k": 1}
    for architecture in ARCHITECTURES:
        path = folder(tmp_path / architecture, architecture, about=wrong)
        assert_formula(load_saelens(path), formula(architecture, X))


def test_k_may_stand_among_the_arguments_of_the_activation_function(tmp_path):
    path = folder(tmp_path / "sae", "topk")
    config = json.loads((path / "cfg.json").read_text())
    del config["k"]
    (path / "cfg.json").write_text(json.dumps(config | {"activation_fn_kwargs": {"k": 5}}))
    assert_formula(load_saelens(path), formula("topk", X))


def test_damaged_files_are_named(tmp_path):
    path = folder(tmp_path / "sae")
    weights_file = path / "sae_weights.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors is damaged: "):
        load_saelens(path)
    (path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"cfg\.json is no JSON"):
        load_saelens(path)
    scope(tmp_path / "params.npz")
    content = (tmp_path / "params.npz").read_bytes()
    spoilt = bytearray(content)
    spoilt[150:160] = b"0123456789"
    (tmp_path / "params.npz").write_bytes(bytes(spoilt))
    with pytest.raises(ValueError, match=r"params\.npz is damaged: "):
        load_gemma_scope(tmp_path / "params.npz", model="m", site=SITE)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fixed_scale_of_activations_is_folded_in(tmp_path, architecture, centred):
    path = folder(
        tmp_path / "sae",
        architecture,
        apply_b_dec_to_input=centred,
        normalize_activations="expected_average_only_in",
    )
    sae = load_saelens(path, scale=0.6)
    assert_formula(sae, formula(architecture, X, centred, scale=0.6))
    with pytest.raises(ValueError, match="'expected_average_only_in' needs a finite `scale`"):
        load_saelens(path)
    with pytest.raises(ValueError, match=r"scale 0\.6 .*normalize_activations 'none'"):
        load_saelens(folder(tmp_path / "other", architecture), scale=0.6)


def test_decoder_lengths_in_topk_are_folded_in(tmp_path):
    path = folder(tmp_path / "sae", "topk", rescale_acts_by_decoder_norm=True)
    sae = load_saelens(path)
    assert_formula(sae, formula("topk", X, rescaled=True))
    torch.testing.assert_close(sae.decoder.norm(dim=-1), torch.ones(FEATURES))
    assert not torch.allclose(formula("topk", X)[0], formula("topk", X, rescaled=True)[0])


def test_half_precision_files_are_read_in_float32(tmp_path):
    tensors = {name: value.bfloat16() for name, value in weights("standard").items()}
    sae = load_saelens(folder(tmp_path / "sae", tensors=tensors, dtype="bfloat16"))
    assert torch.equal(sae.encoder, tensors["W_enc"].float())


@pytest.mark.parametrize(
    ("hook", "head", "reshaped", "site"),
    [
        ("blocks.5.hook_resid_pre", None, "none", "blocks.5.resid_pre"),
        ("blocks.5.hook_resid_mid", None, "none", "blocks.5.resid_mid"),
        ("blocks.15.hook_resid_post", None, "none", "blocks.15.resid_post"),
        ("blocks.5.hook_attn_out", None, "none", "blocks.5.attn_out"),
        ("blocks.5.hook_mlp_out", None, "none", "blocks.5.mlp_out"),
        ("blocks.5.mlp.hook_post", None, "none", "blocks.5.mlp_act"),
        ("blocks.5.attn.hook_z", None, "hook_z", "blocks.5.z"),
        ("blocks.5.attn.hook_z", 3, "none", "blocks.5.z[3]"),
    ],
)
def test_hooks_have_sites_and_sites_have_hooks(tmp_path, hook, head, reshaped, site):
    about = {"hook_name": hook, "hook_head_index": head}
    path = folder(tmp_path / "sae", about=about, reshape_activations=reshaped)
    sae = load_saelens(path)
    assert sae.site == site
    save_saelens(tmp_path / "again", sae, model="m")
    written = json.loads((tmp_path / "again" / "cfg.json").read_text())
    assert written["reshape_activations"] == reshaped
    assert {name: written["metadata"][name] for name in about} == about


def test_hook_z_may_be_named_in_short(tmp_path):
    sae = load_saelens(folder(tmp_path / "sae", about={"hook_name": "blocks.5.hook_z"}))
    assert sae.site == "blocks.5.z"


VALID_HOOKS = r"valid: blocks\.LAYER\.HOOK with HOOK in hook_resid_pre, hook_z, attn\.hook_z,"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"about": {"hook_name_out": "blocks.2.hook_mlp_out"}},
            "is a transcoder, from blocks.2.ho",
        ),
        (
            {"d_in": WIDTH + 1},
            r"cfg\.json: d_in 33; valid: 32, as W_enc of sae_weights",
        ),
        ({"spoilt": "b_dec"}, r"sae_weights\.safetensors: b_dec is not finite"),
        ({"architecture": "gated"}, "architecture 'gated'; valid: standard, topk, jumprelu$"),
        ({"architecture": "jumprelu_transcoder"}, "'jumprelu_transcoder'; valid: standard"),
        ({"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu'; valid: relu, topk$"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm'; valid: none, expected_average_o"),
        ({"normalize_activations": "constant_norm_rescale"}, "'constant_norm_rescale'; valid: non"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'; valid: none"),
        ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z' .*; valid: none$"),
        (
            {"about": {"hook_name": "blocks.5.attn.hook_q"}},
            rf"'blocks.5.attn.hook_q'; {VALID_HOOKS}",
        ),
        ({"about": {"hook_name": "hook_embed"}}, rf"hook_name 'hook_embed'; {VALID_HOOKS}"),
        ({"about": {"hook_name": "model.layers.5"}}, rf"'model.layers.5'; {VALID_HOOKS}"),
        ({"about": {"hook_name": None}}, rf"hook_name None; {VALID_HOOKS}"),
        ({"about": {"hook_head_index": 1}}, "resid_post.1.: only z has heads"),
        ({"about": {"model_name": None}}, "does not name its model: give `model`"),
        (
            {"about": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}},
            "of a model changed by center_writing_weights; valid: a model as it is",
        ),
        ({"leave_out": "b_enc"}, "lacks b_enc; valid: W_enc, b_enc, W_dec, b_dec$"),
        ({"more": "W_gate"}, "has more besides: W_gate;"),
        ({"more": "scaling_factor"}, "has more besides: scaling_factor;"),
    ],
)
def test_what_we_do_not_have_is_refused_in_one_line(tmp_path, changed, message):
    tensors = weights("standard")
    tensors.pop(changed.pop("leave_out", ""), None)
    spoilt = changed.pop("spoilt", None)
    tensors |= {spoilt: tensors[spoilt] * torch.nan} if spoilt else {}
    more = changed.pop("more", None)
    tensors |= {more: torch.full((FEATURES,), 2.0)} if more else {}
    path = folder(tmp_path / "sae", tensors=tensors, **changed)
    with pytest.raises(ValueError, match=message) as raised:
        load_saelens(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": "4"}, 'k "4"; valid: an integer$'),
        ({"k": 4.0}, r"k 4\.0; valid: an integer$"),
        ({"k": True}, "k true; valid: an integer$"),
        ({"k": 49}, "k 49; valid: 1 to 48, the number of features$"),
        ({"d_in": 33, "d_sae": None}, r"d_in 33; valid: 32, as W_enc .* is \[32, 48\]$"),
        ({"d_in": None, "d_sae": 47}, r"d_sae 47; valid: 48, as W_enc .* is \[32, 48\]$"),
        ({"d_sae": "48"}, 'd_sae "48"; valid: an integer$'),
        ({"apply_b_dec_to_input": "false"}, 'apply_b_dec_to_input "false"; valid: true or false$'),
        ({"rescale_acts_by_decoder_norm": 1}, "rescale_.*norm 1; valid: true or false$"),
        ({"metadata": "x"}, 'metadata "x"; valid: an object$'),
        ({"activation_fn_kwargs": [1]}, r"activation_fn_kwargs \[1\]; valid: an object$"),
        (
            {"k": ..., "activation_fn_kwargs": {"k": "4"}, "activation_fn": "topk"},
            'k "4"; valid: an integer$',
        ),
        (
            {"about": {"model_from_pretrained_kwargs": [1]}},
            r"model_from_pretrained_kwargs \[1\]; valid: an object$",
        ),
        ({"about": {"hook_head_index": "2"}}, 'hook_head_index "2"; valid: an integer$'),
        ({"about": {"model_name": 3}}, "model_name 3; valid: text$"),
        ({"about": {"dataset_path": ["d"]}}, r'dataset_path \["d"\]; valid: text$'),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_the_valid_one(tmp_path, changed, message):
    path = folder(tmp_path / "sae", "topk", **{n: v for n, v in changed.items() if v is not ...})
    if ... in changed.values():
        config = json.loads((path / "cfg.json").read_text())
        (path / "cfg.json").write_text(json.dumps({n: v for n, v in config.items() if n != "k"}))
    with pytest.raises(ValueError, match=rf"^{path}/cfg\.json: {message}") as raised:
        load_saelens(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", '"a"', "null", "3"])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    path = folder(tmp_path / "sae")
    (path / "cfg.json").write_text(text)
    with pytest.raises(ValueError, match=r"cfg\.json has .*; valid: an object$"):
        load_saelens(path)


ENCODER = r"as W_enc \[width, feature\] is \[32, 48\]"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("b_enc", lambda t: t[:1], rf"b_enc has shape \[1\]; valid: \[48\], {ENCODER}$"),
        ("b_enc", lambda t: t[:, None], rf"b_enc has shape \[48, 1\]; valid: \[48\], {ENCODER}$"),
        ("b_dec", lambda t: t[:1], rf"b_dec has shape \[1\]; valid: \[32\], {ENCODER}$"),
        ("threshold", lambda t: t[:1], rf"threshold has shape \[1\]; valid: \[48\], {ENCODER}$"),
        ("W_dec", lambda t: t.T, rf"W_dec has shape \[32, 48\]; valid: \[48, 32\], {ENCODER}$"),
        ("W_enc", lambda t: t[0], r"W_enc has shape \[48\]; valid: \[width, feature\]$"),
        ("b_dec", lambda t: t.to(torch.complex64), "b_dec is of type complex64; valid: floating-p"),
        ("W_enc", lambda t: t.to(torch.int8), "W_enc is of type int8; valid: floating-point numbe"),
    ],
)
@pytest.mark.parametrize("form", ["saelens", "scope"])
def test_a_tensor_of_another_shape_or_type_is_named_with_the_valid_one(
    tmp_path, form, name, change, message
):
    tensors = weights("jumprelu")
    tensors[name] = change(tensors[name]).contiguous()
    with pytest.raises(ValueError, match=rf"^{tmp_path}/\S*: {message}") as raised:
        if form == "saelens":
            load_saelens(folder(tmp_path / "sae", "jumprelu", tensors, d_in=None, d_sae=None))
        else:
            np.savez(tmp_path / "params.npz", **{n: t.numpy() for n, t in tensors.items()})
            load_gemma_scope(tmp_path / "params.npz", model="m", site=SITE)
    assert "\n" not in str(raised.value)


def test_weights_that_are_transposed_are_said_to_be(tmp_path):
    tensors = weights("standard")
    tensors |= {name: tensors[name].T.contiguous() for name in ("W_enc", "W_dec")}
    with pytest.raises(ValueError, match=r"by the biases, W_enc is transposed$"):
        load_saelens(folder(tmp_path / "sae", "standard", tensors, d_in=None, d_sae=None))


def test_arrays_of_text_are_refused(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in weights("jumprelu").items()}
    np.savez(tmp_path / "params.npz", **arrays | {"b_dec": np.array(["a"] * WIDTH)})
    with pytest.raises(ValueError, match=r"params\.npz: b_dec is of type <U1; valid: floating-"):
        load_gemma_scope(tmp_path / "params.npz", model="m", site=SITE)


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no cfg\.json"):
        load_saelens(tmp_path)
    path = folder(tmp_path / "sae", "topk", k=None)
    with pytest.raises(ValueError, match=r"cfg\.json: k null; valid: 1 to 48"):
        load_saelens(path)
    (path / "sae_weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"there is no sae_weights\.safetensors"):
        load_saelens(path)
    with pytest.raises(ValueError, match=r"embed has no hook; valid: resid_pre, z,"):
        save_saelens(tmp_path / "out", autoencoder(site=Site(0, "embed")), model="m")


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_comes_back_and_is_written_alike(tmp_path, kind):
    ours = autoencoder(kind)
    save_saelens(tmp_path / "a", ours, model="gemma2")
    back = load_saelens(tmp_path / "a")
    save_saelens(tmp_path / "b", back, model=back.provenance.model)
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert torch.equal(back.encode(X), ours.encode(X))
    assert torch.equal(back.reconstruct(X), ours.reconstruct(X))
    assert (back.kind, back.k, back.site) == (kind, ours.k, ours.site)


@pytest.mark.parametrize("name", ["gemma2", "google/gemma2", "models/gemma2/"])
def test_a_named_model_is_one_whose_path_ends_so(tmp_path, name):
    save_saelens(tmp_path / "sae", autoencoder(), model=name)
    sae = load_saelens(tmp_path / "sae")
    sae.check(tiny("gemma2"), SITE)
    with pytest.raises(ValueError, match="model 'gemma2', this is 'llama'"):
        sae.check(tiny("llama"), SITE)
    with pytest.raises(ValueError, match=r"site 'blocks.2.resid_post', this is 'blocks.1.resid_po"):
        sae.check(tiny("gemma2"), Site(1, "resid_post"))
    with pytest.raises(ValueError, match="width 32, this is 64"):
        replace(sae, provenance=replace(sae.provenance, sites=("blocks.2.z",))).check(
            tiny("gemma2"), Site(2, "z")
        )
    load_saelens(tmp_path / "sae", model="llama").check(tiny("llama"), SITE)


def test_our_own_file_keeps_the_name_and_pinning_makes_it_a_hash(tmp_path, monkeypatch):
    save_saelens(tmp_path / "sae", autoencoder(), model="gemma2")
    save_sae(tmp_path / "own", load_saelens(tmp_path / "sae"))
    sae = load_sae(tmp_path / "own")
    assert sae.provenance.named
    model = tiny("gemma2")
    monkeypatch.setattr(model, "weights", "abc")
    sae.check(model, SITE)
    pinned = sae.pinned(model)
    assert (pinned.provenance.model, pinned.provenance.named) == ("abc", False)
    pinned.check(model, SITE)
    monkeypatch.setattr(model, "weights", "def")
    with pytest.raises(ValueError, match="model 'abc', this is 'def'"):
        pinned.check(model, SITE)
    with pytest.raises(ValueError, match="model 'gemma2', this is 'llama'"):
        sae.pinned(tiny("llama"))
