"""Outputs found by name, compared prompt by prompt, traced, and shared between runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from project import ROOT

from pipeline.cli import main
from pipeline.config.study import compose_study, config_file, load_study, save_study
from pipeline.config.wiring import stage_of, stages_of
from pipeline.data.roles import BASELINE, CANDIDATE
from pipeline.measures.scale import TEXT_METRIC
from pipeline.measures.statistics import paired_difference
from pipeline.runs.comparison import compare_named
from pipeline.runs.outputs import command_of, find_output, is_finished, outputs
from pipeline.runs.records import run_file, take_record
from pipeline.runs.reuse import is_kept, reused, stamp
from pipeline.runs.trace import options_digest, read_record, trace, with_record
from pipeline.runs.tracking import md5
from pipeline.views.panels import save


def write_run(root: Path, name: str, scores: dict[str, list[float]], *, seed: int = 0) -> Path:
    """An output folder of study `refusal`: one arm, its baseline and its setting."""
    folder = root / "outputs" / name
    folder.mkdir(parents=True)
    study = compose_study("refusal", [f"sweep.seed={seed}"], root=ROOT)
    by_dvc = name == "refusal"
    save_study(study, root / "outputs/config/refusal.yaml" if by_dvc else folder / "config.yaml")
    n = len(scores["baseline"])
    prompts = {"sample": range(n), "instruction": [f"q{i}" for i in range(n)], "topic": "t"}
    pd.DataFrame(prompts).to_parquet(folder / "dataset.parquet")
    pd.DataFrame({"sample": range(5), "text": list("abcde")}).to_parquet(folder / "texts.parquet")
    roles = {"baseline": BASELINE, "steered": CANDIDATE}
    rows = [{"condition": side, "arm": "add", "role": role} for side, role in roles.items()]
    pd.DataFrame(rows).to_parquet(folder / "conditions.parquet")
    table = pd.concat(
        pd.DataFrame(
            {"condition": side, "split": "test", "sample": range(n), "repeat": 0, "score": values}
        )
        for side, values in scores.items()
    ).assign(metric="refusal")
    table.to_parquet(folder / "scores.parquet")
    pd.DataFrame({"metric": ["refusal"], "share": [True]}).to_parquet(folder / "summary.parquet")
    estimates = {
        side: {"mean": float(np.mean(values)), "low": 0.0, "high": 1.0, "n": n}
        for side, values in scores.items()
    }
    ids = {"baseline_id": "baseline", "steered_id": "steered"}
    change = float(np.mean(scores["steered"]) - np.mean(scores["baseline"]))
    difference = {"mean": change, "low": -1.0, "high": 1.0, "n": n}
    headline = {
        "add": {"metric": "refusal", "conditions": ids, **estimates, "difference": difference}
    }
    (folder / "headline.json").write_text(json.dumps(headline))
    return folder


SCORES = {"baseline": [0.0] * 20, "steered": [1.0, 0.0] * 10}


def test_a_studys_name_means_dvcs_outputs_else_the_newest_run(tmp_path):
    with pytest.raises(ValueError, match="'refusal' has no results in outputs; there are: none"):
        find_output(tmp_path, "refusal")
    old = write_run(tmp_path, "refusal-11111111", SCORES)
    new = write_run(tmp_path, "refusal-22222222", SCORES)
    for path in old.iterdir():
        os.utime(path, (1, 1))
    assert find_output(tmp_path, "refusal") == new
    assert find_output(tmp_path, "refusal-11111111") == old
    assert [output.name for output in outputs(tmp_path)] == [new.name, old.name]
    made = write_run(tmp_path, "refusal", SCORES)
    assert find_output(tmp_path, "refusal") == made
    with pytest.raises(ValueError, match=r"'lists' has no .*: refusal, refusal-11111111, refu"):
        find_output(tmp_path, "lists")


def test_an_unfinished_run_is_marked_and_not_taken_for_its_study(tmp_path, monkeypatch, capsys):
    finished = write_run(tmp_path, "refusal-11111111", SCORES)
    for stage in stages_of(load_study(finished / "config.yaml")):
        for output in stage.outputs:
            (finished / output).parent.mkdir(exist_ok=True, parents=True)
            (finished / output).touch()
    for path in finished.iterdir():
        os.utime(path, (1, 1))
    write_run(tmp_path, "refusal-22222222", SCORES)
    assert find_output(tmp_path, "refusal") == finished
    for name in ("conf/study", "stages"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "outputs" / "lists").mkdir()
    (tmp_path / "outputs" / "lists" / "dataset.parquet").touch()
    main(["list"])
    restored, newest, oldest = capsys.readouterr().out.splitlines()
    assert restored.startswith("outputs/lists has no config here, as after `dvc checkout`: dvc")
    assert "refusal-22222222" in newest and newest.endswith("(unfinished)")
    assert "refusal-11111111" in oldest and "unfinished" not in oldest
    with pytest.raises(ValueError, match=r"outputs/lists has no config here.*: dvc repro compose"):
        find_output(tmp_path, "lists")


def test_the_command_that_goes_on_with_an_output(tmp_path):
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    by_dvc = write_run(tmp_path, "refusal", SCORES)
    by_hand = write_run(tmp_path, "refusal-22222222", SCORES, seed=3)
    study = load_study(by_hand / "config.yaml")
    assert not is_finished(by_hand, study)
    assert command_of(by_hand, study) == "actsweep run refusal sweep.seed=3"
    assert command_of(by_dvc, study) == "dvc repro figures@refusal"


def test_an_output_of_a_study_that_is_gone_says_so(tmp_path):
    by_hand = write_run(tmp_path, "refusal-22222222", SCORES, seed=3)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "study" / "refusal.yaml").unlink()
    told = command_of(by_hand, load_study(by_hand / "config.yaml"))
    assert told.startswith("no command, as the study does not compose now: ") and "\n" not in told


def test_an_experiment_is_compared_by_its_finished_record(tmp_path):
    folder = write_run(tmp_path, "refusal", SCORES)
    summary = json.loads((folder / "headline.json").read_text())
    config = compose_study("refusal", ["sweep.seed=1"], root=ROOT).sections
    record = {"study": "refusal", "stage": "score_metrics", "config": config, "summary": summary}
    for experiment, status in {"exp-1": "finished", "exp-2": "failed", None: "finished"}.items():
        file = run_file(tmp_path, "refusal", str(experiment), "score_metrics")
        file.parent.mkdir(parents=True)
        details = {"experiment": experiment, "status": status, "started": "2026-01-01"}
        file.write_text(json.dumps(record | details))
    comparison = compare_named(tmp_path, "refusal", "exp-1")
    assert comparison.config["key"].tolist() == ["sweep.seed"]
    assert set(comparison.summary["difference"]) == {0.0}
    assert not comparison.summary["paired"].any()
    assert "`dvc exp apply exp-1` brings its scores" in comparison.note
    with pytest.raises(ValueError, match="exp-1 and exp-1 are the same run"):
        compare_named(tmp_path, "exp-1", "exp-1")
    with pytest.raises(ValueError, match="'exp-2' has no results"):
        compare_named(tmp_path, "refusal", "exp-2")


def test_runs_on_the_same_prompts_are_compared_prompt_by_prompt(tmp_path):
    write_run(tmp_path, "refusal", SCORES)
    changed = {**SCORES, "steered": [1.0, 0.0] * 9 + [1.0, 1.0]}
    write_run(tmp_path, "refusal-22222222", changed, seed=1)
    comparison = compare_named(tmp_path, "refusal", "refusal-22222222")
    assert comparison.config.set_index("key").loc["sweep.seed"].tolist() == [0, 1]
    rows = comparison.summary.set_index("key")
    assert rows["paired"].all()
    # Identical rows: no difference, and no interval, whose width of 0 would look like certainty.
    same = rows.loc["add.baseline"]
    assert (same["difference"], same["excludes_zero"], same["differ"]) == (0, False, "0 of 20")
    assert same[["low", "high"]].isna().all()
    expected = paired_difference(
        pd.DataFrame({"sample": range(20), "repeat": 0, "score": changed["steered"]}),
        pd.DataFrame({"sample": range(20), "repeat": 0, "score": SCORES["steered"]}),
        cluster="sample",
        share=True,
        seed=0,
    )
    steered = rows.loc["add.steered"]
    assert steered[["difference", "low", "high"]].tolist() == [0.05, expected.low, expected.high]
    assert steered["differ"] == "1 of 20"
    # So are the differences: one of twenty steered answers has changed.
    change = rows.loc["add.difference"]
    assert change["difference"] == pytest.approx(0.05) and change["high"] - change["low"] < 0.3
    with pytest.raises(ValueError, match="refusal and refusal are the same run"):
        compare_named(tmp_path, "refusal", "refusal")


def test_other_code_or_data_is_told_beside_the_settings(tmp_path):
    for name, code in {"refusal": "a", "refusal-22222222": "b"}.items():
        folder = write_run(tmp_path, name, SCORES)
        file = config_file(folder)
        study = load_study(file)
        study.code = {"sweep_layers": code, "compute_vectors": {"direction": "a"}}
        save_study(study, file)
    note = compare_named(tmp_path, "refusal", "refusal-22222222").note
    assert note == "the code, or a file of data, has changed in between for: sweep_layers"


def test_perplexities_of_the_same_texts_are_paired(tmp_path):
    """Losses that differ much between texts and little between runs."""
    losses = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    folders = []
    for name, rise in {"refusal": 0.0, "refusal-22222222": 0.1}.items():
        folder = write_run(tmp_path, name, SCORES, seed=len(folders))
        table = pd.read_parquet(folder / "scores.parquet")
        of_texts = {"condition": "baseline", "split": "text", "sample": range(5), "repeat": 0}
        rows = pd.DataFrame({**of_texts, "score": losses + rise, "metric": TEXT_METRIC})
        pd.concat([table, rows]).to_parquet(folder / "scores.parquet")
        numbers = json.loads((folder / "headline.json").read_text())
        perplexity = {"mean": float(np.exp((losses + rise).mean())), "low": 1.0, "high": 90.0}
        numbers["add"]["perplexity"] = {"baseline": perplexity}
        (folder / "headline.json").write_text(json.dumps(numbers))
        folders.append(folder)
    rows = compare_named(tmp_path, "refusal", "refusal-22222222").summary.set_index("key")
    row = rows.loc["add.perplexity.baseline"]
    assert row["paired"] and row["difference"] == pytest.approx(np.exp(3.2) - np.exp(3.1))
    # All by the same: resamples have no spread.
    assert row["differ"] == "5 of 5" and row[["low", "high", "excludes_zero"]].isna().all()
    texts = pd.read_parquet(folders[0] / "texts.parquet")
    texts.assign(text="another").to_parquet(folders[0] / "texts.parquet")
    rows = compare_named(tmp_path, "refusal", "refusal-22222222").summary.set_index("key")
    assert not rows.loc["add.perplexity.baseline", "paired"]


def test_runs_on_other_prompts_are_taken_as_independent(tmp_path):
    write_run(tmp_path, "refusal", SCORES)
    other = write_run(tmp_path, "refusal-22222222", SCORES)
    prompts = pd.read_parquet(other / "dataset.parquet")
    prompts.loc[3, "instruction"] = "another"
    prompts.to_parquet(other / "dataset.parquet")
    rows = compare_named(tmp_path, "refusal", "refusal-22222222").summary.set_index("key")
    assert not rows["paired"].any()
    assert rows.loc["add.steered", "high"] - rows.loc["add.steered", "low"] > 1


def test_a_figure_and_a_page_are_traced(tmp_path):
    folder = write_run(tmp_path, "refusal", SCORES)
    study = load_study(config_file(folder))
    record = {
        "study": "refusal",
        "config": options_digest(study, stage_of(study, "plot_figures")),
        "scores.parquet": md5(folder / "scores.parquet"),
    }
    figures = folder / "figures"
    figures.mkdir()
    save(Figure(), figures / "f.png", record)
    (figures / "p.html").write_text(with_record("<p>x</p>", record))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "dvc.lock").write_text(record["scores.parquet"])
    for command in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-qm", "lock"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    for file in ("f.png", "p.html"):
        assert read_record(figures / file) == record
        found = dict(trace(figures / file, tmp_path))
        assert found["study"] == "refusal" and found["question"].startswith("Is refusal")
        assert found["model"] == "data/embedded_model"
        assert (
            found["data"]
            == f"outputs/refusal/scores.parquet, md5 {record['scores.parquet']}: as now"
        )
        assert "which put this data into dvc.lock" in found["code"]
        assert found["remake"] == "dvc repro figures@refusal"
        assert found["options"] == f"hash {record['config']} of the figures' options: as now"
    study.score.seed += 1
    save_study(study, config_file(folder))
    assert dict(trace(figures / "f.png", tmp_path))["options"].endswith(": changed")
    (folder / "scores.parquet").write_bytes(b"x")
    assert dict(trace(figures / "f.png", tmp_path))["data"].endswith(": changed")
    Figure().savefig(tmp_path / "other.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "other.png").read_bytes()[:200])
    files = [("other.png", "has no record"), ("none.png", "does not exist")]
    for file, message in [*files, ("cut.png", r"cut\.png is no complete PNG")]:
        with pytest.raises(ValueError, match=message):
            read_record(tmp_path / file)


def test_a_run_by_hand_is_traced_to_the_commit_that_it_ran_at(tmp_path):
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    folder = write_run(tmp_path, "refusal-22222222", SCORES, seed=3)
    (folder / "figures").mkdir()
    made_from = {"study": folder.name, "config": "x"}
    save(Figure(), folder / "figures" / "f.png", made_from)
    traced = dict(trace(folder / "figures" / "f.png", tmp_path))
    assert traced["code"].startswith("the run has no record here")
    file = run_file(tmp_path, "refusal", folder.name, "plot_figures")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"commit": "c0ffee", "dirty": True}))
    traced = dict(trace(folder / "figures" / "f.png", tmp_path))
    assert traced["code"] == "commit c0ffee, with changes that were not committed"
    assert traced["remake"] == "actsweep run refusal sweep.seed=3"


def test_a_commit_is_named_only_if_it_has_all_of_the_data(tmp_path):
    """Data that another study has too, such as equal prompts, says nothing of a figure's code."""
    folder = write_run(tmp_path, "refusal", SCORES)
    (folder / "figures").mkdir()
    names = ("scores.parquet", "summary.parquet")
    (folder / names[1]).write_bytes(b"y")
    record = {"study": "refusal", "config": "c0ffee"} | {name: md5(folder / name) for name in names}
    save(Figure(), folder / "figures" / "f.png", record)

    def git(*command: str) -> str:
        identity = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            [*identity, *command], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    commits = []
    for lock in ("", f"{record[names[0]]}\n", f"{record[names[0]]}\n{record[names[1]]}\n"):
        (tmp_path / "dvc.lock").write_text(lock)
        git("add", "dvc.lock")
        git("commit", "-qm", "lock")
        commits.append(git("log", "-1", "--format=%h"))
        code = dict(trace(folder / "figures" / "f.png", tmp_path))["code"]
        assert code.startswith(f"commit {commits[2]}" if len(commits) == 3 else "no commit has")
    (tmp_path / "dvc.lock").write_text((tmp_path / "dvc.lock").read_text() + "other\n")
    git("commit", "-qam", "another study")
    code = dict(trace(folder / "figures" / "f.png", tmp_path))["code"]
    assert code.startswith(f"commit {commits[2]},")


def test_the_record_of_a_taken_stage_comes_with_it_and_its_warnings(tmp_path):
    file = run_file(tmp_path, "mine", "mine-1", "collect")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"study_id": "mine-1", "summary": {"warnings": ["few prompts"]}}))
    assert take_record(tmp_path, "mine", "mine-1", "mine-2", "collect") == ["few prompts"]
    record = json.loads(run_file(tmp_path, "mine", "mine-2", "collect").read_text())
    assert (record["study_id"], record["taken_from"]) == ("mine-2", "mine-1")
    assert take_record(tmp_path, "mine", "mine-9", "mine-2", "collect") == []


def test_a_stage_with_the_same_key_is_taken_from_another_run(tmp_path, caplog):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    (first / "store").mkdir()
    (first / "store" / "shard").write_text("x")
    (first / "table").write_text("y")
    stamp(first, ["store", "table"], ".collect.key", "k")
    assert reused(second, ["store", "table"], ".collect.key", "other") is None
    assert reused(second, ["store", "more"], ".collect.key", "k") is None
    (second / "store").mkdir()
    (second / "store" / "left").write_text("z")
    assert reused(second, ["store", "table"], ".collect.key", "k") == "a"
    assert [path.name for path in (second / "store").iterdir()] == ["shard"]
    assert (second / "table").stat().st_ino == (first / "table").stat().st_ino
    assert reused(first, ["store", "table"], ".collect.key", "k") is None
    # A damaged output is neither kept nor taken.
    assert is_kept(first, ["store", "table"], ".collect.key", "k")
    os.utime(first / "table")
    assert is_kept(first, ["store", "table"], ".collect.key", "k")
    (first / "table").unlink()
    (first / "table").write_text("z")
    assert not is_kept(first, ["store", "table"], ".collect.key", "k")
    assert f"{first / 'table'} is not as its stage wrote it, and is not used" in caplog.text
    assert reused(second, ["store", "table"], ".collect.key", "k") is None
