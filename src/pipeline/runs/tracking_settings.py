"""Check how runs are tracked before one starts: the mode, and what W&B refuses of its settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

MODES = ("online", "offline", "disabled")


def check_tracking(mode: str, project: str, entity: str | None) -> str:
    """Return the mode that holds; fail if W&B would refuse it or a value of the environment.

    Args:
        mode: the study's; WANDB_MODE overrides it.
        project: project in W&B.
        entity: user or team in W&B.

    Raises:
        ValueError: names the variable, its value and the valid ones.
    """
    variable = os.environ.get("WANDB_MODE")
    mode = mode if variable is None else variable
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # W&B's old names
    if mode not in MODES:
        name = "tracking.mode" if variable is None else "WANDB_MODE"
        raise ValueError(f"{name}: {mode!r} is unknown; valid: {', '.join(MODES)}")
    if mode != "disabled":
        import wandb

        settings = wandb.Settings()
        for variable, value in os.environ.items():
            with _refusals(f"{variable}: {value!r}"):
                settings.update_from_env_vars({variable: value})
        with _refusals(f"tracking.project: {project!r}"):
            settings.project = project
        with _refusals(f"tracking.entity: {entity!r}"):
            settings.entity = entity
    return mode


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn the errors of W&B's settings into one line."""
    import wandb

    try:
        yield
    except (ValueError, wandb.Error) as error:
        # Those of pydantic have many lines, and the reason in a list.
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
        raise ValueError(f"{what} is refused by W&B: {reason}") from error
