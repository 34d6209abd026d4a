"""A whole study from the command line on models of several families."""

import pandas as pd
import pytest
import yaml
from families import LAYERS, WIDTH, write_model
from project import SMALL, copy_project, run

from pipeline.store import ActivationStore

TEMPLATE = "<user>{{ messages[0]['content'] }}<end>{{ '\n' }}<answer>{{ '\n' }}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template", "settings", "rows_each"),
    [
        ("gemma2", TEMPLATE, ["model.dtype=bfloat16"], 4),
        ("gpt2", None, ["collect.positions=last", "model.dtype=float32"], 1),
        ("neox", TEMPLATE, ["model.system='Be brief.'", "collect.positions=[-2,-1]"], 2),
    ],
)
def test_a_study_runs_whole_on_a_family(family, template, settings, rows_each, tmp_path):
    folder = copy_project(tmp_path)
    write_model(family, folder / "model", template)
    done = run(folder, "run", *SMALL, "text=null", "model=local", "model.path=model", *settings)
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "outputs").iterdir()
    store = ActivationStore(output / "activations")
    dataset = pd.read_parquet(output / "dataset.parquet")
    collected = dataset[dataset["split"] == "train"]
    assert len(store.rows) == rows_each * len(collected)
    assert store[f"blocks.{LAYERS - 1}.resid_pre"].shape == (len(store.rows), WIDTH)
    sweep = pd.read_parquet(output / "sweep.parquet")
    kinds = {"none", "add", "subtract", "project_out"}
    assert set(sweep["intervention"]) == kinds
    assert set(sweep.loc[sweep["intervention"] != "none", "layer"]) == {3}
    said = {
        "gemma2": "",
        "gpt2": "the tokenizer has no chat template: prompts are the instruction and a newline",
        "neox": "the chat template takes no system turn: its text precedes the instruction",
    }[family]
    assert said in done.stderr
    if family == "neox":
        assert collected["prompt"].str.startswith("<user>Be brief.\n\n").all()
    assert (output / "figures" / "effect_by_layer.png").stat().st_size > 10_000
    assert yaml.safe_load((output / "config.yaml").read_text())["model"]["path"] == "model"
