"""What a stage opens must be of its study."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.config.inputs import Inputs
from pipeline.config.study import compose_study
from pipeline.data.positions import locate
from pipeline.data.prompts import tokenised_prompts
from pipeline.model.tokenizer import load_tokenizer
from pipeline.store.collecting import dataset_digest
from pipeline.store.index import Fingerprint
from pipeline.store.writer import StoreWriter

ROOT = Path(__file__).parents[1]
SITE = "blocks.0.resid_pre"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.chdir(ROOT)
    return compose_study("refusal", root=ROOT)


def prompts(study, words):
    """Prompts of both labels in every split, as `generate_dataset` writes them."""
    rows = [
        {"instruction": f"{word} {label} {split}", "label": label, "split": split, "raw": False}
        for word in words
        for label in ("harmful", "harmless")
        for split in ("train", "val", "test")
    ]
    frame = pd.DataFrame(rows).assign(sample=range(len(rows)))
    return tokenised_prompts(frame, load_tokenizer(study.model.path))


def output(study, folder, table, **changed):
    """An output folder with prompts and their store."""
    table.to_parquet(folder / "dataset.parquet")
    collect = study.collect
    rows = table[table["split"].isin(collect.splits)] if collect.splits else table
    tokens, _ = locate(rows, load_tokenizer(study.model.path), collect.positions, variables=None)
    digest = dataset_digest(pd.DataFrame({"sample": tokens.keys(), "tokens": tokens.values()}))
    values = {"model": "m", "revision": "", "tokenizer": "t", "template": "c", "dataset": digest}
    values |= {"sites": (SITE,), "positions": str(collect.positions)} | changed
    samples = list(tokens)
    with StoreWriter(
        folder / "activations", Fingerprint(**values), [samples], required_bytes=1
    ) as writer:
        places = pd.DataFrame({"sample": samples, "position": 0, "token": 0})
        writer.write(0, {SITE: torch.zeros(len(samples), 4)}, places)
    return folder


def test_a_store_of_the_studys_prompts_opens(tmp_path, study):
    folder = output(study, tmp_path, prompts(study, ["kiwi"]))
    assert Inputs(study, folder).store.sites == (SITE,)


def test_a_store_of_other_prompts_with_the_same_labels_is_refused(tmp_path, study):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder, words in ((ours, ["kiwi"]), (other, ["plum"])):
        folder.mkdir()
        output(study, folder, prompts(study, words))
    shutil.rmtree(ours / "activations")
    shutil.copytree(other / "activations", ours / "activations")
    with pytest.raises(
        ValueError, match=r"ours/activations holds other activations: dataset is '\w+' there, '\w+'"
    ) as caught:
        Inputs(study, ours).store  # noqa: B018
    assert str(caught.value).endswith("; delete it and run the study again")


@pytest.mark.parametrize(("field", "value"), [("positions", "last"), ("revision", "v2")])
def test_a_store_of_another_rule_or_revision_is_refused(tmp_path, study, field, value):
    folder = output(study, tmp_path, prompts(study, ["kiwi"]), **{field: value})
    with pytest.raises(ValueError, match=rf"other activations: {field} is '{value}' there, "):
        Inputs(study, folder).store  # noqa: B018


def test_a_store_of_another_model_is_refused_where_the_model_is_loaded(tmp_path, study):
    inputs = Inputs(study, output(study, tmp_path, prompts(study, ["kiwi"])))
    weights = inputs.model.weights
    with pytest.raises(ValueError, match=rf"other activations: model is 'm' there, '{weights}' he"):
        inputs.store  # noqa: B018
