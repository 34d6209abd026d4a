"""What `actsweep doctor` says of a machine and of a model."""

import subprocess
import sys

import pytest
import torch
import transformers
from families import LAYERS, WIDTH, tiny, write_model

from pipeline.cli import main
from pipeline.config.sections import Model
from pipeline.runs import doctor


def test_it_names_versions_devices_and_caches():
    found = dict(doctor.examine())
    assert found["torch"] == torch.__version__
    assert {"python", "transformers", "cpu", "device auto", "models in", "outputs in"} <= set(found)
    assert "loads" not in found


@pytest.mark.parametrize("family", ["gemma3_wrapped", "gpt2"])
def test_it_tries_a_model(family, tmp_path, capsys):
    write_model(family, tmp_path, None)
    main(["doctor", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    found = {line[:14].strip(): line[15:] for line in lines}
    kind = tiny(family).hf.config.model_type
    assert found["model"].startswith(f"{kind}, {LAYERS} layers of {WIDTH}, ")
    assert found["fits"].startswith("yes: its weights need 0.00 GB of ")
    assert found["runs"].startswith("one pass of ") and " tokens in 0." in found["runs"]
    assert found["context"].endswith(" tokens")
    assert found["vocabulary"] == "304 tokens, 304 embeddings"
    assert found["chat template"].startswith("none: a prompt is the instruction")
    assert "up to 32,768: on a CPU more" in found["batch_tokens"]


def test_what_completions_do_not_follow_is_told_once(tmp_path):
    """Though the model is loaded in one dtype after the other to time them."""
    write_model("llama", tmp_path, None)
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.3}')
    command = [sys.executable, "-m", "pipeline.cli", "doctor", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "dtypes" in done.stdout
    assert done.stderr.count("completions do not follow the generation_config of") == 1


def test_it_counts_the_weights_and_does_not_load_what_does_not_fit(tmp_path, monkeypatch):
    write_model("llama", tmp_path, None)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    size = sum(p.numel() * p.element_size() for p in loaded.parameters())
    monkeypatch.setattr(doctor, "choose_device", lambda name: "cpu")
    monkeypatch.setattr(doctor, "_free", lambda device: 1000)
    monkeypatch.setattr(doctor, "_gb", str)
    found = dict(doctor.examine(Model(path=str(tmp_path))))
    assert found["fits"] == f"no: its weights need {size}, and cpu has 1000 free"
    assert "loads" not in found


def test_it_says_how_many_tokens_a_batch_may_have(tmp_path, monkeypatch):
    write_model("llama", tmp_path, None)
    # 4 layers, keys and values, 2 heads of 8, in float32.
    size = 4 * 2 * 2 * 8 * 4
    monkeypatch.setattr(doctor, "_free", lambda device: 2 * 5000 * size)
    monkeypatch.setattr(doctor, "_gb", str)
    found = dict(doctor.examine(Model(path=str(tmp_path))))
    assert found["batch_tokens"] == (
        "16,384; about 4,096 would fit; a KV cache takes 0.5 kB per token, half of the free memory "
        "is 2560000"
    )


def test_a_model_of_the_project_goes_by_its_name(tmp_path, capsys, monkeypatch):
    for folder in ("conf/study", "conf/model", "stages"):
        (tmp_path / folder).mkdir(parents=True)
    write_model("qwen2", tmp_path / "weights", None)
    path = tmp_path / "conf" / "model" / "mine.yaml"
    path.write_text("path: weights\ndtype: bfloat16\ndevice: cpu\n")
    monkeypatch.chdir(tmp_path)
    main(["doctor", "mine"])
    said = capsys.readouterr().out
    assert "parameters in bfloat16" in said and "one pass of " in said
    path.write_text("path: weights\ndtpe: bfloat16\n")
    with pytest.raises(SystemExit):
        main(["doctor", "mine"])
    error = capsys.readouterr().err
    assert error.startswith("error: conf/model/mine.yaml: dtpe: unknown key; did you mean dtype?")
    assert error.count("\n") == 1


def test_it_says_how_the_chat_template_ends(tmp_path):
    template = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}<answer>"
    write_model("llama", tmp_path, template)
    found = dict(doctor.examine(Model(path=str(tmp_path), device="cpu")))
    assert found["chat template"] == "ends in '<end><answer>', takes system turn"


@pytest.mark.parametrize("name", ["", "mnie"])
def test_what_is_no_model_is_one_line(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", name or str(tmp_path)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert ("'mnie' is not a local folder" if name else "it has no config.json") in error
    assert (
        "; conf/model here has: embedded, gemma_2_2b, gemma_2_2b_it" in error
        and error.count("\n") == 1
    )
