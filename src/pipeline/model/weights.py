"""Load the config and the weights of a model; fail in one line if they do not fit together."""

import logging
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from pipeline.model.gguf import local_path
from pipeline.model.hub import check_object

log = logging.getLogger(__name__)

_OF_A_BLOCK = re.compile(r"\.\d+\.(?!.*(inv_freq|masked_bias|attn\.bias)$)")
"""Weights of a numbered block, but for buffers that old checkpoints hold."""
_LFS_POINTER = b"version https://git-lfs"
_INERT = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
    "exponential_decay_length_penalty": None,
    "stop_strings": None,
    "num_beams": 1,
    "guidance_scale": None,
    "watermarking_config": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "penalty_alpha": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "top_h": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "max_time": None,
    "num_return_sequences": 1,
}
"""Options of a generation config that the engine does not apply, with their inert values."""


def load_config(path: str, revision: str | None = None) -> Any:
    """Load the config of a model.

    Raises:
        ValueError: no valid config, or a quantised model.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(local_path(path), revision=revision)
    except (ValueError, OSError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"the config of model.path {path!r} cannot be loaded: {reason}") from error
    _check_not_quantised(path, config)
    return config


def empty_model(path: str, config: Any) -> Any:
    """Build a transformers model on the meta device, to check shapes fast.

    Raises:
        ValueError: the config has a value that transformers does not know; names its key.
    """
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config)
    except KeyError as error:
        keys = ", ".join(_keys_of(config.to_dict(), error.args[0])) or "a key"
        raise ValueError(
            f"the config of model.path {path!r} has {keys} {error}, which transformers does not "
            "know"
        ) from error
    except (ValueError, RuntimeError, TypeError, ImportError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(
            f"no model can be built from the config of model.path {path!r}: {reason}"
        ) from error


def _keys_of(config: Mapping[Any, Any], value: Any) -> list[str]:
    inner = (_keys_of(v, value) for v in config.values() if isinstance(v, Mapping))
    return sorted({*(k for k, v in config.items() if v == value), *(k for ks in inner for k in ks)})


def load_weights(
    path: str, config: Any, *, revision: str | None, dtype: torch.dtype, device_map: str | None
) -> Any:
    """Load a transformers model with all of its weights.

    Warns about weights without a place in the model, which transformers leaves out.

    Raises:
        ValueError: damaged, missing or wrongly sized weights, or adapters that are not merged; the
            latter transformers would replace by random ones, or leave out. Also as
            `empty_model`.
    """
    check_files(local_path(path))
    empty_model(path, config)
    placement = {"device_map": device_map} if device_map else {}
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        _check_pickled(local_path(path))
        hf, report = transformers.AutoModelForCausalLM.from_pretrained(
            local_path(path),
            revision=revision,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **placement,
        )
    except (
        *(SafetensorError, pickle.UnpicklingError, EOFError, OSError),
        *(RuntimeError, ImportError, ValueError, KeyError),
    ) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(
            f"the weights of model.path {path!r} cannot be loaded: {reason}"
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    _check_report(path, report)
    _check_numbers(path, hf)
    return hf


def check_files(path: str) -> None:
    """Check the files of a local folder without reading the weights; skip a Hub id.

    Raises:
        ValueError: a truncated file, a pointer in place of a file, an adapter, or a generation
            config that transformers refuses.
    """
    folder = Path(path)
    for file in sorted(folder.glob("adapter_*")):
        raise ValueError(
            f"model.path {path!r} has an adapter ({file.name}), which would not be "
            "applied; merge it into the weights first"
        )
    _check_generation(path, folder / "generation_config.json")
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        with file.open("rb") as content:
            if content.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ValueError(
                    f"model.path {path!r}: {file.name} is a pointer of git-lfs, not the weights; "
                    "fetch them with `git lfs pull`"
                )
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as weights:
                    _check_floating(path, file, weights)
            except SafetensorError as error:
                raise ValueError(
                    f"the weights of model.path {path!r} are damaged: {file.name}: {error}"
                ) from error


def _check_generation(path: str, file: Path) -> None:
    check_object(path, file)
    if file.is_file():
        try:
            transformers.GenerationConfig.from_pretrained(file.parent)
        except ValueError as error:
            raise ValueError(f"model.path {path!r}: {file.name} is not valid: {error}") from error


def _check_floating(path: str, file: Path, weights: Any) -> None:
    for name in weights.keys():  # noqa: SIM118 - it is no dict
        dtype = weights.get_slice(name).get_dtype()
        if dtype not in ("F64", "F32", "F16", "BF16") and name.endswith("weight"):
            raise ValueError(
                f"model.path {path!r}: {file.name} has {name} as {dtype}, as if quantised; valid: "
                "F32, BF16, F16"
            )


def _check_pickled(path: str) -> None:
    """Fail if a pickled file has weights as integers, which would be converted without a scale."""
    for file in sorted(Path(path).glob("*.bin")):
        weights = torch.load(file, map_location="meta", weights_only=True)
        for name, weight in weights.items():
            if name.endswith("weight") and not weight.is_floating_point():
                raise ValueError(
                    f"model.path {path!r}: {file.name} has {name} as {weight.dtype}, as if "
                    "quantised; valid: float32, bfloat16, float16"
                )


def _check_numbers(path: str, hf: Any) -> None:
    for name, weight in hf.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"model.path {path!r}: {name} has values that are not finite")


def unheeded(generation: Any, eos_token: int | None) -> list[str]:
    """List what a generation config sets for `generate` that completions here do not follow."""
    values = {name: getattr(generation, name, None) for name in _INERT}
    different = [
        f"{name} {_short(value)}"
        for name, value in values.items()
        if value is not None and value != _INERT[name]
    ]
    if generation.do_sample:
        drawn = {name: getattr(generation, name) for name in ("temperature", "top_k", "top_p")}
        set_ = [f"{name} {value}" for name, value in drawn.items() if value is not None]
        different.append(f"do_sample ({', '.join(set_) or 'temperature 1'}), as `decoding` decides")
    ends = generation.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    if ends is not None and eos_token is not None and eos_token not in listed:
        different.append(f"eos_token_id {_short(ends)}, without the tokenizer's {eos_token}")
    return different


def _check_not_quantised(path: str, config: Any) -> None:
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        record = quantization if isinstance(quantization, Mapping) else quantization.to_dict()
        method = str(record.get("quant_method", "unknown method"))
        raise ValueError(
            f"model.path {path!r} is quantised ({method}), which is not supported; use the model "
            "that it was made from"
        )


def _check_report(path: str, report: Mapping[str, Any]) -> None:
    if report["mismatched_keys"]:
        name, stored, expected = min(report["mismatched_keys"])
        raise ValueError(
            f"the weights of model.path {path!r} do not fit its config: {name} is "
            f"{[*stored]}, the config has {[*expected]}"
        )
    if report["missing_keys"]:
        raise ValueError(
            f"model.path {path!r}: its files have no {_listed(report['missing_keys'])}"
        )
    unexpected = report["unexpected_keys"]
    if any("lora_" in name for name in unexpected):
        raise ValueError(
            f"model.path {path!r} has weights of an adapter that is not merged, such as "
            f"{min(name for name in unexpected if 'lora_' in name)}; merge it first"
        )
    in_blocks = [name for name in unexpected if _OF_A_BLOCK.search(name)]
    if in_blocks:
        raise ValueError(
            f"the config of model.path {path!r} leaves out weights of blocks that its files have: "
            f"{_listed(in_blocks)}"
        )
    if unexpected:
        log.warning(
            "model.path %r: the model has no place for %d weights of its files: %s",
            path,
            len(unexpected),
            _listed(unexpected),
        )


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
