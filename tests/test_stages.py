"""The stages from the command line: whole, killed, forced, and with wrong input."""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from project import ROOT, SMALL, command, copy_project, environment, run

from pipeline.config.contracts import call
from pipeline.config.inputs import Inputs
from pipeline.config.sections import Score, Study
from pipeline.config.study import load_study
from pipeline.config.wiring import Stage
from pipeline.data.prompts import select_prompts
from pipeline.engine.conditions import Condition
from pipeline.engine.phases import reported
from pipeline.engine.sweeps import arm_conditions
from pipeline.measures.settings import Setting
from pipeline.methods.directions import Directions, Key
from pipeline.methods.selection import select_direction
from pipeline.model.loading import load_model
from pipeline.store.store import ActivationStore
from stages import Job, plot_figures, read_activations

TABLES = (
    "dataset",
    "texts",
    "validation",
    "conditions",
    "completions",
    "logits",
    "scores",
    "summary",
)
EXTRAS = os.environ.get("ACTSWEEP_EXTRAS")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    # Stamps hold the times of files.
    files = (path for path in files if path.suffix != ".key")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_figure_says_nothing_that_may_change_while_dvc_keeps_it(tmp_path):
    """Of code and of other sections nothing: in another clone the same file would be another."""
    (tmp_path / "in.csv").write_text("a")
    values = ("score.seed",)
    stage = Stage("plot_figures", None, ("figures",), (), ("in.csv",), ("figures",), values)

    def said(figures: int, readings: int, seed: int = 0) -> dict[str, str]:
        sections = {"figures": {"f": {"x": figures}}, "readings": {"r": {"x": readings}}}
        study = Study("s", "?", dataset={}, score=Score(seed=seed), **sections)
        # The folder's name is that of the study, or the id of a run by hand.
        return Job(study, stage, tmp_path, None).made_from()

    first = said(figures=1, readings=1)
    assert set(first) == {"in.csv", "config", "study"}
    assert said(figures=1, readings=2) == first
    assert said(figures=2, readings=1)["config"] != first["config"]
    assert said(figures=1, readings=1, seed=1)["config"] != first["config"]
    (tmp_path / "in.csv").write_text("b")
    assert said(figures=1, readings=1)["in.csv"] != first["in.csv"]


@pytest.mark.parametrize(
    ("stage", "section", "returned", "message"),
    [
        (plot_figures, "figures", None, "figures.own returns a NoneType; valid: a Figure"),
        (
            read_activations,
            "readings",
            pd.Series([1]),
            "readings.own: returns a Series; valid",
        ),
    ],
)
def test_what_a_node_returns_is_checked(stage, section, returned, message, tmp_path):
    job = SimpleNamespace(
        study=SimpleNamespace(**{section: {"own": {}}}),
        scratch=lambda output: contextlib.nullcontext(tmp_path),
        call=lambda node, **others: returned,
    )
    with pytest.raises(ValueError, match=message):
        stage.run(job)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The project after one unbroken run, and that run's outputs."""
    folder = copy_project(tmp_path_factory.mktemp("whole"))
    done = run(folder, "run", *SMALL)
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "outputs").iterdir()
    return output


@pytest.mark.slow
def test_every_stage_writes_what_it_declares_and_is_recorded(whole):
    for name in TABLES:
        assert len(pd.read_parquet(whole / f"{name}.parquet"))
    assert (whole / "figures" / "effect_by_layer.png").stat().st_size > 10_000
    ActivationStore(whole / "activations").verify()
    (records,) = (whole.parents[1] / ".actsweep" / "runs" / "small").iterdir()
    assert records.name == whole.name == load_study(whole / "config.yaml").id
    status = {path.stem: json.loads(path.read_text())["status"] for path in records.iterdir()}
    assert len(status) == 7
    assert set(status.values()) == {"finished"}
    assert not list((whole.parents[1] / ".actsweep" / "scratch").iterdir())


@pytest.mark.slow
def test_the_tables_are_those_of_a_naive_loop(whole, monkeypatch):
    """Every completion of every condition, one row at a time and without a cache."""
    monkeypatch.chdir(whole.parents[1])
    study = load_study(whole / "config.yaml")
    inputs = Inputs(study, whole)
    model, dataset = inputs.model, inputs.prompts
    sweep = pd.read_parquet(whole / "completions.parquet").set_index(["condition", "sample"])
    expected, compared = 0, []
    settings = json.loads((whole / "settings.json").read_text())
    for name in study.sweep.arms:
        rows = select_prompts(dataset, study.sweep.arm(name).prompts, ["test"])
        conditions = call(study.sweep.node(name), inputs.replaced(prompts=rows))
        conditions = reported(arm_conditions(name, conditions), Setting(**settings[name]))
        expected += len(conditions) * len(rows[::2])
        for condition in conditions:
            for sample in rows["sample"][::2]:
                prompt = dataset.at[sample, "tokens"].tolist()
                tokens, logits = naive.generate(model, prompt, condition, 8)
                row = sweep.loc[(condition.id, sample)]
                text_tokens = model.tokenizer.encode(row["completion"], add_special_tokens=False)
                # Text that is no whole UTF-8 does not give its tokens back.
                same = row["completion"] == model.decode(tokens)
                case = (str(condition), sample)
                compared.append((case, tokens if same else text_tokens, tokens, logits))
                assert row["stopped"] == ("length" if len(tokens) == 8 else "end")
    naive.assert_same(compared)
    assert len(compared) == expected > 40
    assert sweep.index.is_unique


@pytest.mark.slow
def test_collected_activations_are_transformers_hidden_states(whole, monkeypatch):
    monkeypatch.chdir(whole.parents[1])
    model = load_model(load_study(whole / "config.yaml").model)
    dataset = pd.read_parquet(whole / "dataset.parquet")
    store = ActivationStore(whole / "activations")
    assert len(store.index.shards) > 2
    train = dataset[dataset["split"] == "train"]
    assert set(store.rows["sample"]) == set(train["sample"])
    for sample, tokens in zip(train["sample"], train["tokens"], strict=True):
        rows = np.flatnonzero(store.rows["sample"] == sample)
        prompt = tokens.tolist()
        states = model.hf(model.pad([prompt])[0], output_hidden_states=True).hidden_states
        assert len(rows) == 4  # the template region
        for layer in range(model.n_layers):
            found = store[f"blocks.{layer}.resid_pre"][rows]
            expected = states[layer][0, store.rows["position"].to_numpy()[rows].copy()]
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(whole, tmp_path):
    folder = copy_project(tmp_path)
    process = subprocess.Popen(
        command(folder, "run", *SMALL),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    scratch = folder / ".actsweep" / "scratch"
    deadline = time.monotonic() + 120
    while len(list(scratch.glob("*completions*/*-chunk-*.parquet"))) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(folder.glob("outputs/*/completions.parquet"))
    done = run(folder, "run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "collect_activations: finished before, kept" in done.stdout
    assert contents(folder / "outputs" / whole.name) == contents(whole)


@pytest.mark.slow
def test_another_run_writes_the_same_bytes_and_keeps_what_is_finished(whole):
    before = contents(whole)
    kept = run(whole.parents[1], "run", *SMALL)
    assert kept.stdout.count("finished before, kept") == 7
    for path in whole.glob(".*.key"):
        path.unlink()
    again = run(whole.parents[1], "run", *SMALL)
    assert again.returncode == 0, again.stderr
    assert "kept" not in again.stdout
    assert contents(whole) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=no/model/here", "model.path 'no/model/here' is not a model"),
        ("sweep.layers=[99]", "no layer 99; valid: 0 to"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_outputs_untouched(whole, override, message):
    project = whole.parents[1]
    before = contents(project / "outputs")
    done = run(project, "run", *SMALL, override)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert contents(project / "outputs") == before


@pytest.mark.slow
def test_selection_chooses_position_and_layer_of_what_is_reported(tmp_path):
    folder = copy_project(tmp_path)
    done = run(
        folder,
        "run",
        "refusal",
        "dataset.path=data/few.jsonl",
        "sweep.decoding.max_new_tokens=8",
        "fits.direction.controls={shuffled: 0, covariance: 0, isotropic: 0}",
        *(f"sweep.arms.{arm}.strengths=[1.0]" for arm in ("add", "subtract")),
    )
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "outputs").iterdir()
    directions = Directions.load(output / "fits" / "direction")
    assert len(directions.candidates) == 4 * 7  # template positions x layers, without layer 0
    node = load_study(output / "config.yaml").fits["direction"]
    limits = {name: node[name] for name in ("max_kl", "min_steering", "layer_share")}
    expected = select_direction(directions.candidates, n_layers=8, **limits)
    assert directions.selected == pytest.approx(asdict(expected))
    settings = json.loads((output / "settings.json").read_text())
    reported_numbers = json.loads((output / "headline.json").read_text())
    for arm in ("add", "subtract", "project_out"):
        assert settings[arm]["chosen_by"] == "selection"
        layers = settings[arm]["axes"]["layer"], reported_numbers[arm]["setting"]["layer"]
        assert set(layers) == {directions.selected["layer"]}
    assert directions.position == directions.selected["position"]


@pytest.mark.slow
def test_a_dry_run_says_what_it_would_cost(whole):
    before = contents(whole.parents[1] / "outputs")
    done = run(whole.parents[1], "run", *SMALL, "sweep.seed=5", "--dry-run")
    assert done.returncode == 0, done.stderr
    conditions = pd.read_parquet(whole / "conditions.parquet")
    validation = pd.read_parquet(whole / "validation.parquet")
    completions = len(pd.read_parquet(whole / "completions.parquet")) + int(validation["n"].sum())
    for suffix, table in (("", conditions), ("-validation", validation)):
        for arm, count in table.groupby("arm")["condition"].nunique().items():
            assert f"  {arm}{suffix}: {count} conditions" in done.stdout
    assert f"completions: {completions:,}" in done.stdout
    size = sum(path.stat().st_size for path in (whole / "activations").glob("shard*"))
    assert f"disk: {size / 1e6:.1f} MB of activations" in done.stdout
    assert contents(whole.parents[1] / "outputs") == before


@pytest.mark.slow
def test_runs_are_shown_and_compared(whole):
    project = whole.parents[1]
    shown = run(project, "show", whole.name, "--completions", "1")
    assert shown.returncode == 0, shown.stderr
    assert "add (layer 3, strength 1, " in shown.stdout
    assert "baseline" in shown.stdout and "steered" in shown.stdout
    other = run(
        project,
        "run",
        *SMALL,
        "sweep.arms.add.strengths=[0.5]",
    )
    assert other.returncode == 0, other.stderr
    assert "collect_activations: the same as in small-" in other.stdout
    ids = sorted(path.name for path in (project / "outputs").iterdir())
    listed = run(project, "list").stdout.splitlines()
    assert [line.split()[2] for line in listed] == [other.stdout.splitlines()[0], whole.name]
    # The study's name means its newest run.
    assert "strength 0.5" in run(project, "show", "small").stdout
    compared = run(project, "compare", *ids)
    assert compared.returncode == 0, compared.stderr
    assert "sweep.arms.add.strengths" in compared.stdout
    steered = next(line for line in compared.stdout.splitlines() if "add.steered" in line)
    assert steered.split()[-2:] == ["yes", "no"] or steered.split()[-1] == "yes"
    figure = whole / "figures" / "effect_by_layer.png"
    traced = run(project, "trace", str(figure))
    assert traced.returncode == 0, traced.stderr
    assert f"outputs/{whole.name}/scores.parquet" in traced.stdout
    assert traced.stdout.count(": as now") == 5
    narrow = subprocess.run(
        command(project, "show", whole.name, "--completions", "1"),
        cwd=project, env=environment() | {"COLUMNS": "30"}, capture_output=True, text=True,
    )  # fmt: skip
    assert narrow.returncode == 0, narrow.stderr
    unknown = run(project, "compare", ids[0], "nothing")
    assert unknown.returncode == 2
    assert "'nothing' has no results in outputs; there are: small, small-" in unknown.stderr


@pytest.mark.slow
def test_a_study_of_logits_generates_nothing(tmp_path, monkeypatch):
    """Its scores are those of transformers' own forward pass, and of a step along the direction."""
    folder = copy_project(tmp_path)
    small = [
        "refusal_odds",
        "dataset.path=data/few.jsonl",
        "sweep.layers=[3]",
        "fits.vector.controls={shuffled: 1, covariance: 0, isotropic: 0}",
        *(f"sweep.arms.{arm}.strengths=[0.5, 1.0]" for arm in ("add", "subtract")),
    ]
    asked = run(folder, "run", *small, "--dry-run")
    assert "completions: 0\nforward passes: 100," in asked.stdout, asked.stdout + asked.stderr
    done = run(folder, "run", *small)
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "outputs").iterdir()
    assert pd.read_parquet(output / "completions.parquet").empty
    shown = run(folder, "show", output.name, "--completions", "1")
    assert "no completions: the study decodes none" in shown.stdout
    monkeypatch.chdir(folder)
    model = load_model(load_study(output / "config.yaml").model)
    (refusing,) = model.tokenizer.encode("I", add_special_tokens=False)
    directions = Directions.load(output / "fits" / "vector")
    dataset = pd.read_parquet(output / "dataset.parquet").set_index("sample")
    scores = Inputs(load_study(output / "config.yaml"), output).scores
    scores = scores[(scores["arm"] == "add") & (scores["metric"] == "refusal_odds")]
    scores = scores[(scores["role"] != "control") & ~scores["positions"].eq("all")]
    scores = scores.fillna({"strength": 0.0})
    assert len(scores) >= 6 * 2
    for row in scores.to_dict("records"):

        def along(module, args, strength=row["strength"]):
            args[0][:, -1] += strength * directions.vectors[Key("fitted", 0, 3)]

        handle = model.blocks[3].register_forward_pre_hook(along)
        prompt = dataset.at[row["sample"], "tokens"].tolist()
        logits = model.hf(model.pad([prompt])[0], use_cache=False).logits[0, -1].double()
        handle.remove()
        p = logits.softmax(-1)[refusing]
        assert row["score"] == pytest.approx(float(torch.logit(p)), abs=1e-3)


def test_selection_from_the_command_line(tmp_path):
    names = ("position", "layer", "refusal_score", "steering_score", "kl_div_score")
    rows = [dict(zip(names, row, strict=True)) for row in [(-1, 5, -9, 1, 0.2), (-2, 4, -5, 1, 0)]]
    table = tmp_path / "candidates.json"
    table.write_text(json.dumps(rows))
    done = run(ROOT, "select", str(table), "--layers", "8")
    assert json.loads(done.stdout)["layer"] == 4
    refused = run(ROOT, "select", str(table), "--layers", "6", "--layer-share", "0.5")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: none of 2 candidates passes the filters")


@pytest.mark.slow
@pytest.mark.skipif(EXTRAS is None, reason="ACTSWEEP_EXTRAS names no folder of extra models")
def test_the_list_study_runs_on_another_model(tmp_path):
    folder = copy_project(tmp_path)
    path = Path(str(EXTRAS)) / "models" / "stories260k"
    done = run(
        folder,
        "run",
        "lists",
        f"model.path={path}",
        "sweep.layers=[2]",
        "sweep.decoding.max_new_tokens=12",
        "sweep.decoding.repeats=2",
    )
    assert done.returncode == 0, done.stderr
    (output,) = (folder / "outputs").iterdir()
    sweep = pd.read_parquet(output / "completions.parquet")
    assert sweep["completion"].str.contains("[a-z]").mean() > 0.9
    assert Condition({"arm": "shorten"}).id in set(sweep["condition"])
