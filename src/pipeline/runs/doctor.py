"""Report versions, devices and free memory, and whether a model fits and runs."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
import transformers

from pipeline.config.sections import Model
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.model import chat
from pipeline.model.architectures import architecture_of
from pipeline.model.dtypes import DTYPES, choose_device, resolve_dtype
from pipeline.model.hub import check_path
from pipeline.model.loading import LanguageModel, load_model
from pipeline.model.weights import load_config

_TIMED = 512
"""Tokens of the timed pass."""
_MOST_ON_CPU = 32768
PACKAGES = ("actsweep", "torch", "transformers", "datasets", "hydra-core", "dvc", "wandb")


def examine(model: Model | None = None) -> Iterator[tuple[str, str]]:
    """Yield pairs of a subject and a finding; slow checks come last.

    Args:
        model: model to load and to run one forward pass of, if it fits into memory.

    Raises:
        ValueError: the model does not exist, or its family is not supported.
    """
    yield "python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    for name in PACKAGES:
        yield name, importlib.metadata.version(name)
    memory = psutil.virtual_memory()
    yield "cpu", f"{os.cpu_count()} cores, {_gb(memory.available)} of {_gb(memory.total)} free"
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield f"cuda:{number}", f"{name}, {_gb(free)} of {_gb(total)} free"
    if torch.backends.mps.is_available():
        yield "mps", f"{_gb(_free('mps'))} may be used"
    yield "device auto", choose_device("auto")
    yield from _caches()
    if model is not None:
        yield from _examine_model(model)


def _caches() -> Iterator[tuple[str, str]]:
    import datasets
    from huggingface_hub import constants

    for name, folder in [
        ("models", constants.HF_HUB_CACHE),
        ("datasets", datasets.config.HF_DATASETS_CACHE),
        ("outputs", Path.cwd()),
    ]:
        existing = next(p for p in (Path(folder), *Path(folder).parents) if p.exists())
        yield f"{name} in", f"{folder}, {_gb(shutil.disk_usage(existing).free)} free"


def _examine_model(section: Model) -> Iterator[tuple[str, str]]:
    check_path(section.path, section.revision)
    config = load_config(section.path, section.revision)
    architecture_of(config, section.path)
    with torch.device("meta"):
        shapes = transformers.AutoModelForCausalLM.from_config(config)
    device = choose_device(section.device)
    dtype = DTYPES[resolve_dtype(section.dtype, device, config.dtype)]
    count = sum(parameter.numel() for parameter in shapes.parameters())
    text = config.get_text_config()
    yield (
        "model",
        f"{config.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}, "
        f"{count / 1e6:,.1f}M parameters in {str(dtype).removeprefix('torch.')}",
    )
    if section.device_map and device.startswith("cuda"):
        device = "all GPUs"
    need, free = count * dtype.itemsize, _free(device)
    if need > free:
        yield "fits", f"no: its weights need {_gb(need)}, and {device} has {_gb(free)} free"
        return
    yield "fits", f"yes: its weights need {_gb(need)} of {_gb(free)} free on {device}"
    start = time.perf_counter()
    model = load_model(section)
    loaded = time.perf_counter()
    (completion,) = generate(
        model, model.prompts(["Hello"]), [Condition()], Decoding(max_new_tokens=1)
    )
    yield "loads", f"in {loaded - start:.1f} s, on {model.device}"
    tokens = min(_TIMED, text.max_position_embeddings)
    yield (
        "runs",
        f"one pass of {tokens} tokens in {_seconds(model, tokens):.2f} s; after 'Hello' it says "
        f"{completion.text!r}",
    )
    if device == "cpu" and 4 * need <= free:
        yield "dtypes", _timed_dtypes(section, tokens, dtype)
    yield "context", f"{text.max_position_embeddings:,} tokens"
    vocabulary, embeddings = len(model.tokenizer), model.hf.get_input_embeddings().weight.shape[0]
    beyond = "" if vocabulary <= embeddings else ": the tokenizer has tokens without an embedding"
    yield "vocabulary", f"{vocabulary:,} tokens, {embeddings:,} embeddings{beyond}"
    yield "chat template", _template(model)
    size, free = _held_by_a_token(model), _free(device)
    # A power of two; the other half of the memory is for logits and other temporary tensors.
    budget = 2 ** int(math.log2(max(1, free / 2 / size)))
    said = f"about {budget:,} would fit"
    if model.device.type == "cpu" and budget > _MOST_ON_CPU:
        said = f"up to {_MOST_ON_CPU:,}: on a CPU more tokens at a time are no faster"
    yield (
        "batch_tokens",
        f"{section.batch_tokens:,}; {said}; a KV cache takes {size / 1e3:,.1f} kB per token, half "
        f"of the free memory is {_gb(free // 2)}",
    )


def _timed_dtypes(section: Model, tokens: int, chosen: torch.dtype) -> str:
    """Time the same pass in float32 and in bfloat16."""
    seconds = {
        name: _seconds(load_model(dataclasses.replace(section, dtype=name)), tokens)
        for name in ("float32", "bfloat16")
    }
    said = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    return f"the same pass in {said}; model.dtype={section.dtype} is {str(chosen)[6:]}"


def _seconds(model: LanguageModel, tokens: int) -> float:
    """Time one forward pass of a single sequence, after a warm-up."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            model.hf(ids, logits_to_keep=1).logits.cpu()
            seconds = time.perf_counter() - start
    return seconds


def _template(model: LanguageModel) -> str:
    """Say what the chat template puts after the instruction, and whether it takes a system turn."""
    if model.tokenizer.chat_template is None:
        return "none: a prompt is the instruction and a line break"
    mark = "INSTRUCTION"
    tail = chat.render(model.tokenizer, mark, variables=model.template).rpartition(mark)[2]
    system = "takes" if chat.takes_system(model.tokenizer) else "takes no"
    return f"ends in {tail!r}, {system} system turn"


def _held_by_a_token(model: LanguageModel) -> float:
    """Return the bytes that one token takes in the KV cache, over all layers."""
    ids, _ = model.pad(model.prompts(["Hello"]))
    with torch.inference_mode():
        cache = model.hf(ids, use_cache=True).past_key_values
    cache_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return cache_bytes / ids.numel()


def _free(device: str) -> int:
    if device == "all GPUs":
        return sum(torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count()))
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return psutil.virtual_memory().available


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
