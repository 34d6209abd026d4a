"""What can be wrong with a study is found, and what it will cost is said, before it runs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import transformers

from pipeline import datasets, positions
from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.grid import Part, report_parts, validation_parts
from pipeline.measures.choice import Setting
from pipeline.model import chat
from pipeline.model.architectures import architecture_of
from pipeline.model.hub import check_path
from pipeline.model.loading import (
    LanguageModel,
    check_device_map,
    choose_device,
    choose_dtype,
    load_tokenizer,
)
from pipeline.model.sites import Site, check_component
from pipeline.sections import Study
from pipeline.study import target


@dataclass(frozen=True)
class Cost:
    """What a study's sweep and store will take: conditions by part, seconds by a probe."""

    conditions: dict[str, int]
    completions: int
    tokens: int
    seconds: float
    store_bytes: int


def check(study: Study) -> tuple[pd.DataFrame, list[int]]:
    """Check a study against its model's config and its dataset, without loading the model.

    Returns:
        The dataset with tokens, and the layers of the sweep.

    Raises:
        ValueError: the model's path, a layer, component, position rule, label, split or dataset
            that is not there; names it and the valid ones.
    """
    with _named("model"):
        choose_dtype(study.model.dtype)
        choose_device(study.model.device)
        check_device_map(study.model.device_map)
    check_path(study.model.path, study.model.revision)
    config = text_config(study)
    layers = chosen_layers(study, config.num_hidden_layers)
    parallel = architecture_of(config, study.model.path).side_by_side(config)
    with _named("collect.components"):
        for component in study.collect.components:
            check_component(component, study.model.path, parallel=parallel)
    with _named("collect.positions"):
        positions.check_rule(study.collect.positions, positions.COLLECTED)
    for name, arm in study.sweep.arms.items():
        with _named(f"sweep.arms.{name}.components"):
            for component in arm.components:
                check_component(component, study.model.path, parallel=parallel)
        with _named(f"sweep.arms.{name}.positions"):
            for rule in arm.positions:
                positions.check_rule(rule, positions.EDITED)
    dataset = build_dataset(study)
    for role in ("positive", "negative"):
        label = getattr(study.vectors, role)
        if not _has(dataset, label, "train"):
            labels = ", ".join(sorted(dataset["label"].unique()))
            raise ValueError(
                f"vectors.{role}: no prompt of the train split has label {label!r}; "
                f"labels: {labels}"
            )
        if study.vectors.selection and not _has(dataset, label, "val"):
            raise ValueError(f"vectors.selection: no prompt of the val split has label {label!r}")
    _check_position(study, dataset)
    _check_edited(study, dataset)
    _sweep(study, dataset, layers)
    _check_lengths(study, config.max_position_embeddings, dataset, build_texts(study))
    return dataset, layers


def build_dataset(study: Study) -> pd.DataFrame:
    """The study's prompts as its model is given them."""
    frame = target(study.dataset)()
    if frame.empty:
        raise ValueError(f"dataset {study.dataset} is empty")
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    if not frame["raw"].all():
        chat.announce(tokenizer, study.model.system)
    return datasets.tokenise(
        frame, tokenizer, system=study.model.system, variables=study.model.template
    )


def build_texts(study: Study) -> pd.DataFrame:
    """The unrelated texts that side effects are measured on, tokenised; no rows without any."""
    if study.text is None:
        return pd.DataFrame({"sample": [], "tokens": []})
    with _named("text"):
        texts = datasets.load_texts(study.text)
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    return texts.assign(tokens=[tokenizer.encode(text) for text in texts["text"]])


def text_config(study: Study) -> Any:
    """The config of the study's language model, without the model.

    Raises:
        ValueError: the model's family is not supported.
    """
    config = transformers.AutoConfig.from_pretrained(
        study.model.path, revision=study.model.revision
    )
    architecture_of(config, study.model.path)
    return config.get_text_config()


def chosen_layers(study: Study, n_layers: int) -> list[int]:
    """The layers that the sweep runs over.

    Raises:
        ValueError: `sweep.layers` is neither `all` nor a list of layers that are there.
    """
    layers = study.sweep.layers
    if layers == "all":
        return list(range(n_layers))
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"sweep.layers: {layers!r} is neither `all` nor a list of layers")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < n_layers:
            raise ValueError(
                f"sweep.layers: {study.model.path} has no layer {layer!r}; "
                f"valid: 0 to {n_layers - 1}"
            )
    return layers


def collected(
    study: Study, dataset: pd.DataFrame
) -> tuple[dict[int, list[int]], dict[int, tuple[int, ...]]]:
    """Tokens of the samples that are collected, and the positions to keep: `positions.place`."""
    with _named("collect.positions"):
        return positions.place(
            dataset[dataset["split"] == "train"],
            load_tokenizer(study.model.path, study.model.revision),
            study.collect.positions,
            variables=study.model.template,
        )


def cost(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> Cost:
    """Count conditions and tokens, and time a small part of them to say how long all will take."""
    model = load_model(study)
    tokens = dict(zip(dataset["sample"], dataset["tokens"], strict=True))
    decoding = Decoding(**asdict(study.sweep.decoding))
    sweep = _sweep(study, dataset, layers)
    total = sum(_tokens(part, tokens, decoding) for part in sweep)
    probe = [tokens[sample] for sample in sweep[0].samples]
    short = Decoding(min(4, decoding.max_new_tokens))
    chunk = plan(1, [len(p) for p in probe], batch_tokens=study.model.batch_tokens, new_tokens=4)[0]
    for _ in range(2):  # The first pass warms up.
        start = time.perf_counter()
        generate_chunk(model, probe, [Condition()], chunk, short, seed=0, samples=range(len(probe)))
        seconds = time.perf_counter() - start
    run = sum(len(probe[row.prompt]) + short.max_new_tokens for row in chunk.rows)
    _, places = collected(study, dataset)
    rows = sum(map(len, places.values()))
    width = sum(
        model.width(Site(layer, component))
        for layer in range(model.n_layers)
        for component in study.collect.components
    )
    return Cost(
        conditions={part.name: len(part.conditions) for part in sweep},
        completions=sum(
            len(part.conditions) * len(part.samples) * decoding.repeats for part in sweep
        ),
        tokens=total,
        seconds=seconds * total / run,
        store_bytes=rows * width * model.dtype.itemsize,
    )


def _sweep(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> list[Part]:
    """What will run; whichever setting is chosen, the report has as many conditions."""
    any_setting = {
        name: Setting(layers[0], arm.strengths[0], arm.positions[0], "validation")
        for name, arm in study.sweep.arms.items()
        if arm.strengths
    }
    return [
        *validation_parts(study, dataset, layers),
        *report_parts(study, dataset, layers, any_setting),
    ]


def load_model(study: Study) -> LanguageModel:
    """The study's model."""
    return LanguageModel.load(
        study.model.path,
        revision=study.model.revision,
        dtype=study.model.dtype,
        device=study.model.device,
        device_map=study.model.device_map,
    )


def _has(dataset: pd.DataFrame, label: str, split: str) -> bool:
    return bool(((dataset["label"] == label) & (dataset["split"] == split)).any())


def _check_lengths(study: Study, context: int, dataset: pd.DataFrame, texts: pd.DataFrame) -> None:
    longest = int(dataset["tokens"].map(len).max())
    if longest + study.sweep.decoding.max_new_tokens > context:
        raise ValueError(
            f"sweep.decoding.max_new_tokens: {study.sweep.decoding.max_new_tokens} after the "
            f"longest prompt's {longest} tokens pass the context of {study.model.path}: {context}"
        )
    for sample, tokens in zip(texts["sample"], texts["tokens"], strict=True):
        if not 2 <= len(tokens) <= context:
            raise ValueError(f"text: row {sample} has {len(tokens)} tokens; valid: 2 to {context}")


def _check_edited(study: Study, dataset: pd.DataFrame) -> None:
    """Fail if a rule of an arm names nothing in one of its prompts."""
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    for name, arm in study.sweep.arms.items():
        here = dataset[(dataset["label"] == arm.prompts) & (dataset["split"] != "train")]
        with _named(f"sweep.arms.{name}"):
            for rule in arm.positions:
                positions.resolve(here, tokenizer, rule, variables=study.model.template)


def _check_position(study: Study, dataset: pd.DataFrame) -> None:
    """Fail if directions are to be fitted where nothing is collected; a selection takes its own."""
    _, places = collected(study, dataset)
    lengths = dict(zip(dataset["sample"], dataset["tokens"].map(len), strict=True))
    valid = {place - lengths[sample] for sample, own in places.items() for place in own}
    if study.collect.positions == "subject":
        valid = {0}
    if study.vectors.selection is None and study.vectors.position not in valid:
        raise ValueError(
            f"vectors.position: {study.vectors.position} is not collected; valid: {sorted(valid)}"
        )


@contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _tokens(part: Part, tokens: dict[int, list[int]], decoding: Decoding) -> int:
    each = sum(len(tokens[s]) + decoding.max_new_tokens for s in part.samples)
    return len(part.conditions) * each * decoding.repeats
