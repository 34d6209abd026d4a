"""Run the parts of a sweep: completions of every prompt under every condition, chunk by chunk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from pipeline.engine.chunks import Chunk, plan
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.grid import Part, chosen_layers, with_edits
from pipeline.measures.scores import CONDITION
from pipeline.methods.directions import Key
from pipeline.model.loading import LanguageModel
from pipeline.positions import resolve
from pipeline.scratch import whole_file
from pipeline.sections import Study

TEXTS = ("split", "label", "topic", "instruction", "demand")
COLUMNS = (*CONDITION, "sample", "repeat", *TEXTS, "completion", "tokens", "n_tokens", "stopped")


def swept_layers(study: Study, n_layers: int, directions: Mapping[Key, Tensor]) -> list[int]:
    """The layers of the sweep that have a direction.

    Raises:
        ValueError: a layer that the study names has none.
    """
    fitted = sorted(key.layer for key in directions if key.source == "fitted")
    if study.sweep.layers == "all":
        return fitted
    layers = chosen_layers(study, n_layers)
    for layer in layers:
        if layer not in fitted:
            raise ValueError(f"sweep.layers: no direction at layer {layer}; valid: {fitted}")
    return layers


def with_directions(
    study: Study,
    model: LanguageModel,
    dataset: pd.DataFrame,
    parts: Sequence[Part],
    directions: Mapping[Key, Tensor],
) -> list[Part]:
    """The parts with what their conditions do in a model, and where in each of their prompts."""
    found = []
    by_sample = dataset.set_index("sample", drop=False)
    for part in parts:
        arm = study.sweep.arms[part.arm]
        prompts = by_sample.loc[list(part.samples)]
        rules = {
            name: resolve(prompts, model.tokenizer, rule, variables=study.model.template)
            for name, rule in arm.rules.items()
        }
        conditions = [
            with_edits(condition, arm, directions, model.n_layers, rules)
            for condition in part.conditions
        ]
        found.append(replace(part, conditions=tuple(conditions)))
    return found


def decoding_of(study: Study) -> Decoding:
    """How a study's completions are decoded.

    Raises:
        ValueError: it makes none.
    """
    if study.sweep.decoding is None:
        raise ValueError("sweep.decoding is null: this study makes no completions")
    return Decoding(**asdict(study.sweep.decoding))


def complete(
    model: LanguageModel,
    dataset: pd.DataFrame,
    parts: Sequence[Part],
    work: Path,
    *,
    decoding: Decoding | None,
    seed: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """A row per condition, sample and repeat; chunks that lie finished in `work` are taken up.

    No row, but the same columns, without a decoding.
    """
    by_sample = dataset.set_index("sample")
    if decoding is None:
        return pd.DataFrame(columns=COLUMNS)
    jobs = {
        f"{part.name}-chunk-{chunk.number:05d}": partial(
            _chunk, model, by_sample, part, chunk, decoding, seed
        )
        for part in parts
        for chunk in plan(
            len(part.conditions),
            [len(by_sample.at[s, "tokens"]) for s in part.samples],
            batch_tokens=batch_tokens,
            new_tokens=decoding.max_new_tokens,
            repeats=decoding.repeats,
        )
    }
    return pd.concat(taken_up(jobs, work), ignore_index=True)


def taken_up(jobs: Mapping[str, Callable[[], pd.DataFrame]], work: Path) -> list[pd.DataFrame]:
    """The tables of jobs; one that lies finished in `work` under its job's name is not made."""
    tables = []
    for name, make in tqdm(jobs.items(), "sweep", unit="chunk", disable=None):
        path = work / f"{name}.parquet"
        if not path.exists():
            table = make()
            with whole_file(path) as temporary:
                table.to_parquet(temporary)
        tables.append(pd.read_parquet(path))
    return tables


def _chunk(
    model: LanguageModel,
    by_sample: pd.DataFrame,
    part: Part,
    chunk: Chunk,
    decoding: Decoding,
    seed: int,
) -> pd.DataFrame:
    completions = generate_chunk(
        model,
        [by_sample.at[s, "tokens"].tolist() for s in part.samples],
        part.conditions,
        chunk,
        decoding,
        seed=seed,
        samples=part.samples,
    )
    columns = [condition.columns for condition in part.conditions]
    rows = []
    for completion in completions:
        sample = part.samples[completion.prompt]
        rows.append(
            {
                **columns[completion.condition],
                "sample": sample,
                "repeat": completion.repeat,
                **{name: by_sample.at[sample, name] for name in TEXTS},
                "completion": completion.text,
                "tokens": completion.tokens,
                "n_tokens": len(completion.tokens),
                "stopped": completion.stopped,
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})
