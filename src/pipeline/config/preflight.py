"""Check a study before it runs, against its model's config and its dataset."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

import pandas as pd

from pipeline.config.contracts import bound, imported, reads
from pipeline.config.declared import InModel, declared
from pipeline.config.errors import at_key
from pipeline.config.metrics import check_cluster, check_logit_metrics, check_metrics, check_scales
from pipeline.config.planning import Planned, planned_parts, stand_ins
from pipeline.config.rows import check_axes, check_rows, check_texts
from pipeline.config.sections import Node, Study
from pipeline.config.study import config_file, load_study
from pipeline.config.values import all_nodes
from pipeline.config.wiring import FIT_OPTIONS, option_texts
from pipeline.data import completions, positions
from pipeline.data.prompts import select_prompts, tokenised_prompts, tokenised_texts
from pipeline.engine.conditions import check_rule
from pipeline.engine.sweeps import conditions_table
from pipeline.model.dtypes import check_dtype, choose_device, resolve_dtype
from pipeline.model.gguf import local_path
from pipeline.model.hub import check_path
from pipeline.model.loading import (
    LanguageModel,
    check_device_map,
    without_weights,
)
from pipeline.model.sites import Site, check_component, chosen_layers, collected_layers
from pipeline.model.tokenizer import load_tokenizer
from pipeline.model.weights import check_files

_CLASSES = ("positive", "negative", "contrasts")
"""Options with the labels between which directions are fitted."""


def check(study: Study) -> Planned:
    """Check a study against its model's config and its dataset, and resolve its dtype.

    Does not load the model.

    Raises:
        ValueError: an unknown model path, layer, component, position rule, label, split or
            dataset; names it and the valid ones.
    """
    with at_key("model"):
        check_dtype(study.model.dtype)
        device = choose_device(study.model.device)
        check_device_map(study.model.device_map)
    check_path(study.model.path, study.model.revision)
    check_files(local_path(study.model.path))
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    model = without_weights(study.model, tokenizer)
    # The results depend on it: it is part of the study's identity.
    study.model.dtype = resolve_dtype(study.model.dtype, device, model.hf.config.dtype)
    for key, options in _node_options(study):
        _check_components(model, key, options)
    _check_collect(study, model)
    prompts = tokenised_prompts(
        _dataset(study),
        tokenizer,
        system=study.model.system,
        variables=study.model.template,
    )
    with at_key("text"):
        texts = tokenised_texts(study.text, tokenizer)
    collected = _collected(study, model, prompts)
    _check_tokens(model, prompts, texts)
    _check_lengths(study, model, prompts, texts)
    check_logit_metrics(study, model, prompts)
    _check_readings(study, model, prompts)
    check_cluster(study, prompts)
    check_scales(study)
    check_metrics(study, prompts)
    fits = stand_ins(study, model, prompts)
    check_rows(study, prompts)
    _check_collected_sites(study, fits)
    parts = tuple(planned_parts(study, model, prompts, fits))
    conditions_table(parts)
    check_texts(study, parts)
    check_axes(study, prompts, parts)
    return Planned(prompts, collected, model, parts)


def _dataset(study: Study) -> pd.DataFrame:
    """Load the dataset; if another study has yet to complete its prompts, without completions.

    Raises:
        ValueError: as its loader.
    """
    other = study.dataset.get("study")
    folder = completions.OUTPUTS / str(other)
    if other is None or (folder / "completions.parquet").is_file():
        return bound(study.dataset)()
    config = config_file(folder)
    if not config.is_file():
        raise ValueError(
            f"dataset.study: {other!r} is neither composed nor run; list it before {study.name} in "
            f"params.yaml, and run `dvc repro`, or `actsweep run {other}`"
        )
    return completions.not_completed(bound(load_study(config).dataset)())


def _check_collected_sites(study: Study, fits: Mapping[str, Any]) -> None:
    """Fail if a fit that reads the store needs a site or a split that is not collected."""
    if study.collect is None:
        return
    splits = study.collect.splits
    of_store = [name for name, node in study.fits.items() if "store" in reads(node)]
    if of_store and "train" not in splits:
        raise ValueError(
            f"collect.splits: {', '.join(splits)}; fits.{of_store[0]} is fitted on train, which "
            "must be collected"
        )
    for name, fit in fits.items():
        for text in fit.provenance.sites if name in of_store else ():
            listed = Site.parse(text).component in study.collect.components
            if not listed and text not in study.collect.sites:
                raise ValueError(
                    f"fits.{name}: {text} is not collected; collect.sites has: "
                    f"{', '.join(study.collect.sites) or 'none'}"
                )


def _node_options(study: Study) -> Iterator[tuple[str, Node]]:
    yield from ((f"fits.{name}", node) for name, node in study.fits.items())
    yield from ((f"readings.{name}", node) for name, node in study.readings.items())
    if study.sweep is not None:
        for arm in study.sweep.arms:
            node = study.sweep.node(arm)
            if node is not None:
                yield f"sweep.arms.{arm}", node


def _check_components(model: LanguageModel, key: str, node: Node) -> None:
    """Check the options with a common meaning in all nodes: components, sites, position rules."""
    listed = [*node.get("components", []), *([node["component"]] if "component" in node else [])]
    name = "component" if "component" in node else "components"
    for component in listed:
        with at_key(f"{key}.{name}"):
            check_component(component, model.name, parallel=model.parallel)
    for text in node.get("sites", []):
        with at_key(f"{key}.sites"):
            model.check(Site.parse(text))
    if not key.startswith("sweep.arms.") and "store" not in reads(node):
        # An arm's are checked with its conditions, those of stored activations with what is stored.
        _check_layers(model, key, node)
    if key.startswith("sweep.arms.") and "positions" in node:
        # Some arms take one rule, which may be a list of positions; others a list of rules.
        function = imported(node["_target_"])
        annotation = inspect.signature(function, eval_str=True).parameters["positions"].annotation
        rules = node["positions"] if get_origin(annotation) is list else [node["positions"]]
        with at_key(f"{key}.positions"):
            for rule in rules:
                check_rule(rule, positions.EDITED)


def _check_layers(model: LanguageModel, key: str, node: Node) -> None:
    for name in ("layers", "source_layers", "target_layers"):
        layers = node.get(name, "all")
        # Lists within the list are windows of layers.
        if isinstance(layers, str) or all(isinstance(layer, int) for layer in layers):
            with at_key(key if name == "layers" else f"{key}.{name}"):
                chosen_layers(layers, model.n_layers, model.name)
    for name in ("layer", "target_layer"):
        layer = node.get(name)
        if layer is not None and not 0 <= layer < model.n_layers:
            raise ValueError(
                f"{key}.{name}: {model.name} has no layer {layer}; valid: 0 to {model.n_layers - 1}"
            )


def _check_collect(study: Study, model: LanguageModel) -> None:
    if study.collect is None:
        return
    with at_key("collect.components"):
        for component in study.collect.components:
            check_component(component, model.name, parallel=model.parallel)
    with at_key("collect.sites"):
        for text in study.collect.sites:
            model.check(Site.parse(text))
    with at_key("collect.positions"):
        check_rule(study.collect.positions, positions.COLLECTED)
    of_sites = [Site.parse(text).component for text in study.collect.sites]
    collected = dict.fromkeys([*study.collect.components, *of_sites])
    for name, node in study.fits.items():
        fitted = node.get("component")
        if fitted is not None and fitted not in collected:
            raise ValueError(
                f"fits.{name}.component: {fitted!r} is not collected; valid: {', '.join(collected)}"
            )


def _collected(study: Study, model: LanguageModel, prompts: pd.DataFrame) -> int:
    if study.collect is None:
        return 0
    with at_key("collect.prompts"):
        rows = select_prompts(prompts, study.collect.prompts, study.collect.splits)
    with at_key("collect.positions"):
        tokens, positions_by_sample = positions.locate(
            rows, model.tokenizer, study.collect.positions, variables=model.template
        )
    for key, node in all_nodes(study):
        if "position" in node and "store" in reads(node):
            labels = list(option_texts([node.get(name) for name in _CLASSES]))
            fitted = (rows["split"] == "train") & rows["label"].isin(labels)
            places = {sample: positions_by_sample[sample] for sample in rows["sample"][fitted]}
            with at_key(f"{key}.position"):
                _check_position(node["position"], study.collect.positions, tokens, places)
    return sum(map(len, positions_by_sample.values()))


def _check_position(
    position: Any, rule: Any, tokens: Mapping[int, list[int]], places: Mapping[int, tuple[int, ...]]
) -> None:
    """Fail if a direction is fitted at a position that is not collected of every prompt."""
    if rule in ("subject", "answer"):
        valid: list[Any] = [rule]
    else:
        from_end = [{p - len(tokens[sample]) for p in listed} for sample, listed in places.items()]
        valid = sorted(set.intersection(*from_end)) if from_end else []
    if position not in valid:
        raise ValueError(f"{position} is not collected of every prompt; valid: {valid}")


def _check_tokens(model: LanguageModel, prompts: pd.DataFrame, texts: pd.DataFrame) -> None:
    """Fail if the tokenizer has a token that the model has no embedding of."""
    last = model.hf.get_input_embeddings().weight.shape[0] - 1
    for what, table in (("prompt of sample", prompts), ("text of row", texts)):
        for sample, tokens in zip(table["sample"], table["tokens"], strict=True):
            if max(tokens, default=0) > last:
                word = model.tokenizer.decode([max(tokens)])
                raise ValueError(
                    f"{what} {sample} has token {max(tokens)} ({word}); the model has embeddings "
                    f"0 to {last}"
                )


def _check_lengths(
    study: Study, model: LanguageModel, prompts: pd.DataFrame, texts: pd.DataFrame
) -> None:
    context = model.config.max_position_embeddings
    longest = int(prompts["tokens"].map(len).max())
    decoding = study.sweep.decoding if study.sweep else None
    new = decoding.max_new_tokens if decoding else 0
    if longest > context:
        raise ValueError(
            f"dataset: the longest prompt has {longest} tokens; the context of "
            f"{study.model.path} has {context}"
        )
    if longest + new > context:
        raise ValueError(
            f"sweep.decoding.max_new_tokens: {new} after the longest prompt's {longest} tokens "
            f"exceed the context of {study.model.path}: {context}"
        )
    for sample, tokens in zip(texts["sample"], texts["tokens"], strict=True):
        if not 2 <= len(tokens) <= context:
            raise ValueError(f"text: row {sample} has {len(tokens)} tokens; valid: 2 to {context}")


def _check_readings(study: Study, model: LanguageModel, prompts: pd.DataFrame) -> None:
    """Fail if a reading names a fit, column, label, component or layer that there is not."""
    collected = _collected_sites(study, model)
    for key, node in all_nodes(study):
        for option, _, layer in declared(imported(node["_target_"]), node, InModel):
            if not 0 <= layer < model.n_layers:
                raise ValueError(f"{key}.{option}: layer {layer}; valid: 0 to {model.n_layers - 1}")
    for name, node in study.readings.items():
        for option in FIT_OPTIONS if "fits" in reads(node) else ():
            for fit in option_texts(node.get(option)):
                if "/" not in fit and fit not in study.fits:
                    raise ValueError(
                        f"readings.{name}.{option}: no fit {fit!r}; "
                        f"valid: {', '.join(study.fits) or 'none'}"
                    )
        if "prompts" in reads(node):
            for option in ("columns", "cluster"):
                for column in option_texts(node.get(option)):
                    if column not in prompts:
                        raise ValueError(
                            f"readings.{name}.{option}: no column {column!r} in the dataset; it "
                            f"has: {', '.join(prompts)}"
                        )
            with at_key(f"readings.{name}.contrasts"):
                for label in option_texts(node.get("contrasts")):
                    select_prompts(prompts, label, ["train"])
        if "store" in reads(node) and "component" in node:
            with at_key(f"readings.{name}"):
                collected_layers(node["component"], node.get("layers", "all"), collected)


def _collected_sites(study: Study, model: LanguageModel) -> list[Site]:
    if study.collect is None:
        return []
    layers = range(model.n_layers)
    listed = [Site(layer, name) for name in study.collect.components for layer in layers]
    return [*listed, *map(Site.parse, study.collect.sites)]
