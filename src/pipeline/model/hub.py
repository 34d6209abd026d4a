"""Check that a model or dataset exists and is accessible, before anything is downloaded."""

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.model.gguf import check_gguf
from pipeline.runs.scratch import sha256


def check_path(path: str, revision: str | None = None) -> None:
    """Check that a folder holds a model, or that the Hugging Face Hub offers it.

    Raises:
        ValueError: no config.json in the folder; no GGUF file; unknown, gated or unreachable on the
            Hub. One line that says what to do.
    """
    if path.endswith(".gguf"):
        check_gguf(Path(path))
    elif is_hub_id(path):
        _check_model(path, revision)
    elif revision is not None:
        raise ValueError(f"model.revision: {revision!r} of a local folder; valid: null")
    elif not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.path {path!r} is not a model: it has no config.json")


def check_object(path: str, file: Path) -> None:
    """Check that a JSON file beside a model is an object, if it is there.

    Transformers would leave it out without a word, or stop in a traceback.

    Raises:
        ValueError: names the model and the file.
    """
    if not file.is_file():
        return
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"model.path {path!r}: {file.name} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"model.path {path!r}: {file.name} is no JSON object")


def model_files(path: str) -> list[Path]:
    """List the model files of a local folder: weights, configs and tokenizer."""
    kinds = ("*.safetensors", "*.bin", "*.json", "*.jinja")
    return sorted(file for kind in kinds for file in Path(path).glob(kind))


def folder_digest(path: str) -> str | None:
    """Hash the model files of a local folder; None for a Hub id."""
    files = [(file, file.stat().st_mtime_ns) for file in model_files(path)]
    return _digest(tuple(files)) if files else None


@functools.cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    # Cached: weights may be gigabytes, and a run hashes them several times.
    digest = hashlib.sha256()
    for file, _ in files:
        digest.update(file.name.encode() + bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


def is_hub_id(path: str) -> bool:
    """Whether a path is a Hub id, NAME or OWNER/NAME, rather than a local path."""
    parts = Path(path).parts
    # A path that begins with an existing folder is local: a typo in it must not query the Hub.
    is_local = not parts or Path(parts[0]).exists()
    return not is_local and not path.startswith((".", "/", "~")) and path.count("/") <= 1


def check_dataset(path: str) -> None:
    """Check that the Hub offers a dataset; skipped if HF_HUB_OFFLINE is set.

    Raises:
        ValueError: unknown, gated or unreachable. One line that says what to do.
    """
    from huggingface_hub import HfApi, constants

    if not constants.HF_HUB_OFFLINE:
        with _explained("dataset", path, None, f"{constants.ENDPOINT}/datasets/{path}"):
            HfApi().dataset_info(path, timeout=10)


def _check_model(path: str, revision: str | None) -> None:
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_url,
        try_to_load_from_cache,
    )

    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return
    with _explained("model", path, revision, f"{constants.ENDPOINT}/{path}"):
        # Metadata only: a download would retry for half a minute before it fails.
        get_hf_file_metadata(hf_hub_url(path, "config.json", revision=revision))


@contextmanager
def _explained(kind: str, path: str, revision: str | None, page: str) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{kind} {path} is gated: accept its conditions at {page}, then run `hf auth login` or "
            "set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{kind} {path} has no revision {revision!r}; see {page}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{kind}.path {path!r} is neither a local folder nor at {page}; a private one needs "
            "`hf auth login` or HF_TOKEN"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        fetch = f"hf download {path} --repo-type {kind}"
        raise ValueError(
            f"{kind}.path {path!r} is not a local folder, and {constants.ENDPOINT} is unreachable "
            f"({_reason(error)}); fetch it where there is a network (`{fetch}`) and give its "
            f"folder, or set HF_HUB_OFFLINE=1 if {constants.HF_HUB_CACHE} holds all of it"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
