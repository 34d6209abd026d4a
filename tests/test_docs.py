"""What README and docs/ say is what the project does."""

import re
import shlex
import shutil

import pytest
import torch
import yaml
from families import CONFIGS
from project import ROOT, copy_project, run
from test_sae import autoencoder

from pipeline.config.contracts import KINDS, READS
from pipeline.config.study import compose_study
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.saelens import load_saelens
from pipeline.model.architectures import ARCHITECTURES
from pipeline.model.sites import Site
from pipeline.runs.arguments import parser

README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = {"README.md": README, **DOCS}
HEAVY = (
    "refusal",
    "sentiment",
    "ab_opinions",
    "task_arithmetic",
    "model=",
    "compare",
    "show",
    "doctor",
    "select",
    "mine",
)
"""Words of commands that need results, another model or minutes: parsed, and tried elsewhere."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = "".join(blocks(text, "console")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_readme_is_read_at_one_sitting():
    assert len(README.splitlines()) <= 150
    linked = re.findall(r"\]\(([^)#]+)\)", "".join(TEXTS.values()))
    for place in linked:
        folders = (ROOT, ROOT / "docs")
        assert any((folder / place).exists() for folder in folders), place


def test_the_tree_names_every_file_and_only_files_that_are_there():
    (tree,) = re.findall(r"```\n(conf/  .*?)```", DOCS["architecture.md"], re.DOTALL)
    named = set(re.findall(r"^ +([a-z_]+\.py) ", tree, re.MULTILINE))
    folders = [ROOT / "stages", ROOT / "src" / "pipeline"]
    there = {
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if path.name != "__init__.py" and "embedded" not in path.parts
    }
    assert named == there


def test_every_command_is_one():
    makefile = (ROOT / "Makefile").read_text()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    tried = 0
    for text in TEXTS.values():
        for program, *arguments in commands(text):
            if program == "make":
                assert f"\n{arguments[0]}:" in makefile
            elif program == "dvc":
                assert arguments[0] in ("repro", "dag", "exp", "metrics", "params")
                assert all(a.partition("@")[0] in stages for a in arguments[1:] if "@" in a)
            elif program == "python":
                assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file()
            else:
                assert program == "actsweep"
                parser().parse_args(arguments)
            tried += 1
    assert tried >= 15


@pytest.mark.slow
def test_light_commands_run_and_a_node_of_ones_own_is_found(tmp_path):
    folder = copy_project(tmp_path)
    node, *_ = blocks(DOCS["researcher.md"], "python")
    (study,) = blocks(DOCS["researcher.md"], "yaml")
    (folder / "my_methods.py").write_text(node)
    (folder / "conf" / "study" / "norms.yaml").write_text(study)
    light = [
        arguments
        for text in DOCS.values()
        for program, *arguments in commands(text)
        if program == "actsweep" and not any(word in " ".join(arguments) for word in HEAVY)
    ]
    assert ["run", "norms"] in light and ["run", "next_token"] in light
    for arguments in light:
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr
    (figure,) = folder.glob("outputs/norms-*/figures/norms.png")
    assert figure.stat().st_size > 10_000


@pytest.mark.slow
def test_the_readmes_study_says_what_it_would_cost(tmp_path):
    folder = copy_project(tmp_path)
    (study,) = blocks(README, "yaml")
    (folder / "conf" / "study" / "mine.yaml").write_text(study)
    done = run(folder, "run", "mine", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "add-validation: " in done.stdout and "minutes" in done.stdout


def test_the_tables_of_sections_and_inputs_are_those_of_the_code():
    rows = re.findall(r"^\| `([a-z_.]+)[:`]", DOCS["researcher.md"], re.MULTILINE)
    assert {"dataset", "collect", "fits", "sweep.arms", "readings", "figures"} <= set(rows)
    assert set().union(*KINDS.values()) == set(READS)


def test_every_study_is_in_the_docs():
    studies = {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")}
    listed = re.findall(r"^\| `(\w+)` \|", DOCS["studies.md"], re.MULTILINE)
    assert sorted(listed) == sorted(studies)
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) <= studies
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    # DVC makes those on the model that comes with the project.
    on_others = {
        path.stem
        for path in (ROOT / "conf" / "study").glob("*.yaml")
        if "- /model: embedded\n" not in path.read_text()
    }
    assert set(params["studies"]) == studies - on_others and on_others == {
        "ab_opinions",
        "sentiment",
        "task_arithmetic",
    }


def test_the_table_of_families_is_that_of_the_code_and_of_the_tests():
    rows = re.findall(r"^\|[^|`]+\| `(\w+)` \|([^|]*)\|[^|]+\|$", DOCS["models.md"], re.MULTILINE)[
        1:
    ]
    assert {kind for kind, _ in rows} == set(ARCHITECTURES)
    tested = {kind.model_type for kind, _ in CONFIGS.values()}
    assert tested == set(ARCHITECTURES)
    named = {name for _, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    there = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert named == there - {"local"}


def test_the_study_composes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (text,) = blocks(README, "yaml")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(text)
    assert compose_study("mine", root=tmp_path).fits["direction"]["positive"] == "harmful"


def test_a_trained_autoencoder_is_written_for_saelens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, code = blocks(DOCS["researcher.md"], "python")
    (folder,) = re.findall(r'"(outputs/.*?)"', code)
    sae = autoencoder("topk", site=Site.parse("blocks.5.resid_post"))
    SparseAutoencoders({"blocks.5.resid_post": sae}).save(tmp_path / folder)
    exec(code, {})
    again = load_saelens(tmp_path / "for_saelens")
    assert (again.site, again.provenance.model) == (
        sae.site,
        "embedded_model",
    )
    assert torch.equal(again.encoder, sae.encoder)


def test_the_researchers_notebook_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, code, _ = blocks(DOCS["researcher.md"], "python")
    exec(code, {})
    assert "tensor([" in capsys.readouterr().out


def test_the_notebook_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks(README, "python")
    assert len(code.strip().splitlines()) <= 11
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[0].startswith("0 To paint the wagon")
    assert printed[2].startswith("1 I")
