"""Chunks on disk: the unit of resuming and of sharing a sweep out."""

import numpy as np
import pandas as pd
import pytest
import torch
from chunks import assert_alike_alone, count_preparations
from families import WIDTH, random_prompts, tiny

from pipeline.completing import complete
from pipeline.engine import generation
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.grid import Part
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site

PROMPTS = random_prompts(6)
CONDITIONS = tuple(
    Condition(
        "arm",
        "add",
        "fitted",
        layer=layer,
        edits=(Edit(Site(layer, "resid_pre"), Add(torch.full((WIDTH,), 0.3)), "all"),),
    )
    for layer in range(4)
)


def sweep(work) -> pd.DataFrame:
    dataset = pd.DataFrame({"sample": range(6), "tokens": [np.array(p) for p in PROMPTS]})
    dataset[["split", "label", "topic", "instruction", "demand"]] = "x"
    return complete(
        tiny("llama"),
        dataset,
        [Part("arm", "arm", CONDITIONS, tuple(range(6)))],
        work,
        decoding=Decoding(5, temperature=1.0, repeats=2),
        seed=0,
        batch_tokens=60,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    work = tmp_path_factory.mktemp("unbroken")
    return work, sweep(work)


def test_what_is_finished_is_not_done_again(unbroken, tmp_path):
    work, _ = unbroken
    chunks = sorted(work.glob("*-chunk-*.parquet"))
    assert len(chunks) > 4
    for path in chunks[::2]:
        told = pd.read_parquet(path).assign(completion="as it lay there")
        told.to_parquet(tmp_path / path.name)
    taken = sweep(tmp_path)["completion"] == "as it lay there"
    assert taken.any()
    assert not taken.all()


def test_each_chunk_has_the_same_bytes_whoever_makes_it_and_when(unbroken, tmp_path):
    work, table = unbroken
    assert_alike_alone(sorted(work.glob("*-chunk-*.parquet")), table, sweep, tmp_path)


def test_a_run_is_checked_once_for_all_its_chunks(tmp_path, monkeypatch):
    counts = count_preparations(monkeypatch, generation)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) > 4
    assert counts == {"checks": 1, "hashes": len(CONDITIONS)}
