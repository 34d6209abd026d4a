"""A whole study from the command line on models of several families."""

import pandas as pd
import pytest
import yaml
from families import LAYERS, WIDTH, write_model
from project import SMALL, copy_project, run

from pipeline.store.store import ActivationStore

TEMPLATE = "<user>{{ messages[0]['content'] }}<end>{{ '\n' }}<answer>{{ '\n' }}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template", "rules", "settings", "rows_each"),
    [
        ("gemma2", TEMPLATE, "[template]", ["model.dtype=bfloat16", "text=null"], 4),
        ("gpt2", None, "[subject, answer]", ["collect.positions=last", "text=null"], 1),
        (
            "neox",
            TEMPLATE,
            "[[-2, -1]]",
            ["model.system='Be brief.'", "collect.positions=[-2,-1]"],
            2,
        ),
    ],
)
def test_a_study_runs_whole_on_a_family(family, template, rules, settings, rows_each, tmp_path):
    folder = copy_project(tmp_path)
    write_model(family, folder / "model", template)
    rows = pd.read_json(folder / "data" / "few.jsonl", lines=True)
    rows = rows.assign(subject=rows["instruction"].str.split().str[-1], answer=" No, never.")
    rows.to_json(folder / "data" / "few.jsonl", orient="records", lines=True)
    settings = [*settings, f"sweep.arms.add.positions={rules}"]
    done = run(folder, "run", *SMALL, "model=local", "model.path=model", *settings)
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
    named = yaml.safe_load(rules)
    assert set(sweep.loc[sweep["intervention"] == "add", "positions"]) == set(map(str, named))
    # Of another text the rules name nothing; the other arms' rules do.
    losses = pd.read_parquet(output / "forward.parquet")
    assert set(losses["metric"]) <= {"cross_entropy"}
    if family == "neox":
        assert {"none", "project_out"} <= set(losses["intervention"]) <= kinds - {"add"}
        assert set(losses["positions"]) <= {"none", "all", "after_first", "generated"}
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
