"""Patchscopes: decode a state by patching it into the placeholder of another prompt."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.declared import Label, OneOf, OneOrMore
from pipeline.data.positions import locate
from pipeline.data.prompts import tokenised_alike
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.methods.interventions import Replace
from pipeline.methods.layer_pairs import COMPONENTS, DONORS, source_and_target_layers
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

SOURCE_COLUMNS = ("source", "source_subject", "source_subject_start")
"""Columns of `data.target_prompts`: the prompt that states are read from, and its subject."""


def patchscope(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    source_positions: Any = "subject",
    positions: Any = "subject",
    source_layers: Any = "all",
    target_layers: Any = "all",
    component: Annotated[str, OneOf(*COMPONENTS)] = "resid_post",
    donor: Annotated[str, OneOf(*DONORS)] = "same",
) -> Iterator[Condition]:
    """Yield a condition for every source layer s and target layer t.

    h_t[j] := h_s[i], with h_s[i] from the clean run of the row's source prompt and j the position
    of the placeholder in its target prompt, which is what runs. Positions of completions are never
    patched. At target layer 0, `resid_pre` of source layer 0 is the source token's embedding.

    Args:
        model: the model.
        prompts: target prompts in the order of the run, with `SOURCE_COLUMNS`.
        seed: of the other source prompts.
        source_positions: a rule of `positions.COLLECTED` that names one position of each source
            prompt, or a list of one position.
        positions: the same for the target prompts.
        source_layers: `all`, or layers to read states from.
        target_layers: `all`, or layers to patch.
        component: one of `layer_pairs.COMPONENTS`; the paper uses `resid_post`, a block's output.
        donor: `same`, or `other`: the state of a row with another answer, as a control.

    Yields:
        Conditions with the axes `source_layer`, `target_layer`, `source_positions` and `donor`.

    Raises:
        ValueError: a missing column, an unknown component, donor, layer or position, a rule that
            does not name one position of each prompt, or donor `other` where all rows have the same
            answer.

    Source: Ghandeharioun et al. 2024, "Patchscopes".
    """
    sources, targets = source_and_target_layers(
        model, source_layers, target_layers, component=component, donor=donor
    )
    _, placeholders = _single(model, prompts, positions)
    tokens, source_places = _single(model, source_prompts(model, prompts), source_positions)
    order = donors(prompts["answer"], seed) if donor == "other" else np.arange(len(prompts))
    sites = [Site(source, component) for source in sources]
    states = _states(model, tokens, source_places, sites)
    rule = PromptPositions(str(positions), placeholders)
    for source in sources:
        replaced = Replace(PerPrompt(states[Site(source, component)][order]))
        for target in targets:
            yield Condition(
                axes={
                    "source_layer": source,
                    "target_layer": target,
                    "source_positions": str(source_positions),
                    "donor": donor,
                },
                edits=(Edit(Site(target, component), replaced, rule),),
                role=CONTROL if donor == "other" else CANDIDATE,
            )


def patchscope_texts(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    label: Label,
    target_layer: int,
    split: str = "test",
    texts: OneOrMore = 5,
    source_positions: Any = "subject",
    positions: Any = "subject",
    source_layers: Any = "all",
    component: str = "resid_post",
    max_new_tokens: OneOrMore = 8,
) -> pd.DataFrame:
    """Tabulate greedy completions of target prompts, by source layer of the patched state.

    Args:
        model: the model.
        prompts: target prompts, as of `patchscope`.
        label: of the target prompts.
        target_layer: the layer to patch.
        split: of the dataset.
        texts: number of rows, the first of the split with different answers.
        source_positions: as of `patchscope`, like the options below.
        positions: see there.
        source_layers: see there.
        component: see there.
        max_new_tokens: length of a completion.

    Returns:
        One row per sample and source layer, -1 for the unpatched prompt: `sample`, `label`,
        `split`, `topic`, `answer`, `source`, `source_subject`, `source_layer`, `target_layer`,
        `completion`.

    Raises:
        ValueError: no such prompts, or as `patchscope`.
    """
    rows = prompts[(prompts["label"] == label) & (prompts["split"] == split)]
    if rows.empty:
        present = ", ".join(sorted(prompts["label"].unique()))
        raise ValueError(f"no prompts labelled {label!r} in split {split!r}; labels: {present}")
    rows = rows.drop_duplicates("answer").head(texts).reset_index(drop=True)
    patched = patchscope(
        model,
        rows,
        0,
        source_positions=source_positions,
        positions=positions,
        source_layers=source_layers,
        target_layers=[target_layer],
        component=component,
    )
    conditions = [Condition({"source_layer": -1}), *patched]
    tokens = [list(map(int, row)) for row in rows["tokens"]]
    completions = generate(
        model,
        tokens,
        conditions,
        Decoding(max_new_tokens=max_new_tokens),
        batch_tokens=model.batch_tokens,
    )
    columns = ["sample", "label", "split", "topic", "answer", "source", "source_subject"]
    table = pd.DataFrame(
        {
            **rows.loc[completion.prompt, columns],
            "source_layer": conditions[completion.condition].axes["source_layer"],
            "target_layer": target_layer,
            "completion": completion.text,
        }
        for completion in completions
    )
    return table.sort_values(["sample", "source_layer"], ignore_index=True)


def source_prompts(model: LanguageModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """Build the dataset of the source prompts of target prompts, row by row.

    Raises:
        ValueError: a column of `SOURCE_COLUMNS` is missing, or as `tokenised_alike`.
    """
    for column in SOURCE_COLUMNS:
        if column not in prompts:
            raise ValueError(
                f"no column {column!r} in the dataset, which data.target_prompts makes; it has: "
                f"{', '.join(prompts)}"
            )
    frame = prompts.assign(
        instruction=prompts["source"],
        subject=prompts["source_subject"],
        subject_start=prompts["source_subject_start"],
    )
    return tokenised_alike(frame, prompts, model)


def _single(
    model: LanguageModel, prompts: pd.DataFrame, rule: Any
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    """Return tokens and the one position that a rule names in each prompt.

    Raises:
        ValueError: another number of positions in a prompt.
    """
    tokens, places = locate(prompts, model.tokenizer, rule, variables=model.template)
    for sample, listed in places.items():
        if len(listed) != 1:
            raise ValueError(
                f"positions {rule!r} name {len(listed)} tokens of sample {sample}; valid: one"
            )
    return [[int(token) for token in row] for row in tokens.values()], list(places.values())


def _states(
    model: LanguageModel,
    tokens: list[list[int]],
    places: list[tuple[int, ...]],
    sites: list[Site],
) -> dict[Site, Float[Tensor, "prompts d_model"]]:
    """Collect a state of each source prompt, running equal ones once."""
    keys = [(tuple(row), place) for row, place in zip(tokens, places, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    rule = PromptPositions("source", [place for _, place in numbers])
    unique = [list(row) for row, _ in numbers]
    states, _ = collect(model, unique, sites, rule, batch_tokens=model.batch_tokens)
    rows = torch.tensor([numbers[key] for key in keys])
    return {site: values[rows] for site, values in states.items()}


def donors(answers: pd.Series, seed: int) -> np.ndarray:
    """Draw for each row another row whose answer differs.

    Raises:
        ValueError: all rows have the same answer.
    """
    values = answers.to_numpy()
    if len(set(values)) < 2:
        raise ValueError("all prompts have the same answer; valid: donor same, or 2 answers")
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(np.flatnonzero(values != value)) for value in values])
