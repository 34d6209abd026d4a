"""The digest of a stage covers the code that its result depends on."""

import hashlib

import pytest
import yaml
from project import ROOT
from ruamel.yaml import YAML

from pipeline.config.code import _shortened, code_digest, reached_modules, with_digests
from pipeline.config.study import compose_study, save_study
from pipeline.config.wiring import stages_of
from pipeline.runs.records import flatten


@pytest.mark.parametrize("stage", ["choose_settings", "sweep_layers"])
def test_stages_that_run_arms_depend_on_what_selects_prompts_and_builds_conditions(stage):
    """Modules of `pipeline.config` are not followed, so none of them may do either."""
    needed = {"pipeline.engine.arms", "pipeline.data.prompts", "pipeline.engine.sweeps"}
    assert needed <= set(reached_modules([f"stages.{stage}"]))


def test_imports_of_own_code_are_followed_wherever_it_lies(tmp_path, monkeypatch):
    """Modules beside the project, listed packages and relative imports; not what is installed."""
    files = {
        "study_metrics.py": "import numpy, json\nfrom study_words import WORD\n",
        "study_words.py": "import study_deeper.inner\nWORD = 1\n",
        "study_deeper/__init__.py": "from . import side\n",
        "study_deeper/inner.py": "from .far.away import X\n",
        "study_deeper/side.py": "",
        "study_deeper/far/__init__.py": "",
        "study_deeper/far/away.py": "X = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    reached = reached_modules(["study_metrics"])
    modules = {name.removesuffix(".py").removesuffix("/__init__") for name in files}
    assert set(reached) == {name.replace("/", ".") for name in modules}
    before = code_digest(["study_metrics"])
    (tmp_path / "study_deeper" / "far" / "away.py").write_text("X = 2\n")
    assert code_digest(["study_metrics"]) != before


def test_dvc_tracks_exactly_the_sections_of_each_stage(tmp_path):
    """A changed setting changes the digest of its section, and of no other."""
    studies = {seed: compose_study("refusal", [f"sweep.seed={seed}"], root=ROOT) for seed in (0, 1)}
    before, after = (with_digests(study, tmp_path) for study in studies.values())
    changed = {key for key in before.digests if before.digests[key] != after.digests[key]}
    assert changed == {"sweep"}
    save_study(before, tmp_path / "refusal.yaml")
    digests = YAML(typ="safe").load((tmp_path / "refusal.yaml").read_text())["digests"]
    names = {key for stage in stages_of(before) for key in stage.sections}
    assert set(flatten(digests)) == names
    assert all(isinstance(value, str) for value in flatten(digests).values())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    listed = {each["do"]["cmd"].split()[2]: each["do"]["params"] for each in stages if "do" in each}
    for stage in stages_of(before):
        ((keys,),) = (params.values() for params in listed[f"stages.{stage.name}"])
        tracked = {key.replace("${item.fit}", str(stage.fit)) for key in keys}
        code = f"code.{stage.name}" if stage.fit is None else f"code.{stage.name}.{stage.fit}"
        assert tracked == {code} | {f"digests.{key}" for key in stage.sections}


def test_no_digest_is_a_number():
    """Of hexadecimal digests, one in two hundred is: `12e345678901` would be an infinity."""
    for number in range(1000):
        digest = _shortened(hashlib.sha256(str(number).encode()))
        assert isinstance(YAML(typ="safe").load(digest), str)
