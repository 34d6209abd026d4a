"""Check how runs are tracked before one starts: the mode, and what W&B refuses of its settings."""

import os

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
        # W&B takes a second to import.
        from pipeline.runs.wandb_run import check_settings

        check_settings(project, entity)
    return mode
