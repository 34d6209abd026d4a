"""What DVC runs again, and what it leaves alone, in a project of two small studies."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import ROOT, copy_project, environment

from pipeline.config.listing import params_of
from pipeline.config.study import compose_study

pytestmark = pytest.mark.slow
STUDY = """# @package _global_
defaults:
  - /model: embedded
  - /dataset: instructions
  - /fit@fits.direction: steering_vectors
  - /fit@fits.spare: steering_vectors
  - /arm@sweep.arms.add: add
  - /metric@score.metrics.refusal: refusal
  - /figure@figures.strength_by_layer: strength_by_layer
  - _self_
name: {name}
question: Does it work?
dataset: {{path: data/few.jsonl}}
collect: {{components: [resid_pre], positions: last}}
fits:
  direction: &fit
    component: resid_pre
    positive: harmful
    negative: harmless
    controls: {{shuffled: 1, covariance: 0, isotropic: 0}}
  spare: {{<<: *fit, seed: 0}}
sweep:
  seed: 0
  layers: [3, 5]
  decoding: {{max_new_tokens: 4, temperature: 1.0}}
  arms:
    add:
      fit: direction
      prompts: harmless
      components: [resid_pre]
      strengths: [1.0]
      metric: refusal
      goal: raise
score: {{seed: 0}}
figures:
  strength_by_layer: {{arm: add, metric: refusal, split: test}}
"""


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    bin = Path(sys.executable).parent
    # Python runs the copied code, and leaves bytecode beside it.
    env = environment() | {
        "PATH": f"{bin}:/usr/bin:/bin",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(project / "src"),
    }
    return subprocess.run(
        [bin / "dvc", *arguments], cwd=project, env=env, capture_output=True, text=True
    )


def ran(done: subprocess.CompletedProcess[str]) -> set[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"Running stage '(.*?)'", done.stdout))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("dvc"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    params: dict[str, dict] = {}
    for name in ("one", "two"):
        (folder / "conf" / "study" / f"{name}.yaml").write_text(STUDY.format(name=name))
        with chdir(folder):
            listed = params_of(compose_study(name, root=folder))
        for section, items in listed.items():
            params.setdefault(section, {}).update(items)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    done = dvc(folder, "repro")
    assert len(ran(done)) == 1 + 2 * 8
    return folder


def edit(project: Path, name: str, old: str, new: str) -> None:
    file = project / "conf" / "study" / f"{name}.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_second_repro_does_nothing(project):
    done = dvc(project, "repro")
    assert ran(done) == set()
    assert "Data and pipelines are up to date." in done.stdout


def test_a_sweeps_seed_reruns_that_studys_sweep_and_what_follows(project):
    before = (project / "outputs" / "one" / "completions.parquet").read_bytes()
    edit(project, "one", "sweep:\n  seed: 0", "sweep:\n  seed: 1")
    expected = {"compose", "choose@one", "sweep@one", "score@one", "figures@one"}
    assert ran(dvc(project, "repro")) == expected
    assert (project / "outputs" / "one" / "completions.parquet").read_bytes() != before
    edit(project, "one", "sweep:\n  seed: 1", "sweep:\n  seed: 0")
    assert ran(dvc(project, "repro")) == {"compose"}
    assert (project / "outputs" / "one" / "completions.parquet").read_bytes() == before


def test_an_option_of_a_fit_reruns_that_fit_and_what_follows(project):
    edit(project, "one", "*fit, seed: 0", "*fit, seed: 1")
    # Its controls differ, and the sweep reads the folder of fits: the other fit is left alone.
    assert ran(dvc(project, "repro")) >= {"compose", "fit@one-spare"}
    edit(project, "one", "*fit, seed: 1", "*fit, seed: 0")
    assert ran(dvc(project, "repro")) == {"compose"}


def test_a_score_section_reruns_score_and_figures(project):
    edit(project, "two", "score: {seed: 0}", "score: {seed: 0, metrics: {n: {_target_: METRIC}}}")
    edit(project, "two", "METRIC", "pipeline.measures.metrics.n_items")
    assert ran(dvc(project, "repro")) == {"compose", "score@two", "figures@two"}
    metric = "{seed: 0, metrics: {n: {_target_: pipeline.measures.metrics.n_items}}}"
    edit(project, "two", f"score: {metric}", "score: {seed: 0}")
    assert ran(dvc(project, "repro")) == {"compose"}


def test_a_typo_stops_in_compose_and_keeps_what_was_there(project):
    outputs = project / "outputs" / "two"
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    edit(project, "two", "  layers: [3, 5]", "  layer: [3, 5]")
    done = dvc(project, "repro")
    assert done.returncode != 0
    assert "error: two: sweep.layer: unknown key; did you mean layers? valid: " in done.stderr
    assert not re.search(r"Running stage '(?!compose)", done.stdout)
    edit(project, "two", "  layer: [3, 5]", "  layers: [3, 5]")
    assert {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()} == before


def test_code_reruns_what_runs_it_and_nothing_else(project):
    """A new file composes only; a metric's file scores anew, and what chooses by it."""
    methods = project / "src" / "pipeline" / "methods"
    (methods / "new_method.py").write_text('"""Nothing imports this."""\n')
    assert ran(dvc(project, "repro")) == {"compose"}
    views = project / "src" / "pipeline" / "views" / "marks.py"
    before = views.read_text()
    views.write_text(before + "\n# changed\n")
    assert ran(dvc(project, "repro")) == {"compose", "figures@one", "figures@two"}
    views.write_text(before)
    (methods / "new_method.py").unlink()
    assert ran(dvc(project, "repro")) == {"compose"}


def test_a_file_in_data_reruns_the_studies_that_read_it(project):
    (project / "data" / "other.jsonl").write_text("{}\n")
    assert ran(dvc(project, "repro")) == {"compose"}
    few = project / "data" / "few.jsonl"
    before = few.read_text()
    lines = before.splitlines(keepends=True)
    few.write_text("".join(lines[1:]))
    done = ran(dvc(project, "repro"))
    assert {"generate@one", "generate@two"} < done
    few.write_text(before)
    assert ran(dvc(project, "repro")) == {"compose"}


def test_lists_that_disagree_with_a_study_are_refused(project):
    params = project / "params.yaml"
    before = params.read_text()
    changed = before.replace("two-spare", "two-spear")
    assert changed != before
    params.write_text(changed)
    done = dvc(project, "repro")
    assert done.returncode != 0
    line = "'two-spare': {study: two, fit: spare, after: activations}"
    assert f"error: two: params.yaml: add under fits: {line.replace(chr(39), '')}" in done.stderr
    params.write_text(before)


@pytest.mark.parametrize("form", ["flow", "crlf", "comments"])
def test_params_may_be_written_in_any_form_of_yaml(project, form):
    params = project / "params.yaml"
    before = params.read_text()
    written = {
        "flow": yaml.safe_dump(yaml.safe_load(before), default_flow_style=True),
        "crlf": before.replace("\n", "\r\n"),
        "comments": before.replace(":\n", ":   # mine\n"),
    }
    params.write_bytes(written[form].encode())
    assert ran(dvc(project, "repro")) == {"compose"}
    params.write_text(before)
    assert ran(dvc(project, "repro")) == {"compose"}


def test_metrics_and_experiments(project):
    shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)
    assert "outputs/one/metrics.json" in str(shown)
    table = dvc(project, "metrics", "show").stdout.splitlines()
    assert max(map(len, table)) < 100
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, "commit", "-qm", "lock"], cwd=project, check=True)
    change = "conf/study/one.yaml:sweep.arms.add.strengths=[2.0]"
    # A key that the study leaves out is added with `++`.
    added = "conf/study/one.yaml:++sweep.decoding.top_k=5"
    done = dvc(project, "exp", "run", "-S", change, "-S", added)
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((project / "outputs" / "config" / "one.yaml").read_text())
    assert config["sweep"]["decoding"]["top_k"] == 5
    conditions = pd.read_parquet(project / "outputs" / "one" / "conditions.parquet")
    assert set(conditions["strength"].dropna()) == {2.0}
