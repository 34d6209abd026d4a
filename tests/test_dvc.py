"""What DVC runs again, and what it leaves alone, in a project of two small studies."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from project import ROOT, copy_project, environment

pytestmark = pytest.mark.slow
STUDY = """# @package _global_
defaults:
  - /model: embedded
  - /dataset: instructions
  - /method@vectors.method: difference_of_means
  - /intervention@sweep.arms.add.intervention: add
  - /metric@score.metrics.refusal: refusal
  - /figure@figures.strength_by_layer: strength_by_layer
  - _self_
name: {name}
question: Does it work?
dataset: {{path: data/few.jsonl}}
collect: {{components: [resid_pre], positions: last}}
vectors:
  component: resid_pre
  positive: harmful
  negative: harmless
  controls: {{shuffled: 1, covariance: 0, isotropic: 0}}
sweep:
  seed: 0
  layers: [3, 5]
  decoding: {{max_new_tokens: 4, temperature: 1.0}}
  arms:
    add:
      prompts: harmless
      components: [resid_pre]
      strengths: [1.0]
      metric: refusal
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
    (folder / "params.yaml").write_text("studies: [one, two]\nautoencoder_studies: []\n")
    for name in ("one", "two"):
        (folder / "conf" / "study" / f"{name}.yaml").write_text(STUDY.format(name=name))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    done = dvc(folder, "repro")
    assert len(ran(done)) == 1 + 2 * 7
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
    before = (project / "outputs" / "one" / "sweep.parquet").read_bytes()
    edit(project, "one", "  seed: 0", "  seed: 1")
    composes = {"compose"}
    expected = composes | {"choose@one", "sweep@one", "score@one", "figures@one"}
    assert ran(dvc(project, "repro")) == expected
    assert (project / "outputs" / "one" / "sweep.parquet").read_bytes() != before
    edit(project, "one", "  seed: 1", "  seed: 0")
    again = dvc(project, "repro")
    assert ran(again) == composes
    assert (project / "outputs" / "one" / "sweep.parquet").read_bytes() == before


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
    params.write_text("studies: [one, two]\nautoencoder_studies: [two]\n")
    done = dvc(project, "repro")
    assert done.returncode != 0
    assert "error: two: params.yaml: remove 'two' in autoencoder_studies" in done.stderr
    params.write_text(before)


def test_metrics_and_experiments(project):
    shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)
    assert "outputs/one/metrics.json" in str(shown)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, "commit", "-qm", "lock"], cwd=project, check=True)
    change = "conf/study/one.yaml:sweep.arms.add.strengths=[2.0]"
    done = dvc(project, "exp", "run", "-S", change)
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = pd.read_parquet(project / "outputs" / "one" / "sweep.parquet")
    assert set(sweep["strength"]) == {0.0, 2.0}
