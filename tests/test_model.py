"""Sites and hooks of every family against transformers' own outputs."""

import copy
from importlib.util import find_spec

import pytest
import torch
import transformers
from families import (
    FAMILIES,
    LAYERS,
    WIDTH,
    byte_tokenizer,
    random_prompts,
    tiny,
    tokenizer,
    write_model,
)

from pipeline.config.sections import Model
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add
from pipeline.model.hooks import read, with_hooks
from pipeline.model.hub import check_path, is_hub_id
from pipeline.model.loading import (
    LanguageModel,
    NeedsRun,
    choose_device,
    without_weights,
)
from pipeline.model.sites import COMPONENTS, Site, check_component, chosen_layers, collected_layers
from pipeline.model.tokenizer import load_tokenizer

PROMPTS = random_prompts(4, seed=3)


def components(model) -> list[str]:
    return [c for c in COMPONENTS if not (c == "resid_mid" and model.parallel)]


def run(hf, ids, mask, **arguments):
    """Transformers' own forward pass, positions counted from each row's first token."""
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return hf(ids, attention_mask=mask, position_ids=places, **arguments)


def logits(model, ids, mask):
    return run(model.hf, ids, mask).logits


@pytest.mark.parametrize(
    "text",
    ["embed", "blocks.0.resid_pre", "blocks.12.z[5]", "blocks.3.mlp_act[17]", "blocks.1.pattern"],
)
def test_a_site_prints_as_it_is_read(text):
    assert str(Site.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "blocks.x.z",
        "blocks.1.resid_ost",
        "resid_pre",
        "blocks.1.resid_pre[3]",
        "blocks.1.pattern[0]",
    ],
)
def test_what_is_no_site_is_refused(text):
    with pytest.raises(ValueError, match=r"valid|only z"):
        Site.parse(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_exactly_those_of_transformers(family, tmp_path):
    """Loaded from the same folder, run on the same batch, with an edit of strength 0 in place.

    Torch multiplies by weights that could need a gradient in another order: with these the last bit
    may differ, so transformers' model is frozen as ours is.
    """
    tiny(family).hf.save_pretrained(tmp_path)
    # Byte pairs: transformers reads any tokenizer beside a Qwen 2 as its own kind.
    byte_tokenizer(None, adds_bos=False).save_pretrained(tmp_path)
    ours = LanguageModel.load(str(tmp_path), device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).requires_grad_(False)
    by_length = sorted(PROMPTS, key=len)
    ids, mask = ours.pad(by_length)
    expected = run(theirs, ids, mask, logits_to_keep=1).logits
    nothing = Condition(edits=(Edit(Site(1, "resid_post"), Add(torch.ones(WIDTH), 0.0)),))
    for condition in (Condition(), nothing):
        found = score_last(ours, by_length, [condition], lambda x: x, batch_tokens=10**6)
        assert torch.equal(found[0], expected[:, -1])
    assert ours.weights and ours.dtype == torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_single(family, dtype):
    """From the same rounded weights, logits within 5 roundings (3.9 % and 0.5 %) of the largest."""
    half = copy.deepcopy(tiny(family).hf).to(dtype)
    whole = copy.deepcopy(half).float()
    model = LanguageModel(half, None, name=family)
    ids, mask = model.pad(PROMPTS)
    seen = read(model, [Site(1, c) for c in components(model)], ids, mask)
    assert {value.dtype for value in seen.values()} == {dtype}
    low, high = (run(m, ids, mask).logits[mask.bool()].float() for m in (half, whole))
    assert (low - high).abs().max() <= 5 * torch.finfo(dtype).eps * high.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_transformers_attentions(family):
    model = tiny(family)
    eager = copy.deepcopy(model.hf)
    eager.set_attn_implementation("eager")
    ids, mask = model.pad(PROMPTS)
    out = run(eager, ids, mask, output_attentions=True)
    real = mask.bool()
    patterns = [Site(layer, "pattern") for layer in range(LAYERS)]
    found = read(model, [*patterns, Site(2, "z")], ids, mask)
    for site, attention in zip(patterns, out.attentions, strict=True):
        rows = found[site].transpose(1, 2)[real]
        assert torch.equal(rows, attention.transpose(1, 2)[real])
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))
        # Neither the future nor a pad is looked at.
        assert not found[site].triu(1).transpose(1, 2)[real].any()
        assert not (rows * (1 - mask)[:, None].expand(-1, ids.shape[1], -1)[real][:, None]).any()
    clean = logits(model, ids, mask)[real]
    assert (clean - out.logits[real]).abs().max() <= 1e-5 * max(1.0, float(clean.abs().max()))


def test_attention_is_eager_only_while_patterns_are_asked_for():
    model = tiny("gemma3_wrapped")
    ids, mask = model.pad(PROMPTS)
    used = {}
    for component in ("pattern", "attn_out"):
        note = lambda _, c=component: used.__setitem__(c, model.config._attn_implementation)  # noqa: E731
        with with_hooks(model, {Site(1, component): note}):
            logits(model, ids, mask)
    assert used == {"pattern": "eager", "attn_out": "sdpa"}
    assert model.config._attn_implementation == model.hf.config._attn_implementation == "sdpa"


def test_patterns_cannot_be_written_collected_or_edited():
    model = tiny("llama")
    ids, mask = model.pad(PROMPTS)
    site = Site(1, "pattern")
    with (
        pytest.raises(ValueError, match=r"blocks\.1\.pattern can be read but not written"),
        with_hooks(model, {site: lambda pattern: pattern}),
    ):
        logits(model, ids, mask)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="no rows to collect"):
        collect(model, PROMPTS, [site], "all")
    with pytest.raises(ValueError, match="can be read but not edited"):
        Edit(site, Add(torch.ones(WIDTH)))
    with pytest.raises(
        ValueError, match="'pattern' is not a component of a layer; valid: resid_pre"
    ):
        check_component("pattern", "a model", parallel=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_is_the_sum_of_what_is_added(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS)
    branches = [Site(n, c) for n in range(LAYERS) for c in ("attn_out", "mlp_out")]
    last = Site(LAYERS - 1, "resid_post")
    found = read(model, [Site(0, "embed"), *branches, last], ids, mask)
    total = found[Site(0, "embed")] + sum(found[site] for site in branches)
    torch.testing.assert_close(total[mask.bool()], found[last][mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_and_writing_back_changes_nothing(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS)
    clean = logits(model, ids, mask)
    for component in components(model):
        with with_hooks(model, {Site(1, component): lambda hidden: hidden.clone()}):
            assert torch.equal(logits(model, ids, mask), clean), component
    assert torch.equal(logits(model, ids, mask), clean)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_changes_what_lies_downstream_and_nothing_else(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS)
    sites = [Site(n, c) for n in range(3) for c in components(model)]
    clean = read(model, sites, ids, mask)
    for edited in (Site(1, c) for c in components(model)):
        with with_hooks(model, {edited: lambda hidden: hidden + 1}):
            after = read(model, sites, ids, mask)
        for site in sites:
            same = torch.equal(after[site], clean[site])
            if site.depth < edited.depth:
                assert same, (edited, site)
            elif site.layer > 1 or site.component == "resid_post":
                assert not same, (edited, site)


def test_a_write_at_resid_mid_reaches_stream_and_branch():
    """Against the block computed by hand: mid is the stream, the MLP reads its norm."""
    model = tiny("llama")
    ids, mask = model.pad(PROMPTS[:1])
    middle, after = Site(1, "resid_mid"), Site(1, "resid_post")
    block = model.blocks[1]
    with with_hooks(model, {middle: lambda hidden: hidden * 2}):
        edited = read(model, [after], ids, mask)[after]
    mid = read(model, [middle], ids, mask)[middle] * 2
    by_hand = mid + block.mlp(block.post_attention_layernorm(mid))
    torch.testing.assert_close(edited, by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_neurons_sum_to_what_they_are_projected_to(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS[:1])
    for whole, count in (("z", 4), ("mlp_act", model.width(Site(0, "mlp_act")))):
        site = Site(2, whole)
        units = [Site(2, whole, unit) for unit in range(count)]
        found = read(model, [site, *units], ids, mask)
        projection, _ = model.module_of(site)
        width = model.width(units[0])
        assert width * count == model.width(site)
        bias = projection(torch.zeros_like(found[site]))
        total = bias.clone()
        for number, unit in enumerate(units):
            alone = torch.zeros_like(found[site])
            alone[..., number * width : (number + 1) * width] = found[unit]
            total += projection(alone) - bias
        torch.testing.assert_close(total, projection(found[site]), atol=1e-5, rtol=1e-4)


def test_a_unit_can_be_written_alone():
    model = tiny("gemma2")
    ids, mask = model.pad(PROMPTS[:1])
    whole = Site(1, "z")
    clean = read(model, [whole], ids, mask)[whole]
    zeroed = clean.clone()
    zeroed[..., 16:32] = 0
    with with_hooks(model, {Site(1, "z", 1): torch.zeros_like}):
        by_unit = logits(model, ids, mask)
    with with_hooks(model, {whole: lambda hidden: zeroed}):
        by_whole = logits(model, ids, mask)
    assert torch.equal(by_unit, by_whole)
    assert not torch.equal(by_unit, logits(model, ids, mask))


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_equals_unpadded(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS)
    site = Site(LAYERS - 1, "resid_post")
    padded = read(model, [site], ids, mask)[site]
    for row, prompt in enumerate(PROMPTS):
        alone = read(model, [site], *model.pad([prompt]))[site]
        torch.testing.assert_close(padded[row, -len(prompt) :], alone[0], atol=1e-5, rtol=1e-4)


def test_reading_stops_at_the_deepest_site():
    model = tiny("llama")
    reached = []
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: reached.append(2))
    read(model, [Site(1, "resid_pre"), Site(1, "mlp_out")], *model.pad(PROMPTS))
    assert reached == []
    read(model, [Site(2, "resid_pre")], *model.pad(PROMPTS))
    handle.remove()
    assert reached == [2]


def test_a_site_that_is_not_there_names_the_valid_ones():
    model = tiny("llama")
    with pytest.raises(ValueError, match=r"blocks\.7\.z: llama has no layer 7; valid: 0 to 3"):
        model.check(Site(7, "z"))
    with pytest.raises(ValueError, match=r"no such unit in llama; valid: 0 to 3"):
        model.check(Site(1, "z", 4))


def test_unsupported_models_and_folders_are_refused(tmp_path):
    class Config:
        model_type = "t5"

    class Model:
        config = Config()

    with pytest.raises(ValueError, match=r"'t5' of it is not supported; valid: gemma, "):
        LanguageModel(Model(), None, name="it")
    Config.model_type = "gemma3n"
    with pytest.raises(ValueError, match=r"cannot be supported: its later layers share keys"):
        LanguageModel(Model(), None, name="it")
    with pytest.raises(ValueError, match="device 'tpu' is not on this machine; valid: auto, "):
        choose_device("tpu")
    with pytest.raises(ValueError, match=r"is not a model: it has no config\.json"):
        check_path(str(tmp_path))
    for path in ("no/such/model/folder", "data/embeded_model", "./x"):
        with pytest.raises(ValueError, match="is not a model"):
            check_path(path)
    for hub in ("gpt2", "google/gemma-2-2b-it"):
        assert is_hub_id(hub)
    with pytest.raises(ValueError, match="dtype 'float12' is unknown; valid: auto, float32, bfl"):
        LanguageModel.load(str(tmp_path), dtype="float12")


def test_damaged_weights_and_missing_tokenizers_are_named(tmp_path):
    write_model("gpt2", tmp_path, None)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"the weights of model\.path '.*' are damaged: "):
        LanguageModel.load(str(tmp_path), device="cpu")
    for file in tmp_path.glob("token*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no tokenizer: its vocabulary is empty"):
        load_tokenizer(str(tmp_path))


def test_a_family_is_refused_before_its_weights_are_loaded(tmp_path):
    transformers.MixtralConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    section = Model(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"\(mixtral\) cannot be supported: its MLP is a mixture"):
        without_weights(section, tokenizer())
    transformers.Gemma3Config(text_config={"num_hidden_layers": 5}).save_pretrained(tmp_path)
    model = without_weights(section, tokenizer())
    assert (model.n_layers, model.device.type) == (5, "meta")
    with pytest.raises(NeedsRun, match="was loaded without weights"):
        collect(model, PROMPTS, [Site(0, "resid_pre")], "last")


@pytest.mark.skipif(find_spec("accelerate") is not None, reason="accelerate is installed")
def test_a_device_map_names_what_it_needs(monkeypatch):
    monkeypatch.setattr("pipeline.model.loading.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"device_map 'auto' needs accelerate: pip install"):
        LanguageModel.load("somewhere", device_map="auto")


def test_width_is_that_of_the_activation():
    for family in FAMILIES:
        model = tiny(family)
        for component in components(model):
            site = Site(0, component)
            ids, mask = model.pad(PROMPTS[:1])
            assert read(model, [site], ids, mask)[site].shape[-1] == model.width(site)
    assert tiny("gemma2").width(Site(0, "z")) == 64 != WIDTH


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", [0, 1, 2, 3, 4, 5, 6]), ("every 3", [0, 3, 6]), ([5, 2], [5, 2])],
)
def test_layers_are_all_every_nth_or_listed(layers, expected):
    sites = [Site(layer, name) for layer in range(7) for name in ("resid_pre", "z")]
    assert chosen_layers(layers, 7, "m") == expected
    assert collected_layers("z", layers, sites) == expected


@pytest.mark.parametrize(
    "layers", ["every 0", "every", "every 1.5", "some", [], [1, 1], [7], [True]]
)
def test_layers_that_the_model_does_not_have_are_named(layers):
    with pytest.raises(ValueError, match="layers: "):
        chosen_layers(layers, 7, "m")
