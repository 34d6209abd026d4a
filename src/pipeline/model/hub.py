"""Whether a model or dataset can be had at all: said in one line, before anything is fetched."""

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runs.scratch import sha256


def check_path(path: str, revision: str | None = None) -> None:
    """Fail in one line if there is no model in a folder, or none to be had from the hub.

    Raises:
        ValueError: no config.json there; unknown, gated or unreachable on the hub. Says what to do.
    """
    if is_hub_id(path):
        _check_model(path, revision)
    elif not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.path {path!r} is no model: there is no config.json there")


def model_files(path: str) -> list[Path]:
    """The files of a local folder that make a model: weights, configs and tokenizer."""
    kinds = ("*.safetensors", "*.bin", "*.json", "*.jinja")
    return sorted(file for kind in kinds for file in Path(path).glob(kind))


def folder_digest(path: str) -> str | None:
    """Hash of the files that make a model in a local folder; None for one of the hub."""
    files = [(file, file.stat().st_mtime_ns) for file in model_files(path)]
    return _digest(tuple(files)) if files else None


@functools.cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    # Gigabytes may stand behind it; a run asks several times.
    digest = hashlib.sha256()
    for file, _ in files:
        digest.update(file.name.encode() + bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


def is_hub_id(path: str) -> bool:
    """Whether a path is to be looked for on the hub, as NAME or OWNER/NAME."""
    parts = Path(path).parts
    # What begins with an existing folder is meant as a path: a typo must not go to the hub.
    here = not parts or Path(parts[0]).exists()
    return not here and not path.startswith((".", "/", "~")) and path.count("/") <= 1


def check_dataset(path: str) -> None:
    """Fail in one line if the hub has no such dataset, or cannot be asked while it should be.

    Raises:
        ValueError: unknown, gated or unreachable. Says what to do.
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
        # Not a download: that one tries for half a minute before it gives up.
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
            f"{kind}.path {path!r} is neither here nor at {page}; a private one needs "
            "`hf auth login` or HF_TOKEN"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        fetch = f"hf download {path} --repo-type {kind}"
        raise ValueError(
            f"{kind}.path {path!r} is no folder here, and {constants.ENDPOINT} cannot be asked "
            f"({_reason(error)}); fetch it where there is a network (`{fetch}`) and give its "
            f"folder, or set HF_HUB_OFFLINE=1 if {constants.HF_HUB_CACHE} holds all of it"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
