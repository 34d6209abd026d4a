"""Load the tokenizer of a model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import transformers

from pipeline.model.gguf import local_path
from pipeline.model.hub import check_object


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model.

    Raises:
        ValueError: a damaged tokenizer_config.json; no tokenizer, for which transformers would
            silently build an empty one; or several chat templates and none is the default.
    """
    check_object(path, Path(local_path(path)) / "tokenizer_config.json")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(local_path(path), revision=revision)
    except (ValueError, OSError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(
            f"the tokenizer of model.path {path!r} cannot be loaded: {reason}"
        ) from error
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(f"model.path {path!r} has no tokenizer: its vocabulary is empty")
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        if "default" not in templates:
            raise ValueError(
                f"model.path {path!r} has several chat templates, none named default: "
                f"{', '.join(templates)}"
            )
        tokenizer.chat_template = templates["default"]
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash a tokenizer's vocabulary and its processing of text."""
    state = json.dumps(tokenizer.get_vocab(), sort_keys=True) + repr(tokenizer.backend_tokenizer)
    return hashlib.sha256(state.encode()).hexdigest()[:16]
