"""Models in llama.cpp's format, and which dtype a CPU is given."""

import logging
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from families import write_model
from safetensors.torch import load_file

from pipeline.config.sections import Model
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.model import dtypes
from pipeline.model.dtypes import resolve_dtype
from pipeline.model.gguf import converted, local_path
from pipeline.model.hub import check_path
from pipeline.model.loading import LanguageModel, load_model

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("accelerate") is None,
    reason="the packages gguf and accelerate are not installed: pip install 'actsweep[gguf]'",
)
needs_smollm2 = pytest.mark.skipif(
    not SMOLLM2.is_file(), reason="SmolLM2-135M-Instruct is not there: make smollm2"
)


def test_what_is_no_gguf_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"model\.path '.*m\.gguf' does not exist"):
        check_path(str(tmp_path / "m.gguf"))
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
    for check in (check_path, local_path):
        with pytest.raises(ValueError, match=r"m\.gguf' is no GGUF file"):
            check(str(tmp_path / "m.gguf"))
    assert local_path("some/folder") == "some/folder"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.model.gguf.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs gguf: pip install 'actsweep\[gguf\]'"):
        converted(tmp_path / "m.gguf")


@needs_gguf
def test_damaged_files_are_one_line_and_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(range(100)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"m\.gguf' is damaged, or of an architecture") as caught:
        converted(tmp_path / "m.gguf")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "actsweep" / "gguf").iterdir()) == []


@needs_gguf
@needs_smollm2
@pytest.mark.slow
def test_a_file_is_converted_once_and_has_its_weights(tmp_path, monkeypatch, caplog):
    import gguf

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        folder = converted(SMOLLM2)
        assert converted(SMOLLM2) == folder
    assert caplog.text.count("converting SmolLM2-135M-Instruct.Q4_1.gguf once") == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    weights = load_file(folder / "model.safetensors")
    named = {tensor.name: tensor for tensor in gguf.GGUFReader(SMOLLM2).tensors}
    tensor = named["blk.7.ffn_down.weight"]
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    found = weights["model.layers.7.mlp.down_proj.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()), rtol=0, atol=0)


@needs_smollm2
@needs_gguf
@pytest.mark.slow
def test_the_chat_model_writes_a_list_as_transformers_does():
    model = load_model(Model(path=str(SMOLLM2), dtype="float32", device="cpu"))
    assert (model.n_layers, model.d_model, len(model.tokenizer)) == (30, 576, 49152)
    instruction = (
        "Provide me with a short list of vegetables. Just provide the names, no need for any other "
        "information."
    )
    (prompt,) = model.prompts([instruction])
    text = model.tokenizer.decode(prompt)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith(f"<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n")
    (ours,) = generate(model, [prompt], [Condition()], Decoding(max_new_tokens=80))
    theirs = model.hf.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=80,
        do_sample=False,
    )[0, len(prompt) :].tolist()
    assert list(ours.tokens) == [token for token in theirs if token not in model.end_tokens]
    assert ours.stopped == "end" and ours.text.startswith("1. Carrots\n2. ")


@pytest.mark.parametrize(
    ("name", "device", "stored", "native", "expected"),
    [
        ("auto", "cpu", torch.bfloat16, True, "bfloat16"),
        ("auto", "cpu", torch.bfloat16, False, "float32"),
        ("auto", "cpu", torch.float16, True, "float32"),
        ("auto", "cpu", torch.float32, True, "float32"),
        ("auto", "cpu", None, True, "float32"),
        ("auto", "cuda:1", torch.bfloat16, False, "bfloat16"),
        ("auto", "cuda", torch.float16, False, "float16"),
        ("float16", "cpu", torch.float32, False, "float16"),
    ],
)
def test_auto_is_what_is_fast_there(name, device, stored, native, expected, monkeypatch):
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: native)
    assert resolve_dtype(name, device, stored) == expected
    with pytest.raises(ValueError, match="dtype 'half' is unknown; valid: auto, float32, bfloat16"):
        resolve_dtype("half", device, stored)


def test_another_dtype_than_the_files_is_said(tmp_path, monkeypatch, caplog):
    write_model("llama", tmp_path / "m", None)
    model = LanguageModel.load(str(tmp_path / "m"), dtype="bfloat16")
    model.hf.save_pretrained(tmp_path / "half")
    for file in (tmp_path / "m").glob("token*"):
        shutil.copy(file, tmp_path / "half")
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        found = LanguageModel.load(str(tmp_path / "half"), device="cpu")
    assert found.dtype is torch.float32
    assert "dtype auto: float32, as torch.bfloat16 is slow on this processor" in caplog.text
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    assert LanguageModel.load(str(tmp_path / "half"), device="cpu").dtype is torch.bfloat16
