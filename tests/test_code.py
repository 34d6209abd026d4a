"""The digest of a stage covers the code that its result depends on."""

import pytest

from pipeline.config.code import code_digest, reached_modules


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
