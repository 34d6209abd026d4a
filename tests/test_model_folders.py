"""Model folders whose files do not belong together, and tokenizers and templates with a twist."""

import json
import logging
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from families import byte_tokenizer, tokenizer, write_model
from safetensors.torch import load_file, save_file

from pipeline.config.sections import Model
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.model import chat, tokenization
from pipeline.model.loading import LanguageModel, without_weights
from pipeline.model.tokenizer import load_tokenizer
from pipeline.model.weights import check_files

TURNS = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}<answer>"


def edit(folder: Path, file: str, **values) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save_weights(folder: Path, weights: dict) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path) -> Path:
    write_model("llama", tmp_path / "m", TURNS)
    return tmp_path / "m"


def renamed(weights: dict) -> dict:
    return {name.replace("q_proj.", "q_proj.base_layer."): w for name, w in weights.items()}


def without_head(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if name != "lm_head.weight"}


def without_block_3(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if ".layers.3." not in name}


def with_lora(weights: dict) -> dict:
    extra = {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)}
    return weights | extra


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_head, r"have no lm_head\.weight"),
        (renamed, r"have no model\.layers\.0\.self_attn\.q_proj\.weight, .* and 1 more"),
        (without_block_3, r"no model\.layers\.3"),
        (with_lora, r"not merged, such as model\.layers\.0\.self_attn\.q_proj\.lora_A"),
    ],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_config_are_refused(folder, change, message):
    save_weights(folder, change(load_file(folder / "model.safetensors")))
    with pytest.raises(ValueError, match=message):
        LanguageModel.load(str(folder))


def test_weights_without_a_place_are_named_in_a_warning(folder, caplog):
    weights = load_file(folder / "model.safetensors")
    save_weights(folder, weights | {"score.weight": torch.ones(2, 32)})
    with caplog.at_level(logging.WARNING):
        LanguageModel.load(folder)
    assert "no place for 1 weights of its files: score.weight" in caplog.text


def test_weights_of_blocks_that_the_config_leaves_out_are_refused(folder):
    edit(folder, "config.json", num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"leaves out weights of blocks .*: model\.layers\.2\."):
        LanguageModel.load(folder)


def test_wrongly_sized_weights_are_named(folder):
    edit(folder, "config.json", intermediate_size=40)
    with pytest.raises(ValueError, match=r"do not fit its config: .*mlp.*\[32, 48\].*\[32, 40\]"):
        LanguageModel.load(str(folder))


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "awq", "fp8"])
def test_quantised_models_are_refused_before_their_weights_are_read(folder, method):
    edit(folder, "config.json", quantization_config={"quant_method": method, "bits": 4})
    (folder / "model.safetensors").unlink()
    for load in (
        lambda: LanguageModel.load(str(folder)),
        lambda: without_weights(Model(path=str(folder)), tokenizer()),
    ):
        with pytest.raises(ValueError, match=rf"is quantised \({method}\), which is not supp"):
            load()


def test_damaged_files_and_adapters_are_found_without_reading_weights(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"are damaged: model\.safetensors"):
        check_files(str(folder))
    for name in ("model.safetensors", "pytorch_model.bin"):
        weights.unlink(missing_ok=True)
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        with pytest.raises(ValueError, match=f"{name} is a pointer of git-lfs"):
            check_files(str(folder))
    weights.write_bytes(content)
    (folder / "pytorch_model.bin").unlink()
    check_files(str(folder))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text('{"peft_type": "LORA"}')
        with pytest.raises(ValueError, match=rf"has an adapter \({name}\)"):
            check_files(str(folder))
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hidden_act": "gelux"}, "has hidden_act 'gelux', which transformers does not know"),
        ({"rope_parameters": {"rope_type": "yarm", "rope_theta": 1e4}}, "has rope_type 'yarm'"),
        ({"dtype": "float7"}, "cannot be loaded: .*float7"),
        ({"vocab_size": -1}, "no model can be built from the config"),
        ({"model_type": "bert"}, "model type 'bert' of .* is not supported; valid: gemma"),
    ],
)
def test_values_that_transformers_does_not_know_are_named(folder, entries, message):
    edit(folder, "config.json", **entries)
    with pytest.raises(ValueError, match=message):
        LanguageModel.load(str(folder))
    with pytest.raises(ValueError, match=message):
        without_weights(Model(path=str(folder)), tokenizer())


def test_truncated_pickles_are_one_line(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"the weights of model\.path '.*' cannot be loaded: "):
        LanguageModel.load(str(folder))


def test_a_token_past_the_embedding_is_named(folder):
    model = LanguageModel.load(str(folder))
    last = len(model.tokenizer) - 1
    with pytest.raises(ValueError, match=rf"token {last + 1}; valid: 0 to {last}"):
        generate(model, [[1, last + 1]], [Condition()])


def test_a_tokenizer_needs_no_letter_a(tmp_path):
    vocab = {"<unk>": 0, "A": 1, "B": 2, "C": 3}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    made.save_pretrained(tmp_path / "abc")
    assert load_tokenizer(str(tmp_path / "abc")).encode("A C") == [1, 3]
    empty = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=empty, unk_token="<unk>").save_pretrained(
        tmp_path / "none"
    )
    with pytest.raises(ValueError, match="has no tokenizer: its vocabulary is empty"):
        load_tokenizer(str(tmp_path / "none"))


def test_named_chat_templates_use_the_default(tmp_path):
    made = byte_tokenizer(None, adds_bos=False)
    made.chat_template = {"default": TURNS, "tool_use": "x" + TURNS}
    made.save_pretrained(tmp_path / "several")
    loaded = load_tokenizer(str(tmp_path / "several"))
    assert chat.render(loaded, "Why?") == "<user>Why?<end><answer>"
    assert len(chat.template_digest(loaded)) == 16
    made.chat_template = {"rag": TURNS, "tool_use": TURNS}
    made.save_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match="several chat templates, none named default: "):
        load_tokenizer(str(tmp_path / "none"))


def test_a_prompt_to_be_continued_ends_in_its_own_last_token():
    made = byte_tokenizer(None, adds_bos=False)
    plain = tokenization.encode(made, "France is", raw=True)
    made.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A <end>", special_tokens=[("<bos>", 0), ("<end>", 3)]
    )
    assert made.encode("France is") == [0, *plain, 3]
    assert tokenization.encode(made, "France is", raw=True) == [0, *plain]
    assert tokenization.encode(made, "France is<end>", raw=True) == [0, *plain, 3]  # its own text
    tokens, answer = tokenization.with_answer(made, "France is", " Paris", raw=True)
    assert tokens[-1] != 3 and answer[-1] == len(tokens) - 1
    assert tokenization.template_length(made) == 1


@pytest.mark.parametrize(
    "header",
    [
        "{{ strftime_now('%d') }} ",
        "{% if today is not defined %}{% set today = strftime_now('%d') %}{% endif %}{{ today }} ",
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
        "{{ date_string[:2] }} ",
    ],
)
def test_a_prompt_is_the_same_every_day_however_its_template_finds_the_date(header):
    made = byte_tokenizer(header + TURNS, adds_bos=False)
    assert chat.render(made, "Why?") == "26 <user>Why?<end><answer>"


def test_a_template_that_draws_at_random_is_refused():
    made = byte_tokenizer("{{ ['Hi', 'Hello'] | random }} " + TURNS, adds_bos=False)
    for render in (chat.announce, lambda tokenizer: chat.render(tokenizer, "Why?")):
        with pytest.raises(ValueError, match="at random: a prompt would not be the same twice"):
            render(made)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"repetition_penalty": 1.3}, "repetition_penalty 1.3"),
        ({"suppress_tokens": [7]}, "suppress_tokens [7]"),
        ({"begin_suppress_tokens": [7]}, "begin_suppress_tokens [7]"),
        ({"bad_words_ids": [[7]]}, "bad_words_ids [[7]]"),
        ({"no_repeat_ngram_size": 1}, "no_repeat_ngram_size 1"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id 2"),
        ({"min_new_tokens": 8}, "min_new_tokens 8"),
        (
            {"num_return_sequences": 3, "do_sample": True},
            "num_return_sequences 3; do_sample (temperature 1), as `decoding` decides",
        ),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            "do_sample (temperature 0.6, top_p 0.9), as `decoding` decides",
        ),
        ({"eos_token_id": 7}, "eos_token_id 7, without the tokenizer's 3"),
    ],
)
def test_what_generate_heeds_and_the_engine_does_not_is_named(folder, setting, named, caplog):
    with caplog.at_level(logging.WARNING):
        LanguageModel.load(str(folder))
    assert caplog.text == ""
    edit(folder, "generation_config.json", **setting)
    with caplog.at_level(logging.WARNING):
        LanguageModel.load(str(folder))
    (record,) = caplog.records
    assert record.getMessage().startswith("completions do not follow the generation_config of")
    assert record.getMessage().endswith(f": {named}")


@pytest.mark.parametrize("setting", [{"num_return_sequences": 3}, {"max_new_tokens": 0}])
def test_a_generation_config_that_transformers_refuses_is_named(folder, setting):
    edit(folder, "generation_config.json", **setting)
    (name,) = setting
    with pytest.raises(ValueError, match=rf"generation_config.json is not valid: .*`{name}`"):
        LanguageModel.load(str(folder))


def test_sampling_settings_of_a_generation_config_are_the_studys_to_choose(folder):
    edit(folder, "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9)
    model = LanguageModel.load(str(folder))
    prompt = model.prompts(["Why?"])
    (ours,) = generate(model, prompt, [Condition()], Decoding(max_new_tokens=3))
    theirs = model.hf.generate(
        torch.tensor(prompt),
        attention_mask=torch.ones(1, len(prompt[0]), dtype=torch.long),
        max_new_tokens=3,
        do_sample=False,
    )[0, len(prompt[0]) :].tolist()
    assert list(ours.tokens) == [t for t in theirs if t != 3]


def test_integer_weights_are_refused_without_a_quantised_config(folder):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    save_weights(folder, weights | {name: weights[name].to(torch.int8)})
    with pytest.raises(ValueError, match=rf"has {name} as I8, as if quantised; valid: F32, BF16"):
        check_files(str(folder))


def test_a_config_that_is_none_and_a_folders_revision_are_one_line(folder):
    with pytest.raises(ValueError, match=r"model\.revision: 'abc' of a local folder; valid: null"):
        LanguageModel.load(str(folder), revision="abc")
    edit(folder, "config.json", hidden_size="wide")
    with pytest.raises(ValueError, match=r"config of model\.path .* cannot be loaded: ") as caught:
        LanguageModel.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ foo", "the chat template fails: "),
        ("{{ raise_exception('no') }}", "the chat template fails: no"),
        ("hello", "does not contain the instruction as it is: 'Why 7[?]' becomes 'hello'"),
        ("{{ messages[0]['content'] | upper }}", "'Why 7[?]' becomes 'WHY 7[?]'"),
    ],
)
def test_templates_that_fail_or_change_the_instruction_are_refused(template, message):
    made = byte_tokenizer(template, adds_bos=False)
    with pytest.raises(ValueError, match=message):
        chat.announce(made)


def test_pickled_integers_and_values_that_are_no_numbers_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    (folder / "model.safetensors").unlink()
    torch.save(
        {**weights, name: (weights[name] * 100).to(torch.int8)}, folder / "pytorch_model.bin"
    )
    with pytest.raises(
        ValueError, match=rf"pytorch_model.bin has {name} as torch.int8, as if quant"
    ):
        LanguageModel.load(str(folder))
    weights[name][0, 0] = torch.nan
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
        LanguageModel.load(str(folder))


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("text", "message"), [("[]", "is no JSON object"), ('{"eos_token_id": [2', "is damaged: ")]
)
def test_damaged_configs_beside_the_model_are_one_line(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        LanguageModel.load(str(folder))
