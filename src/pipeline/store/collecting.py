"""Collect activations of many samples into a store, shard by shard."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.config.sections import Model
from pipeline.data.datasets import dataset_digest
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Places
from pipeline.model import chat
from pipeline.model.loading import LanguageModel, tokenizer_digest
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter


def write_store(
    folder: Path,
    model: LanguageModel,
    section: Model,
    tokens: Mapping[int, list[int]],
    places: Mapping[int, tuple[int, ...]],
    sites: Sequence[Site],
    *,
    rule: str,
    rows_per_shard: int,
) -> ActivationStore:
    """Fill `folder` with the activations of samples; a killed run goes on at its next shard.

    Args:
        folder: of the store.
        model: the model.
        section: its revision and how many tokens a batch may have.
        tokens: of each sample.
        places: the absolute positions that are kept of each sample.
        sites: where.
        rule: the name of what chose the places.
        rows_per_shard: a shard has as many rows at most, but for a sample that has more.
    """
    fingerprint = Fingerprint(
        model=model.weights,
        revision=section.revision or "",
        tokenizer=tokenizer_digest(model.tokenizer),
        template=chat.template_digest(model.tokenizer),
        dataset=dataset_digest(pd.DataFrame({"sample": tokens.keys(), "tokens": tokens.values()})),
        sites=tuple(map(str, sites)),
        positions=rule,
    )
    rows = {sample: len(kept) for sample, kept in places.items()}
    shards = _shards(rows, rows_per_shard)
    size = sum(rows.values()) * sum(map(model.width, sites)) * model.dtype.itemsize
    with StoreWriter(folder, fingerprint, shards, required_bytes=size) as writer:
        for number in tqdm(writer.missing(), "collect", unit="shard", disable=None):
            samples = shards[number]
            values, table = collect(
                model,
                [tokens[s] for s in samples],
                sites,
                Places(rule, [places[s] for s in samples]),
                batch_tokens=section.batch_tokens,
            )
            table["sample"] = [samples[p] for p in table.pop("prompt")]
            writer.write(number, {str(s): v for s, v in values.items()}, table)
    return ActivationStore(folder)


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
