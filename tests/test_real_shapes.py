"""The models of conf/model in their real shapes: no weights, and Gemma 2 2B with two layers."""

from pathlib import Path

import pytest
import torch
import transformers
from families import tokenizer

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add
from pipeline.model.hooks import with_hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import COMPONENTS, Site

ROOT = Path(__file__).parents[1]


def sized(hidden, layers, heads, intermediate, vocab, **more):
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        **more,
    }


GEMMA_2_2B = sized(2304, 26, 8, 9216, 256000, num_key_value_heads=4, head_dim=256)
# From each model's published config.json, and its number of parameters in millions.
SHAPES = {
    "gemma_2_2b": (transformers.Gemma2Config, GEMMA_2_2B, 2614),
    "gemma_2_2b_it": (transformers.Gemma2Config, GEMMA_2_2B, 2614),
    "gemma_3_1b_it": (
        transformers.Gemma3TextConfig,
        sized(1152, 26, 4, 6912, 262144, num_key_value_heads=1, head_dim=256),
        1000,
    ),
    "gpt_2": (transformers.GPT2Config, {}, 124),
    "llama_3_2_1b_instruct": (
        transformers.LlamaConfig,
        sized(2048, 16, 32, 8192, 128256, num_key_value_heads=8, tie_word_embeddings=True),
        1236,
    ),
    "mistral_7b_instruct": (
        transformers.MistralConfig,
        sized(4096, 32, 32, 14336, 32768, num_key_value_heads=8),
        7248,
    ),
    "olmo_2_1b_instruct": (
        transformers.Olmo2Config,
        sized(2048, 16, 16, 8192, 100352, num_key_value_heads=16),
        1485,
    ),
    "phi_3_mini_instruct": (
        transformers.Phi3Config,
        sized(3072, 32, 32, 8192, 32064, num_key_value_heads=32),
        3821,
    ),
    "pythia_1_4b": (transformers.GPTNeoXConfig, sized(2048, 24, 16, 8192, 50304), 1415),
    "qwen_2_5_1_5b_instruct": (
        transformers.Qwen2Config,
        sized(1536, 28, 12, 8960, 151936, num_key_value_heads=2, tie_word_embeddings=True),
        1544,
    ),
    "qwen_3_1_7b": (
        transformers.Qwen3Config,
        sized(
            2048, 28, 16, 6144, 151936,
            num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        ),
        1721,
    ),
    "smollm2_135m_instruct": (
        transformers.LlamaConfig,
        sized(576, 30, 9, 1536, 49152, num_key_value_heads=3, tie_word_embeddings=True),
        135,
    ),
}  # fmt: skip


def test_every_model_file_has_its_shape():
    names = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert names - {"embedded", "local"} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_every_site_is_found_in_the_real_shape(name):
    kind, shape, millions = SHAPES[name]
    with torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(kind(**shape))
    count = sum(parameter.numel() for parameter in hf.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.01)
    model = LanguageModel(hf, tokenizer(), name=name)
    assert model.n_layers == hf.config.num_hidden_layers
    for component in COMPONENTS:
        if component in ("pattern", "embed") or (component == "resid_mid" and model.parallel):
            continue
        site = model.check(Site(model.n_layers - 1, component))
        heads = getattr(hf.config, "head_dim", None) or model.d_model // model.n_heads
        inner = getattr(hf.config, "intermediate_size", None) or 4 * model.d_model
        expected = {
            "z": heads * model.n_heads,
            "mlp_act": inner,
            "mlp_down": inner + model.d_model,
        }.get(component, model.d_model)
        assert model.width(site) == expected, component


@pytest.mark.slow
def test_gemma_2s_shape_with_two_layers_runs_as_transformers_does():
    """2.9 GB of random weights: heads wider than the stream, soft-capping, 256 thousand tokens."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**GEMMA_2_2B | {"num_hidden_layers": 2}, eos_token_id=1)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    model = LanguageModel(hf, tokenizer(), name="gemma_2_2b")
    prompts = [[2, 17, 255999, 40], [2, 9, 30000]]
    site = Site(1, "resid_pre")
    direction = torch.randn(model.d_model)
    edited = Condition({"strength": 1}, (Edit(site, Add(direction), "last"),))
    conditions = [Condition(), edited]
    found = score_last(model, prompts, conditions, lambda logits: logits, batch_tokens=100)
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])

        def steer(hidden):
            changed = hidden.clone()
            changed[:, -1] += direction
            return changed

        with torch.inference_mode():
            torch.testing.assert_close(found[0, row], hf(ids).logits[0, -1], rtol=0, atol=1e-4)
            with with_hooks(model, {site: steer}):
                expected = hf(ids).logits[0, -1]
            torch.testing.assert_close(found[1, row], expected, rtol=0, atol=1e-4)
    completions = generate(model, prompts, [Condition()], Decoding(max_new_tokens=3))
    for completion, prompt in zip(completions, prompts, strict=True):
        theirs = hf.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=3,
            do_sample=False,
        )[0, len(prompt) :].tolist()
        assert list(completion.tokens) == [token for token in theirs if token != 1]
