"""What the README says is what the project does."""

import re
import shlex
import shutil
from pathlib import Path

import torch
from families import CONFIGS
from test_sae import autoencoder

from pipeline.cli import parser
from pipeline.config.study import compose_study
from pipeline.methods.sae import save_sae
from pipeline.methods.sae_files import load_saelens
from pipeline.model.architectures import ARCHITECTURES
from pipeline.model.sites import Site

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_tree_names_every_file_and_only_files_that_are_there():
    (tree,) = re.findall(r"```\n(conf/.*?)```", ARCHITECTURE, re.DOTALL)
    named = set(re.findall(r"([a-z_]+\.py)", tree))
    folders = [ROOT / "stages", ROOT / "src" / "pipeline"]
    there = {
        path.name
        for folder in folders
        for path in folder.rglob("*.py")
        if path.name != "__init__.py" and "embedded" not in path.parts
    }
    assert named == there


def test_every_command_is_one():
    lines = "".join(blocks("console")).splitlines()
    makefile = (ROOT / "Makefile").read_text()
    tried = 0
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            assert f"\n{arguments[0]}:" in makefile
        elif program == "python":
            assert (ROOT / arguments[1].replace(".", "/")).with_suffix(".py").is_file()
        else:
            assert program == "actsweep"
            parser().parse_args(arguments)
        tried += 1
    assert tried >= 8


def test_the_table_of_families_is_that_of_the_code_and_of_the_tests():
    rows = re.findall(r"^\|[^|`]+\| `(\w+)` \|([^|]*)\|[^|]+\|$", README, re.MULTILINE)[1:]
    assert {kind for kind, _ in rows} == set(ARCHITECTURES)
    tested = {kind.model_type for kind, _ in CONFIGS.values()}
    assert tested == set(ARCHITECTURES)
    named = {name for _, cell in rows for name in re.findall(r"`(\w+)`", cell)}
    there = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert named == there - {"local"}


def test_the_study_composes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (text,) = blocks("yaml")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(text)
    assert compose_study("mine", root=tmp_path).vectors.positive == "harmful"


def test_a_trained_autoencoder_is_written_for_saelens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _ = blocks("python")
    (name,) = re.findall(r'"(outputs/.*\.safetensors)"', code)
    (tmp_path / name).parent.mkdir(parents=True)
    sae = autoencoder("topk", site=Site.parse(Path(name).stem))
    save_sae(tmp_path / name, sae)
    exec(code, {})
    again = load_saelens(tmp_path / Path(name).stem)
    assert (again.provenance.site, again.provenance.model) == (Path(name).stem, "embedded_model")
    assert torch.equal(again.encoder, sae.encoder)


def test_the_notebook_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, code = blocks("python")
    assert len(code.strip().splitlines()) <= 11
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert printed[0].startswith("0 To paint the wagon")
    assert printed[2].startswith("1 I")
