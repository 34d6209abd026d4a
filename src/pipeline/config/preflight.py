"""What can be wrong with a study is found before it runs: against its model's config and data."""

from typing import Any

import pandas as pd
import torch
import transformers
from torch import Tensor

from pipeline.config.feature_checks import check_autoencoders
from pipeline.config.sections import Study
from pipeline.config.study import at_key, target
from pipeline.data import positions
from pipeline.data.prompts import build_dataset, build_texts
from pipeline.engine.conditions import check_rule
from pipeline.forward import GENERATED
from pipeline.grid import any_parts, chosen_layers
from pipeline.measures.logits import NextToken
from pipeline.model.architectures import architecture_of
from pipeline.model.chat import single_tokens
from pipeline.model.hub import check_path
from pipeline.model.loading import (
    check_device_map,
    choose_device,
    choose_dtype,
    load_tokenizer,
)
from pipeline.model.sites import STREAM, check_component


def check(study: Study) -> tuple[pd.DataFrame, list[int]]:
    """Check a study against its model's config and its dataset, without loading the model.

    Returns:
        The dataset with tokens, and the layers of the sweep.

    Raises:
        ValueError: the model's path, a layer, component, position rule, label, split or dataset
            that is not there; names it and the valid ones.
    """
    with at_key("model"):
        choose_dtype(study.model.dtype)
        choose_device(study.model.device)
        check_device_map(study.model.device_map)
    check_path(study.model.path, study.model.revision)
    config = text_config(study)
    layers = chosen_layers(study, config.num_hidden_layers)
    parallel = architecture_of(config, study.model.path).side_by_side(config)
    with at_key("collect.components"):
        for component in study.collect.components:
            check_component(component, study.model.path, parallel=parallel)
    with at_key("collect.positions"):
        check_rule(study.collect.positions, positions.COLLECTED)
    for name, arm in study.sweep.arms.items():
        with at_key(f"sweep.arms.{name}.components"):
            for component in arm.components:
                check_component(component, study.model.path, parallel=parallel)
        with at_key(f"sweep.arms.{name}.positions"):
            for rule in arm.positions:
                check_rule(rule, positions.EDITED)
    _check_fit(study)
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
    if study.vectors.selection:
        with at_key("vectors.selection.refusal_tokens"):
            tokenizer = load_tokenizer(study.model.path, study.model.revision)
            single_tokens(tokenizer, study.vectors.selection.refusal_tokens)
    _check_logit_metrics(study, config.vocab_size, config.num_hidden_layers, dataset)
    _check_position(study, dataset)
    _check_edited(study, dataset)
    any_parts(study, dataset, layers)
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    n_layers = config.num_hidden_layers
    check_autoencoders(study, n_layers, dataset, tokenizer, parallel=parallel)
    _check_lengths(study, config.max_position_embeddings, dataset, build_texts(study))
    return dataset, layers


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


def _check_fit(study: Study) -> None:
    """Fail if directions are fitted to what is not collected, or are too wide or narrow to add."""
    fitted = study.vectors.component
    if fitted not in study.collect.components:
        raise ValueError(
            f"vectors.component: {fitted!r} is not collected; "
            f"valid: {', '.join(study.collect.components)}"
        )
    for name, arm in study.sweep.arms.items():
        for component in arm.components:
            if component != fitted and not {component, fitted} <= set(STREAM):
                raise ValueError(
                    f"sweep.arms.{name}.components: a direction of {fitted} does not fit "
                    f"{component}; valid: {', '.join(STREAM if fitted in STREAM else [fitted])}"
                )


def _has(dataset: pd.DataFrame, label: str, split: str) -> bool:
    return bool(((dataset["label"] == label) & (dataset["split"] == split)).any())


def _check_lengths(study: Study, context: int, dataset: pd.DataFrame, texts: pd.DataFrame) -> None:
    longest = int(dataset["tokens"].map(len).max())
    new = study.sweep.decoding.max_new_tokens if study.sweep.decoding else 0
    if longest > context:
        raise ValueError(
            f"dataset: the longest prompt has {longest} tokens; the context of "
            f"{study.model.path} has {context}"
        )
    if longest + new > context:
        raise ValueError(
            f"sweep.decoding.max_new_tokens: {new} after the longest prompt's {longest} tokens "
            f"pass the context of {study.model.path}: {context}"
        )
    for sample, tokens in zip(texts["sample"], texts["tokens"], strict=True):
        if not 2 <= len(tokens) <= context:
            raise ValueError(f"text: row {sample} has {len(tokens)} tokens; valid: 2 to {context}")


def _check_logit_metrics(study: Study, vocab: int, n_layers: int, dataset: pd.DataFrame) -> None:
    """Fail if a logit metric cannot be measured with the model's tokens, or is no score a row."""
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    samples = dataset.iloc[[0, -1]].reset_index(drop=True)

    def level(layer: int | None = None) -> Tensor:
        if layer is not None and not 0 <= layer < n_layers:
            raise ValueError(f"layer {layer}; valid: 0 to {n_layers - 1}")
        return torch.zeros(2, vocab)

    for name, node in study.sweep.logit_metrics.items():
        with at_key(f"sweep.logit_metrics.{name}"):
            try:
                shape = tuple(target(node)(NextToken(level, level, tokenizer, samples)).shape)
            # What a user's own function makes of its argument.
            except (AttributeError, TypeError) as error:
                raise ValueError(f"fails on logits of two rows: {error}") from error
            if shape != (2,):
                raise ValueError(f"scores {shape} of 2 rows; valid: one score for each row")
    for name, arm in study.sweep.arms.items():
        for rule in arm.positions if arm.metric in study.sweep.logit_metrics else ():
            if rule in GENERATED:
                raise ValueError(
                    f"sweep.arms.{name}.positions: {rule!r} names no token of a prompt, after "
                    f"which {arm.metric} is measured"
                )


def _check_edited(study: Study, dataset: pd.DataFrame) -> None:
    """Fail if a rule of an arm names nothing in one of its prompts."""
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    for name, arm in study.sweep.arms.items():
        here = dataset[(dataset["label"] == arm.prompts) & (dataset["split"] != "train")]
        with at_key(f"sweep.arms.{name}"):
            for rule in arm.positions:
                positions.resolve(here, tokenizer, rule, variables=study.model.template)


def _check_position(study: Study, dataset: pd.DataFrame) -> None:
    """Fail if directions are to be fitted where nothing is collected; a selection takes its own."""
    _, places = positions.collected(study, dataset)
    lengths = dict(zip(dataset["sample"], dataset["tokens"].map(len), strict=True))
    valid = {place - lengths[sample] for sample, own in places.items() for place in own}
    if study.collect.positions == "subject":
        valid = {0}
    if study.vectors.selection is None and study.vectors.position not in valid:
        raise ValueError(
            f"vectors.position: {study.vectors.position} is not collected; valid: {sorted(valid)}"
        )
