"""The digest of a stage covers the code that its result depends on."""

import pytest

from pipeline.config.code import reached_modules


@pytest.mark.parametrize("stage", ["choose_settings", "sweep_layers"])
def test_stages_that_run_arms_depend_on_what_selects_prompts_and_builds_conditions(stage):
    """Modules of `pipeline.config` are not followed, so none of them may do either."""
    needed = {"pipeline.engine.arms", "pipeline.data.prompts", "pipeline.engine.sweeps"}
    assert needed <= set(reached_modules([f"stages.{stage}"]))
