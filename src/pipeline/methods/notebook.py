"""Daily work in a notebook: the engine's results as tensors and tables, by plain calls."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.datasets import PROMPT_COLUMNS, SPLITS, tokenise
from pipeline.data.positions import resolve
from pipeline.data.tables import as_text
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Positions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.limits import check_model
from pipeline.engine.scoring import score_last
from pipeline.methods.provenance import Provenance
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def prompt_table(
    model: LanguageModel,
    instructions: Iterable[str],
    *,
    raw: bool = False,
    system: str | None = None,
    **columns: Any,
) -> pd.DataFrame:
    """Build a dataset as studies have it, for `positions_of`, `logit_lens` and the readings.

    Args:
        model: renders and tokenizes the instructions.
        instructions: one per prompt.
        raw: whether they are continued as is, without a chat template.
        system: text of the system turn; None: the model's `system`.
        columns: further columns, a value for each prompt or one for all, such as `subject`.

    Returns:
        The columns of `datasets.PROMPT_COLUMNS`, `columns`, `sample`, `prompt` and `tokens`.

    Raises:
        ValueError: `raw` is no boolean, an unknown split, a column with another number of values,
            or another of these columns holds anything but text and numbers, which become text.

    Example:
        table = prompt_table(model, ["The capital of Ruritania is"], subject="Ruritania", raw=True)
        at = positions_of(model, table, "subject")
    """
    check_model(model)
    defaults: dict[str, Any] = {**dict.fromkeys(PROMPT_COLUMNS, ""), "split": "test"}
    frame = pd.DataFrame({"instruction": chat.listed(instructions)})
    columns = {name: list(v) if isinstance(v, Iterator) else v for name, v in columns.items()}
    values = defaults | {"subject_start": -1, "raw": raw} | columns
    for name, value in columns.items():
        if not isinstance(value, str) and hasattr(value, "__len__") and len(value) != len(frame):
            raise ValueError(f"{name}: {len(value)} values for {len(frame)} prompts")
    # A series would be aligned by its index, not row by row.
    frame = frame.assign(
        **{
            name: value.to_numpy() if isinstance(value, pd.Series) else value
            for name, value in values.items()
            if name != "instruction"
        }
    )
    for value in frame["raw"].unique():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"raw: {value!r} is no boolean; valid: True, False, or one per prompt")
    for name in set(PROMPT_COLUMNS) - {"subject_start", "raw"}:
        frame[name] = [
            as_text(value, f"{name} of prompt {n}") for n, value in enumerate(frame[name])
        ]
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"split {unknown[0]!r} is unknown; valid: {', '.join(SPLITS)}")
    system = model.system if system is None else system
    return tokenise(frame, model.tokenizer, system=system, variables=model.template)


def positions_of(model: LanguageModel, table: pd.DataFrame, rule: Any) -> Positions:
    """Convert any rule of the studies, such as `subject` or `template`, for these prompts.

    Raises:
        ValueError: an unknown rule, or a prompt in which it names no token.
    """
    check_model(model)
    return resolve(table, model.tokenizer, rule, variables=model.template)


def logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition] = (Condition(),),
) -> Float[Tensor, "conditions prompts vocab"]:
    """Compute the logits after each prompt's last token, under every condition."""
    check_model(model)
    return score_last(
        model, prompts, conditions, lambda last: last, batch_tokens=model.batch_tokens
    )


def log_probabilities(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition] = (Condition(),),
) -> Float[Tensor, "conditions prompts vocab"]:
    """Compute log p of the next token after each prompt, in nats, under every condition."""
    return logits(model, prompts, conditions).float().log_softmax(-1)


def activation_table(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    rule: Positions = "last",
) -> pd.DataFrame:
    """Collect activations as a table: a row per site, prompt and position.

    Returns:
        `site`, `prompt`, `position`, `piece` (the token's text) and `activation`, an array [width].
    """
    check_model(model)
    if isinstance(sites, Sequence) and not sites:
        raise ValueError("sites: there is none; valid: such as [Site(2, 'resid_pre')]")
    values, rows = collect(model, prompts, sites, rule, batch_tokens=model.batch_tokens)
    sites = list(values)
    rows = rows.assign(piece=[model.piece(token) for token in rows["token"]])
    tables = [
        rows.assign(site=str(site), activation=list(values[site].float().numpy())) for site in sites
    ]
    columns = ["site", "prompt", "position", "piece", "activation"]
    return pd.concat(tables, ignore_index=True)[columns]


def completion_table(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition] = (Condition(),),
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Generate completions as a table.

    Returns:
        `condition` (its number), its axes, `prompt`, `repeat`, `completion`, `tokens`, `stopped`.
    """
    check_model(model)
    found = generate(
        model, prompts, conditions, decoding, seed=seed, batch_tokens=model.batch_tokens
    )
    return pd.DataFrame(
        {
            "condition": completion.condition,
            **conditions[completion.condition].axes,
            "prompt": completion.prompt,
            "repeat": completion.repeat,
            "completion": completion.text,
            "tokens": completion.tokens,
            "stopped": completion.stopped,
        }
        for completion in found
    )


def save_direction(
    path: Path | str, direction: Float[Tensor, " width"], *, model: LanguageModel, site: Site | str
) -> None:
    """Write a direction in float32, with the model and site that it belongs to.

    Makes the folder of the path if there is none.

    Raises:
        ValueError: another width than the site's, or values that are not finite.
    """
    check_model(model)
    site = Site.parse(site) if isinstance(site, str) else site
    width = model.width(model.check(site))
    if not isinstance(direction, Tensor):
        raise ValueError(f"direction is a {type(direction).__name__}; valid: a tensor [{width}]")
    if direction.shape != (width,) or not bool(direction.isfinite().all()):
        raise ValueError(
            f"direction {list(direction.shape)} has the wrong width or is not finite; valid at "
            f"{site}: [{width}]"
        )
    provenance = Provenance(model.weights, sites=(str(site),), how="saved from a notebook")
    record = {"provenance": json.dumps(provenance.record, sort_keys=True)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file({"direction": direction.detach().float().cpu().contiguous()}, path, metadata=record)


def load_direction(
    path: Path | str, *, model: LanguageModel, site: Site | str
) -> Float[Tensor, " width"]:
    """Read a direction back.

    Raises:
        ValueError: it was saved for another model or site; names both.
    """
    check_model(model)
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            provenance = Provenance.parse(json.loads((file.metadata() or {})["provenance"]))
            direction: Tensor = file.get_tensor("direction")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no file of `save_direction`: {error}") from error
    provenance.require(f"direction {path}", model=model.weights)
    if provenance.sites != (str(site),):
        raise ValueError(f"direction {path} is of {provenance.sites[0]}, this is {site}")
    return direction.to(model.device)
