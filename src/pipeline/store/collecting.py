"""Collect activations of many samples into a store, shard by shard."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipeline.data.datasets import dataset_digest
from pipeline.engine.collection import collect
from pipeline.engine.conditions import PromptPositions
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.tokenizer import tokenizer_digest
from pipeline.runs.progress import progress
from pipeline.store.index import Fingerprint
from pipeline.store.store import ActivationStore
from pipeline.store.writer import StoreWriter


def write_store(
    folder: Path,
    model: LanguageModel,
    tokens: Mapping[int, list[int]],
    positions: Mapping[int, tuple[int, ...]],
    sites: Sequence[Site],
    *,
    revision: str,
    rule: str,
    rows_per_shard: int,
) -> ActivationStore:
    """Collect the activations of samples into `folder`; resume a killed run at its next shard.

    Args:
        folder: folder of the store.
        model: the model.
        tokens: tokens of each sample.
        positions: absolute positions to store of each sample.
        sites: sites to collect.
        revision: revision of the model on the Hub.
        rule: name of the rule that selected the positions.
        rows_per_shard: most rows of a shard; a single sample with more rows gets its own shard.
    """
    fingerprint = Fingerprint(
        model=model.weights,
        revision=revision,
        tokenizer=tokenizer_digest(model.tokenizer),
        template=chat.template_digest(model.tokenizer),
        dataset=_digest(tokens),
        sites=tuple(map(str, sites)),
        positions=rule,
    )
    rows = {sample: len(sample_positions) for sample, sample_positions in positions.items()}
    shards = _shards(rows, rows_per_shard)
    size = sum(rows.values()) * sum(map(model.width, sites)) * model.dtype.itemsize
    with StoreWriter(folder, fingerprint, shards, required_bytes=size) as writer:
        missing = writer.missing()
        for number in progress(missing, "activations", "shard", kept=len(shards) - len(missing)):
            samples = shards[number]
            values, table = collect(
                model,
                [tokens[s] for s in samples],
                sites,
                PromptPositions(rule, [positions[s] for s in samples]),
                batch_tokens=model.batch_tokens,
            )
            table["sample"] = [samples[p] for p in table.pop("prompt")]
            writer.write(number, {str(s): v for s, v in values.items()}, table)
    return ActivationStore(folder)


def check_store(
    store: ActivationStore,
    tokens: Mapping[int, list[int]],
    *,
    model: str | None,
    revision: str,
    rule: str,
) -> None:
    """Check that a store was written for these tokens, model and positions.

    Args:
        store: the store.
        tokens: tokens of each sample.
        model: hash of the weights; not compared if None.
        revision: revision of the model on the Hub.
        rule: name of the rule that selected the positions.

    Raises:
        ValueError: lists both values of every field that differs.
    """
    there = store.fingerprint
    expected = replace(
        there,
        model=there.model if model is None else model,
        revision=revision,
        dataset=_digest(tokens),
        positions=rule,
    )
    there.require(expected, str(store.folder))


def _digest(tokens: Mapping[int, list[int]]) -> str:
    return dataset_digest(pd.DataFrame({"sample": tokens.keys(), "tokens": tokens.values()}))


def _shards(rows: Mapping[int, int], rows_per_shard: int) -> list[list[int]]:
    shards: list[list[int]] = [[]]
    filled = 0
    for sample, count in rows.items():
        if shards[-1] and filled + count > rows_per_shard:
            shards.append([])
            filled = 0
        shards[-1].append(sample)
        filled += count
    return shards
