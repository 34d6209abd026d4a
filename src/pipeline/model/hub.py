"""Whether a model can be had at all: said in one line, before anything large is fetched."""

from pathlib import Path


def check_path(path: str, revision: str | None = None) -> None:
    """Fail in one line if there is no model in a folder, or none to be had from the hub.

    Raises:
        ValueError: no config.json there; unknown, gated or unreachable on the hub. Says what to do.
    """
    if is_hub_id(path):
        _check_hub(path, revision)
    elif not (Path(path) / "config.json").is_file():
        raise ValueError(f"model.path {path!r} is no model: there is no config.json there")


def is_hub_id(path: str) -> bool:
    """Whether a path is to be looked for on the hub, as NAME or OWNER/NAME."""
    parts = Path(path).parts
    # What begins with an existing folder is meant as a path: a typo must not go to the hub.
    here = not parts or Path(parts[0]).exists()
    return not here and not path.startswith((".", "/", "~")) and path.count("/") <= 1


def _check_hub(path: str, revision: str | None) -> None:
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return
    page = f"{constants.ENDPOINT}/{path}"
    try:
        # Not a download: that one tries for half a minute before it gives up.
        get_hf_file_metadata(hf_hub_url(path, "config.json", revision=revision))
    except GatedRepoError as error:
        raise ValueError(
            f"model {path} is gated: accept its conditions at {page}, then run `hf auth login` or "
            "set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"model {path} has no revision {revision!r}; see {page}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"model.path {path!r} is no model: neither a folder here nor {page}; a private one "
            "needs `hf auth login` or HF_TOKEN"
        ) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ValueError(
            f"model.path {path!r} is no folder here, is not in {constants.HF_HUB_CACHE}, and "
            f"{constants.ENDPOINT} cannot be asked for it ({_reason(error)}); fetch it where there "
            f"is a network (`hf download {path}`) and give its folder"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
