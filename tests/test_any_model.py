"""A whole study from the command line on models of several families."""

import pandas as pd
import pytest
import yaml
from families import LAYERS, WIDTH, write_model
from project import SMALL, copy_project, run

from pipeline.measures.tracing import PARTS
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
    conditions = pd.read_parquet(output / "conditions.parquet")
    completed = pd.read_parquet(output / "completions.parquet")["condition"]
    assert set(completed) == set(conditions["condition"])
    steered = conditions[conditions["role"] != "baseline"]
    kinds = {"add", "subtract", "project_out"}
    assert set(steered["intervention"]) == kinds
    assert set(steered["layer"]) == {3}
    named = yaml.safe_load(rules)
    assert set(steered.loc[steered["intervention"] == "add", "positions"]) == set(map(str, named))
    # Of another text the rules name nothing; the other arms' rules do.
    losses = pd.read_parquet(output / "logits.parquet").merge(conditions, on="condition")
    assert set(losses["metric"]) <= {"cross_entropy"}
    if family == "neox":
        read = losses[losses["role"] != "baseline"]
        assert {"project_out"} <= set(read["intervention"]) <= kinds - {"add"}
        assert set(read["positions"]) <= {"all", "after_first", "generated"}
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


@pytest.mark.slow
def test_readings_and_back_patching_run_on_a_gemma_2_shape(tmp_path):
    """The studies without a steering vector, on random weights of another family."""
    folder = copy_project(tmp_path)
    write_model("gemma2", folder / "model", TEMPLATE)
    few = pd.read_json(folder / "data" / "two_hops.jsonl", lines=True).groupby("label").head(4)
    few.to_json(folder / "data" / "few_hops.jsonl", orient="records", lines=True)
    local = ["model=local", "model.path=model"]
    figures = {
        "next_token": ["next_token"],
        "logit_lens": ["first", "tokens", "entropy"],
        "back_patching": ["last", "subject", "log_probability"],
    }
    for study, names in figures.items():
        path = [] if study == "next_token" else ["dataset.path=data/few_hops.jsonl"]
        done = run(folder, "run", study, *local, *path)
        assert done.returncode == 0, done.stderr
        (output,) = folder.glob(f"outputs/{study}-*")
        assert {figure.stem for figure in output.glob("figures/*.png")} == set(names)
    conditions = pd.read_parquet(output / "conditions.parquet")
    pairs = conditions[conditions["arm"] == "last"].dropna(subset=["source_layer"])
    assert len(pairs) == LAYERS * (LAYERS - 1) / 2
    assert (pairs["target_layer"] < pairs["source_layer"]).all()


@pytest.mark.slow
def test_facts_are_traced_on_a_gemma_2_shape(tmp_path):
    """Subjects of many tokens, so that every part of a prompt is restored."""
    folder = copy_project(tmp_path)
    write_model("gemma2", folder / "model", TEMPLATE)
    few = pd.read_json(folder / "data" / "relations.jsonl", lines=True)
    few = few[few["label"].isin(["instrument", "sport"])].drop_duplicates(["label", "answer"])
    few.to_json(folder / "data" / "few_facts.jsonl", orient="records", lines=True)
    draws = [f"sweep.arms.{arm}.draws=1" for arm in ("states", "mlp", "attention")]
    # Random weights know no fact.
    right = ["figures.map.right=null", "figures.layers.right=null"]
    settings = ["model=local", "model.path=model", "dataset.path=data/few_facts.jsonl"]
    settings.append("dataset.shares=[0.4,0.3,0.3]")
    done = run(folder, "run", "tracing", *settings, *draws, *right)
    assert done.returncode == 0, done.stderr
    (output,) = folder.glob("outputs/tracing-*")
    assert {figure.stem for figure in output.glob("figures/*.png")} == {"map", "layers"}
    conditions = pd.read_parquet(output / "conditions.parquet")
    restored = conditions.dropna(subset=["layer"])
    assert set(restored["restored"]) == set(PARTS) and len(restored) == 3 * LAYERS * len(PARTS)
