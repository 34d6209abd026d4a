"""Use models in llama.cpp's GGUF files: convert each once into a folder of transformers' files."""

import logging
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline.runs.scratch import sha256

log = logging.getLogger(__name__)

_MAGIC = b"GGUF"
_DONE = "converted"


def local_path(path: str) -> str:
    """Return the folder to load a model from: of a GGUF file its conversion, else the path.

    Raises:
        ValueError: as `converted`.
    """
    return str(converted(Path(path))) if path.endswith(".gguf") else path


def converted(file: Path) -> Path:
    """Convert a GGUF file into a folder of the cache, in float32; a later call finds it there.

    The folder is keyed by the file's hash. Quantised weights are expanded: the model computes what
    the file's weights say, at the speed of an unquantised model.

    Raises:
        ValueError: no such file, no GGUF, a damaged or unsupported one, or missing packages.
    """
    check_gguf(file)
    folder = _cache() / sha256(file)[:16]
    if not (folder / _DONE).is_file():
        for package in ("gguf", "accelerate"):
            if find_spec(package) is None:
                raise ValueError(
                    f"model.path {str(file)!r} needs {package}: pip install 'actsweep[gguf]'"
                )
        log.warning("converting %s once, which takes about a minute, into %s", file.name, folder)
        shutil.rmtree(folder, ignore_errors=True)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            _convert(file, partial)
            (partial / _DONE).touch()
            if not folder.exists():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def check_gguf(file: Path) -> None:
    """Check that a file is in the GGUF format, by its first bytes.

    Raises:
        ValueError: no such file, or another format.
    """
    if not file.is_file():
        raise ValueError(f"model.path {str(file)!r} does not exist")
    with file.open("rb") as content:
        if content.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"model.path {str(file)!r} is no GGUF file")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "actsweep" / "gguf"


def _convert(file: Path, folder: Path) -> None:
    source: dict[str, Any] = {"gguf_file": file.name}
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **source
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
    # Its reader raises errors of many kinds, without a common base, at what it does not know.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"model.path {str(file)!r} is damaged, or of an architecture that transformers does "
            f"not read from GGUF: {reason}"
        ) from error
    # transformers does not save a model that it takes for a quantised one.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    plain = transformers.AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
